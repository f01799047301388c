"""Whole runs: training, what a run leaves behind, evaluating and loading it, its endpoints without Keras.

A recipe of each kind of training by default, every tiny recipe with `-m slow`.
"""

import csv
import dataclasses
import json
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

import homl_models
from homl_models import evaluate, predict, recipes, train
from homl_models.errors import UserError
from homl_models.recipes import RECIPES, get
from homl_models.training import checkpointing, loop, run_folder
from tests import checks, processes
from tests.kinds import OF_KIND, WHOLE, checkpoints, nameless


@WHOLE
def test_a_run_leaves_all_of_its_files(name, trained):
    folder = trained(name)
    for file in ("recipe.json", "history.csv", "learning_curves.png", "samples.txt", "model.keras", "metrics.json"):
        assert (folder / file).stat().st_size > 0, file
    assert (folder / "saved_model" / "saved_model.pb").is_file()
    assert list((folder / "tensorboard").glob("events*"))
    assert not list(folder.rglob(".aside*"))
    rows = (folder / "history.csv").read_text().splitlines()
    assert len(rows) == 1 + sum(stage.epochs for stage in RECIPES[name].stages())
    assert recipes.of_run(folder)[0] == name


@WHOLE
def test_a_finished_run_is_reported_not_repeated(name, trained, capsys):
    folder = trained(name)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    train.train(name, run_dir=str(folder), verbose=0)
    assert "is finished" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@WHOLE
def test_a_run_reloads_with_its_configuration_weights_and_optimizer(name, trained):
    """As the checkpoint has them, which training writes by another way than model.keras."""
    folder = trained(name)
    model, recipe = homl_models.load(str(folder)), recipes.of_run(folder)[1]
    stage = recipe.stages()[-1]
    fresh = stage.model()
    assert nameless(model.get_config()) == nameless(fresh.get_config())
    arrays, best, info = checkpointing.read_checkpoint(checkpoints(folder))
    last = [arrays[key] for key in sorted(arrays)]
    weights = {id(weight) for weight in model.weights}  # the other variables are seeds
    for variable, value in zip(model.weights, best) if best else zip(model.variables, last):
        if id(variable) in weights:
            np.testing.assert_array_equal(variable.numpy(), value)
    first = len({id(v) for v in model.variables})  # of the optimizers' in the checkpoint; see Progress.variables
    held = [v for optimizer in model.optimizers for v in optimizer.variables]
    own = [(v, a) for v, a in zip(held, last[first:], strict=False) if id(v) not in {id(w) for w in model.variables}]
    assert len(own) == len(held)
    for variable, value in own:
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.path)
    assert any(value.any() for variable, value in own if "iteration" not in variable.path)
    assert int(model.optimizer.iterations.numpy()) == info["epoch"] * stage.datasets()[0].steps


@pytest.mark.slow
def test_runs_load_in_a_process_that_has_imported_nothing_else(trained):
    script = """
import json, sys
import homl_models
models = map(homl_models.load, sys.argv[1:])
print(json.dumps([[type(model).__name__, type(model.loss).__name__] for model in models]))
"""
    folders = [str(trained(OF_KIND[kind])) for kind in ("fit", "stages", "adversarial")]
    models = [homl_models.load(folder) for folder in folders]
    loaded = checks.in_fresh_process(script, *folders)
    assert loaded == [[type(model).__name__, type(model.loss).__name__] for model in models]


@WHOLE
def test_evaluate_gives_the_metrics_of_the_run_again(name, trained, capsys):
    """From the files alone; that the metrics are right is for test_recipe_metrics.py."""
    folder = trained(name)
    assert evaluate.main([str(folder)]) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines())
    saved = json.loads((folder / "metrics.json").read_text())
    assert printed
    for key, value in printed.items():
        assert float(value) == pytest.approx(saved[key], abs=2e-4), key


@WHOLE
def test_predict_lists_every_endpoint_of_the_model(name, trained, capsys):
    assert predict.main([str(trained(name))]) == 0
    listing = capsys.readouterr().out
    for endpoint, declared in homl_models.load(str(trained(name))).endpoints().items():
        assert f"{endpoint}(" in listing
        assert declared.doc.split("\n")[0] in listing
        assert all(name in listing for name in declared.inputs)


CALL_ALL = """
import json, sys
import numpy as np
import tensorflow as tf
folder, inputs, outputs = sys.argv[1:]
model, given, found = tf.saved_model.load(folder), np.load(inputs), {}
for name, signature in model.signatures.items():
    if name != "serving_default":
        wanted = signature.structured_input_signature[1]
        values = {key: tf.constant(given[f"{name}/{key}"], spec.dtype) for key, spec in wanted.items()}
        found |= {f"{name}/{key}": value.numpy() for key, value in signature(**values).items()}
np.savez(outputs, **{key: np.char.decode(v.astype(bytes)) if v.dtype == object else v for key, v in found.items()})
print(json.dumps([name for name in model.signatures if name != "serving_default"]))
"""
TEXTS = np.array(["Ada [MASK] on 3 May in Rome.", "To be or [MASK] to be"])


def example(one, images):
    """A value for an input of an endpoint: text, images of the recipe's own data, or its default."""
    if one.is_text:
        return TEXTS if one.shape else np.array(one.default)
    if one.name == "masks":
        return np.float32(images > 0.5)
    if one.is_image:
        return np.random.default_rng(0).uniform(size=(2, 9, 12, 3)) if images is None else images
    if one.dtype == "float32" and len(one.shape) == 2:
        return np.random.default_rng(0).normal(size=[2, one.shape[1] or 2]).astype("float32")
    if one.name == "tokens":
        return np.arange(12).reshape(2, 2, 3) % (one.high + 1)
    if one.name == "mask":
        return np.eye(*one.shape[1:], dtype=np.int32)[None].repeat(2, 0)
    return np.array({"count": 3, "length": 12, "steps": 3, "labels": [1]}.get(one.name, one.default))


@WHOLE
def test_every_endpoint_works_in_a_process_without_keras_and_this_package(name, trained, tmp_path):
    """And gives what the function of the loaded model gives."""
    folder, recipe = trained(name), RECIPES[name]
    endpoints = homl_models.load(str(folder)).endpoints()
    images = np.float32(recipe.splits[2][0][:2]) if hasattr(recipe, "image_shape") else None
    images = images / 255 if images is not None and images.max() > 1 else images
    given = {}
    for endpoint, declared in endpoints.items():
        given |= {f"{endpoint}/{name}": example(one, images) for name, one in declared.inputs.items()}
    np.savez(tmp_path / "inputs.npz", **given)
    arguments = folder / "saved_model", tmp_path / "inputs.npz", tmp_path / "outputs.npz"
    assert set(processes.run(CALL_ALL, *arguments, process=processes.NO_KERAS)) == set(endpoints)
    found = np.load(tmp_path / "outputs.npz")
    for endpoint, declared in endpoints.items():
        values = [tf.constant(given[f"{endpoint}/{s.name}"], s.dtype) for s in declared.signature]
        for key, expected in declared(*values).items():
            actual, expected = found[f"{endpoint}/{key}"], expected.numpy()
            if expected.dtype == object:
                assert actual.tolist() == np.char.decode(expected.astype(bytes)).tolist(), (endpoint, key)
            else:
                np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5, err_msg=f"{endpoint} {key}")


@WHOLE
def test_nothing_warns_while_a_recipe_trains(name, trained):
    trained(name)
    words_of_dates = "are unknown to the vocabulary"  # each date is a word of its own, and that is told
    assert [warning for warning in trained.warned(name) if words_of_dates not in warning] == []


@WHOLE
def test_tensorboard_and_csv_hold_every_epoch_once(name, trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = trained(name)
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"tensors": 0})
    events.Reload()
    with open(folder / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, len(rows) + 1))
    wanted = {}
    for row in rows:
        epoch, stage = int(row.pop("epoch")), row.pop("stage", "")
        for metric, value in row.items():
            if not value:  # stages have metrics of their own
                continue
            tag = f"{metric[4:]}/validation" if metric.startswith("val_") else f"{metric}/training"
            tag = f"{stage}/{tag}" if stage else tag
            wanted.setdefault(tag, []).append((epoch, pytest.approx(float(value), rel=1e-6)))
    assert set(events.Tags()["tensors"]) == set(wanted)
    for tag, points in wanted.items():
        assert points == [(event.step, float(tf.make_ndarray(event.tensor_proto))) for event in events.Tensors(tag)]


# One recipe is enough for what the loop does by itself.


@pytest.mark.slow
def test_a_run_in_half_precision_is_judged_shown_and_exported(tmp_path):
    """All that comes after the training, which the precisions have in common."""
    folder = train.train("char_rnn_tiny", run_dir=str(tmp_path / "run"), verbose=0, epochs=1, precision="mixed_float16")
    assert homl_models.load(str(folder)).dtype_policy.name == "mixed_float16"
    assert all(np.isfinite(value) for value in json.loads((folder / "metrics.json").read_text()).values())
    assert "generate" in tf.saved_model.load(str(folder / "saved_model")).signatures


def test_early_stopping_keeps_the_best_weights(tmp_path):
    """Asked for the highest loss, a run that learns finds nothing better than its start and soon stops."""
    settings = {"monitor": "val_loss", "monitor_mode": "max", "patience": 2, "epochs": 9, "verbose": 0}
    recipe = dataclasses.replace(get("char_rnn_tiny"), learning_rate=1e-2, **settings)
    (tmp_path / "checkpoints").mkdir()
    keras.utils.set_random_seed(recipe.seed)
    model, progress = loop.fit(recipe, tmp_path)
    losses = [row["val_loss"] for row in progress.history]
    assert len(losses) < 9
    assert progress.best_epoch == int(np.argmax(losses)) + 1 == len(losses) - 2
    model.set_weights(progress.best_weights)
    again = model.evaluate(recipe.datasets()[1].dataset(), return_dict=True, verbose=0)
    assert again["loss"] == pytest.approx(max(losses), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"data": "typo"}, "--data must be one of shakespeare, sonnets, not 'typo'"),
        ({"cell": "GRU"}, "--cell must be one of gru, lstm, not 'GRU'"),
        ({"epochs": "3"}, "--epochs must be int, not '3'"),
        ({"units": 2.5}, "--units must be int, not 2.5"),
        ({"stateful": 1}, "--stateful must be bool, not 1"),
        ({"dropout": "a"}, "--dropout must be float, not 'a'"),
    ],
)
def test_settings_from_python_are_checked_as_flags_are(settings, named, tmp_path):
    with pytest.raises(UserError, match=named):
        train.train("char_rnn_tiny", run_dir=str(tmp_path / "run"), **settings)
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_with_its_own_data_only(tmp_path):
    """A text as long as the first, of as many characters: half of the training would be on one, half on the other."""
    text = tmp_path / "mine.txt"
    first = "".join(random.Random(1).choices("abcdefg ", k=3000))
    settings = {"text_file": str(text), "run_dir": str(tmp_path / "run"), "verbose": 0, "checkpoint_seconds": 0}
    recipe = dataclasses.replace(get("char_rnn_tiny"), **settings)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)

    def prepare():
        fresh = dataclasses.replace(recipe)  # which has read nothing
        return loop.prepare(fresh, fresh.stages()[0], tmp_path / "run")

    text.write_text(first)
    _, _, model, progress = prepare()
    progress.started_at = 0
    progress.save()
    for other in (first.replace("a", "z"), first[::-1], first + "a"):
        text.write_text(other)
        with pytest.raises(UserError, match="the data.* of the run in .* were others when it began; bring"):
            prepare()
    text.write_text(first)
    prepare()


def test_a_report_that_fails_costs_nothing_else_and_the_same_command_finishes(tmp_path, monkeypatch, capsys):
    recipe, folder = get("char_rnn_tiny"), tmp_path / "run"
    settings = {"run_dir": str(folder), "verbose": 0, "epochs": 1, "steps_per_epoch": 3, "monitor": ""}
    with monkeypatch.context() as patch:
        patch.setattr(type(recipe), "show", lambda self, model, folder: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train.train("char_rnn_tiny", **settings)
    assert "the samples could not be made; model.keras and saved_model are in" in capsys.readouterr().err
    assert (folder / "learning_curves.png").is_file()
    assert not (folder / "metrics.json").exists()
    weights = homl_models.load(str(folder)).get_weights()
    monkeypatch.setattr(loop, "fit_epoch", None)  # there is nothing left to train
    train.train("char_rnn_tiny", **settings)
    assert {"metrics.json", "samples.txt"} <= {path.name for path in folder.iterdir()}
    for one, other in zip(weights, homl_models.load(str(folder)).get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


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
        run_folder.locked_run_dir(tmp_path / "run", "char_rnn_tiny", recipe),
        pytest.raises(UserError, match="another process"),
        run_folder.locked_run_dir(tmp_path / "run", "char_rnn_tiny", recipe),
    ):
        pass


def test_a_loss_that_is_not_finite_ends_with_one_line(tmp_path):
    with pytest.raises(UserError, match="smaller --learning-rate"):
        train.train("char_rnn_tiny", run_dir=str(tmp_path / "run"), verbose=0, learning_rate=1e38)
