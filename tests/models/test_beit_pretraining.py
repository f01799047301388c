"""Pre-training of BEiT with its tokenizer: its loss by hand, frozen tokens, endpoints, what fine-tuning takes."""

import dataclasses

import keras
import numpy as np
import pytest
import scipy.special
from keras import ops

from homl_models.checkpoints import huggingface
from homl_models.errors import UserError
from homl_models.models.beit import Beit, BeitForImageClassification, BeitForMaskedImageModeling
from homl_models.models.beit_pretraining import BeitPretrainer
from homl_models.models.dvae import DVAE
from homl_models.models.dvae_networks import ConvDecoder, ConvEncoder
from homl_models.models.vit_config import BeitConfig
from tests import checks

CONFIG = BeitConfig(
    hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
    vocab_size=12, use_shared_relative_position_bias=True, use_mask_token=True, drop_path_rate=0.0,
)  # fmt: skip


def tokenizer(vocab_size=12, shape=(16, 16, 3)):
    settings = {"vocab_size": vocab_size, "dim": 8, "num_blocks": 1}
    channels = 3 if len(shape) == 3 else 1
    return DVAE(ConvEncoder(**settings), ConvDecoder(channels, **settings), likelihood="mse", image_shape=shape)


def pretrainer(config=CONFIG, **settings):
    keras.utils.set_random_seed(1)
    model = BeitPretrainer(BeitForMaskedImageModeling(Beit(config, add_pooling_layer=False)), tokenizer(**settings))
    model.build()
    model.compile("adam", jit_compile=False)
    return model


@pytest.fixture(scope="module")
def model():
    return pretrainer()


def batch(channels=3):
    rng = np.random.default_rng(0)
    mask = np.array([[[1, 0], [1, 0]], [[0, 1], [1, 0]]], bool)
    return {
        "images": rng.uniform(size=(2, 8, 8, channels)).astype("float32"),
        "token_images": rng.uniform(size=(2, 16, 16, channels)).astype("float32"),
        "bool_masked_pos": mask,
        "masked_positions": np.array([[0, 2], [1, 2]], np.int32),
    }


def test_the_loss_is_the_cross_entropy_of_masked_tokens(model):
    x = batch()
    tokens = model.tokenizer.tokens(x["token_images"]).reshape(2, 4)
    logits = ops.convert_to_numpy(model.head({name: x[name] for name in ("images", "bool_masked_pos")}))
    chosen, masked = x["masked_positions"], np.take_along_axis(tokens, x["masked_positions"], 1)
    at = np.take_along_axis(np.float64(logits), chosen[..., None], 1)
    log_p = at - scipy.special.logsumexp(at, axis=-1, keepdims=True)
    expected = -np.take_along_axis(log_p, masked[..., None], -1).mean()
    found = model.test_on_batch(x, return_dict=True)
    assert abs(found["loss"] - expected) < 1e-5
    assert abs(found["accuracy"] - (at.argmax(-1) == masked).mean()) < 1e-6


def test_only_the_head_is_trained_also_after_loading(tmp_path):
    model = pretrainer()
    before = [w.numpy() for w in model.tokenizer.weights]
    tokens = model.tokenizer.tokens(batch()["token_images"])
    model.train_on_batch(batch())
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for one in (model, loaded):
        assert len(one.trainable_variables) == len(one.head.trainable_variables)
        one.train_on_batch(batch())
        for old, new in zip(before, one.tokenizer.weights):
            np.testing.assert_array_equal(old, new)
        np.testing.assert_array_equal(one.tokenizer.tokens(batch()["token_images"]), tokens)
    for a, b in zip(model.head.weights, loaded.head.weights):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_patches_are_filled_where_they_are_masked(model):
    x = batch()
    mask = np.int32(x["bool_masked_pos"])
    endpoint = model.endpoints()["fill_patches"]
    found = {name: ops.convert_to_numpy(value) for name, value in endpoint(x["images"], mask).items()}
    view = ops.clip(ops.image.resize(x["images"], (16, 16), "bicubic", antialias=True), 0, 1)
    own = model.tokenizer.tokens(ops.convert_to_numpy(view))
    np.testing.assert_array_equal(found["tokens"][mask == 0], own[mask == 0])
    logits = ops.convert_to_numpy(model.head({"images": x["images"], "bool_masked_pos": mask > 0}))
    np.testing.assert_array_equal(found["tokens"][mask == 1], logits.argmax(-1).reshape(2, 2, 2)[mask == 1])
    np.testing.assert_allclose(found["images"], model.tokenizer.decode(found["tokens"]), atol=1e-6)
    assert ops.convert_to_numpy(model.endpoints()["tokens"](x["images"])["tokens"]).tolist() == own.tolist()
    assert set(model.endpoints()) == {"fill_patches", "tokens", "embed"}


def test_a_mask_of_another_shape_is_not_filled(model):
    x, mask = batch(), np.zeros((2, 3, 3), np.int32)
    message = r"must have the shape \(n, 2, 2\) or \(n, 4\), not \(2, 3, 3\)"
    checks.fails(message, lambda: model.endpoints()["fill_patches"](x["images"], mask))
    given = model.endpoints()["fill_patches"].inputs["mask"]
    checks.fails(r"mask must be int32\[n, 2, 2\], not '\[\[\[1, 0, 1", lambda: given.parse("[[[1, 0, 1]]]"))


def test_grey_images():
    model = pretrainer(dataclasses.replace(CONFIG, num_channels=1), shape=(16, 16))
    assert np.isfinite(model.test_on_batch(batch(1), return_dict=True)["loss"])
    found = model.endpoints()["fill_patches"](batch(1)["images"], np.zeros((2, 2, 2), np.int32))
    assert found["images"].shape == (2, 16, 16)


def test_fine_tuning_takes_the_backbone_with_a_table_in_each_block(model):
    table = np.random.default_rng(0).normal(size=model.head.backbone.relative_position_bias.table.shape)
    model.head.backbone.relative_position_bias.table.assign(table)
    settings = {"use_shared_relative_position_bias": False, "use_relative_position_bias": True, "num_labels": 3}
    with pytest.warns(UserWarning, match="newly initialized"):
        head = huggingface.replace_head(model, BeitForImageClassification, **settings, use_mask_token=False)
    for block in head.backbone.blocks:
        np.testing.assert_allclose(block.relative_position_bias.table, table, atol=1e-6)
    kernels = [m.blocks[1].attention.weights[0] for m in (head.backbone, model.head.backbone)]
    np.testing.assert_array_equal(*kernels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocab_size": 10}, "the tokenizer has 10 codes; vocab_size is 12"),
        ({"shape": (16, 16)}, "the tokenizer takes 1 channels; num_channels is 3"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        pretrainer(**settings)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bool_masked_pos": np.ones((2, 3, 2))}, r"must have the shape \(n, 2, 2\) or \(n, 4\), not \(2, 3, 2\)"),
        ({"bool_masked_pos": np.ones((2, 1, 4))}, r"must have the shape \(n, 2, 2\) or \(n, 4\), not \(2, 1, 4\)"),
        ({"masked_positions": np.array([[0, 4], [1, 2]])}, "are 0 to 4; the patches of the images are 0 to 3"),
        ({"masked_positions": np.array([[0, 1], [-1, 2]])}, "are -1 to 2; the patches of the images are 0 to 3"),
        ({"masked_positions": np.array([0, 1])}, r"must be whole numbers \(n, k\), not int64 \(2,\)"),
        ({"images": batch(1)["images"]}, "images have 1 channels; this model takes 3"),
        ({"images": np.zeros((2, 8, 10, 3), "float32")}, "images of 8x10 do not divide into patches of 4x4; resize"),
    ],
)
def test_batches_that_cannot_be_are_refused_with_one_line(model, wrong, message):
    checks.fails(message, lambda: model.fit(batch() | wrong, batch_size=2, verbose=0))
    checks.fails(message, lambda: model.evaluate(batch() | wrong, batch_size=2, verbose=0))
