"""Generic tests over the registry: every recipe's tiny instance trains, reloads, exports and predicts.

A recipe that is added to the registry is covered here without a line being added.
"""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import homl_models
from homl_models import evaluate, predict, recipes, runs, train
from homl_models.errors import UserError
from homl_models.recipes import RECIPES, get
from homl_models.recipes.recipe import Recipe
from tests import checks

ROOT = Path(__file__).parents[1]
TINY = [name for name in RECIPES if name.endswith("_tiny")]
OF_ALL = pytest.mark.xdist_group("all_recipes")


def state(folder):
    """All of the last checkpoint but the time that it took."""
    arrays, info = runs.read_checkpoint(Path(folder) / "checkpoints")
    info.pop("seconds")
    return {name: array.tobytes() for name, array in arrays.items()}, info


def nameless(config):
    """A configuration, as JSON has it, without the names of the model and of models in it, which count up."""
    config = json.loads(json.dumps(config))
    return {
        key: nameless(value) if isinstance(value, dict) else value for key, value in config.items() if key != "name"
    }


def command(*args, **env):
    """The command line and environment of `python -m homl_models.train ARGS`."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **env}
    return [sys.executable, "-m", "homl_models.train", *map(str, args)], env


def test_every_recipe_class_has_a_tiny_instance_and_a_documented_real_one():
    tiny = {type(RECIPES[name]) for name in TINY}
    assert {type(recipe) for recipe in RECIPES.values()} == tiny
    assert all(type(recipe).__doc__ for recipe in RECIPES.values())


@pytest.mark.parametrize("name", TINY)
def test_a_run_leaves_all_of_its_files(name, trained):
    folder = trained(name)
    for file in ("recipe.json", "history.csv", "learning_curves.png", "samples.txt", "model.keras", "metrics.json"):
        assert (folder / file).stat().st_size > 0, file
    assert (folder / "saved_model" / "saved_model.pb").is_file()
    assert list((folder / "tensorboard").glob("events*"))
    assert not list(folder.rglob(".aside*"))
    rows = (folder / "history.csv").read_text().splitlines()
    assert len(rows) == 1 + RECIPES[name].epochs
    assert runs.read_recipe(folder)[0] == name


@pytest.mark.parametrize("name", TINY)
def test_a_finished_run_is_reported_not_repeated(name, trained, capsys):
    folder = trained(name)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    train.train(name, run_dir=str(folder), verbose=0)
    assert "is finished" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", TINY)
def test_a_run_reloads_with_its_configuration_weights_and_optimizer(name, trained):
    folder = trained(name)
    model = homl_models.load(str(folder))
    again = keras.models.load_model(folder / "model.keras")
    fresh = runs.read_recipe(folder)[1].model()
    assert model.get_config() == again.get_config()
    assert nameless(model.get_config()) == nameless(fresh.get_config())
    arrays, info = runs.read_checkpoint(folder / "checkpoints")
    best = [arrays[key] for key in sorted(arrays) if key.startswith("best")]
    last = [arrays[key] for key in sorted(arrays) if key.startswith("v")]
    weights = {id(weight) for weight in model.weights}  # the other variables are seeds
    for variable, value in zip(model.weights, best) if best else zip(model.variables, last):
        if id(variable) in weights:
            np.testing.assert_array_equal(variable.numpy(), value)
    recipe = runs.read_recipe(folder)[1]
    epochs = info["epoch"] // getattr(recipe, "num_phases", 1)  # since the optimizer began anew
    assert int(model.optimizer.iterations.numpy()) == epochs * recipe.datasets()[0].steps


@OF_ALL
def test_every_run_loads_in_a_process_that_has_imported_nothing_else(trained):
    script = """
import json, sys
import homl_models
models = map(homl_models.load, sys.argv[1:])
print(json.dumps([[type(model).__name__, type(model.loss).__name__] for model in models]))
"""
    models = [homl_models.load(str(trained(name))) for name in TINY]
    loaded = checks.in_fresh_process(script, *(trained(name) for name in TINY))
    assert loaded == [[type(model).__name__, type(model.loss).__name__] for model in models]


@pytest.mark.parametrize("name", TINY)
def test_evaluate_gives_the_metrics_of_the_run_again(name, trained, capsys):
    folder = trained(name)
    assert evaluate.main([str(folder)]) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    saved = json.loads((folder / "metrics.json").read_text())
    assert printed
    for key, value in printed.items():
        assert float(value) == pytest.approx(saved[key], abs=2e-4), key


@pytest.mark.parametrize("name", TINY)
def test_predict_lists_every_endpoint_of_the_model(name, trained, capsys):
    assert predict.main([str(trained(name))]) == 0
    listing = capsys.readouterr().out
    for endpoint, (function, signature) in homl_models.load(str(trained(name))).endpoints().items():
        assert f"{endpoint}(" in listing
        assert function.__doc__.split("\n")[0] in listing
        assert all(spec.name in listing for spec in signature)


@OF_ALL
def test_the_saved_models_work_in_a_process_without_keras_and_this_package(trained, tmp_path):
    script = """
import importlib.util, json, pathlib, sys
sys.modules["keras"] = None  # importing it fails from here on
import tensorflow as tf
text = pathlib.Path(importlib.util.find_spec("tensorflow_text").origin).parent  # its import would import Keras
tf.load_op_library(str(text / "python" / "ops" / "_fast_wordpiece_tokenizer.so"))
found = {}
for path in sys.argv[1:]:
    model = tf.saved_model.load(path)
    found[path] = [name for name in model.signatures if name != "serving_default"]
assert "homl_models" not in sys.modules
print(json.dumps(found))
"""
    paths = {name: str(trained(name) / "saved_model") for name in TINY}
    result = subprocess.run(
        [sys.executable, "-c", script, *paths.values()],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    for name, path in paths.items():
        assert found[path]
        assert set(found[path]) == set(homl_models.load(str(trained(name))).endpoints()), name


@pytest.mark.parametrize(("name", "precision"), zip(TINY, itertools.cycle(["mixed_bfloat16", "mixed_float16"])))
def test_half_precision_trains_and_keeps_float32_weights(name, precision, tmp_path):
    recipe = dataclasses.replace(RECIPES[name], verbose=0, precision=precision, monitor="", patience=0)
    (tmp_path / "checkpoints").mkdir()
    data, _, model, progress = train.prepare(recipe, tmp_path)
    model.jit_compile = False  # the run below is compiled by XLA
    before = [weight.numpy() for weight in model.trainable_weights]
    train.fit_epoch(recipe, model, data, None, progress)
    assert all(np.isfinite(value) for value in progress.history[0].values())
    assert any((weight.numpy() != old).any() for weight, old in zip(model.trainable_weights, before, strict=True))
    model.save(tmp_path / "model.keras")
    for one in (model, homl_models.load(str(tmp_path / "model.keras"))):
        assert one.dtype_policy.name == precision
        assert {weight.dtype for weight in one.trainable_weights} == {"float32"}


def test_a_run_in_half_precision_is_judged_shown_and_exported(tmp_path):
    """All that comes after the training, which the precisions have in common."""
    folder = train.train("char_rnn_tiny", run_dir=str(tmp_path / "run"), verbose=0, epochs=1, precision="mixed_float16")
    assert homl_models.load(str(folder)).dtype_policy.name == "mixed_float16"
    assert all(np.isfinite(value) for value in json.loads((folder / "metrics.json").read_text()).values())
    assert "generate" in tf.saved_model.load(str(folder / "saved_model")).signatures


@pytest.mark.parametrize("name", TINY)
def test_a_recipe_says_what_it_is_for_bad_values(name):
    for bad in ({"epochs": 0}, {"batch_size": 0}, {"learning_rate": -1.0}, {"seed": -1}, {"patience": -1}):
        with pytest.raises(UserError, match="--" + next(iter(bad)).replace("_", "-")):
            dataclasses.replace(RECIPES[name], **bad)


def test_unknown_setting_and_unknown_recipe_are_refused():
    with pytest.raises(UserError, match="no_such"):
        train.train("char_rnn_tiny", no_such=1)
    with pytest.raises(UserError, match="did you mean char_rnn"):
        get("char_rnm")


def test_early_stopping_keeps_the_best_weights(tmp_path):
    """Asked for the highest loss, a run that learns finds nothing better than its start and soon stops."""
    settings = {"monitor": "val_loss", "monitor_mode": "max", "patience": 2, "epochs": 9, "verbose": 0}
    folder = train.train("char_rnn_tiny", run_dir=str(tmp_path / "run"), learning_rate=1e-2, **settings)
    rows = (folder / "history.csv").read_text().splitlines()
    column = rows[0].split(",").index("val_loss")
    losses = [float(row.split(",")[column]) for row in rows[1:]]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert len(losses) < 9
    assert metrics["best_epoch"] == int(np.argmax(losses)) + 1 == len(losses) - 2
    recipe = runs.read_recipe(folder)[1]
    model = homl_models.load(str(folder))
    again = model.evaluate(recipe.datasets()[1].dataset(), return_dict=True, verbose=0)
    assert again["loss"] == pytest.approx(max(losses), rel=1e-5)


def test_unknown_monitor_is_one_line(tmp_path):
    with pytest.raises(UserError, match="--monitor bleu is not a metric.*val_loss"):
        train.train("char_rnn_tiny", run_dir=str(tmp_path / "run"), monitor="bleu", verbose=0, epochs=1)


def test_a_folder_of_another_run_or_of_something_else_is_refused(trained, tmp_path):
    folder = trained("char_rnn_tiny")
    with pytest.raises(UserError, match="holds a run of char_rnn_tiny, not char_rnn_reber_tiny"):
        train.train("char_rnn_reber_tiny", run_dir=str(folder))
    with pytest.raises(UserError, match="--units 12, not 13"):
        train.train("char_rnn_tiny", run_dir=str(folder), units=13)
    (tmp_path / "letter.txt").write_text("dear all")
    with pytest.raises(UserError, match="holds something else"):
        train.train("char_rnn_tiny", run_dir=str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_two_processes_cannot_train_in_one_folder(tmp_path):
    recipe = dataclasses.replace(RECIPES["char_rnn_tiny"], run_dir=str(tmp_path / "run"))
    with (
        train.claimed(tmp_path / "run", "char_rnn_tiny", recipe),
        pytest.raises(UserError, match="another process"),
        train.claimed(tmp_path / "run", "char_rnn_tiny", recipe),
    ):
        pass


def test_a_loss_that_is_not_finite_ends_with_one_line(tmp_path):
    with pytest.raises(UserError, match="smaller --learning-rate"):
        train.train("char_rnn_tiny", run_dir=str(tmp_path / "run"), verbose=0, learning_rate=1e38)


def test_mirrored_on_two_devices_gives_what_one_device_gives(trained, tmp_path):
    script = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from homl_models import train
sys.exit(train.main(sys.argv[1:]))
"""
    args = ["char_rnn_tiny", "--strategy", "mirrored", "--run-dir", str(tmp_path / "run"), "--verbose", "0"]
    result = subprocess.run([sys.executable, "-c", script, *args], env=command()[1], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    one, two = (homl_models.load(str(folder)) for folder in (trained("char_rnn_tiny"), tmp_path / "run"))
    for a, b in zip(one.trainable_weights, two.trainable_weights):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=2e-4)


def test_jax_trains_and_its_model_gives_the_same_on_tensorflow(tmp_path):
    script = """
import sys
import numpy as np, keras
from homl_models import load, train
assert keras.backend.backend() == "jax"
status = train.main(["char_rnn_tiny", "--run-dir", sys.argv[1], "--verbose", "0"])
model = load(sys.argv[1])
ids = np.arange(60).reshape(3, 20) % len(model.vocabulary)
np.save(sys.argv[2], keras.ops.convert_to_numpy(model(ids)))
sys.exit(status)
"""
    run, outputs = tmp_path / "run", tmp_path / "outputs.npy"
    env = {**command()[1], "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        [sys.executable, "-c", script, str(run), str(outputs)], env=env, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert (run / "saved_model" / "saved_model.pb").is_file()
    model = homl_models.load(str(run))
    ids = np.arange(60).reshape(3, 20) % len(model.vocabulary)
    np.testing.assert_allclose(model(ids).numpy(), np.load(outputs), atol=1e-5)


def test_on_jax_models_of_pictures_learn():
    """Draws, phases, recurrent gradients and a part that stays as it is are each a case of their own there."""
    script = """
import dataclasses, json, sys
import keras
from homl_models import recipes
assert keras.backend.backend() == "jax"
found = {}
for name in sys.argv[1:]:
    recipe = dataclasses.replace(recipes.get(name), learning_rate=1e-2, steps_per_execution=1)
    keras.utils.set_random_seed(0)
    model = recipe.model()
    batches, valid = recipe.datasets()
    recipe.begin_epoch(model, 0)
    before = model.evaluate(valid.dataset(), return_dict=True, verbose=0)["loss"]
    model.fit(batches.dataset(0, 3 * batches.steps), shuffle=False, verbose=0)
    if hasattr(model, "num_phases"):
        model.start_phase(model.num_phases - 1)
        model.fit(batches.dataset(0, 3 * batches.steps), shuffle=False, verbose=0)
    found[name] = before, model.evaluate(valid.dataset(), return_dict=True, verbose=0)["loss"]
print(json.dumps(found))
"""
    names = ["vae_tiny", "autoencoder_greedy_tiny", "autoencoder_recurrent_tiny", "few_labels_tiny", "ddpm_tiny"]
    found = checks.in_fresh_process(script, *names, KERAS_BACKEND="jax", JAX_PLATFORMS="cpu")
    assert set(found) == set(names)
    for name, (before, after) in found.items():
        assert after < before, name


def test_a_step_on_jax_is_the_step_on_tensorflow(tmp_path):
    """Both phases of a GAN, its memory, penalty and two optimizers; the draws, the average and the labels of both."""
    script = """
import sys
import numpy as np, keras
from homl_models import recipes
for name in ("dcgan_tiny", "ddpm_tiny"):
    recipe = recipes.get(name)
    keras.utils.set_random_seed(recipe.seed)  # of dropout
    model, (batches, _) = recipe.model(), recipe.datasets()
    if keras.backend.backend() == "tensorflow":
        np.savez(f"{sys.argv[1]}/{name}.npz", *(w.numpy() for w in model.weights))
    else:
        model.set_weights([value for _, value in np.load(f"{sys.argv[1]}/{name}.npz").items()])
    model.fit(batches.dataset(0, 1), shuffle=False, verbose=0)
    named = {f"{kind}_{i:03}": np.array(v) for kind in ("weights", "optimizer")
             for i, v in enumerate(model.weights if kind == "weights" else model.optimizer.variables)}
    np.savez(f"{sys.argv[1]}/{name}_{keras.backend.backend()}.npz", **named)
print(0)
"""
    for backend in ("tensorflow", "jax"):
        checks.in_fresh_process(script, tmp_path, KERAS_BACKEND=backend, JAX_PLATFORMS="cpu")
    for name in ("dcgan_tiny", "ddpm_tiny"):
        one, other = (np.load(tmp_path / f"{name}_{backend}.npz") for backend in ("tensorflow", "jax"))
        assert one.files == other.files
        for key in one.files:
            difference = np.abs(np.float64(one[key]) - np.float64(other[key])).mean()
            # where a gradient is zero, Adam makes steps of its sign: two of the learning rate, in two directions
            allowed = 1e-6 if key.startswith("optimizer") else 4.2 * recipes.get(name).learning_rate
            assert difference <= 5e-3 * np.abs(one[key]).mean() + allowed, (name, key)


def test_recipe_methods_that_are_missing_say_so():
    for method in ("datasets", "model"):
        with pytest.raises(TypeError, match="Recipe"):
            getattr(Recipe(), method)()


@pytest.mark.parametrize("name", TINY)
def test_nothing_warns_while_a_recipe_trains(name, trained):
    trained(name)
    assert trained.warned(name) == []


@pytest.mark.parametrize("name", TINY)
def test_tensorboard_and_csv_hold_every_epoch_once(name, trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = trained(name)
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    header, *rows = [line.split(",") for line in (folder / "history.csv").read_text().splitlines()]
    assert header[0] == "epoch"
    for column, metric in enumerate(header[1:], 1):
        tag = f"{metric[4:]}/validation" if metric.startswith("val_") else f"{metric}/training"
        points = [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)]
        assert points == [(int(row[0]), pytest.approx(float(row[column]), rel=1e-6)) for row in rows]
