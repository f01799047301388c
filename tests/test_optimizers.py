"""The pair of optimizers, each with its own weights, learning rate and state; AdamW layer by layer."""

import keras
import numpy as np
import pytest

from homl_models.errors import UserError
from homl_models.models.bert import Bert
from homl_models.models.bert_config import BertConfig
from homl_models.optimizers import GANOptimizer, LayerwiseAdamW
from tests import checks


def named(path, value):
    variable = keras.Variable(value)
    variable._path = path
    return variable


def test_each_moves_its_own_weights_by_its_own_rule():
    pair = GANOptimizer(keras.optimizers.SGD(0.5), keras.optimizers.Adam(0.1))
    generator, discriminator = (
        named("gan/generator/dense/kernel", np.ones(3)),
        named("gan/discriminator/kernel", np.ones(2)),
    )
    pair.build([generator, discriminator])
    assert len(pair.variables) == 1 + len(pair.generator.variables) + len(pair.discriminator.variables)
    pair.generator.apply([np.full(3, 0.2, "float32")], [generator])
    checks.close(generator, np.full(3, 0.9))
    checks.close(discriminator, np.ones(2))
    pair.discriminator.apply([np.full(2, 0.2, "float32")], [discriminator])
    checks.close(discriminator, np.full(2, 0.9), 1e-4)
    with pytest.raises(ValueError, match="Unknown variable"):
        pair.generator.apply([np.full(2, 0.2, "float32")], [discriminator])
    with pytest.raises(TypeError, match="by itself"):
        pair.apply([], [])


def test_configuration_comes_back():
    pair = GANOptimizer(keras.optimizers.SGD(0.5, momentum=0.9), keras.optimizers.Adam(0.1, beta_1=0.0))
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(pair))
    assert again.get_config() == pair.get_config()
    assert (again.generator.momentum, again.discriminator.beta_1) == (0.9, 0.0)


def bert():
    keras.utils.set_random_seed(0)
    model = Bert(BertConfig(20, 8, 3, 2, 12, max_position_embeddings=6))
    model.build()
    return model


def test_layers_decay_and_learn_as_they_should():
    """Three steps in float64 NumPy, with gradients that are known."""
    model, rng = bert(), np.random.default_rng(0)
    optimizer = LayerwiseAdamW(0.01, decay=0.1, num_layers=3, layer_decay=0.8, clipnorm=None)
    weights = model.trainable_weights
    optimizer.build(weights)
    values = [np.float64(weight) for weight in weights]
    means, squares = [np.zeros_like(x) for x in values], [np.zeros_like(x) for x in values]
    for step in range(1, 4):
        gradients = [np.float32(rng.choice([-1, 1], x.shape) * rng.uniform(0.5, 1.5, x.shape)) for x in values]
        optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], weights)
        for i, (weight, g) in enumerate(zip(weights, gradients)):
            place = [n for n in range(3) if f"block_{n}/" in weight.path]
            depth = place[0] + 1 if place else 0 if "embeddings/" in weight.path else 5
            rate = 0.01 * 0.8 ** (5 - depth)
            means[i] = 0.9 * means[i] + 0.1 * g
            squares[i] = 0.999 * squares[i] + 0.001 * g**2
            update = means[i] / (1 - 0.9**step) / (np.sqrt(squares[i] / (1 - 0.999**step)) + 1e-6)
            decays = weight.ndim > 1
            values[i] = values[i] - rate * (update + 0.1 * decays * values[i])
    assert {len(weight.shape) for weight in weights} == {1, 2}
    for weight, value in zip(weights, values):
        np.testing.assert_allclose(np.array(weight), value, atol=1e-5, err_msg=weight.path)


def test_adamw_comes_back_and_refuses_what_it_cannot_do():
    optimizer = LayerwiseAdamW(0.02, decay=0.3, num_layers=2, layer_decay=0.9, head_distance=1, clipnorm=1.0)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert copy.get_config() == optimizer.get_config()
    assert copy.head_distance == 1
    with pytest.raises(UserError, match=r"the layer decay must lie in \(0, 1\], not 0"):
        LayerwiseAdamW(layer_decay=0)
