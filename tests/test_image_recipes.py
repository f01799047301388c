"""Recipes on images of one's own: any number of classes and images, grey and colour, any size; what they show."""

import dataclasses

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies
from PIL import Image

from homl_models import train
from homl_models.recipes import get
from homl_models.recipes.gan import animate
from homl_models.recipes.images import EVAL_BATCH_SIZE, eval_batch_size
from homl_models.training import reports
from tests import checks

WAYS = {
    "ddpm_tiny": {"num_steps": 4, "sampling_steps": 2},
    "dcgan_tiny": {
        "generator_filters": (),
        "discriminator_filters": (),
        "num_evaluation_samples": 0,
        "replay_buffer_size": 0,
        "batch_size": 4,
    },
    "vae_tiny": {"filters": (), "tsne_images": 2000},
    "autoencoder_tiny": {"tsne_images": 2000},
    "features_tiny": {"filters": (3,)},
}


def images_of(path, count, classes, shape, seed=0):
    """An .npz of random images with labels, each class once at least if there are so many images."""
    rng = np.random.default_rng(seed)
    np.savez(path, images=rng.integers(0, 256, (count, *shape), dtype=np.uint8), labels=np.arange(count) % classes)
    return str(path)


def of(name, path, **settings):
    """A recipe on those images, and its model, which has learnt nothing."""
    channels = np.load(path)["images"].shape[3:]
    settings = WAYS[name] | {"images": path, "channels": 3 if channels else 1, "num_images": 0, "verbose": 0} | settings
    recipe = dataclasses.replace(get(name), **settings)
    keras.utils.set_random_seed(0)
    return recipe, recipe.model()


CASES = [(10, 1, (7, 9)), (11, 3, (5, 8, 3)), (25, 12, (9, 6))]


@pytest.mark.parametrize(
    "case", [CASES[1], *(pytest.param(case, marks=pytest.mark.slow) for case in CASES[::2])], ids=str
)
@pytest.mark.parametrize("name", WAYS)
def test_a_report_is_made_of_few_images_of_any_number_of_classes(name, case, tmp_path):
    count, classes, shape = case
    settings = {"coding_size": 1} if "coding_size" in vars(get(name)) else {}
    recipe, model = of(name, images_of(tmp_path / "own.npz", count, classes, shape), **settings)
    text = recipe.show(model, tmp_path)
    for line in text.splitlines():
        if line.split()[0].endswith(".png"):
            assert Image.open(tmp_path / line.split()[0]).size > (8, 8)
    if name in ("ddpm_tiny", "dcgan_tiny"):
        assert model.num_classes == classes
        assert recipe.sample_grid(model).shape == (10, classes, *shape)


@pytest.mark.slow
@hypothesis.settings(
    max_examples=8, derandomize=True, deadline=None, suppress_health_check=list(hypothesis.HealthCheck), database=None
)
@hypothesis.given(
    name=strategies.sampled_from(list(WAYS)),
    count=strategies.integers(10, 200),
    classes=strategies.integers(1, 12),
    size=strategies.tuples(strategies.integers(4, 11), strategies.integers(4, 11)),
    colour=strategies.booleans(),
    coding_size=strategies.integers(1, 4),
)
@hypothesis.example("ddpm_tiny", 10, 3, (5, 7), True, 1)
@hypothesis.example("vae_tiny", 10, 1, (7, 5), False, 1)
@hypothesis.example("dcgan_tiny", 200, 12, (11, 4), True, 1)
def test_own_images_are_trained_on_and_reported(tmp_path_factory, name, count, classes, size, colour, coding_size):
    folder = tmp_path_factory.mktemp("own")
    images = images_of(folder / "own.npz", count, classes, (*size, 3) if colour else size)
    settings = WAYS[name] | {"images": images, "channels": 3 if colour else 1, "num_images": 0, "epochs": 1}
    settings |= {"coding_size": coding_size} if "coding_size" in vars(get(name)) else {}
    run = train.train(name, **settings, run_dir=str(folder / "run"), verbose=0)
    assert (run / "metrics.json").is_file()
    assert (run / "saved_model" / "saved_model.pb").is_file()
    for line in (run / "samples.txt").read_text().splitlines():
        assert "." not in line.split()[0] or (run / line.split()[0]).is_file()


@pytest.mark.parametrize(("codings", "how"), [
    (np.zeros((1, 5)), "their first two numbers"),
    (np.arange(3.0)[:, None], "their first two numbers"),
    (np.arange(40.0)[:, None], "their first two numbers"),
    (np.zeros((9, 4)), "their first two numbers"),
    (np.eye(5), "by t-SNE"),
])  # fmt: skip
def test_any_number_of_codings_is_plotted(codings, how, tmp_path):
    given = np.float32(codings), np.zeros(len(codings)), np.zeros((len(codings), 3, 3))
    assert reports.coding_map(*given, tmp_path / "map.png") == how
    assert Image.open(tmp_path / "map.png").size == (1000, 800)


def test_an_animation_in_colour_has_the_colours_of_its_frames(tmp_path):
    """The mean error is 16 of 255 by the palette of the web."""
    across = np.linspace(0, 1, 60)
    frames = [
        np.stack([np.outer(across, across), np.tile(across, (60, 1)), np.full((60, 60), s)], -1) for s in (0, 0.7)
    ]
    for i, frame in enumerate(frames):
        Image.fromarray(np.uint8(255 * frame)).save(tmp_path / f"{i}.png")
    animate([tmp_path / "0.png", tmp_path / "1.png"], tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 2
        for i, frame in enumerate(frames):
            film.seek(i)
            assert np.abs(np.float64(film.convert("RGB")) - 255 * frame).mean() < 5
    animate([], tmp_path / "none.gif")
    assert not (tmp_path / "none.gif").exists()


LEVELS = {"dark": 20, "light": 235, "middle": 128}


def save_levels(folder, names, count=10):
    """A folder of images for each class, told apart by how light they are."""
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = LEVELS[name.lower()] + rng.integers(-15, 15, (6, 5))
            Image.fromarray(np.uint8(pixels)).save(folder / name / f"{i}.png")
    return str(folder)


@pytest.fixture(scope="module")
def told_apart(tmp_path_factory):
    """A recipe of a classifier on three classes, and a model that knows how light they are."""
    folder = save_levels(tmp_path_factory.mktemp("levels") / "train", LEVELS)
    settings = WAYS["features_tiny"] | {"images": folder, "num_images": 0, "epochs": 1, "dropout": 0.0}
    recipe = dataclasses.replace(get("features_tiny"), **settings, verbose=0)
    keras.utils.set_random_seed(0)
    model = recipe.model()
    data = recipe.user_images
    model.compile(keras.optimizers.Adam(0.01), **recipe.compile_kwargs())
    model.fit(data.images / 255, data.labels, epochs=60, verbose=0)
    return recipe, model


def test_a_classifier_keeps_the_names_of_its_classes(told_apart, tmp_path):
    recipe, model = told_apart
    assert model.class_names == recipe.class_names == ("dark", "light", "middle")
    text = recipe.show(model, tmp_path)
    assert {line.split()[0] for line in text.splitlines()} >= {"dark"}


@pytest.mark.parametrize("names", [("dark", "light", "middle"), ("light", "middle"), ("middle",)])
def test_folders_are_evaluated_by_the_names_of_their_classes(names, told_apart, tmp_path):
    recipe, model = told_apart
    assert recipe.evaluate(model, save_levels(tmp_path / "new", names))["accuracy"] > 0.9


def test_arrays_are_evaluated_by_the_names_of_their_labels(told_apart, tmp_path):
    recipe, model = told_apart
    levels = np.uint8([LEVELS[name] for name in ("middle", "light")] * 9)[:, None, None] * np.ones((1, 6, 5), np.uint8)
    for labels in (["middle", "light"] * 9, [2, 1] * 9):
        np.savez(tmp_path / "new.npz", images=levels, labels=np.array(labels))
        assert recipe.evaluate(model, str(tmp_path / "new.npz"))["accuracy"] > 0.9


def test_other_classes_and_none_are_refused(told_apart, tmp_path):
    recipe, model = told_apart
    strange = save_levels(tmp_path / "strange", ("Dark", "light"))
    checks.fails("does not know: Dark; it has dark, light", lambda: recipe.evaluate(model, strange), strange)
    loose = save_levels(tmp_path / "loose", ("dark",))
    checks.fails("without a label", lambda: recipe.evaluate(model, f"{loose}/dark"))
    np.savez(tmp_path / "new.npz", images=np.zeros((9, 6, 5), np.uint8), labels=np.full(9, 3))
    checks.fails("labels up to 3", lambda: recipe.evaluate(model, str(tmp_path / "new.npz")), "classes are 0 to 2")


def test_classes_are_printed_when_images_are_read(tmp_path, capsys):
    recipe = dataclasses.replace(get("features_tiny"), images=save_levels(tmp_path / "train", LEVELS), num_images=0)
    assert recipe.num_classes == 3
    assert "30 images of 3 classes: dark, light, middle" in capsys.readouterr().err
    Image.new("L", (5, 6)).save(tmp_path / "train" / "loose.png")
    checks.fails("1 of 31 images have no label", lambda: dataclasses.replace(recipe).num_classes)


def test_data_sets_have_the_names_of_their_classes():
    assert get("features_tiny").class_names == tuple("0123456789")
    assert get("fashion_features").class_names[5:7] == ("sandal", "shirt")


def test_generated_images_are_compared_with_all_classes_of_a_sorted_folder():
    """Not with the first files of it, which are of the first class."""
    recipe, images = get("vae_tiny"), np.repeat(np.arange(10), 100)
    chosen = recipe.evaluation_subset(images, 200)
    assert len(chosen) == 200
    assert np.bincount(chosen, minlength=10).min() > 5
    np.testing.assert_array_equal(chosen, recipe.evaluation_subset(images, 200))
    assert (chosen != dataclasses.replace(recipe, seed=1).evaluation_subset(images, 200)).any()
    for count in (1000, 5000):
        np.testing.assert_array_equal(recipe.evaluation_subset(images, count), images)


@pytest.mark.parametrize(
    "counts", [(1, 2), (2, 3), (20, 22), (180, 360), (501, 502), (5000, 10000), (33, 40), (7, 900)]
)
def test_no_batch_of_evaluation_is_much_smaller_than_the_others(counts):
    parts = [(np.zeros(count), None) for count in counts]
    for part, count in zip(parts, counts):
        size = eval_batch_size(part, parts)
        assert size <= min(EVAL_BATCH_SIZE, count)
        assert count % size == 0 or count % size > size / 2


@pytest.mark.parametrize(("name", "settings", "message"), [
    ("autoencoder_stacked", {"sparsity_weight": 0.1}, "--sparsity-weight has no effect without --sparsity l1 or kl"),
    ("autoencoder_sparse_l1", {"sparsity_target": 0.2}, "--sparsity-target has no effect without --sparsity kl"),
    ("autoencoder_stacked", {"noise_amount": 0.1}, "--noise-amount has no effect without --noise dropout or gaussian"),
])  # fmt: skip
def test_settings_without_effect_are_refused(name, settings, message):
    checks.fails(message, lambda: dataclasses.replace(get(name), **settings))
