"""The presets give what they are there for: dates, translations, text and images whose truth comes from elsewhere."""

import dataclasses
import functools
import hashlib
import json
import math
import random

import keras
import numpy as np
import pytest
import sacrebleu

import homl_models
from homl_models import export, loading, pack, predict, recipes, super_resolution_evaluation
from homl_models.pipelines import dates, image_datasets, translation
from homl_models.recipes import RESULTS, get

PRESETS = sorted(path.parent.name for path in loading.PRESETS.glob("*/recipe.json"))


@pytest.fixture(scope="module")
def load():
    """`homl_models.load`, which remembers the last two."""
    yield (remembered := functools.lru_cache(2)(homl_models.load))
    remembered.cache_clear()


def saved(name):
    """The metrics of a preset when it was trained."""
    return json.loads((loading.PRESETS / name / "metrics.json").read_text())


# Texts.


def test_dates_are_read_that_were_not_learned(load):
    learned = {iso for _, iso in get("dates").splits[0]}
    pairs = dates.generate(200, seed=2024, exclude=learned)
    pairs += [("July 4, 1976", "1976-07-04"), ("the 22nd of November 1963", "1963-11-22"), ("09.11.1989", "1989-11-09")]
    sources, wanted = zip(*pairs)
    assert sum(a == b for a, b in zip(load("dates").translate(list(sources)), wanted)) >= 202
    other = [f"{2099 - int(iso[:4]) % 100}{iso[4:]}" for iso in wanted]
    assert (load("dates").score(sources, wanted) > load("dates").score(sources, other)).all()


SPANISH = {
    "I like soccer.": "Me gusta el fútbol.",
    "Good morning.": "Buenos días.",
    "Where is the library?": "¿Dónde está la biblioteca?",
    "My father is a doctor.": "Mi padre es médico.",
    "The cat sleeps.": "El gato duerme.",
    "What time is it?": "¿Qué hora es?",
    "She lives in Madrid.": "Ella vive en Madrid.",
    "We have two dogs.": "Tenemos dos perros.",
    "This is not natural.": "Esto no es natural.",
    "The sky is getting dark.": "El cielo se está oscureciendo.",
}


def test_simple_sentences_are_translated_into_spanish(load):
    assert dict(zip(SPANISH, load("transformer").translate(list(SPANISH)))) == SPANISH
    assert load("transformer").translate("I like soccer.", beam_width=4) == SPANISH["I like soccer."]


def test_sentences_are_translated_that_were_not_learned(load, spa_eng):
    """The first 100 of the 2,000 on which BLEU was 42.3."""
    recipe = recipes.of_run(loading.PRESETS / "transformer")[1]
    sources, references = map(list, zip(*translation.group_split(spa_eng, recipe.seed)[2][:100]))
    found = load("transformer").translate(sources)
    assert sacrebleu.corpus_bleu(found, [references]).score > 30
    assert sacrebleu.corpus_bleu(found, [references[1:] + references[:1]]).score < 5


HAMLET = """\
To be, or not to be: that is the question:
Whether 'tis nobler in the mind to suffer
The slings and arrows of outrageous fortune,
Or to take arms against a sea of troubles,
And by opposing end them? To die: to sleep;
No more; and by a sleep to say we end
The heart-ache and the thousand natural shocks
That flesh is heir to, 'tis a consummation
Devoutly to be wish'd."""  # a play that the text which it learned from does not have


def test_shakespeare_is_less_of_a_surprise_than_his_words_or_letters_in_disorder(load):
    model, draw, words = load("char_rnn_large"), random.Random(0), HAMLET.split()
    shuffled = " ".join(draw.sample(words, len(words))), "".join(draw.sample(HAMLET, len(HAMLET)))
    of_play, of_words, of_letters = model.score([HAMLET, *shuffled])
    assert of_play < 2.25  # of the test part 2.14
    assert of_words > of_play + 0.7
    assert of_letters > 6


def test_the_most_probable_text_is_english_in_the_form_of_a_play(load):
    text = load("char_rnn_large").generate("To be or not to be", 60, temperature=0)
    assert text == "To be or not to be\na man that shall be so dishonour'd than the world.\n\nglouces"


@pytest.mark.slow
def test_half_precision_leaves_the_metrics_of_char_rnn_large_as_they_were(load, keras_home):
    """On the real validation text, to three digits."""
    text_file = str(keras_home / "datasets" / "shakespeare.txt")
    recipe = dataclasses.replace(recipes.of_run(loading.PRESETS / "char_rnn_large")[1], text_file=text_file)
    model = load("char_rnn_large")
    model.compile(**recipe.compile_kwargs())
    metrics = model.evaluate(recipe.eval_dataset(recipe.splits[1]).dataset(), return_dict=True, verbose=0)
    assert metrics["accuracy"] == pytest.approx(saved("char_rnn_large")["val_accuracy"], abs=5e-4)
    assert metrics["loss"] == pytest.approx(saved("char_rnn_large")["val_loss"], abs=5e-4)


# Images.


@pytest.fixture(scope="module")
def fashion(keras_home):
    """Test images of Fashion MNIST in [0, 1], and their labels."""
    shown, labels = image_datasets.fashion_mnist()[2]
    return shown / 255, labels


def classified(load, shown):
    return load("fashion_features").features_and_probabilities(shown)[1].argmax(1)


def test_clothes_are_recognized(load, fashion):
    shown, labels = fashion
    assert np.mean(classified(load, shown[:500]) == labels[:500]) >= 0.92


def test_the_network_that_evaluates_samples_is_the_one_of_the_recorded_result():
    weights = loading.PRESETS / "fashion_features" / "weights.npz"
    (result,) = (result for result in RESULTS if result.recipe == "fashion_features")
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in result.note
    assert weights.stat().st_size < 2_000_000
    assert saved("fashion_features")["test_accuracy"] >= 0.92


def test_a_gan_samples_images_of_the_class_asked_for(load):
    labels = np.arange(100) % 10
    shown = load("dcgan_conditional").sample(100, 0, labels)
    assert np.mean(classified(load, shown) == labels) >= 0.85
    assert len({image.tobytes() for image in np.round(shown, 1)}) == 100


def test_a_diffusion_model_samples_images_of_the_class_asked_for(load):
    labels = np.arange(40) % 10
    shown = load("ddpm_conditional").sample(40, 1, steps=8, labels=labels, guidance=2.0)
    assert np.mean(classified(load, shown) == labels) >= 0.85
    assert len({image.tobytes() for image in np.round(shown, 1)}) == 40


def test_codings_of_unseen_images_hold_what_the_metrics_say(load, fashion):
    model, x = load("vae_conv"), np.float32(fashion[0][:200])
    mean, log_var = (np.float64(keras.ops.convert_to_numpy(part)) for part in model.posterior(x))
    codings = mean + np.exp(log_var / 2) * np.random.default_rng(0).normal(size=mean.shape)
    error = np.square(np.asarray(model.decoder_outputs(np.float32(codings))) - x).sum((1, 2))
    kl = (np.square(mean) + np.exp(log_var) - 1 - log_var).sum(1) / 2
    elbo = -error - 28 * 28 / 2 * math.log(math.pi) - kl
    assert elbo.mean() == pytest.approx(saved("vae_conv")["test_elbo"], rel=0.02)
    assert kl.mean() == pytest.approx(saved("vae_conv")["test_kl"], rel=0.05)
    assert error.mean() / 784 == pytest.approx(saved("vae_conv")["test_reconstruction"], rel=0.15)
    of_model, of_mean = (np.square(other - x).mean() for other in (model.reconstruct(x), x.mean(0)))
    assert of_model < of_mean / 5


def test_photographs_are_enlarged_better_than_by_bicubic_interpolation(load, shared_data):
    """As well as before its weights went to half precision."""
    enlarge = functools.partial(load("rrdb_small").upscale, progress=False)
    found, bicubic = (
        super_resolution_evaluation.evaluate_folder(function, shared_data / "sr" / "Set5", 4).means["psnr_y"]
        for function in (enlarge, super_resolution_evaluation.bicubic(4))
    )
    assert found == pytest.approx(31.27, abs=0.02)
    assert bicubic == pytest.approx(28.42, abs=0.02)  # of MATLAB's


# Files.


def test_the_presets_stay_under_their_limit():
    assert {"char_rnn_large", "dates", "transformer", "fashion_features", "vae_conv"} <= {*PRESETS}
    assert sum(path.stat().st_size for path in loading.PRESETS.rglob("*") if path.is_file()) < pack.LIMIT


def predicted(capsys, *words):
    assert predict.main(list(map(str, words))) == 0
    return capsys.readouterr().out


QUICK = "char_rnn_large", "vae_conv"


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in PRESETS])
def test_a_preset_becomes_a_saved_model(name, load, tmp_path, capsys):
    export.export(name, tmp_path / "saved_model", load(name))
    listing = predicted(capsys, tmp_path / "saved_model")
    assert all(f"{endpoint}(" in listing for endpoint in load(name).endpoints())
    if name in ("dates", "transformer"):
        pairs = {"July 4, 1976": "1976-07-04"} if name == "dates" else SPANISH
        assert predicted(capsys, tmp_path / "saved_model", "translate", *pairs).splitlines() == list(pairs.values())


@pytest.fixture(scope="module")
def cold_cache(tmp_path_factory):
    """A new KERAS_HOME, where a command has asked what the smallest SavedModel of a preset has."""
    home = tmp_path_factory.mktemp("cold")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", str(home))
        assert predict.main(["fashion_features"]) == 0
    return home


def test_a_preset_predicts_by_its_name_from_a_cold_cache(cold_cache, capsys, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(cold_cache))
    (kept,) = (cold_cache / "homl_models").iterdir()
    before = kept.stat().st_mtime_ns
    listing = predicted(capsys, "fashion_features")
    assert "classify(" in listing
    assert "features(" in listing
    assert kept.name.startswith("fashion_features-")
    assert kept.stat().st_mtime_ns == before  # it is exported once
