"""The pair of optimizers: each with its own weights, learning rate and state, saved as one."""

import keras
import numpy as np
import pytest

from homl_models.optimizers import Alternating
from tests import checks


def named(path, value):
    variable = keras.Variable(value)
    variable._path = path
    return variable


def test_each_moves_its_own_weights_by_its_own_rule():
    pair = Alternating(keras.optimizers.SGD(0.5), keras.optimizers.Adam(0.1))
    maker, judge = named("gan/generator/dense/kernel", np.ones(3)), named("gan/discriminator/kernel", np.ones(2))
    pair.build([maker, judge])
    assert len(pair.variables) == 1 + len(pair.generator.variables) + len(pair.discriminator.variables)
    pair.generator.apply([np.full(3, 0.2, "float32")], [maker])
    checks.close(maker, np.full(3, 0.9))
    checks.close(judge, np.ones(2))
    pair.discriminator.apply([np.full(2, 0.2, "float32")], [judge])
    checks.close(judge, np.full(2, 0.9), 1e-4)
    with pytest.raises(ValueError, match="Unknown variable"):
        pair.generator.apply([np.full(2, 0.2, "float32")], [judge])
    with pytest.raises(TypeError, match="by itself"):
        pair.apply([], [])


def test_configuration_comes_back():
    pair = Alternating(keras.optimizers.SGD(0.5, momentum=0.9), keras.optimizers.Adam(0.1, beta_1=0.0))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(pair))
    assert again.get_config() == pair.get_config()
    assert (again.generator.momentum, again.discriminator.beta_1) == (0.9, 0.0)
