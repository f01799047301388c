"""The Transformer block: sub-layers against their formulas, stochastic depth, names of the weights."""

import keras
import numpy as np
import pytest
from keras import ops

from homl_models.layers.attention import DecoderBlock, EncoderBlock
from homl_models.layers.dropout import DropPath
from homl_models.layers.transformer_block import LayerScale, TransformerBlock
from tests import checks

X = np.random.default_rng(0).normal(size=(64, 3, 8)).astype("float32")


def normalized(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)


def block(pre_norm, **options):
    made = TransformerBlock()
    made.pre_norm = pre_norm
    made.add_sublayers(2, 12, 8, "relu", **options)
    made.build_sublayers()
    return made


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize("scale", [None, 0.25])
def test_a_sublayer_equals_its_formula(pre_norm, scale):
    made, x = block(pre_norm, layer_scale=scale), X.astype("float64")
    factor = np.linspace(0.1, 2, 8) if scale else 1.0
    if scale:
        checks.close(made.layer_scales[1].gamma, np.full(8, scale, "float32"))
        made.layer_scales[1].gamma.assign(factor)
    found = made.sublayer(1, X, lambda x: x**2 + 1, training=True)
    expected = x + factor * (normalized(x) ** 2 + 1) if pre_norm else normalized(x + factor * (x**2 + 1))
    checks.close(found, expected)


def test_the_feed_forward_network_equals_its_formula():
    made = block(True)
    (w, b), (v, c) = ((np.float64(layer.kernel), np.float64(layer.bias)) for layer in (made.hidden, made.output_dense))
    checks.close(made.feed_forward(X), np.maximum(X @ w + b, 0) @ v + c)


def test_what_is_off_leaves_no_layers():
    plain, full = block(True), block(True, layer_scale=0.1, drop_path=0.2)
    assert not plain.layer_scales
    assert not plain.drop_paths
    assert [layer.rate for layer in full.drop_paths] == [0.2, 0.2]
    assert len(plain.weights) == len(full.weights) - 2


def test_stochastic_depth_leaves_out_whole_examples_and_scales_the_others():
    layer, kept = DropPath(0.3, seed=1), []
    for _ in range(50):
        y = ops.convert_to_numpy(layer(X, training=True))
        some = (y != 0).reshape(64, -1)
        assert (some.all(1) | ~some.any(1)).all()
        np.testing.assert_allclose(y[some.all(1)], X[some.all(1)] / 0.7, rtol=1e-6)
        kept.append(some.all(1))
    assert abs(np.mean(kept) - 0.7) < 4 * (0.3 * 0.7 / 3200) ** 0.5
    assert abs(np.corrcoef(np.ravel(kept[:-1]), np.ravel(kept[1:]))[0, 1]) < 4 / 3200**0.5
    checks.close(layer(X, training=False), X, 0)
    checks.close(DropPath(1.0)(X, training=True), 0 * X, 0)


def test_sublayers_are_left_out_independently_of_each_other():
    made = block(True, drop_path=0.5)
    left_out = [
        ops.convert_to_numpy(made.sublayer(i, X, ops.ones_like, training=True) == X).all((1, 2)) for i in (0, 1)
    ]
    assert all(0.2 < some.mean() < 0.8 for some in left_out)
    assert 0.2 < (left_out[0] == left_out[1]).mean() < 0.8


def test_layers_come_back():
    checks.config_round_trip(DropPath, rate=0.25, seed=3)
    checks.config_round_trip(LayerScale, initial_value=1e-5)


def test_the_weights_of_the_translators_blocks_keep_their_names_and_order():
    """Presets hold them in this order."""
    attention = [f"{name}/{part}" for name in ("query", "key", "value", "output") for part in ("kernel", "bias")]
    rest = ["hidden/kernel", "hidden/bias", "output/kernel", "output/bias"]
    for cls, names in ((EncoderBlock, ["self_attention"]), (DecoderBlock, ["self_attention", "cross_attention"])):
        made = cls(8, 2, 12, name="block")
        made.build((None, None, 8))
        norms = [f"norm_{i}/{part}" for i in range(len(names) + 1) for part in ("gamma", "beta")]
        expected = [*(f"{name}/{part}" for name in names for part in attention), *rest, *norms]
        assert [weight.path for weight in made.weights] == [f"block/{path}" for path in expected]
        assert isinstance(made.norms[0], keras.layers.LayerNormalization)
