"""Folders of BEiT, ViT and DeiT: round trips, image processors, other sizes and heads, wrong and damaged ones."""

import json
import warnings

import numpy as np
import pytest

from homl_models.checkpoints import huggingface
from homl_models.checkpoints.huggingface import from_pretrained, replace_head, save_pretrained
from homl_models.models.beit import Beit, BeitForImageClassification, BeitForMaskedImageModeling
from homl_models.models.bert_heads import BertForSequenceClassification
from homl_models.models.vit import DeiT, DeiTForImageClassificationWithTeacher, ViT, ViTForImageClassification
from tests import checks
from tests.checkpoints.test_huggingface import edit, renamed, rewritten, same, weights
from tests.models.test_beit import KINDS, OWN, SHARED
from tests.models.test_bert import make as make_bert
from tests.models.test_vit import IMAGES, MEAN, MODELS, NORMALIZATION, SIZES, STD, make, reference

TABLE = "relative_position_bias.relative_position_bias_table"
CASES = [*KINDS.values(), *MODELS.items()]


@pytest.mark.parity
@pytest.mark.parametrize(("name", "settings"), CASES, ids=[*KINDS, *MODELS])
def test_the_reference_loads_our_folders_bit_for_bit(name, settings, tmp_path):
    """Theirs -> ours -> theirs -> ours, in both formats of files."""
    theirs = reference(name, tmp_path / "theirs", **settings)
    ours = from_pretrained(tmp_path / "theirs")
    save_pretrained(ours, tmp_path / "ours")
    again = type(theirs).from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    before, after = theirs.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all((before[key] == after[key]).all() for key in before)
    kept = {key: getattr(theirs.config, key) for key in theirs.config.to_dict() if key in ours_fields(ours)}
    assert {key: getattr(again.config, key) for key in kept} == kept
    theirs.save_pretrained(tmp_path / "bin", safe_serialization=False)
    same(from_pretrained(tmp_path / "bin", **NORMALIZATION), ours)


def ours_fields(model):
    return getattr(model, "backbone", model).config.field_names()


@pytest.mark.parity
def test_the_references_processor_reads_ours_and_does_the_same(tmp_path):
    import transformers

    model = make(BeitForImageClassification, config={"crop_fraction": 0.8, "resample": "bicubic"})
    save_pretrained(model, tmp_path)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    y, x = np.mgrid[:50, :70]
    image = np.uint8(127.5 + 100 * np.sin(np.stack([y / 9, x / 7, (x + y) / 5], -1)))
    wanted = processor(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    found = (model.checked_image(image)[0] - MEAN) / STD
    assert np.abs(found - wanted).max() < 1.5 / 255 / STD.min()  # it rounds to bytes


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (Beit, SHARED),
        (BeitForMaskedImageModeling, SHARED),
        (BeitForImageClassification, OWN),
        (ViT, {}),
        (DeiTForImageClassificationWithTeacher, {}),
    ],
)
def test_folders_come_back(kind, config, tmp_path):
    settings = {"num_labels": 3, "labels": ("cat", "dog", "owl")} if "Classification" in kind.__name__ else {}
    model = make(kind, config=config | {"resample": "nearest", "crop_fraction": 0.5}, **settings)
    save_pretrained(model, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = from_pretrained(tmp_path)
    assert type(found) is kind
    same(found, model)
    assert getattr(found, "backbone", found).config == getattr(model, "backbone", model).config
    if settings:
        assert found.label_names == settings["labels"]
        assert json.loads((tmp_path / "config.json").read_text())["id2label"] == {"0": "cat", "1": "dog", "2": "owl"}


def test_blocks_begin_with_the_shared_table_of_pre_training(tmp_path):
    model = make(BeitForMaskedImageModeling, config=SHARED)
    save_pretrained(model, tmp_path)
    rewritten(tmp_path, lambda arrays: arrays.update({"beit.encoder.layer.0.relative_position_index": np.zeros(3)}))
    own = {"use_shared_relative_position_bias": False, "use_relative_position_bias": True}
    with pytest.warns(UserWarning, match=r"lacks beit.pooler.layernorm.weight, .*, classifier.weight, .*: newly init"):
        found = from_pretrained(tmp_path, BeitForImageClassification, num_labels=3, **own)
    table = np.array(model.backbone.relative_position_bias.table)
    assert found.backbone.relative_position_bias is None
    for block in found.backbone.blocks:
        checks.close(block.relative_position_bias.table, table, 0)
    kept, old = weights(found.backbone), weights(model.backbone)
    checks.close(*({name: some[name] for name in old if name in kept} for some in (kept, old)), 0)
    with pytest.warns(UserWarning, match="newly initialized"):
        again = replace_head(model, BeitForImageClassification, num_labels=3, labels=("a", "b", "c"), **own)
    checks.close(again.backbone.blocks[1].relative_position_bias.table, table, 0)
    assert again.backbone.config == found.backbone.config


def test_new_heads_sizes_and_mask_tokens_are_named(tmp_path):
    model = make(ViTForImageClassification, num_labels=3, labels=("a", "b", "c"))
    save_pretrained(model, tmp_path / "vit")
    with pytest.warns(UserWarning, match="other shapes of classifier.weight, classifier.bias: newly initialized"):
        found = from_pretrained(tmp_path / "vit", num_labels=5, image_size=48)
    assert (found(np.ones((1, 48, 48, 3), "float32")).shape, len(found.label_names)) == ((1, 5), 5)
    checks.close(found.backbone.blocks[0].hidden.kernel, model.backbone.blocks[0].hidden.kernel, 0)
    positions = model.backbone.embeddings.positions((6, 6))
    checks.close(found.backbone.embeddings.position_embeddings, positions)
    save_pretrained(make(BeitForImageClassification, config=OWN), tmp_path / "beit")
    with pytest.warns(UserWarning, match=r"lacks beit.embeddings.mask_token, layernorm.weight, .* newly initialized"):
        from_pretrained(tmp_path / "beit", BeitForMaskedImageModeling)


@pytest.mark.parametrize(
    ("change", "mean", "std", "resample", "crop"),
    [
        ({}, (0.4, 0.5, 0.6), (0.2, 0.25, 0.5), "bilinear", 1.0),
        ({"do_normalize": False}, 0.0, 1.0, "bilinear", 1.0),
        ({"rescale_factor": 1 / 127.5, "image_mean": 1, "image_std": 0.5}, 0.5, 0.25, "bilinear", 1.0),
        ({"do_rescale": False, "image_mean": [127.5] * 3, "image_std": 51}, (0.5,) * 3, 0.2, "bilinear", 1.0),
        ({"resample": 3, "size": 40, "do_center_crop": True}, MEAN, STD, "bicubic", 0.8),
        ({"size": {"shortest_edge": 64}, "do_center_crop": True, "crop_size": 32}, MEAN, STD, "bilinear", 0.5),
        ({"size": 64, "do_center_crop": False}, MEAN, STD, "bilinear", 1.0),
    ],
)
def test_an_image_processor_is_read_in_every_form(change, mean, std, resample, crop, tmp_path):
    save_pretrained(make(ViT), tmp_path)
    edit(tmp_path, "preprocessor_config.json", **change)
    config = from_pretrained(tmp_path).config
    np.testing.assert_allclose(config.image_mean, mean, rtol=1e-6)
    np.testing.assert_allclose(config.image_std, std, rtol=1e-6)
    assert (config.resample, config.crop_fraction) == (resample, crop)


def test_a_folder_without_image_processor_is_said(tmp_path):
    save_pretrained(make(Beit), tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.warns(
        UserWarning, match="has no preprocessor_config.json: images are normalized as is usual for a beit"
    ):
        assert from_pretrained(tmp_path).config.image_mean == 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert from_pretrained(tmp_path, image_mean=0.1, image_std=0.2).config.image_mean == 0.1


def test_a_folder_of_the_other_kind_is_refused_with_one_line(tmp_path):
    save_pretrained(make_bert(), tmp_path / "bert")
    save_pretrained(make(Beit), tmp_path / "beit")
    for folder, head, message in (
        (
            "bert",
            BeitForImageClassification,
            "of type bert, which has no BeitForImageClassification; it has Bert, Ber",
        ),
        ("bert", ViT, "a model of type bert, which has no ViT"),
        ("beit", BertForSequenceClassification, "a model of type beit, which has no BertForSequenceClassification; it"),
        ("beit", DeiT, "a model of type beit, which has no DeiT"),
    ):
        checks.fails(message, lambda: from_pretrained(tmp_path / folder, head))  # noqa: B023
    checks.fails("Beit has no setting vocabulary", lambda: from_pretrained(tmp_path / "beit", vocabulary=("a",)))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: edit(f, image_size=0), "image_size must be a whole number above 0, or two, not 0"),
        (lambda f: edit(f, image_size=36), "images of 36x36 do not divide into patches of 8x8"),
        (lambda f: edit(f, patch_size=16), r"projection.weight has the shape \(32, 3, 8, 8\), not \(32, 3, 16, 16\)"),
        (lambda f: edit(f, num_channels=1, image_mean=1), "image_mean must be a number, or 1, one a channel"),
        (lambda f: edit(f, use_mask_token="yes"), "use_mask_token must be true or false"),
        (lambda f: edit(f, hidden_size=64), r"weight has the shape \(48, 32\), not \(48, 64\), as hidden_size says"),
        (lambda f: edit(f, num_hidden_layers=5), "lacks weights: encoder.layer.2 and what follows"),
        (
            lambda f: edit(f, use_relative_position_bias=False),
            "unexpected weights: beit.encoder.layer.0.attention",
        ),
        (lambda f: edit(f, layer_scale_init_value=0), "has unexpected weights: beit.encoder.layer.0.lambda_1"),
        (
            lambda f: edit(f, "preprocessor_config.json", image_std=0),
            "image_std in preprocessor_config.json must be",
        ),
        (
            lambda f: edit(f, "preprocessor_config.json", rescale_factor="x"),
            "rescale_factor in preprocessor_con",
        ),
        (
            lambda f: rewritten(f, lambda a: a.pop("beit.embeddings.cls_token")),
            "lacks weights: beit.embeddings.cls",
        ),
        (
            lambda f: rewritten(f, lambda a: a.update({f"beit.encoder.layer.0.attention.attention.{TABLE}": CUT})),
            r"has the shape \(50, 4\), not \(52, 4\)",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_one_line(harm, message, tmp_path):
    save_pretrained(make(BeitForImageClassification, config=OWN), tmp_path)
    harm(tmp_path)
    checks.fails(message, lambda: from_pretrained(tmp_path))


CUT = np.zeros((50, 4), "float32")


def test_the_family_is_found_without_a_model_type_and_under_any_prefix(tmp_path):
    model = make(BeitForImageClassification, config=OWN)
    save_pretrained(model, tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in config.items() if name != "model_type"}))
    renamed(lambda name: f"module.{name}")(tmp_path)
    found = from_pretrained(tmp_path)
    checks.close(found(IMAGES), model(IMAGES), 0)
    assert huggingface.family_of(found).model_type == "beit"
    assert found.backbone.config.image_size == SIZES["image_size"]
