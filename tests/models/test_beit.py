"""BEiT: parity with `transformers`; relative positions, masks, initial weights, stochastic depth, feature maps."""

import dataclasses
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from homl_models.checkpoints import huggingface
from homl_models.layers.dropout import Dropout
from homl_models.models.beit import Beit, BeitForImageClassification, BeitForMaskedImageModeling
from homl_models.models.vit_config import BeitConfig
from homl_models.models.vit_layers import RelativePositionBias, ViTBlock, relative_position_index
from homl_models.optimizers import LayerwiseAdamW
from tests import checks
from tests.models.test_bert import counted
from tests.models.test_vit import (
    IMAGES,
    LABELS,
    LARGER,
    NORMALIZATION,
    SIZES,
    all_outputs_agree,
    gradients_agree,
    make,
    pixel_values,
    reference,
)

MASK = np.random.default_rng(2).random((3, 16)) < 0.4
TOKENS = np.random.default_rng(3).integers(0, 50, (3, 16))
MASKED = np.where(MASK, TOKENS, -100)
SHARED = {"use_shared_relative_position_bias": True, "use_mask_token": True, "vocab_size": 50}
OWN = {"use_relative_position_bias": True}
KINDS = {  # class, settings of the configuration
    "shared": ("BeitModel", SHARED),
    "own": ("BeitModel", OWN | {"layer_norm_eps": 1e-6}),
    "both": ("BeitModel", SHARED | OWN | {"use_mean_pooling": False}),
    "absolute": ("BeitModel", {"use_absolute_position_embeddings": True, "layer_scale_init_value": 0}),
    "masked": ("BeitForMaskedImageModeling", SHARED),
    "masked, [CLS]": ("BeitForMaskedImageModeling", SHARED | {"use_mean_pooling": False}),
    "classification": ("BeitForImageClassification", OWN),
}


@pytest.mark.parity
@pytest.mark.parametrize("kind", KINDS)
def test_all_outputs_equal_the_reference(kind, tmp_path):
    name, settings = KINDS[kind]
    theirs = reference(name, tmp_path, **settings)
    ours = huggingface.from_pretrained(tmp_path, position_interpolation="bilinear")
    assert name.removesuffix("Model") == type(ours).__name__
    inputs = {"images": IMAGES}
    if "use_mask_token" in settings:
        inputs |= {"bool_masked_pos": MASK}
    all_outputs_agree(theirs, ours, inputs | {"head_mask": np.float32([[1, 0, 0.5, 1], [0, 1, 1, 1]])})
    other = {"bool_masked_pos": np.random.default_rng(4).random((2, 30)) < 0.4} if "use_mask_token" in settings else {}
    all_outputs_agree(theirs, ours, {"images": LARGER} | other)


@pytest.mark.parity
def test_losses_and_gradients_of_both_heads_equal_the_reference(tmp_path):
    import torch

    for kind in ("masked", "classification"):
        name, settings = KINDS[kind]
        theirs = reference(name, tmp_path / kind, **settings)
        ours, inputs, labels = huggingface.from_pretrained(tmp_path / kind), {"images": IMAGES}, LABELS
        given = {"labels": torch.tensor(LABELS)}
        if kind == "masked":
            inputs, labels = inputs | {"bool_masked_pos": MASK}, MASKED
            given = {"labels": torch.tensor(TOKENS[MASK]), "bool_masked_pos": torch.tensor(MASK)}
        wanted = theirs(pixel_values(IMAGES), **given).loss
        y = ops.convert_to_tensor(labels)
        gradients_agree(theirs, ours, wanted, lambda ours: ours.compute_loss(y=y, y_pred=ours(inputs)))  # noqa: B023


@pytest.mark.parity
@pytest.mark.slow
def test_at_the_size_of_beit_base_twelve_layers_agree():
    import torch
    import transformers

    keras.utils.set_random_seed(0)
    config = BeitConfig(use_relative_position_bias=True, use_mean_pooling=True)
    model = BeitForImageClassification(Beit(config), 10)
    model.build()
    for block in model.backbone.blocks:
        block.relative_position_bias.table.assign(keras.random.normal((732, 12)))
    theirs = transformers.BeitForImageClassification(
        transformers.BeitConfig(use_relative_position_bias=True, num_labels=10, attn_implementation="eager")
    ).eval()
    theirs.load_state_dict({name: torch.tensor(array) for name, array in huggingface.state_dict(model).items()})
    images = np.random.default_rng(0).random((1, 224, 224, 3)).astype("float32")
    with torch.inference_mode():
        wanted = theirs(torch.tensor(2 * images - 1).permute(0, 3, 1, 2), output_hidden_states=True)
    found = model(images, output_hidden_states=True)
    checks.close(found["logits"], wanted.logits.numpy(), 1e-4)
    for ours, state in zip(found["hidden_states"], wanted.hidden_states):
        np.testing.assert_allclose(ours, state.numpy(), atol=1e-4 * np.abs(state.numpy()).max())


# Relative positions.


@pytest.mark.parametrize(("rows", "columns"), [(2, 3), (3, 3)])
def test_the_index_tells_distances_apart_and_has_three_entries_of_cls(rows, columns):
    index = relative_position_index(rows, columns)
    places = [(y, x) for y in range(rows) for x in range(columns)]
    entries = {}
    for i, (y, x) in enumerate(places, 1):
        for j, (v, u) in enumerate(places, 1):
            entries.setdefault((y - v, x - u), set()).add(index[i, j])
    count = (2 * rows - 1) * (2 * columns - 1)
    assert [entries[distance] for distance in sorted(entries)] == [{i} for i in range(count)]
    assert set(index[0, 1:]) == {count}  # from [CLS]
    assert set(index[1:, 0]) == {count + 1}  # to [CLS]
    assert index[0, 0] == count + 2


def test_the_bias_is_added_to_the_scores():
    model = make(config=OWN | {"num_hidden_layers": 1}, kind=Beit)
    block = model.blocks[0]
    x = np.random.default_rng(0).normal(size=(2, 17, 32)).astype("float32")
    normed = np.float64(block.norms[0](x))
    q, k = (
        (normed @ np.float64(layer.kernel) + (np.float64(layer.bias) if layer.use_bias else 0))
        .reshape(2, 17, 4, 8)
        .transpose(0, 2, 1, 3)
        for layer in block.attention.projections[:2]
    )
    table = np.float64(block.relative_position_bias.table)
    scores = q @ k.transpose(0, 1, 3, 2) / 8**0.5 + table[relative_position_index(4, 4)].transpose(2, 0, 1)
    expected = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    checks.close(block(x)[1], expected.astype("float32"))
    assert block.attention.key_dense.bias is None


def test_one_shared_table_for_all_blocks_or_one_in_each():
    shared, own = make(Beit, config=SHARED), make(Beit, config=OWN)
    tables = [[w.path for w in model.weights if w.name == "table"] for model in (shared, own)]
    assert [len(some) for some in tables] == [1, 2]
    assert all(w.shape == (7 * 7 + 3, 4) for model in (shared, own) for w in model.weights if w.name == "table")


@pytest.mark.parametrize("method", ["geometric", "bilinear"])
def test_a_table_grows_within_the_model_as_at_loading(method, tmp_path):
    """Called on larger images, and loaded for larger images: the same; entries of [CLS] stay."""
    model = make(Beit, config=OWN | {"position_interpolation": method})
    huggingface.save_pretrained(model, tmp_path)
    larger = huggingface.from_pretrained(tmp_path, image_size=(48, 40))
    bias, table = larger.blocks[0].relative_position_bias, np.array(model.blocks[0].relative_position_bias.table)
    assert bias.table.shape == (11 * 9 + 3, 4)
    checks.close(np.array(bias.table)[-3:], table[-3:], 0)
    checks.close(model(LARGER)["pooler_output"], larger(LARGER)["pooler_output"])
    again = huggingface.from_pretrained(tmp_path)
    checks.close(again.blocks[0].relative_position_bias.table, table, 0)


def test_interpolations_of_a_224_table_to_384():
    """Against formulas of both kinds on a table that is the distance itself: the cubic keeps near distances exact."""
    config = BeitConfig(hidden_size=4, num_attention_heads=2, use_relative_position_bias=True)
    rows = np.repeat(np.arange(-13.0, 14), 27).reshape(729, 1) * np.ones((1, 2))
    table = np.float32(np.concatenate([rows, np.zeros((3, 2))]))
    found = {}
    for method in ("geometric", "bilinear"):
        layer = RelativePositionBias(dataclasses.replace(config, image_size=384, position_interpolation=method))
        found[method] = layer.resized(table)[:-3].reshape(47, 47, 2)[:, 23, 0]
    distances = np.arange(-23.0, 24)
    np.testing.assert_allclose(found["geometric"][[0, 22, 23, 24, 46]], [-13, -1, 0, 1, 13], atol=1e-4)
    linear = np.clip((np.arange(47) + 0.5) * 27 / 47 - 0.5, 0, 26) - 13
    np.testing.assert_allclose(found["bilinear"], linear, atol=1e-4)
    assert (np.diff(found["geometric"]) > 0).all()
    assert abs(found["geometric"][25] - distances[25]) < abs(found["bilinear"][25] - distances[25]) / 4


# Masks.


def test_masked_patches_are_replaced_by_the_mask_token():
    model = make(BeitForMaskedImageModeling, config=SHARED)
    pixels = np.kron(MASK.reshape(3, 4, 4), np.ones((8, 8))).astype(bool)[..., None]
    other = np.where(pixels, 1 - IMAGES, IMAGES)
    given = {"bool_masked_pos": MASK}
    logits = model({"images": IMAGES} | given)
    assert logits.shape == (3, 16, 50)
    checks.close(model({"images": other} | given), logits)
    checks.close(model({"images": IMAGES, "bool_masked_pos": MASK.reshape(3, 4, 4)}), logits)
    assert np.abs(model(np.where(pixels, IMAGES, 1 - IMAGES)) - model(IMAGES)).max() > 1e-3
    model.backbone.embeddings.mask_token.assign_add(keras.random.normal((1, 1, 32), seed=0))
    assert np.abs(model({"images": IMAGES} | given) - logits).max() > 1e-3
    for other in (MASK[:, 1:], MASK.reshape(3, 2, 8)):
        message = rf"must have the shape \(n, 4, 4\) or \(n, 16\), not {re.escape(str(other.shape))}"
        checks.fails(message, lambda: model({"images": IMAGES, "bool_masked_pos": other}))  # noqa: B023
    checks.fails(
        "needs a backbone with use_mask_token=True", lambda: BeitForMaskedImageModeling(Beit(BeitConfig(**SIZES)))
    )


def test_masked_positions_alone_have_the_same_logits_and_loss():
    model = make(BeitForMaskedImageModeling, config=SHARED)
    inputs = {"images": IMAGES, "bool_masked_pos": MASK}
    k = MASK.sum(1).max()
    positions = np.argsort(~MASK, axis=1, kind="stable")[:, :k]
    everywhere, some = model(inputs), model(inputs | {"masked_positions": positions})
    checks.close(some, np.take_along_axis(np.array(everywhere), positions[..., None], axis=1))
    losses = [
        model.compute_loss(y=ops.convert_to_tensor(y), y_pred=logits)
        for y, logits in ((MASKED, everywhere), (np.take_along_axis(MASKED, positions, 1), some))
    ]
    checks.close(*losses)
    model.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
    x, y = inputs | {"masked_positions": positions}, np.take_along_axis(MASKED, positions, 1)
    result = model.evaluate(x, y, return_dict=True, verbose=0)
    checks.close(result["loss"], losses[1])
    model.train_on_batch(x, y)
    assert model.evaluate(x, y, return_dict=True, verbose=0)["loss"] < result["loss"]


# Blocks.


def test_new_weights_are_scaled_by_the_depth_of_their_block():
    """The last kernels of both sub-layers by 1 / sqrt(2 l), all others not; layer scale and biases as set."""
    sizes = {"hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 96, "num_hidden_layers": 3}
    model = Beit(BeitConfig(**SIZES | sizes, layer_scale_init_value=0.3, initializer_range=0.05))
    model.build()
    usual = np.std(model.blocks[0].hidden.kernel)
    np.testing.assert_allclose(usual, 0.05 * 0.8796, rtol=0.05)  # of a normal distribution cut off at 2 sigma
    for l, block in enumerate(model.blocks, 1):  # noqa: E741
        for dense in (block.attention.output_dense, block.output_dense):
            np.testing.assert_allclose(np.std(dense.kernel), usual / (2 * l) ** 0.5, rtol=0.05)
        for dense in block.attention.projections[:3]:
            np.testing.assert_allclose(np.std(dense.kernel), usual, rtol=0.05)
        assert all((np.array(scale.gamma) == np.float32(0.3)).all() for scale in block.layer_scales)
    kernels = [np.array(weight)[..., :96] for weight in model.blocks[0].weights if weight.name == "kernel"]
    assert all((a != b).any() for i, a in enumerate(kernels) for b in kernels[:i])


def test_stochastic_depth_grows_with_the_block():
    model = Beit(BeitConfig(**SIZES | {"num_hidden_layers": 5}, drop_path_rate=0.2))
    rates = [[layer.rate for layer in block.drop_paths] for block in model.blocks]
    assert not rates[0]
    np.testing.assert_allclose(rates[1:], [[0.05] * 2, [0.1] * 2, [0.15] * 2, [0.2] * 2])


def test_dropout_follows_the_second_layer_of_the_feed_forward_network_alone(monkeypatch):
    block = ViTBlock(BeitConfig(**SIZES, hidden_dropout_prob=0.5, drop_path_rate=0.0))
    block.build((None, None, 32))
    calls = counted(monkeypatch, Dropout, "call")
    block(np.ones((2, 17, 32), "float32"), training=True)
    assert [shape for layer, shape in calls if layer.rate] == [(2, 17, 32)] * 2


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.xla])])
def test_gradient_checkpointing_gives_the_same_gradients(jit_compile):
    """Dropout and stochastic depth are on: they must leave out the same both times. One table is shared."""
    taken = []
    for again in (False, True):
        config = SHARED | {"gradient_checkpointing": again, "drop_path_rate": 0.4, "hidden_dropout_prob": 0.2}
        model = make(BeitForMaskedImageModeling, config=config | {"attention_probs_dropout_prob": 0.2})
        keras.utils.set_random_seed(7)
        model.compile(keras.optimizers.SGD(0.5), jit_compile=jit_compile)
        for layer in model._flatten_layers():
            if hasattr(layer, "seed_generator"):
                layer.seed_generator.state.assign([3, 4])
        before = [np.array(weight) for weight in model.trainable_weights]
        model.train_on_batch({"images": IMAGES, "bool_masked_pos": MASK}, MASKED)
        taken.append([np.array(weight) - old for weight, old in zip(model.trainable_weights, before)])
    checks.close(taken[1], taken[0])
    changed = {weight.path.split("/")[-1] for weight, change in zip(model.trainable_weights, taken[0]) if change.any()}
    assert changed >= {"table", "mask_token", "cls_token", "kernel", "bias", "gamma", "beta"}


def test_gradients_reach_all_weights():
    model = make(Beit, config=SHARED | OWN)
    checks.gradients_reach(
        lambda images: model({"images": images, "bool_masked_pos": MASK})["pooler_output"],
        model.trainable_weights,
        IMAGES,
    )


def test_layer_wise_learning_rates_and_weight_decay_know_the_names():
    """The authors' rule: embeddings are layer 0 of N + 2, block i layer i + 1, all else the last; d^(N + 1 - layer)."""
    model = make(BeitForImageClassification, config=OWN)
    optimizer = LayerwiseAdamW(1e-3, num_layers=2, layer_decay=0.5, head_distance=1)
    optimizer.build(model.trainable_variables)
    both = dict(zip((w.path for w in model.trainable_variables), zip(optimizer.lr_multipliers, optimizer.decays)))
    by_part = {
        part: {rate for path, (rate, _) in both.items() if part in path}
        for part in ("embeddings", "block_0", "block_1")
    }
    assert by_part == {"embeddings": {0.5**3}, "block_0": {0.5**2}, "block_1": {0.5}}
    assert {rate for path, (rate, _) in both.items() if "classifier" in path or "pooler" in path} == {1.0}
    undecayed = {path.split("/")[-1] for path, (_, decayed) in both.items() if not decayed}
    assert undecayed == {"bias", "gamma", "beta", "cls_token"}


# The model as a whole.


@pytest.mark.parametrize("config", [SHARED, OWN | {"use_absolute_position_embeddings": True}], ids=["shared", "own"])
def test_any_batch_and_precision(config):
    model = make(Beit, config=config)
    checks.any_batch_and_length(lambda x: model(x)["pooler_output"], IMAGES, unknown=(0,))

    def half(dtype):
        model = Beit(BeitConfig(**SIZES | config, layer_scale_init_value=1.0), dtype=dtype)
        model.build()
        return model

    checks.mixed_precision(half, IMAGES)


@pytest.mark.xla
@pytest.mark.slow
def test_any_batch_by_xla():
    model = make(Beit, config=SHARED | OWN)
    checks.any_batch_and_length(lambda x: model(x)["pooler_output"], IMAGES, unknown=(0,))


def test_feature_maps_are_hidden_states_of_patches_in_rows():
    model = make(Beit, config=OWN | {"out_indices": [0, 2]})
    states = model(LARGER, output_hidden_states=True)["hidden_states"]
    maps = model.feature_maps(LARGER)
    assert [tuple(one.shape) for one in maps] == [(2, 6, 5, 32)] * 2
    checks.close(maps[1][:, 2, 3], states[2][:, 1 + 2 * 5 + 3])
    checks.close(model.feature_maps(LARGER, [1])[0][:, 0, 4], states[1][:, 5])


def test_pooling_takes_the_normalized_mean_over_patches_or_cls():
    mean, first = make(Beit), make(Beit, config={"use_mean_pooling": False})
    outputs = mean(IMAGES, output_hidden_states=True)
    checks.close(outputs["last_hidden_state"], outputs["hidden_states"][-1], 0)
    x = np.float64(outputs["last_hidden_state"])[:, 1:].mean(1)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
    checks.close(outputs["pooler_output"], np.float32(x * np.float64(mean.pooler.gamma) + np.float64(mean.pooler.beta)))
    bare = make(Beit, backbone={"add_pooling_layer": False})
    checks.close(bare.embed(IMAGES), np.float64(bare(IMAGES)["last_hidden_state"])[:, 1:].mean(1))
    outputs = first(IMAGES, output_hidden_states=True)
    checks.close(outputs["last_hidden_state"], first.norm(outputs["hidden_states"][-1]))
    checks.close(outputs["pooler_output"], outputs["last_hidden_state"][:, 0], 0)


def test_a_classifier_comes_back_and_is_exported(tmp_path):
    labels = ("cat", "dog", "owl")
    model = make(BeitForImageClassification, config=OWN, num_labels=3, labels=labels)
    model.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
    checks.keras_file_round_trip(model, IMAGES, LABELS, tmp_path)
    checks.export_agrees(model, tmp_path / "model", {"classify": [LARGER], "embed": [IMAGES]})
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    assert loaded.classify(tf.constant(IMAGES))["labels"].dtype == tf.string
    assert model.backbone.config == BeitConfig(**SIZES | OWN | NORMALIZATION)


JAX = """
import json, sys
sys.modules["tensorflow"] = None
import keras, numpy as np
from homl_models import models
models.Beit, models.BeitForMaskedImageModeling
model = keras.models.load_model(f"{sys.argv[1]}/model.keras")
batch = dict(np.load(f"{sys.argv[1]}/batch.npz"))
labels = batch.pop("labels")
logits = np.array(model(batch))
model.compile(keras.optimizers.Adam(1e-2), jit_compile=True)
losses = model.fit(batch, labels, epochs=4, batch_size=3, verbose=0).history["loss"]
print(json.dumps([logits.tolist(), losses]))
"""


@pytest.mark.slow
def test_on_jax_without_tensorflow_it_gives_the_same_and_trains(tmp_path):
    model = make(BeitForMaskedImageModeling, config=SHARED | {"gradient_checkpointing": True})
    model.save(tmp_path / "model.keras")
    batch = {"images": IMAGES, "bool_masked_pos": MASK}
    np.savez(tmp_path / "batch.npz", labels=MASKED, **batch)
    logits, losses = checks.in_fresh_process(JAX, tmp_path, KERAS_BACKEND="jax")
    checks.close(np.float32(logits), model(batch), 1e-4)
    assert losses[-1] < 0.9 * losses[0]
