"""XLA, JAX, several devices: the same steps as without them."""

import keras
import numpy as np
import pytest

import homl_models
from homl_models import base, recipes
from tests import checks, processes
from tests.kinds import OF_KIND


def on_jax(test):
    """One process has it."""
    return pytest.mark.xdist_group("jax")(pytest.mark.usefixtures("jax_process")(test))


STEP = """
import sys
import numpy as np, keras
from homl_models import recipes
folder, *names = sys.argv[1:]
backend = keras.backend.backend()
for name in names:
    recipe = recipes.get(name)
    keras.utils.set_random_seed(recipe.seed)  # of dropout
    model, (batches, _) = recipe.model(), recipe.datasets()
    if backend == "jax":
        model.set_weights([value for _, value in np.load(f"{folder}/{name}.npz").items()])
    else:
        np.savez(f"{folder}/{name}.npz", *(w.numpy() for w in model.weights))
    recipe.begin_epoch(model, 0)
    history = model.fit(batches.dataset(0, 2), shuffle=False, verbose=0).history  # the first at a learning rate of 0
    held = [v for optimizer in model.optimizers for v in optimizer.variables]
    named = {f"{kind}_{i:03}": np.array(v) for kind, some in (("weights", model.weights), ("optimizer", held))
             for i, v in enumerate(some)}
    named |= {f"metric_{key}": np.array(value) for key, value in history.items()}
    np.savez(f"{folder}/{name}_{backend}.npz", **named)
print(0)
"""


def joined(arrays):
    return np.concatenate([np.float64(x).ravel() for x in arrays])


@pytest.fixture
def two_steps(name, jax_process, tmp_path):
    """A folder with the weights of a recipe before two steps, and after them on TensorFlow and on JAX."""
    for process in (processes.TENSORFLOW, processes.JAX):
        processes.run(STEP, tmp_path, name, process=process)
    return tmp_path


@on_jax
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if kind == "adversarial" else pytest.mark.slow) for kind, name in OF_KIND.items()],
)
def test_steps_on_jax_are_the_steps_on_tensorflow(name, two_steps):
    """Of a GAN: both phases, its replay buffer, penalty and two optimizers. Of all: draws, dropout, labels."""
    start = [value for _, value in np.load(two_steps / f"{name}.npz").items()]
    one, other = (np.load(two_steps / f"{name}_{backend}.npz") for backend in ("tensorflow", "jax"))
    assert one.files == other.files

    def of(kind, arrays):
        return [arrays[key] for key in one.files if key.startswith(kind)]

    for begin, here, there in zip(start, of("weights", one), of("weights", other), strict=True):
        assert (here == begin).all() == (there == begin).all()
    # where a gradient is nearly zero Adam's step is of its sign, so some places may go the other way
    begin, here, there = map(joined, (start, of("weights", one), of("weights", other)))
    assert 0 < np.abs(here - there).mean() <= 0.25 * np.abs(here - begin).mean()
    here, there = joined(of("optimizer", one)), joined(of("optimizer", other))
    assert np.abs(here - there).mean() <= 0.2 * np.abs(here).mean()  # dropout may leave out other units
    for key in one.files:
        if key.startswith("metric"):
            np.testing.assert_allclose(other[key], one[key], rtol=0.03, atol=0.02, err_msg=key)


@on_jax
@pytest.mark.slow
def test_jax_trains_and_its_model_gives_the_same_on_tensorflow(tmp_path):
    script = """
import json, sys
import numpy as np, keras
from homl_models import load, train
assert keras.backend.backend() == "jax"
status = train.main(["char_rnn_tiny", "--run-dir", sys.argv[1], "--verbose", "0"])
model = load(sys.argv[1])
ids = np.arange(60).reshape(3, 20) % len(model.vocabulary)
np.save(sys.argv[2], keras.ops.convert_to_numpy(model(ids)))
print(json.dumps(status))
"""
    run, outputs = tmp_path / "run", tmp_path / "outputs.npy"
    assert processes.run(script, run, outputs, process=processes.JAX) == 0
    assert (run / "saved_model" / "saved_model.pb").is_file()
    model = homl_models.load(str(run))
    ids = np.arange(60).reshape(3, 20) % len(model.vocabulary)
    np.testing.assert_allclose(model(ids).numpy(), np.load(outputs), atol=1e-5)


@on_jax
@pytest.mark.slow
def test_on_jax_models_of_pictures_learn():
    """Draws, the last phase, recurrent gradients and a part that stays as it is are a case of their own there."""
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
    names = ["vae_tiny", "autoencoder_greedy_tiny", "autoencoder_recurrent_tiny", "few_labels_tiny"]
    found = processes.run(script, *names, process=processes.JAX)
    assert set(found) == set(names)
    for name, (before, after) in found.items():
        assert after < before, name


@pytest.mark.xla
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if kind == "fit" else pytest.mark.slow) for kind, name in OF_KIND.items()]
)
def test_steps_compiled_by_xla_are_the_steps_without_it(name, monkeypatch):
    """From the same start; "auto", which leaves XLA out on a CPU, is taken for yes."""
    recipe, ends = recipes.get(name), []
    for xla in (True, False):
        monkeypatch.setattr(base, "XLA", xla)
        keras.utils.set_random_seed(recipe.seed)
        model = recipe.model()
        model.jit_compile = xla
        start = checks.arrays(model.weights)
        recipe.begin_epoch(model, 0)
        model.fit(recipe.datasets()[0].dataset(0, 2), shuffle=False, verbose=0)
        ends.append(checks.arrays(model.weights))
    begin, compiled, plain = map(joined, (start, *ends))
    assert np.abs(plain - begin).mean() > 0
    assert np.abs(compiled - plain).mean() <= 0.25 * np.abs(plain - begin).mean()


MIRRORED = """
import dataclasses, json, pathlib, sys
import keras, numpy as np
from homl_models import recipes, train
found = []
for strategy in ("none", "mirrored"):
    settings = {"strategy": strategy, "verbose": 0, "steps_per_epoch": 5, "epochs": 1, "monitor": ""}
    recipe = dataclasses.replace(recipes.get("char_rnn_tiny"), **settings)
    keras.utils.set_random_seed(recipe.seed)
    folder = pathlib.Path(sys.argv[1], strategy)
    (folder / "checkpoints").mkdir(parents=True)
    with train.scope(recipe.strategy):
        batches, _, model, progress = train.prepare(recipe, folder)
        train.fit_epoch(recipe, model, batches, None, progress)
    devices = [v.device[-5:] for v in getattr(model.trainable_weights[0]._value, "values", [])]
    found.append([devices, [np.array(w).tolist() for w in model.trainable_weights]])
print(json.dumps(found))
"""


@pytest.mark.usefixtures("tensorflow_process")
def test_mirrored_on_two_devices_gives_what_one_device_gives(tmp_path):
    (one, expected), (two, found) = processes.run(MIRRORED, tmp_path)
    assert one == []
    assert two == ["CPU:0", "CPU:1"]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)
