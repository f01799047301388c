"""Segmentation with BEiT: parity with `transformers`, head by head; the loss, mean IoU, masks at the image's size."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from homl_models.checkpoints import huggingface
from homl_models.layers.interpolation import adaptive_mean_matrix, resize_maps
from homl_models.models.beit import Beit
from homl_models.models.beit_segmentation import BeitBackbone, BeitForSemanticSegmentation, class_colors
from homl_models.models.segmentation_layers import FCN, ConvNormRelu, FeaturePyramid, UPerNet
from homl_models.models.vit_config import BeitConfig
from tests import checks
from tests.models.test_vit import IMAGES, LARGER, NORMALIZATION, SIZES, gradients_agree, make, pixel_values, reference

MASKS = np.random.default_rng(5).integers(0, 3, (3, 32, 32))
MASKS[0, :9] = MASKS[2, 3:8, 20:] = 255
FOUR = {"num_hidden_layers": 4, "use_relative_position_bias": True}
HEAD = FOUR | {"out_indices": (1, 2, 3, 4), "auxiliary_channels": 8}
CONVS = {"auxiliary_num_convs": 2, "auxiliary_concat_input": True, "use_mean_pooling": False}
HEADS = {
    "plain": {},
    "convolutions": CONVS,
    "without the auxiliary head": {"use_auxiliary_head": False},
    "scales": {"pool_scales": (1, 5), "auxiliary_num_convs": 0, "auxiliary_channels": 32},
}


def segmentation_reference(folder, **settings):
    """`transformers`' model, whose moving statistics are random too."""
    settings = HEAD | settings | {"out_indices": [1, 2, 3, 4]}
    theirs = reference("BeitForSemanticSegmentation", folder, **settings)
    for name, buffer in theirs.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    theirs.save_pretrained(folder)
    return theirs


@pytest.mark.parity
@pytest.mark.parametrize("kind", HEADS)
def test_logits_loss_and_gradients_equal_the_reference(kind, tmp_path):
    import torch

    theirs = segmentation_reference(tmp_path, **HEADS[kind])
    ours = huggingface.from_pretrained(tmp_path)
    assert type(ours) is BeitForSemanticSegmentation
    wanted = theirs(pixel_values(IMAGES), labels=torch.tensor(MASKS), output_hidden_states=True, output_attentions=True)
    found = ours(IMAGES, output_hidden_states=True, output_attentions=True)
    checks.close(found["logits"], wanted.logits.detach().permute(0, 2, 3, 1).numpy())
    for ours_state, state in zip(found["hidden_states"], wanted.hidden_states, strict=True):
        checks.close(ours_state, state.detach().numpy())
    y = ops.convert_to_tensor(MASKS)
    gradients_agree(theirs, ours, wanted.loss, lambda model: model.compute_loss(y=y, y_pred=model(IMAGES)))


@pytest.mark.parity
def test_each_head_equals_the_reference_in_training_too(tmp_path):
    """With the statistics of the batch, on the same feature maps."""
    import torch

    theirs = segmentation_reference(tmp_path, **CONVS).train()
    ours = huggingface.from_pretrained(tmp_path)
    rng = np.random.default_rng(6)
    maps = [np.float32(rng.normal(size=(3, 4, 4, 32))) for _ in range(4)]
    given = [torch.tensor(x).permute(0, 3, 1, 2) for x in maps]
    wanted = [getattr(theirs, f"fpn{i + 1}")(x) for i, x in enumerate(given)]
    levels = ours.pyramid(maps, training=True)
    for level, their in zip(levels, wanted, strict=True):
        checks.close(level, their.detach().permute(0, 2, 3, 1).numpy())
    their = theirs.decode_head(wanted), theirs.auxiliary_head(wanted)
    our = ours.decode_head(levels, training=True), ours.auxiliary_head(levels[2], training=True)
    checks.close(our, tuple(logits.detach().permute(0, 2, 3, 1).numpy() for logits in their))
    checks.close(ours.pyramid.norm.moving_mean, theirs.fpn1[1].running_mean.numpy())
    n = 3 * 8 * 8  # PyTorch's moving variance has n / (n - 1) times the batch's
    old = 10 * (theirs.fpn1[1].running_var.numpy() - 0.9 * saved(tmp_path, "fpn1.1.running_var"))
    checks.close(ours.pyramid.norm.moving_variance, theirs.fpn1[1].running_var.numpy() - 0.1 * old / n)


def saved(folder, name):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")[name]


@pytest.mark.parity
@pytest.mark.parametrize(
    "settings",
    [
        {"out_features": ["stem", "stage2"]},
        {"out_indices": [0, 1, 2, 4], "add_fpn": True, "batch_norm_eps": 1e-3},
        {"out_indices": [3], "reshape_hidden_states": False},
        {},
    ],
    ids=str,
)
def test_the_backbone_equals_the_reference_and_comes_back(settings, tmp_path):
    import torch

    theirs = reference("BeitBackbone", tmp_path, **FOUR | settings)
    ours = huggingface.from_pretrained(tmp_path)
    assert type(ours) is BeitBackbone
    with torch.inference_mode():
        wanted = theirs(pixel_values(IMAGES)).feature_maps
    found = ours(IMAGES)["feature_maps"]
    assert len(found) == len(wanted)
    for our, their in zip(found, wanted):
        checks.close(our, (their.permute(0, 2, 3, 1) if their.ndim == 4 else their).numpy())
    huggingface.save_pretrained(ours, tmp_path / "again")
    again = type(theirs).from_pretrained(tmp_path / "again")
    for name, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parity
def test_a_folder_comes_back_bit_for_bit(tmp_path):
    import torch

    theirs = segmentation_reference(tmp_path / "theirs", **CONVS)
    ours = huggingface.from_pretrained(tmp_path / "theirs")
    huggingface.save_pretrained(ours, tmp_path / "ours")
    again, info = type(theirs).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values())
    assert again.config.id2label == theirs.config.id2label
    for name, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    theirs.save_pretrained(tmp_path / "bin", safe_serialization=False)
    checks.close(huggingface.from_pretrained(tmp_path / "bin", **NORMALIZATION).weights, ours.weights, 0)


# Loss and metrics.


@pytest.fixture(scope="module")
def model():
    return make(BeitForSemanticSegmentation, config=HEAD, num_labels=3, labels=("sky", "sea", "land"))


def enlarged(maps, size):
    """Maps (b, h, w, n) by linear interpolation between pixel centres, in float64."""
    for axis in (1, 2):
        n = maps.shape[axis]
        centres = (np.arange(size) + 0.5) * n / size - 0.5
        matrix = np.stack([np.interp(centres, np.arange(n), row) for row in np.eye(n)], axis=-1)
        maps = np.moveaxis(np.tensordot(matrix, maps, (1, axis)), 0, axis)
    return maps


def test_loss_and_metrics_are_of_all_pixels_that_are_not_ignored(model):
    """By their formulas, over batches of two and of one."""
    model.compile("sgd", jit_compile=False)
    found = model.evaluate(IMAGES, MASKS, batch_size=2, verbose=0, return_dict=True)
    known, loss = MASKS != 255, 0.0
    outputs = model(IMAGES)
    assert outputs["logits"].shape == (3, 16, 16, 3)
    assert outputs["auxiliary_logits"].shape == (3, 4, 4, 3)
    for name, factor in (("logits", 1), ("auxiliary_logits", 0.4)):
        logits = enlarged(np.float64(outputs[name]), 32)
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        loss -= factor * np.take_along_axis(log_p[known], MASKS[known][:, None], 1).mean()
    assert found["loss"] == pytest.approx(loss, rel=1e-5)
    predicted, truth = enlarged(np.float64(outputs["logits"]), 32).argmax(-1)[known], MASKS[known]
    assert found["accuracy"] == pytest.approx(np.mean(predicted == truth))
    wanted = [np.sum((predicted == i) & (truth == i)) / np.sum((predicted == i) | (truth == i)) for i in range(3)]
    assert found["mean_iou"] == pytest.approx(np.mean(wanted))
    assert model.class_iou() == pytest.approx(dict(zip(("sky", "sea", "land"), wanted)))


def test_a_class_that_is_nowhere_does_not_count(model):
    model.iou.reset_state()
    model.iou.update_state([0, 0, 2], [0, 2, 2])
    assert model.class_iou() == {"sky": 0.5, "land": 0.5}
    assert float(model.iou.result()) == 0.5


def test_weights_of_the_last_block_which_is_not_used_are_not_trained(model):
    images = tf.constant(IMAGES)
    with tf.GradientTape() as tape:
        loss = model.compute_loss(y=tf.constant(MASKS), y_pred=model(images, training=True))
    gradients = tape.gradient(loss, [weight.value for weight in model.trainable_weights])
    assert not any(gradient is None for gradient in gradients)
    frozen = {weight.path for weight in model.non_trainable_weights if "moving" not in weight.path}
    assert {path.split("/block_")[1][0] for path in frozen if "block_" in path} == {"3"}


@pytest.mark.parametrize(("n", "m"), [(7, 3), (4, 6), (6, 6), (5, 1)])
def test_bins_of_the_pyramid_pooling(n, m):
    x = np.random.default_rng(0).normal(size=(2, n, n + 1, 3)).astype("float32")
    found = np.array(resize_maps(ops.convert_to_tensor(x), (m, m), adaptive_mean_matrix))

    def inside(i, n):
        return slice(int(np.floor(i * n / m)), int(np.ceil((i + 1) * n / m)))

    for i in range(m):
        for j in range(m):
            part = np.float64(x)[:, inside(i, n), inside(j, n + 1)]
            np.testing.assert_allclose(found[:, i, j], part.mean((1, 2)), atol=1e-6)


def test_a_folder_has_moving_statistics_and_labels(model, tmp_path):
    for i, weight in enumerate(model.non_trainable_weights):
        if "moving" in weight.path:
            weight.assign(keras.random.uniform(weight.shape, 0.5, 1.5, seed=i))
    huggingface.save_pretrained(model, tmp_path)
    again = huggingface.from_pretrained(tmp_path)
    checks.close(again.weights, model.weights, 0)
    assert again.label_names == ("sky", "sea", "land")
    assert again.states == model.states
    fewer = huggingface.from_pretrained(tmp_path, use_auxiliary_head=False)
    checks.close(fewer(IMAGES[:1])["logits"], model(IMAGES[:1])["logits"], 0)


# Masks of images of any size.


def test_masks_have_the_size_of_the_image(model):
    found = model.segment([IMAGES[0], np.uint8(255 * LARGER[0]), np.zeros((7, 90, 3), np.uint8)])
    assert [mask.shape for mask in found] == [(32, 32), (48, 40), (7, 90)]
    assert found[0].tolist() == enlarged(np.float64(model(IMAGES[:1])["logits"]), 32).argmax(-1)[0].tolist()
    endpoint = model.endpoints()["segment"]
    assert endpoint.doc.endswith("The classes: 0 sky, 1 sea, 2 land.")
    graph = tf.function(endpoint.__call__, input_signature=endpoint.signature, autograph=False)
    outputs = graph(tf.constant(np.float32(np.uint8(255 * LARGER[:1])) / 255))
    assert np.mean(outputs["classes"].numpy()[0] == found[1]) > 0.999
    np.testing.assert_array_equal(outputs["images"], class_colors(3)[outputs["classes"].numpy()])


def test_colours_are_those_of_pascal_voc():
    voc = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {i: tuple(map(int, class_colors(256)[i])) for i in voc} == voc


def test_larger_images_are_taken_as_they_are(model):
    assert model(LARGER)["logits"].shape == (2, 24, 20, 3)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (MASKS[..., None], r"masks must have the shape \(3, h, w\), the class of each pixel, not \(3, 32, 32, 1\)"),
        (MASKS[:2], r"masks must have the shape \(3, h, w\)"),
        (MASKS / 2, "masks must be whole numbers, the classes of pixels, not float64"),
        (np.where(MASKS == 255, 300, MASKS + 2), "masks have classes 3 to 300; those of the model are 0 to 2, or 255"),
        (MASKS - 1, "masks have classes -1 to 254"),
    ],
)
def test_masks_that_cannot_be_are_refused_before_training(model, masks, message):
    checks.fails(message, lambda: model.fit(IMAGES, masks, verbose=0))
    checks.fails(message, lambda: model.evaluate({"images": IMAGES}, masks, verbose=0))


def test_layers_are_registered_and_come_back():
    config = BeitConfig(**SIZES | HEAD)
    for layer in (ConvNormRelu(config, 4, 3), FeaturePyramid(config, 1e-3), UPerNet(config, 5), FCN(config, 5)):
        assert keras.saving.get_registered_name(type(layer)) == f"homl_models>{type(layer).__name__}"
        again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
        assert type(again) is type(layer)
        assert again.get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("kind", "config", "message"),
    [
        (BeitForSemanticSegmentation, {}, "segmentation needs four out_indices, from 1 to 2, in their order"),
        (BeitForSemanticSegmentation, HEAD | {"out_indices": (2, 3, 4, 5)}, r"from 1 to 4, in their order, not \(2, 3"),
        (BeitForSemanticSegmentation, HEAD | {"out_indices": (2, 1, 3, 4)}, "segmentation needs four out_indices"),
        (BeitBackbone, {"out_features": ("stage3",)}, "must be of stem to stage2, or 0 to 2, in their order"),
        (BeitBackbone, {"add_fpn": True}, "add_fpn needs out_indices of four hidden states"),
    ],
)
def test_hidden_states_that_are_not_there(kind, config, message):
    settings = BeitConfig(**SIZES | config)
    checks.fails(message, lambda: kind(settings if kind is BeitBackbone else Beit(settings)))


def test_too_few_patches_and_cropped_images_are_refused(model):
    message = "images have 1x4 patches; segmentation needs at least 2x2"
    checks.fails(message, lambda: model(IMAGES[:, :8]))
    small = Beit(BeitConfig(**SIZES | HEAD | {"image_size": (8, 32)}))
    checks.fails(message, lambda: BeitForSemanticSegmentation(small))
    cropped = Beit(BeitConfig(**SIZES | HEAD | {"crop_fraction": 0.9}))
    checks.fails("needs a backbone with crop_fraction=1.0", lambda: BeitForSemanticSegmentation(cropped))
    checks.fails("2 names are given for 3 labels", lambda: BeitForSemanticSegmentation(model.backbone, 3, ("a", "b")))
