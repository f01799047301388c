"""Recipes of BEiT: what they start from, their data, evaluation by the names of classes, and bad input."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from homl_models import loading
from homl_models.checkpoints import huggingface
from homl_models.models.beit import Beit
from homl_models.models.bert import Bert
from homl_models.models.bert_config import BertConfig
from homl_models.models.vit_config import BeitConfig
from homl_models.pipelines import segmentation
from homl_models.recipes import get
from tests import checks

FIT = {"stored_size": 8, "images": "", "data": "images", "epochs": 1, "batch_size": 8}


def folders(folder, **counts):
    """A folder of scikit-learn's digits: {name of the class: number of images}, by the digit that a name ends with."""
    data = load_digits()
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i, image in enumerate(data.images[data.target == int(name[-1])][:count]):
            Image.fromarray(np.uint8(image * 15)).save(folder / name / f"{i}.png")
    return str(folder)


def replaced(name, **settings):
    return dataclasses.replace(get(name), **settings)


def test_fine_tuning_begins_with_the_weights_of_pre_training(untrained):
    start = untrained("beit_pretrain_tiny")
    recipe = replaced("beit_classify_tiny", start=str(start))
    model, before = recipe.model(), recipe.start_model.head.backbone
    for ours, theirs in zip(model.backbone.blocks, before.blocks):
        np.testing.assert_array_equal(ours.attention.weights[0], theirs.attention.weights[0])
    assert model.optimizer.layer_decay == 0.75
    assert model.optimizer.num_layers == 2
    assert model.optimizer.head_distance == 1
    checks.fails("give --hidden-size 16, as", lambda: dataclasses.replace(recipe, hidden_size=32).model(), str(start))
    checks.fails("give --patch-size 2, as", lambda: dataclasses.replace(recipe, patch_size=4).model())
    other = replaced("beit_classify_tiny", start=str(untrained("vae_tiny")))
    checks.fails("is a VAE, no BEiT; give a run of beit_pretrain", other.model)


def test_pre_training_leaves_the_optimizer_of_its_tokenizer_behind(untrained):
    source = replaced("beit_pretrain_tiny", tokenizer=str(untrained("dvae_tiny"))).visual_tokenizer
    loaded = loading.load(untrained("dvae_tiny"))
    assert loaded.optimizer
    assert getattr(source, "optimizer", None) is None
    checks.close(source.weights, loaded.weights, 0)


def test_a_folder_of_bert_is_no_start(tmp_path):
    huggingface.save_pretrained(built(Bert(BertConfig(20, 8, 1, 2, 12, max_position_embeddings=6))), tmp_path)
    for name in ("beit_classify_tiny", "beit_segment_tiny"):
        message = "is a Bert, no BEiT; give a run of beit_pretrain"
        checks.fails(message, replaced(name, start=str(tmp_path)).model, str(tmp_path))


def test_class_names_are_kept_and_matched(tmp_path):
    images = folders(tmp_path / "train", digit_3=20, digit_4=20, digit_5=20)
    recipe = replaced("beit_classify_tiny", **FIT | {"images": images}, num_labels=0)
    model = recipe.model()
    assert model.label_names == ("digit_3", "digit_4", "digit_5")
    found = recipe.evaluate(model, folders(tmp_path / "fewer", digit_5=6, digit_3=3))
    labels = model.classify([np.asarray(Image.open(p))[..., None] for p in sorted((tmp_path / "fewer").rglob("*.png"))])
    right = np.mean(np.array(labels[0]) == ["digit_3"] * 3 + ["digit_5"] * 6)
    assert abs(found["accuracy"] - right) < 1e-6
    others = folders(tmp_path / "others", digit_7=5)
    wanted = "others has classes that the model does not know: digit_7; it has digit_3, digit_4, digit_5"
    checks.fails(wanted, lambda: recipe.evaluate(model, others))


def test_pre_training_needs_no_labels_and_a_tokenizer_that_fits(tmp_path, untrained):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, image in enumerate(load_digits().images[:30]):
        Image.fromarray(np.uint8(image * 15)).save(folder / f"{i}.png")
    recipe = replaced("beit_pretrain_tiny", **FIT | {"images": str(folder)})
    batch = recipe.datasets()[0].batch(0)
    assert batch["images"].shape == (8, 8, 8, 1)
    assert batch["token_images"].shape == (8, 32, 32, 1)  # 8 pixels a token, a token a patch
    checks.fails("--tokenizer is needed", replaced("beit_pretrain_tiny", tokenizer="").model)
    checks.fails(
        "no tokenizer: give the run of a dvae",
        replaced("beit_pretrain_tiny", tokenizer=str(untrained("vae_tiny"))).model,
    )
    checks.fails("takes images of 1 channels: --channels 1", replaced("beit_pretrain", tokenizer="dvae_tiny").model)


def test_segmentation_starts_from_a_folder_and_takes_cut_outs_and_photographs_of_ones_own(tmp_path):
    """Held-out photographs and cut-outs are others than those of training."""
    config = BeitConfig(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
        use_shared_relative_position_bias=True,
    )  # fmt: skip
    start = built(Beit(config))
    huggingface.save_pretrained(start, tmp_path / "start")
    digits = load_digits()
    for i in range(20):
        name = f"{'even' if digits.target[i] % 2 == 0 else 'odd'}/{i}.png"
        (tmp_path / "cutouts" / name).parent.mkdir(parents=True, exist_ok=True)
        grey = np.uint8(digits.images[i] * 15)
        Image.fromarray(np.dstack([grey, 255 - grey, grey, grey])).save(tmp_path / "cutouts" / name)
    (tmp_path / "photographs").mkdir()
    for i in range(10):
        Image.fromarray(np.full((20, 30 + i, 3), 20 * i, np.uint8)).save(tmp_path / "photographs" / f"{i}.png")
    folders = {"photographs": str(tmp_path / "photographs"), "cutouts": str(tmp_path / "cutouts")}
    recipe = replaced("beit_segment_tiny", data="images", start=str(tmp_path / "start"), **folders)
    parts = [(len(photographs), len(cutouts.images)) for photographs, cutouts in recipe.splits]
    assert parts == [(8, 16), (1, 2), (1, 2)]
    assert len({x.shape for photographs, _ in recipe.splits for x in photographs}) == 10
    model = recipe.model()
    assert model.label_names == ("background", "even", "odd")
    assert model.states == (0, 1, 2, 3)
    for ours, theirs in zip(model.backbone.blocks, start.blocks, strict=True):
        np.testing.assert_array_equal(ours.attention.weights[0], theirs.attention.weights[0])
        assert ours.relative_position_bias.table.shape == (7 * 7 + 3, 2)  # of patches 4 by 4, from 2 by 2
    grey = dataclasses.replace(config, num_channels=1)
    huggingface.save_pretrained(built(Beit(grey)), tmp_path / "grey")
    grey = dataclasses.replace(recipe, start=str(tmp_path / "grey"))
    checks.fails("takes images of 1 channels; 3 are needed", grey.model)


def built(model):
    model.build()
    return model


def test_few_photographs_are_cut_into_parts():
    photographs = [np.arange(50)[None].repeat(4, 0), np.arange(100, 110)[None].repeat(4, 0)]
    parts = segmentation.split_photographs(photographs)
    assert [[(x[0, 0], x[0, -1]) for x in part] for part in parts] == [
        [(0, 29), (100, 105)],
        [(30, 39), (106, 107)],
        [(40, 49), (108, 109)],
    ]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("beit_pretrain", {"patch_size": 7}, "--patch-size 7 does not divide --size 64"),
        ("beit_pretrain", {"num_attention_heads": 5}, "--num-attention-heads 5 does not divide --hidden-size 192"),
        ("beit_pretrain", {"masked": 1.0}, r"--masked must lie in \(0, 1\)"),
        ("beit_pretrain", {"crop_scale": 0.0}, r"--crop-scale must lie in \(0, 1\]"),
        ("beit_classify", {"flip": 1.0}, r"--flip must lie in \[0, 1\)"),
        ("beit_classify", {"layer_decay": 0.0}, r"--layer-decay must lie in \(0, 1\]"),
        ("beit_classify", {"label_smoothing": 1.0}, r"--label-smoothing must lie in \[0, 1\)"),
        ("beit_segment", {"num_hidden_layers": 3}, "--num-hidden-layers must be 4 or more, not 3"),
        ("beit_segment", {"size": 8}, "--size must be at least twice --patch-size 8, not 8"),
        ("beit_segment", {"layer_decay": 1.5}, r"--layer-decay must lie in \(0, 1\]"),
        ("beit_segment", {"eval_images": 0}, "--eval-images must be above 0"),
        ("beit_segment", {"data": "digits", "cutouts": "x"}, "--photographs, --cutouts and --classes are for"),
        ("beit_classify", {"data": "digits"}, "--data digits is grey: it takes --channels 1"),
    ],
)
def test_settings_that_cannot_be(name, settings, message):
    checks.fails(message, lambda: replaced(name, **settings))


def test_digits_are_not_mirrored_where_that_is_asked():
    ramp = np.uint8(np.tile(np.arange(0, 240, 8), (30, 1)))
    for flip, mirrored in ((0.0, 0), (0.9, 10)):
        recipe = replaced("beit_classify", flip=flip)
        views = [recipe.augmentation(color_jitter=0.0)(ramp, np.random.default_rng(i))[0] for i in range(20)]
        assert sum(int(view[0, 0]) > int(view[0, -1]) for view in views) >= mirrored
        assert flip or all(view[0, 0] < view[0, -1] for view in views)


def test_images_are_needed():
    checks.fails("--photographs is needed: a folder of them", lambda: get("beit_segment").splits)
    checks.fails("--images is needed: a folder of images or an .npz file", lambda: get("beit_classify").splits)
