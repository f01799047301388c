"""ViT and DeiT: parity with `transformers`; patches, positions, endpoints, labels of training, bad input."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from homl_models import models
from homl_models.checkpoints import huggingface
from homl_models.errors import UserError
from homl_models.losses import SmoothedCrossentropy
from homl_models.models.vit import DeiT, DeiTForImageClassificationWithTeacher, ViT, ViTForImageClassification
from homl_models.models.vit_config import BeitConfig, DeiTConfig, ViTConfig
from homl_models.models.vit_layers import PatchEmbedding
from tests import checks

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
MEAN, STD = np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.25, 0.5])
NORMALIZATION = {"image_mean": tuple(map(float, MEAN)), "image_std": tuple(map(float, STD))}
IMAGES = np.random.default_rng(0).random((3, 32, 32, 3)).astype("float32")
LARGER = np.random.default_rng(1).random((2, 48, 40, 3)).astype("float32")
LABELS = np.array([0, 2, 1])
SOFT = np.float32([[0.7, 0.2, 0.1], [0.0, 0.0, 1.0], [0.2, 0.6, 0.2]])
MODELS = {  # settings of the configuration
    "ViTModel": {},
    "ViTForImageClassification": {"qkv_bias": False},
    "DeiTModel": {"pooler_output_size": 24, "pooler_act": "relu"},
    "DeiTForImageClassification": {},
    "DeiTForImageClassificationWithTeacher": {},
}


def reference(name, folder, **settings):
    """A model of `transformers` with random weights, and its folder, whose images are normalized by MEAN and STD."""
    import torch
    import transformers

    kind = getattr(transformers, name)
    torch.manual_seed(0)
    settings = SIZES | {"num_labels": 3} | settings
    model = kind(kind.config_class(attn_implementation="eager", **settings)).eval()
    for weight in model.parameters():
        weight.data.add_(0.1 * torch.randn_like(weight))
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(**NORMALIZATION).save_pretrained(folder)
    return model


def pixel_values(images):
    import torch

    return torch.tensor((images - MEAN) / STD).permute(0, 3, 1, 2)


def make(kind=ViT, seed=0, config=None, backbone=None, **settings):
    """A backbone or a head; config: fields of its configuration, backbone: other arguments of the backbone."""
    keras.utils.set_random_seed(seed)
    family = next(f for f in huggingface.FAMILIES.values() if kind is f.backbone or kind in f.head_tensors)
    head = None if kind is family.backbone else kind
    fields = SIZES | NORMALIZATION | (config or {}) | (head.required_config if head else {})
    model = family.backbone(family.config(**fields), **family.backbone_arguments(head) | (backbone or {}))
    model = kind(model, **settings) if head else model
    model.build()
    for i, weight in enumerate(model.trainable_weights):
        weight.assign(weight + keras.random.normal(weight.shape, stddev=0.1, seed=i))
    return model


def all_outputs_agree(theirs, ours, inputs, **options):
    """Of a model of `transformers` and of ours, with hidden states and attentions."""
    import torch

    inputs = inputs if isinstance(inputs, dict) else {"images": inputs}
    given = {name: torch.tensor(value) for name, value in inputs.items() if name != "images"}
    with torch.inference_mode():
        wanted = theirs(
            pixel_values(inputs["images"]), output_hidden_states=True, output_attentions=True, **given, **options
        )
    found = ours(inputs, output_hidden_states=True, output_attentions=True)
    assert {name for name in wanted if wanted[name] is not None} == set(found)
    for name, value in found.items():
        checks.close(
            value, tuple(x.numpy() for x in wanted[name]) if isinstance(value, tuple) else wanted[name].numpy()
        )


def gradients_agree(theirs, ours, wanted_loss, loss_of):
    """The loss, and its gradient at every weight, of a model of `transformers` and of ours."""
    wanted_loss.backward()
    gradients = dict(theirs.named_parameters())
    table = {name: tensor for name, tensor in huggingface.family_of(ours).tensors(ours).items() if name in gradients}
    given = [tensor.variable.value for tensor in table.values()]
    with tf.GradientTape() as tape:
        tape.watch(given)
        loss = loss_of(ours)
    checks.close(loss, wanted_loss.detach())
    for (key, tensor), gradient in zip(table.items(), tape.gradient(loss, given)):
        if gradient is None:
            assert gradients[key].grad is None, key
            continue
        gradient = np.array(tf.convert_to_tensor(gradient))
        checks.close(
            gradient if tensor.axes is None else gradient.transpose(np.argsort(tensor.axes)), gradients[key].grad
        )


@pytest.mark.parity
@pytest.mark.parametrize("name", MODELS)
def test_all_outputs_equal_the_reference(name, tmp_path):
    theirs = reference(name, tmp_path, **MODELS[name])
    ours = huggingface.from_pretrained(tmp_path)
    assert f"{type(ours).__name__}Model" == name or type(ours).__name__ == name
    all_outputs_agree(theirs, ours, IMAGES)
    all_outputs_agree(theirs, ours, LARGER, interpolate_pos_encoding=True)


@pytest.mark.parity
def test_the_loss_and_gradients_of_a_classifier_equal_the_reference(tmp_path):
    import torch

    theirs = reference("ViTForImageClassification", tmp_path)
    ours = huggingface.from_pretrained(tmp_path)
    wanted = theirs(pixel_values(IMAGES), labels=torch.tensor(LABELS)).loss
    gradients_agree(
        theirs, ours, wanted, lambda model: model.compute_loss(y=ops.convert_to_tensor(LABELS), y_pred=model(IMAGES))
    )


def test_the_patch_embedding_equals_a_convolution_of_keras():
    layer = PatchEmbedding(ViTConfig(**SIZES | {"patch_size": (8, 4)}))
    layer.build()
    convolution = keras.layers.Conv2D(32, (8, 4), strides=(8, 4))
    convolution.build((None, 32, 32, 3))
    convolution.set_weights([layer.kernel, layer.bias + 1.0])
    layer.bias.assign_add(ops.ones(32))
    checks.close(layer(IMAGES), ops.reshape(convolution(IMAGES), (3, 32, 32)))


def test_positions_of_other_sizes_come_from_a_grid_of_those_that_are_there():
    """The class token's stays; positions that are a plane remain one, away from the border."""
    model = make(DeiT, config={"image_size": 64})
    y, x = np.mgrid[:8, :8]
    plane = np.float32(np.stack([y, x, y + x], -1)).reshape(64, 3)
    positions = np.zeros((1, 66, 32), "float32")
    positions[0, 2:, :3], positions[0, :2] = plane, [[5.0], [7.0]]
    model.embeddings.position_embeddings.assign(positions)
    found = np.array(model.embeddings.positions((16, 16)))
    checks.close(found[0, :2], positions[0, :2])
    grid = found[0, 2:, :3].reshape(16, 16, 3)
    wanted = (np.arange(16) + 0.5) / 2 - 0.5
    np.testing.assert_allclose(grid[4:12, 8, 0], wanted[4:12], atol=0.05)
    np.testing.assert_allclose(grid[8, 4:12, 1], wanted[4:12], atol=0.05)
    checks.close(model.embeddings.positions((8, 8)), positions, 0)


def test_images_are_normalized_by_mean_and_standard_deviation_and_bytes_are_divided():
    model = make()
    neutral = make(config={"image_mean": 0.0, "image_std": 1.0})
    expected = neutral((IMAGES - MEAN) / STD)["last_hidden_state"]
    checks.close(model(IMAGES)["last_hidden_state"], expected)
    pixels = np.uint8(np.round(IMAGES * 255))
    checks.close(model(pixels)["last_hidden_state"], model(np.float32(pixels / 255))["last_hidden_state"])


def test_any_batch_and_precision():
    model = make()
    checks.any_batch_and_length(lambda x: model(x)["last_hidden_state"], IMAGES, unknown=(0,))
    checks.symbolic_agrees(lambda x: model(x)["pooler_output"], IMAGES, unknown=(0,))
    signature = [tf.TensorSpec((None, None, None, 3))]
    unknown = tf.function(lambda x: model(x)["pooler_output"], input_signature=signature)
    checks.close(unknown(IMAGES), model(IMAGES)["pooler_output"])

    def half(dtype):
        model = ViTForImageClassification(ViT(ViTConfig(**SIZES), add_pooling_layer=False, dtype=dtype), 4, dtype=dtype)
        model.build()
        return model

    checks.mixed_precision(half, IMAGES)
    assert half("mixed_bfloat16")(IMAGES).dtype == "float32"


# Training.


def cross_entropy(logits, targets):
    """Of each row, in float64."""
    logits = np.float64(logits)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -(targets * log_p).sum(-1)


@pytest.mark.parametrize("weights", [None, np.float32([1, 0, 3])])
@pytest.mark.parametrize("kind", ["labels", "soft", "smoothed", "smoothed soft"])
def test_losses_of_labels_and_distributions_equal_the_formula(kind, weights):
    model, one_hot = make(ViTForImageClassification, num_labels=3), np.eye(3)[LABELS]
    loss = {
        "smoothed": SmoothedCrossentropy(0.1),
        "smoothed soft": keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
    }.get(kind)
    y = SOFT if "soft" in kind else LABELS
    targets = np.float64(SOFT) if "soft" in kind else one_hot
    targets = 0.9 * targets + 0.1 / 3 if loss else targets
    model.compile("sgd", loss, run_eagerly=True)
    logits, w = np.array(model(IMAGES)), np.ones(3) if weights is None else weights
    expected = (w * cross_entropy(logits, targets)).sum() / w.sum()
    result = model.evaluate(IMAGES, y, sample_weight=weights, batch_size=2, return_dict=True, verbose=0)
    right = logits.argmax(1) == (SOFT if "soft" in kind else one_hot).argmax(1)
    checks.close([result["loss"], result["accuracy"]], [expected, (w * right).sum() / w.sum()])
    given = model.compute_loss(IMAGES, ops.convert_to_tensor(y), model(IMAGES), weights)
    checks.close(given, np.float32(expected))


def test_labels_of_minus_100_are_ignored_and_classes_have_weights():
    model = make(ViTForImageClassification, num_labels=3)
    model.compile("sgd", run_eagerly=True)
    losses = cross_entropy(np.array(model(IMAGES)), np.eye(3)[LABELS])
    found = model.evaluate(IMAGES, np.array([0, -100, 1]), return_dict=True, verbose=0)
    checks.close(found["loss"], losses[[0, 2]].mean())
    history = model.fit(IMAGES, LABELS, class_weight={0: 2.0, 1: 0.0}, batch_size=3, verbose=0).history
    checks.close(history["loss"], [(2 * losses[0] + losses[1]) / 3])
    with pytest.raises(UserError, match="class_weight goes with whole numbers as labels"):
        model.fit(IMAGES, SOFT, class_weight={0: 2.0})


def test_a_teachers_labels_train_the_second_class_token():
    model = make(DeiTForImageClassificationWithTeacher, num_labels=3)
    labels = {"labels": LABELS, "teacher_labels": np.array([1, 1, 0])}
    outputs = model(IMAGES)
    first = cross_entropy(outputs["cls_logits"], np.eye(3)[LABELS]).mean()
    second = cross_entropy(outputs["distillation_logits"], np.eye(3)[[1, 1, 0]]).mean()
    checks.close(outputs["logits"], (outputs["cls_logits"] + outputs["distillation_logits"]) / 2)
    x = np.array(model.backbone(IMAGES)["last_hidden_state"])[:, 1]
    kernel, bias = model.distillation_classifier.get_weights()
    checks.close(outputs["distillation_logits"], x @ kernel + bias)
    model.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
    result = model.evaluate(IMAGES, labels, return_dict=True, verbose=0)
    checks.close(result["loss"], (first + second) / 2)
    assert set(result) == {"loss", "accuracy", "teacher_accuracy"}
    model.train_on_batch(IMAGES, labels)
    assert model.evaluate(IMAGES, labels, return_dict=True, verbose=0)["loss"] < result["loss"]


def test_a_classifier_trains_and_comes_back(tmp_path):
    model = make(ViTForImageClassification, num_labels=3, labels=("cat", "dog", "owl"))
    model.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
    checks.keras_file_round_trip(model, IMAGES, SOFT, tmp_path)
    checks.overfits(model, IMAGES, LABELS, steps=8, share=0.6)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert (loaded.label_names, loaded.backbone.config) == (("cat", "dog", "owl"), model.backbone.config)


# Endpoints.


def test_images_of_any_size_are_classified_and_embedded(tmp_path):
    model = make(ViTForImageClassification, num_labels=3, labels=("cat", "dog", "owl"), config={"crop_fraction": 0.8})
    resized = tf.image.resize(IMAGES, (40, 40), "bilinear", antialias=True)[:, 4:36, 4:36]
    logits = np.float64(model(resized))
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels, p = model.classify(IMAGES)
    checks.close(p, np.float32(expected))
    assert labels == [("cat", "dog", "owl")[i] for i in expected.argmax(1)]
    others = [LARGER[0], np.uint8(np.round(IMAGES[1] * 255))]
    labels, p = model.classify(others)
    checks.close(p[1:], np.float32(expected[1:2]), 1e-2)
    checks.close(model.embed(IMAGES), model.backbone(resized)["last_hidden_state"][:, 0])
    assert model.embed([]).shape == (0, 32)
    assert make(config={"pooler_output_size": 24}).embed(IMAGES).shape == (3, 24)
    checks.export_agrees(model, tmp_path / "model", {"classify": [LARGER], "embed": [IMAGES]})
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    found = loaded.classify(tf.constant(IMAGES))
    checks.close(found["probabilities"], np.float32(expected))
    assert [name.decode() for name in found["labels"].numpy()] == model.classify(IMAGES)[0]


@pytest.mark.slow
def test_a_saved_model_is_enough_for_a_process_without_the_package(tmp_path):
    model = make(ViTForImageClassification, num_labels=2, labels=("cat", "dog"))
    checks.write_saved_model(model, tmp_path / "model")
    np.save(tmp_path / "images.npy", LARGER)
    labels, p = checks.in_fresh_process(FRESH, tmp_path)
    wanted = model.classify(LARGER)
    assert labels == wanted[0]
    checks.close(np.float32(p), wanted[1], 1e-4)


FRESH = """
import json, sys
sys.modules["keras"] = sys.modules["homl_models"] = None
import numpy as np
import tensorflow as tf
model = tf.saved_model.load(f"{sys.argv[1]}/model")
found = model.classify(tf.constant(np.load(f"{sys.argv[1]}/images.npy")))
print(json.dumps([[x.decode() for x in found["labels"].numpy()], found["probabilities"].numpy().tolist()]))
"""


# Bad input.


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: ViTConfig(**SIZES | {"hidden_size": 30}), "4 heads do not divide the hidden size 30"),
        (lambda: ViTConfig(**SIZES | {"image_size": 36}), "images of 36x36 do not divide into patches of 8x8; resize"),
        (lambda: ViTConfig(hidden_act="elu"), "hidden_act must be one of gelu, "),
        (lambda: ViTConfig(resample="lanczos"), "resample must be one of nearest, bilinear, bicubic, not 'lanczos'"),
        (lambda: ViTConfig(image_mean=(0.5, 0.5)), "image_mean must be a number, or 3, one a channel"),
        (lambda: BeitConfig(position_interpolation="linear"), "position_interpolation must be one of geometric, bil"),
        (lambda: DeiTConfig(crop_fraction=0.0), "crop_fraction must lie in"),
        (lambda: make()(IMAGES[..., :1]), "images have 1 channels; this model takes 3"),
        (lambda: make()(IMAGES[:, :30]), "images of 30x32 do not divide into patches of 8x8; resize them"),
        (lambda: make()(IMAGES[0]), r"images must have the shape \(n, height, width, 3\), not \(32, 32, 3\)"),
        (
            lambda: make()({"images": IMAGES, "mask": LABELS}),
            "there are no inputs mask; there are images, bool_",
        ),
        (lambda: make()({"head_mask": np.ones(4)}), "give images"),
        (lambda: make()({"images": IMAGES, "bool_masked_pos": np.ones((3, 16))}), "has no mask token; give its config"),
        (lambda: make(ViTForImageClassification, num_labels=3, labels=("a",)), "1 names are given for 3 labels"),
        (lambda: make().embed(IMAGES * 2), r"images must lie in \[0, 1\], not between"),
        (lambda: make().embed([IMAGES[0, :, :, 0]]), r"an image must have the shape \(height, width, 3\), not \(32,"),
    ],
)
def test_bad_input_is_refused(wrong, message):
    checks.fails(message, wrong)


def test_configurations_come_back():
    for config in (ViTConfig(**SIZES, **NORMALIZATION), DeiTConfig(), BeitConfig(out_indices=[1, 2])):
        assert type(config).from_config(keras.tree.map_structure(lambda x: x, config.get_config())) == config
        assert dataclasses.replace(config, num_hidden_layers=1).num_hidden_layers == 1
    assert ViTConfig(image_size=[32, 48]).window == (2, 3)
    assert {"ViT", "ViTConfig", "Beit", "DeiT"} <= set(models.__all__)
