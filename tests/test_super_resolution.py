"""Recipes of super-resolution: data, stages, a start from another run, bad values."""

import dataclasses

import keras
import numpy as np
import pytest

from homl_models.errors import UserError
from homl_models.recipes import get
from homl_models.training import loop
from tests import checks


def recipe(name="esrgan_tiny", **settings):
    return dataclasses.replace(get(name), verbose=0, **settings)


def test_the_adversarial_stage_begins_with_both_generators_of_the_stage_before(tmp_path):
    made = recipe()
    psnr, gan = made.stages()
    first = psnr.model()
    first.save_weights(tmp_path / "model.weights.h5")
    model = gan.model()
    gan.begin(model, tmp_path / "model.weights.h5")
    for network in (model.generator, model.psnr_generator):
        checks.close(network.get_weights(), first.get_weights(), 0)


def test_a_start_takes_the_place_of_the_first_stage(tmp_path):
    first = recipe("rrdb_tiny").model()
    first.save(tmp_path / "first.keras")
    made = recipe(start=str(tmp_path / "first.keras"))
    (stage,) = made.stages()
    model, progress = loop.fit(made, tmp_path / "run")
    checks.close(model.psnr_generator.get_weights(), first.get_weights(), 0)
    assert {row["stage"] for row in progress.history} == {"gan"}
    assert any((a != b).any() for a, b in zip(model.generator.get_weights(), first.get_weights()))
    with pytest.raises(UserError, match="no generator of these sizes"):
        recipe(start=str(tmp_path / "first.keras"), num_blocks=2).gan()


def test_the_learning_rate_of_the_adversarial_stage_is_halved():
    optimizer = recipe(gan_epochs=10, gan_learning_rate=0.8, halvings=(0.25, 0.5)).gan_optimizer()
    for network in (optimizer.generator, optimizer.discriminator):
        rates = [float(network._learning_rate(step)) for step in (0, 10, 11, 20, 21, 40)]
        np.testing.assert_allclose(rates, [0.8, 0.8, 0.4, 0.4, 0.2, 0.2])


def test_a_run_notes_its_images_and_validates_on_others():
    made = recipe("srcnn_tiny")
    train, valid = made.splits
    assert not {*train.high.names} & {*valid.high.names}
    low, high = next(iter(made.datasets()[0].dataset(0, 1)))
    assert low.shape == (2, 16, 16, 1)
    assert high.shape == (2, 32, 32, 1)
    assert made.fingerprinted() == recipe("srcnn_tiny").fingerprinted()
    assert made.fingerprinted() != recipe("rrdb_tiny").fingerprinted()


def test_the_real_degradation_has_a_target_for_the_discriminator_and_one_for_the_pixels():
    made = recipe(degradation="real")
    low, (high, sharpened) = next(iter(made.crop_datasets()[0].dataset(0, 1)))
    assert low.shape == (2, 16, 16, 3)
    assert high.shape == sharpened.shape == (2, 32, 32, 3)
    x, y = next(iter(made.datasets()[0].dataset(0, 1)))
    np.testing.assert_array_equal(x, low)
    np.testing.assert_array_equal(y, sharpened)
    assert (sharpened.numpy() != high.numpy()).any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scale": 0}, "--scale must be above 0"),
        ({"images": ("photos",)}, "--images and --low-images are for --data images"),
        ({"data": "images", "low_images": ("low",), "degradation": "real"}, "--low-images are for"),
        ({"activated": True}, "need a --perceptual-weight above 0"),
        ({"halvings": (0.5, 1.0)}, "--halvings"),
        ({"pixel_weight": -1.0}, "--pixel-weight"),
        ({"patch": 20}, "--patch times --scale is 40"),
        ({"generator": "srresnet", "growth": 8}, "--growth is for --generator rrdb"),
        ({"discriminator_filters": 0}, "--discriminator-filters must be above 0"),
    ],
)
def test_bad_flags_are_one_line(wrong, message):
    with pytest.raises(UserError, match=message):
        recipe(**wrong)


@pytest.mark.parametrize(("variant", "norms"), [("srresnet", 3), ("plain", 0), ("msrresnet", 0)])
def test_variants_of_srresnet_are_the_networks_that_they_say(variant, norms):
    network = recipe("srresnet_tiny", variant=variant).network()
    network.build()
    found = [layer for layer in network._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(found) == norms
    assert type(network).__name__ == ("MSRResNet" if variant == "msrresnet" else "SRResNet")
    if norms == 0:
        generator = {"plain": "srresnet"}.get(variant, variant)
        other = recipe(generator=generator, growth=32).network()
        other.build()
        assert [w.shape for w in other.weights] == [w.shape for w in network.weights]


def test_missing_images_and_features_are_one_line(tmp_path):
    with pytest.raises(UserError, match="--images is needed"):
        recipe(data="images").datasets()
    with pytest.raises(UserError, match="no such folder"):
        recipe(data="images", images=(str(tmp_path / "none"),)).datasets()
    with pytest.raises(UserError, match="there is no file"):
        recipe(perceptual_weight=1.0, features=str(tmp_path / "none.npz")).gan()
