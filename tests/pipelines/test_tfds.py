"""Data sets of TensorFlow Datasets, which its own writer has prepared here, by name and by folder; no network."""

import dataclasses
import sys

import numpy as np
import pytest

from homl_models import recipes
from homl_models.errors import UserError
from homl_models.pipelines import tfds as pipeline

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (60, 28, 28, 1)).astype("uint8")
DIGITS = RNG.integers(0, 10, 60)
REVIEWS = [(f"review {i}<br />of a film", i % 2) for i in range(24)]
PAIRS = [(f"frase {i}", f"sentence {i}") for i in range(30)] + [("", "nothing"), (" ", "")]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A TFDS_DATA_DIR with four data sets, written by `tensorflow_datasets`."""
    tfds = pytest.importorskip("tensorflow_datasets")
    folder = tmp_path_factory.mktemp("tensorflow_datasets")

    def store(name, features, splits, config=None, supervised_keys=None, version="1.0.0"):
        class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            VERSION = tfds.core.Version(version)
            BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

            def _info(self):
                return self.dataset_info_from_configs(
                    features=tfds.features.FeaturesDict(features), supervised_keys=supervised_keys
                )

            def _split_generators(self, manager):
                return {split: enumerate(rows) for split, rows in splits.items()}

            def _generate_examples(self, rows):
                return rows

        Builder.name = name
        Builder.pkg_dir_path = None
        Builder(data_dir=folder).download_and_prepare()

    image = {"image": tfds.features.Image(shape=(28, 28, 1)), "label": tfds.features.ClassLabel(num_classes=10)}
    rows = [{"image": x, "label": int(y)} for x, y in zip(IMAGES, DIGITS)]
    splits = {"train": rows[:48], "test": rows[48:]}
    store("mnist", image, splits, supervised_keys=("image", "label"), version="3.0.1")  # that of TFDS
    text = {"text": tfds.features.Text(), "label": tfds.features.ClassLabel(names=["neg", "pos"])}
    rows = [{"text": x, "label": y} for x, y in REVIEWS]
    splits = {"train": rows[:20], "test": rows[20:]}
    store("imdb_reviews", text, splits, config="plain_text", supervised_keys=("text", "label"))
    rows = [{"pt": x, "en": y} for x, y in PAIRS]
    splits = {"train": rows[:20] + rows[30:], "validation": rows[20:25], "test": rows[25:30]}
    languages = dict.fromkeys(("en", "pt"), tfds.features.Text())
    store("ted_hrlr_translate", languages, splits, config="pt_to_en", supervised_keys=("pt", "en"))
    plays = {"train": [{"text": "First Citizen:\n"}], "validation": [{"text": "All:\n"}], "test": [{"text": "Speak."}]}
    store("tiny_shakespeare", {"text": tfds.features.Text()}, plays)
    return folder


@pytest.fixture
def prepared(data_dir, monkeypatch):
    """`data_dir`, as TFDS_DATA_DIR, and no network."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))

    def refuse(self):
        raise OSError("no network")

    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", refuse)  # or else it tries for minutes
    return data_dir


@pytest.mark.parity
@pytest.mark.parametrize("by", ["name", "folder"])
def test_images_of_a_recipe_are_those_that_were_written(by, prepared):
    source = "tfds" if by == "name" else f"tfds:{prepared}/mnist/3.0.1"
    recipe = dataclasses.replace(recipes.get("autoencoder_stacked"), data="mnist", source=source, verbose=0)
    train, valid, test = recipe.splits
    assert [len(split[0]) for split in (train, valid, test)] == [44, 4, 12]
    assert recipe.image_shape == (28, 28)

    def as_set(images, labels):
        return {(image.tobytes(), int(label)) for image, label in zip(images, labels)}

    assert as_set(*test) == as_set(IMAGES[48:], DIGITS[48:])
    assert as_set(*train) | as_set(*valid) == as_set(IMAGES[:48], DIGITS[:48])
    assert recipe.class_names == tuple(map(str, range(10)))
    assert recipe.num_classes == 10


@pytest.mark.parity
@pytest.mark.parametrize("by", ["name", "folder"])
def test_reviews_of_the_recipes_are_those_that_were_written(by, prepared):
    source = "tfds" if by == "name" else f"tfds:{prepared}/imdb_reviews/plain_text/1.0.0"
    written = [(text.replace("<br />", " "), ("negative", "positive")[label]) for text, label in REVIEWS]
    for name in ("bert_classify", "sentiment", "sentiment_hub"):
        train, valid, test = dataclasses.replace(recipes.get(name), source=source).splits
        assert sorted(train + valid) == sorted(written[:20])
        assert sorted(test) == sorted(written[20:])
    train, valid = dataclasses.replace(recipes.get("bert_pretrain"), source=source).splits
    assert sorted(train + valid) == sorted([text] for text, _ in written[:20])


@pytest.mark.parity
def test_pairs_keep_their_splits_and_take_their_keys(prepared):
    name = "ted_hrlr_translate/pt_to_en"
    recipe = dataclasses.replace(recipes.get("seq2seq"), source=f"tfds:{name}")
    with pytest.warns(UserWarning, match="train: 2 pairs of 22 are empty"):
        splits = recipe.splits
    assert [sorted(split) for split in splits] == [sorted(PAIRS[a:b]) for a, b in ((0, 20), (20, 25), (25, 30))]
    turned = dataclasses.replace(recipe, tfds_keys=("en", "pt"))
    with pytest.warns(UserWarning, match="empty"):
        assert sorted(turned.splits[2]) == sorted((y, x) for x, y in PAIRS[25:30])
    with pytest.raises(UserError, match="has no de; its features are"):
        pipeline.pairs(name, ("de", "en"))


@pytest.mark.parity
def test_a_text_is_that_of_all_splits(prepared):
    recipe = dataclasses.replace(recipes.get("char_rnn"), source="tfds", lowercase=False)
    assert recipe.text == "First Citizen:\nAll:\nSpeak."


@pytest.mark.parity
def test_what_is_not_there_is_said_in_one_line(prepared, tmp_path):
    for name, message in {
        "no_such_data_set": "not in .*TFDS_DATA_DIR.*cannot be prepared from the network",
        "fashion_mnist": "cannot be prepared from the network: no network",
        str(tmp_path): "give the folder of its dataset_info.json",
        "./none": "holds no data set",
    }.items():
        with pytest.raises(UserError, match=message) as caught:
            pipeline.find(name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="not that of images"):
        pipeline.images("imdb_reviews")
    with pytest.raises(UserError, match="has no split 'tests'; it has"):
        pipeline.columns(pipeline.find("tiny_shakespeare"), "tests", ("text",))


def test_without_the_package_a_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"homl_models\[tfds\]"):
        pipeline.find("mnist")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("vae", {"source": "kaggle"}, "--source must be keras, tfds"),
        ("vae", {"source": "tfds:"}, "--source must be keras, tfds"),
        ("vae", {"source": "tfds", "images": "mine"}, "--source is not for data of your own, --images"),
        ("vae", {"source": "tfds", "data": "digits"}, "--source is not for --data digits"),
        ("dvae", {"source": "tfds"}, "--source is not for --data images"),
        ("bert_classify", {"source": "tfds", "data_file": "x.csv"}, "--data-file"),
        ("bert_pretrain", {"source": "tfds", "text_files": "x"}, "--text-files"),
        ("char_rnn", {"source": "tfds", "text_file": "x"}, "--text-file"),
        ("seq2seq", {"source": "tfds"}, "does not have spa-eng"),
        ("seq2seq", {"tfds_keys": ("a", "b")}, "--tfds-keys are two names"),
        ("dates", {"source": "tfds:x"}, "--source is not for --data dates"),
    ],
)
def test_sources_that_do_not_go_together_are_refused(name, settings, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(recipes.get(name), **settings)
