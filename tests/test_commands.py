"""predict, evaluate, export and pack, as a person uses them."""

import dataclasses
import io
import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import homl_models
from homl_models import evaluate, export, loading, metrics, pack, predict, prediction, recipes
from homl_models.errors import UserError
from homl_models.recipes import get
from homl_models.training.saved_model import write_saved_model


@pytest.fixture
def run(trained):
    return trained("char_rnn_tiny")


def output(capsys, *args, main=predict.main):
    """The output of a command, which must succeed."""
    status = main([str(arg) for arg in args])
    out, errors = capsys.readouterr()
    assert status == 0, errors
    return out


def refusal(capsys, *args, main=predict.main):
    """The one line with which a command refuses."""
    status = main([str(arg) for arg in args])
    out, errors = capsys.readouterr()
    assert status == 2
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    return errors


def test_predict_generates_what_the_model_generates(run, capsys):
    model = homl_models.load(str(run))
    printed = output(capsys, run, "generate", "To be", "or not", "--length", 30, "--seed", 3, "--temperature", 0.5)
    assert printed == "".join(f"{t}\n" for t in model.generate(["To be", "or not"], 30, temperature=0.5, seed=3))


def test_predict_reads_a_file_and_standard_input_line_by_line(run, capsys, tmp_path, monkeypatch):
    lines = ["shall i", "compare thee", "", "to a summer's day"]
    expected = output(capsys, run, "score", *lines)
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    assert output(capsys, run, "score", "--file", tmp_path / "lines.txt") == expected
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\r\n".join(lines).encode())))
    streamed = [float(x) for x in output(capsys, run, "score").split()]
    np.testing.assert_allclose(streamed, [float(x) for x in expected.split()], rtol=1e-5)
    model = homl_models.load(str(run))
    np.testing.assert_allclose(streamed[0], model.score(lines[0]), rtol=1e-5)


def test_predict_takes_a_source_and_its_target_on_one_line(exported, capsys, tmp_path):
    folder = exported("dates_tiny")
    sources, targets = ["May 3, 1999", "4 June 2001"], ["1999-05-03", "2001-06-04"]
    lines = [f"{source}\t{target}" for source, target in zip(sources, targets)]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines))
    printed = output(capsys, folder, "score", "--file", tmp_path / "pairs.tsv")
    assert printed == output(capsys, folder, "score", *lines)
    expected = homl_models.load(str(folder)).score(sources, targets)
    np.testing.assert_allclose([float(x) for x in printed.split()], expected, rtol=1e-4)
    assert "a line must be source, a tab, target" in refusal(capsys, folder, "score", "May 3, 1999")
    assert "beam-width must lie in 1 to" in refusal(capsys, folder, "translate_beam", "x", "--beam-width", 0)


def test_attention_is_numbers_not_a_image(exported, capsys):
    result = json.loads(output(capsys, exported("dates_tiny"), "attention", "May 3\t05-03"))
    weights = np.array(result["weights"])
    assert weights.shape == (1, len("05-03") + 1, len("May 3") + 1)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    assert result["source_tokens"] == [[*"May 3", "[END]"]]
    assert result["target_tokens"] == [[*"05-03", "[END]"]]


def test_predict_writes_the_result_to_a_file(run, capsys, tmp_path):
    assert output(capsys, run, "generate", "To be", "--length", 5, "--out", tmp_path / "out.txt") == ""
    assert (tmp_path / "out.txt").read_text() == output(capsys, run, "generate", "To be", "--length", 5)


def test_predict_gives_several_outputs_as_json(run, capsys):
    result = json.loads(output(capsys, run, "next_char", "To b"))
    probabilities = dict(zip(result["characters"], result["probabilities"][0]))
    expected = homl_models.load(str(run)).next_char("To b")
    assert probabilities == pytest.approx(expected, abs=1e-6)


def test_help_of_an_endpoint_names_its_flags_and_defaults(run, capsys):
    with pytest.raises(SystemExit):
        predict.main([str(run), "generate", "--help"])
    text = capsys.readouterr().out
    assert "--temperature" in text
    assert "default 200" in text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["translate", "hi"], "no endpoint 'translate'; it has generate, next_char, score"),
        (["generate", "hi", "--temperature", "-1"], "--temperature must be 0 or more"),
        (["generate", "hi", "--top-p", "1.5"], "--top-p must lie in [0, 1]"),
        (["generate", "hi", "--top-k", "-2"], "--top-k must be 0"),
        (["generate", "hi", "--length", "-2"], "length must be 0 or more"),
        (["generate", "hi", "--length", "ten"], "--length must be int32, not 'ten'"),
        (["generate", "hi", "--length", "1.5"], "--length must be int32"),
        (["generate", "hi", "--no-such", "1"], "--no-such"),
        (["score", "--file", "no-such-file"], "cannot read no-such-file: there is no such file"),
    ],
)
def test_predict_refuses_in_one_line(args, message, run, capsys):
    assert message in refusal(capsys, run, *args)


def test_predict_refuses_what_is_no_saved_model(capsys, tmp_path, monkeypatch, run):
    assert "neither a run folder" in refusal(capsys, tmp_path)
    assert "neither a run folder" in refusal(capsys, "no_such_preset")
    (tmp_path / "saved_model.pb").write_bytes(b"not a graph")
    assert "not a SavedModel" in refusal(capsys, tmp_path)
    unfinished = shutil.copytree(run, tmp_path / "unfinished")
    shutil.rmtree(unfinished / "saved_model")
    assert "no SavedModel yet" in refusal(capsys, unfinished)
    for nothing in (io.TextIOWrapper(io.BytesIO()), None):  # the latter where a process has none
        monkeypatch.setattr(sys, "stdin", nothing)
        assert "nothing came on standard input" in refusal(capsys, run, "score")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_texts_are_utf8_in_every_locale_or_named(run, capsys, monkeypatch, encoding):
    """Standard input is read as bytes, whatever Python decodes it as; bytes of an argument come as surrogates."""
    stream = io.TextIOWrapper(io.BytesIO("a\nb\né\n".encode("latin-1")), encoding, errors="surrogateescape")
    monkeypatch.setattr(sys, "stdin", stream)
    assert predict.main([str(run), "score"]) == 2
    printed, errors = capsys.readouterr()
    assert len(printed.splitlines()) == 2
    assert errors.startswith("error: standard input is not UTF-8 text (line 3)")
    assert errors.count("\n") == 1
    argument = "Señor".encode("latin-1").decode(encoding if encoding == "utf-8" else "ascii", "surrogateescape")
    assert r"the argument 'Se\udcf1or' is not UTF-8 text" in refusal(capsys, run, "score", argument)
    assert "is not UTF-8 text" in refusal(capsys, run, "generate", "a", "--stop", argument)


def test_a_wrong_flag_or_file_is_refused_before_anything_is_loaded(run, capsys, tmp_path, monkeypatch):
    def load(*args, **kwargs):
        raise AssertionError("this takes long")

    monkeypatch.setattr(tf.saved_model, "load", load)
    assert "generate(prompt: string[n], length: int32 = 200" in output(capsys, run)
    assert "unrecognized arguments: --temp 1" in refusal(capsys, run, "generate", "a", "--temp", 1)  # not in full
    for args, message in (
        (["translate", "a"], "has no endpoint 'translate'"),
        (["generate", "a", "--length", "[1, 2]"], "--length must be int32, not '[1, 2]'"),
        (["generate", "a", "--length", "3000000000"], "--length must be int32"),
        (["generate", "a", "--length", "true"], "--length must be int32"),
        (["generate", "a", "--temperature", "[" * 100_000], "--temperature must be float32"),
        (["score", "a", "--file", run / "recipe.json"], "give INPUTs or --file, not both"),
        (["score", "--file", tmp_path / "none.txt"], "none.txt: there is no such file"),
        (
            ["score", "a", "--out", tmp_path / "none" / "a.txt"],
            f"there is no folder {tmp_path / 'none'}; make it first",
        ),
        (["score", "a", "--out", tmp_path], "name another file"),
    ):
        assert message in refusal(capsys, run, *args)


def test_files_are_looked_for_before_a_preset_is_exported(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(loading, "export_preset", lambda run: pytest.fail("this takes long"))
    assert "a.txt: there is no such" in refusal(capsys, "dates", "translate", "--file", tmp_path / "a.txt")
    assert "there is no folder" in refusal(capsys, "dates", "translate", "a", "--out", tmp_path / "a" / "b.txt")
    assert "cannot read none.PNG" in refusal(capsys, "vae_conv", "reconstruct", "none.PNG", "--out", tmp_path / "a.png")


def test_the_cache_of_a_preset_is_another_for_each_state_of_the_package(tmp_path, monkeypatch):
    preset, package = tmp_path / "small", tmp_path / "homl_models"
    preset.mkdir()
    shutil.copytree(Path(loading.__file__).parent, package, ignore=shutil.ignore_patterns("presets"))
    (preset / "weights.npz").write_bytes(b"weights")
    monkeypatch.setattr(loading, "__file__", str(package / "loading.py"))
    places = [loading.preset_cache(preset), loading.preset_cache(preset)]
    assert places[0] == places[1]
    (package / "models" / "vae.py").open("a").write("\n# another version\n")
    places.append(loading.preset_cache(preset))
    (preset / "weights.npz").write_bytes(b"other weights")
    places.append(loading.preset_cache(preset))
    monkeypatch.setattr("tensorflow.__version__", "99")
    places.append(loading.preset_cache(preset))
    assert len(set(places)) == 4


def test_a_preset_that_another_process_exports_meanwhile_is_used(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    cache = loading.preset_cache(loading.find("dates"))

    def export(command, **settings):
        for folder in (command[-1], cache):
            (Path(folder) / "variables").mkdir(parents=True)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", export)
    assert loading.export_preset("dates") == cache
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]
    capsys.readouterr()
    failed = subprocess.CompletedProcess("export", 2, stderr=b"error: no space\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **settings: failed)
    with pytest.raises(UserError, match=r"cannot export dates to .*\(no space\); set KERAS_HOME"):
        loading.export_preset("dates")


@pytest.fixture(scope="module")
def image_model(tmp_path_factory):
    """A foreign SavedModel with images in and out and no endpoints.json."""

    class Negative(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")])
        def negative(self, images):
            return {"images": 255 - images}

        @tf.function(
            input_signature=[
                tf.TensorSpec((None, 4, 6), tf.float32, name="images"),
                tf.TensorSpec((None, 4, 6), tf.float32, name="masks"),
                tf.TensorSpec((None,), tf.float32, name="levels"),
            ]
        )
        def fill(self, images, masks, levels):
            return {"images": masks * images + (1 - masks) * levels[:, None, None]}

        @tf.function(input_signature=[tf.TensorSpec((), tf.int32, name="count")])
        def sample(self, count):
            return {"images": tf.ones((count, 4, 6))}

        @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.float32, name="codings")])
        def decode(self, codings):
            return {"sums": tf.reduce_sum(codings, 1)}

        @tf.function(input_signature=[tf.TensorSpec((None, 4, 6), tf.float32, name="image")])
        def mean(self, image):
            return {"mean": tf.reduce_mean(image, (1, 2))}

    folder = tmp_path_factory.mktemp("images") / "saved_model"
    model = Negative()
    endpoints = {"negative": model.negative, "sample": model.sample, "mean": model.mean, "fill": model.fill}
    endpoints["decode"] = model.decode
    tf.saved_model.save(model, str(folder), signatures=endpoints)
    return folder


def test_images_go_in_and_out_as_png(image_model, capsys, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    assert output(capsys, image_model, "negative", tmp_path / "in.png", "--out", tmp_path / "out.png") == ""
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), 255 - pixels)
    output(capsys, image_model, "sample", "--count", 5, "--out", tmp_path / "grid.png")
    grid = np.asarray(Image.open(tmp_path / "grid.png"))
    assert grid.shape == (2 * 4, 3 * 6)
    assert (grid[4:, 12:] == 0).all()  # the sixth place stays black
    assert grid.sum() == 5 * 24 * 255
    Image.new("L", (6, 4), 51).save(tmp_path / "grey.png")
    assert float(output(capsys, image_model, "mean", tmp_path / "grey.png")) == pytest.approx(0.2)


def test_images_are_written_in_the_format_of_the_suffix(image_model, capsys, tmp_path):
    """A GIF in colour has a palette of its own; another suffix is refused before anything is done."""
    pixels = np.stack([*np.meshgrid(np.linspace(0, 250, 16), np.linspace(0, 250, 12)), np.full((12, 16), 90)], axis=-1)
    Image.fromarray(np.uint8(pixels)).save(tmp_path / "in.png")
    for suffix, kind in ((".gif", "GIF"), (".JPG", "JPEG"), (".bmp", "BMP"), (".tif", "TIFF"), (".webp", "WEBP")):
        out = tmp_path / f"out{suffix}"
        output(capsys, image_model, "negative", tmp_path / "in.png", "--out", out)
        with Image.open(out) as image:
            assert image.format == kind
            assert np.abs(np.int32(image.convert("RGB")) - (255 - np.uint8(pixels))).mean() < 5
    for name in ("out.pdf", "out", "out.npy"):
        said = refusal(capsys, image_model, "negative", tmp_path / "missing.png", "--out", tmp_path / name)
        assert "name a file that ends with .png, .jpg" in said
    said = refusal(capsys, image_model, "sample", "--count", 0, "--out", tmp_path / "out.png")
    assert "the result has no images" in said
    assert not (tmp_path / "out.png").exists()


def test_image_files_are_read_as_a_viewer_shows_them(image_model, capsys, tmp_path):
    """As in training: turned, on white, with 16 bits scaled."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (4, 6), 51).save(tmp_path / "turned.png", exif=exif)
    Image.new("LA", (6, 4), (0, 204)).save(tmp_path / "glass.png")
    Image.fromarray(np.full((4, 6), 13107, np.uint16)).save(tmp_path / "deep.png")
    for name in ("turned", "glass", "deep"):
        assert float(output(capsys, image_model, "mean", tmp_path / f"{name}.png")) == pytest.approx(0.2)


def test_flags_may_be_lists_and_images(image_model, capsys, tmp_path):
    image, mask = np.random.default_rng(0).integers(0, 256, (4, 6), np.uint8), np.zeros((4, 6), np.uint8)
    mask[:2] = 255
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(mask[:, :5]).save(tmp_path / "narrow.png")
    args = [image_model, "fill", tmp_path / "image.png", tmp_path / "image.png", "--out", tmp_path / "out.png"]
    flags = ["--levels", "[0.2, 1]", "--masks"]
    output(capsys, *args, *flags, tmp_path / "mask.png")
    filled = np.asarray(Image.open(tmp_path / "out.png"))
    np.testing.assert_array_equal(filled[:2], np.tile(image[:2], 2))
    np.testing.assert_array_equal(filled[2:], [[51] * 6 + [255] * 6] * 2)
    assert "is 5x4 pixels, the model wants 6x4; resize it" in refusal(capsys, *args, *flags, tmp_path / "narrow.png")
    assert "--levels must be float32" in refusal(capsys, *args, "--levels", "x", "--masks", tmp_path / "mask.png")


def test_images_that_do_not_fit_are_refused(image_model, capsys, tmp_path):
    Image.new("L", (6, 5)).save(tmp_path / "big.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    assert "6x5 pixels, the model wants 6x4" in refusal(capsys, image_model, "mean", tmp_path / "big.png")
    assert "as an image" in refusal(capsys, image_model, "mean", tmp_path / "broken.png")
    assert "name at least one image" in refusal(capsys, image_model, "mean")
    assert "--out PATH.png" in refusal(capsys, image_model, "sample", "--count", 1)
    assert "--count" in refusal(capsys, image_model, "sample")


def test_numbers_are_read_as_json_from_arguments_and_files(image_model, capsys, tmp_path):
    assert output(capsys, image_model, "decode", "[1, 2]", "[[3, 4], [5, 6]]") == "3.0\n7.0\n11.0\n"
    (tmp_path / "codings").write_bytes(b"[1, 2]\r\n[3, 4]\r\n")
    assert output(capsys, image_model, "decode", "--file", tmp_path / "codings") == "3.0\n7.0\n"
    assert "name at least one float32[n, 2] as JSON for decode" in refusal(capsys, image_model, "decode")
    assert "name at least one" in refusal(capsys, image_model, "decode", "--out", tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()
    for text in ("[1, 2, 3]", "1", "[[[1, 2]]]", "[1, [2]]", "[true, false]", '"a"', "", "{}"):
        assert f"codings must be float32[n, 2], not {text!r}" in refusal(capsys, image_model, "decode", text)


def test_images_may_be_named_in_a_file(image_model, capsys, tmp_path):
    Image.new("L", (6, 4), 51).save(tmp_path / "grey.png")
    (tmp_path / "names").write_text(f"{tmp_path / 'grey.png'}\n" * 3)
    means = [float(x) for x in output(capsys, image_model, "mean", "--file", tmp_path / "names").split()]
    assert means == pytest.approx([0.2] * 3)


def test_what_an_endpoint_cannot_take_is_one_line(image_model, capsys, tmp_path):
    Image.new("L", (6, 4)).save(tmp_path / "a.png")
    flags = ["--masks", tmp_path / "a.png", "--levels", "[1, 2, 3]", "--out", tmp_path / "b.png"]
    args = [image_model, "fill", tmp_path / "a.png", tmp_path / "a.png", *flags]
    assert "fill cannot be called with this: " in refusal(capsys, *args)


def test_evaluate_judges_a_text_of_ones_own(run, capsys, tmp_path):
    model = homl_models.load(str(run))
    text = "Shall I compare thee to a summer's day? Thou art more lovely. " * 10
    (tmp_path / "own.txt").write_text(text)
    table = output(capsys, run, "--text-file", tmp_path / "own.txt", main=evaluate.main)
    metrics = {key: float(value) for key, value in map(str.split, table.splitlines())}
    assert metrics["bits_per_character"] == pytest.approx(model.score(text.lower()), abs=2e-4)
    windows = np.array([model.encode([text[i : i + 17]])[0][0, :17] for i in range(len(text) - 16)])
    p = tf.nn.softmax(model(windows[:, :-1])).numpy().astype(np.float64)
    picked = np.take_along_axis(p, windows[:, 1:, None], axis=-1)
    assert metrics["loss"] == pytest.approx(-np.log(picked).mean(), abs=2e-4)
    assert metrics["accuracy"] == pytest.approx((p.argmax(-1) == windows[:, 1:]).mean(), abs=2e-4)


def test_evaluate_refuses_in_one_line(run, capsys, tmp_path):
    (tmp_path / "greek.txt").write_text("μῆνιν ἄειδε θεά" * 20)
    assert "character 'μ'" in refusal(capsys, run, "--text-file", tmp_path / "greek.txt", main=evaluate.main)
    assert "--text-file" in refusal(capsys, run, "--image", "x", main=evaluate.main)
    assert "does not know --text a" in refusal(capsys, run, "--text", "a", main=evaluate.main)  # not in full
    assert "cannot read a.txt: there is no such file" in refusal(
        capsys, run, "--text-file", "a.txt", main=evaluate.main
    )
    assert "invalid int value: 'abc'" in refusal(capsys, "vae_conv", "--count", "abc", main=evaluate.main)
    assert "neither a run folder" in refusal(capsys, tmp_path, main=evaluate.main)
    assert "--text-file" in output(capsys, run, "--help", main=evaluate.main)


def test_evaluate_measures_what_a_model_draws_by_another_run(untrained, capsys):
    drawn, judge = untrained("vae_tiny"), untrained("features_tiny")
    table = output(capsys, drawn, "--features", judge, "--count", 150, main=evaluate.main)
    found = {key: float(value) for key, value in map(str.split, table.splitlines())}
    model, net, test = homl_models.load(str(drawn)), homl_models.load(str(judge)), get("vae_tiny").splits[2][0]
    test = test[np.random.default_rng(get("vae_tiny").seed).permutation(len(test))[:150]]
    fake, p = net.features_and_probabilities(model.sample(150, get("vae_tiny").seed))
    real = net.features_and_probabilities(test)[0]
    alive = real.std(0) > 1e-6
    fake, real = (x[:, alive] / real.std(0)[alive] for x in (fake, real))
    expected = metrics.generation_metrics(real, fake, p)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5, abs=1e-4)
    assert [found[f"class_fraction_{label}"] for label in range(10)] == pytest.approx(
        metrics.class_fractions(p), abs=1e-4
    )
    assert found["frechet_distance_floor"] < min(found["frechet_distance"], found["frechet_distance_noise"])
    assert found["coverage_floor"] > max(found["coverage"], found["coverage_noise"])


def test_evaluate_refuses_to_measure_by_what_cannot_judge(untrained, capsys, tmp_path):
    drawn, judge = untrained("vae_tiny"), untrained("features_tiny")
    asked = {"main": evaluate.main}
    assert "is no run of a feature network" in refusal(capsys, drawn, "--features", drawn, **asked)
    assert "is for images of (28, 28)" in refusal(capsys, drawn, "--features", "fashion_features", **asked)
    assert "neither a run folder" in refusal(capsys, drawn, "--features", tmp_path, **asked)
    assert "too few" in refusal(capsys, drawn, "--features", judge, "--count", 20, **asked)
    assert "--count must be 0 or more" in refusal(capsys, drawn, "--features", judge, "--count", -5, **asked)
    assert "does not know --features" in refusal(capsys, untrained("autoencoder_tiny"), "--features", judge, **asked)


def test_a_packed_run_loads_evaluates_and_predicts_by_name(run, capsys, tmp_path, monkeypatch):
    """As a preset among those of the package; its metrics are the run's to three digits."""
    monkeypatch.setattr(loading, "PRESETS", tmp_path / "presets")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "cache"))
    output(capsys, run, "small", "--presets", tmp_path / "presets", main=pack.main)
    packed = sum(path.stat().st_size for path in (tmp_path / "presets" / "small").iterdir())
    assert packed < (run / "model.keras").stat().st_size
    table = output(capsys, "small", main=evaluate.main)
    saved = json.loads((run / "metrics.json").read_text())
    for key, value in map(str.split, table.splitlines()):
        assert float(value) == pytest.approx(saved[key], abs=5e-4), key
    model = homl_models.load("small")
    for weight, original in zip(model.weights, homl_models.load(str(run)).weights):
        np.testing.assert_array_equal(weight.numpy(), original.numpy().astype(np.float16).astype(np.float32))
    export.export(str(tmp_path / "presets" / "small"), tmp_path / "out")
    assert output(capsys, tmp_path / "out", "generate", "To", "--length", 9) == f"{model.generate('To', 9, seed=0)}\n"


@pytest.mark.parametrize("name", ["ddpm_tiny", "dcgan_tiny"])
def test_a_packed_model_that_draws_keeps_its_average_alone_and_computes_in_single_precision(name, tmp_path):
    model = dataclasses.replace(get(name), precision="mixed_bfloat16").model()
    average, network = model.ema_and_network()
    for weight in average.weights:
        weight.assign(np.float16(np.random.default_rng(0).uniform(0.1, 0.3, weight.shape)))
    (tmp_path / "recipe.json").write_text("{}")
    loading.pack(model, tmp_path)
    assert len(np.load(tmp_path / "weights.npz").files) < len(model.weights)
    packed = loading.load(str(tmp_path))
    assert packed.dtype_policy.name == packed.ema_and_network()[1].dtype_policy.name == "float32"
    for weights in zip(average.weights, *(one.weights for one in packed.ema_and_network()), strict=True):
        np.testing.assert_array_equal(weights[0], weights[1])
        np.testing.assert_array_equal(weights[0], weights[2])
    assert packed.sample(3).shape == (3, 8, 8)


def test_pack_refuses_in_one_line(run, capsys, tmp_path, monkeypatch):
    place = ["--presets", tmp_path / "presets"]
    assert "is no name for a preset" in refusal(capsys, run, "A name", *place, main=pack.main)
    (tmp_path / "presets" / "there").mkdir(parents=True)
    assert "is there already" in refusal(capsys, run, "there", *place, main=pack.main)
    monkeypatch.setattr(pack, "LIMIT", 1000)
    assert "all presets together would take" in refusal(capsys, run, "large", *place, main=pack.main)
    assert not (tmp_path / "presets" / "large").exists()
    unfinished = shutil.copytree(run, tmp_path / "unfinished")
    (unfinished / "metrics.json").unlink()
    assert "not finished" in refusal(capsys, unfinished, "small", *place, main=pack.main)


def test_export_writes_anew_and_never_over_another(run, capsys, tmp_path):
    output(capsys, run, "--to", tmp_path / "saved_model", main=export.main)
    assert "generate(" in output(capsys, tmp_path / "saved_model")
    assert "is there already" in refusal(capsys, run, "--to", tmp_path / "saved_model", main=export.main)
    assert "are required: run" in refusal(capsys, main=export.main)
    assert "cannot read a.keras" in refusal(capsys, "a.keras", "--to", tmp_path / "a", main=export.main)
    assert "unrecognized arguments" in refusal(capsys, run, "--t", tmp_path / "a", main=export.main)


def test_a_failed_export_leaves_the_level_of_the_log(tmp_path, monkeypatch):
    def save(*args):
        assert tf.get_logger().level == logging.WARNING
        raise OSError("no space")

    monkeypatch.setattr(tf.saved_model, "save", save)
    tf.get_logger().setLevel("INFO")
    with pytest.raises(OSError, match="no space"):
        write_saved_model(get("vae_tiny").model(), tmp_path / "a")
    assert tf.get_logger().level == logging.INFO


def test_load_refuses_what_is_no_run(tmp_path):
    with pytest.raises(UserError, match="neither a run folder"):
        homl_models.load("no_such_preset")
    (tmp_path / "recipe.json").write_text('{"recipe": "char_rnn_tiny", "settings": {}}')
    with pytest.raises(UserError, match="is not finished"):
        homl_models.load(str(tmp_path))
    (tmp_path / "recipe.json").write_text('{"recipe": "gone", "settings": {}}')
    with pytest.raises(UserError, match="made by the recipe gone"):
        recipes.of_run(tmp_path)


@pytest.mark.slow
def test_predict_draws_of_a_class_and_fills_holes(trained, exported, tmp_path, capsys):
    """Flags with defaults, lists of them, and images as flags."""
    from PIL import Image

    run, path = str(trained("ddpm_tiny")), tmp_path / "image.png"
    model, out = homl_models.load(run), tmp_path / "grid.png"
    for flags, labels, guidance in ((["--labels", "[3, 1]", "--guidance", "1.5"], [3, 1], 1.5), ([], None, 1.0)):
        assert predict.main([run, "sample", "--count", "4", "--steps", "3", *flags, "--out", str(out)]) == 0
        wanted = model.sample(4, 0, 3, labels, guidance)
        assert np.abs(np.asarray(Image.open(out)) / 255 - prediction.grid([wanted]) / 255).max() < 0.01
    image, mask = np.uint8(get("ddpm_tiny").splits[2][0][0] * 255), np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    Image.fromarray(image).save(path)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(mask[:, :6]).save(tmp_path / "narrow.png")
    inpaint = [run, "inpaint", str(path), str(path), "--out", str(out), "--steps", "4", "--masks"]
    assert predict.main([*inpaint, str(tmp_path / "mask.png")]) == 0
    painted = np.asarray(Image.open(out))
    assert painted.shape == (8, 16)
    assert np.abs(np.int32(painted[:4]) - np.tile(image[:4], 2)).max() <= 1
    capsys.readouterr()
    for command, message in (
        ([*inpaint, str(tmp_path / "narrow.png")], "is 6x8 pixels, the model wants 8x8; resize it"),
        ([run, "sample", "--labels", "10", "--out", str(out)], "--labels must lie in -1 to 9, not 10; -1 is for none"),
        ([run, "sample", "--steps", "21", "--out", str(out)], "--steps must lie in 1 to 20, not 21"),
        ([run, "sample", "--labels", "x", "--out", str(out)], "--labels must be int32"),
        ([str(exported("vae_tiny")), "sample", "--labels", "1", "--out", str(out)], "arguments: --labels"),
    ):
        assert predict.main(command) == 2
        errors = capsys.readouterr().err
        assert message in errors
        assert errors.count("\n") == 1
