"""XLA, JAX, several devices: the same steps as without them."""

import json

import keras
import numpy as np
import pytest

import homl_models
from homl_models import base, recipes
from homl_models.recipes.sentiment_hub import HubClassify
from tests import checks, processes
from tests.kinds import OF_KIND, TINY


def on_jax(test):
    """One process has it."""
    return pytest.mark.xdist_group("jax")(pytest.mark.usefixtures("jax_process")(test))


STEP = """
import sys
import numpy as np, keras
from homl_models import loading, recipes
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
    history = model.fit(batches.dataset(0, 2), shuffle=False, verbose=0).history  # the first at a learning rate of 0
    held = [v for optimizer in model.optimizers for v in optimizer.variables]
    named = {f"{kind}_{i:03}": np.array(v) for kind, some in (("weights", model.weights), ("optimizer", held))
             for i, v in enumerate(some)}
    named |= {f"metric_{key}": np.array(value) for key, value in history.items()}
    if backend == "jax":
        model.save(f"{folder}/{name}.keras")
        for one, other in zip(model.weights, loading.load(f"{folder}/{name}.keras").weights, strict=True):
            np.testing.assert_array_equal(np.array(one), np.array(other))
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
    """Of a GAN: both phases, its replay buffer, penalty and two optimizers. Of all: draws, dropout, labels.

    And there what is saved comes back.
    """
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
    assert np.abs(here - there).mean() <= 0.25 * np.abs(here).mean()  # dropout may leave out other units
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
def test_on_jax_models_of_images_learn():
    """Draws, recurrent gradients and a part that stays as it is are a case of their own there."""
    script = """
import dataclasses, json, sys
import keras
from homl_models import recipes
assert keras.backend.backend() == "jax"
found = {}
for name in sys.argv[1:]:
    recipe = dataclasses.replace(recipes.get(name), learning_rate=1e-2, steps_per_execution=1)
    keras.utils.set_random_seed(0)
    model = recipe.stages()[0].model()
    batches, valid = recipe.datasets()
    before = model.evaluate(valid.dataset(), return_dict=True, verbose=0)["loss"]
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
        model.fit(recipe.datasets()[0].dataset(0, 2), shuffle=False, verbose=0)
        ends.append(checks.arrays(model.weights))
    begin, compiled, plain = map(joined, (start, *ends))
    assert np.abs(plain - begin).mean() > 0
    assert np.abs(compiled - plain).mean() <= 0.25 * np.abs(plain - begin).mean()


EACH_CLASS = """
import json, pathlib, sys
import numpy as np, keras
from homl_models import loading, recipes
assert keras.backend.backend() == "jax"
folder, *names = sys.argv[1:]
found = {}
for name in names:
    recipe, path = recipes.get(name), pathlib.Path(folder, f"{name}.keras")
    keras.utils.set_random_seed(recipe.seed)
    stage = recipe.stages()[-1]
    model, (batches, valid) = stage.model(), stage.datasets()
    before = [np.array(w) for w in model.weights]
    validation = valid and valid.dataset()
    logs = model.fit(batches.dataset(1, 3), validation_data=validation, shuffle=False, verbose=0).history
    model.save(path)
    pairs = list(zip(model.weights, loading.load(path).weights, strict=True))
    found[name] = [
        all(np.isfinite(value).all() for value in logs.values()),
        any((np.array(w) != old).any() for (w, _), old in zip(pairs, before)),
        all((np.array(a) == np.array(b)).all() for a, b in pairs),
    ]
print(json.dumps(found))
"""


@on_jax
@pytest.mark.slow
def test_on_jax_every_class_of_recipes_takes_steps_and_is_saved_and_loaded(tmp_path):
    """Classes of recipes that the steps above leave out, but those on modules of TensorFlow Hub."""
    others = {type(recipes.get(name)) for name in TINY} - {type(recipes.get(name)) for name in OF_KIND.values()}
    others.remove(HubClassify)
    of_class = {type(recipes.get(name)): name for name in TINY if type(recipes.get(name)) in others}
    found = processes.run(EACH_CLASS, tmp_path, *of_class.values(), process=processes.JAX)
    assert found == dict.fromkeys(of_class.values(), [True, True, True])


MIRRORED = """
import dataclasses, json, pathlib, sys
import keras, numpy as np
from homl_models import recipes
from homl_models.training import loop
from homl_models.optimizers import ReplicaClipping

def stepped(recipe, folder):
    "What a step changes in each weight, and what it and validation report."
    keras.utils.set_random_seed(recipe.seed)
    (folder / "checkpoints").mkdir(parents=True)
    with loop.scope(recipe.strategy):
        batches, valid, model, progress = loop.prepare(recipe, recipe.stages()[0], folder)
        before = [np.array(w) for w in model.trainable_weights]
        history = model.fit(batches.dataset(0, 1), validation_data=valid and valid.dataset(), verbose=0).history
    devices = [v.device[-5:] for v in getattr(model.trainable_weights[0]._value, "values", [])]
    changes = [np.array(w) - old for w, old in zip(model.trainable_weights, before)]
    return devices, {name: value[-1] for name, value in history.items()}, changes

folder, name, settings = sys.argv[1:]
class SGD(ReplicaClipping, keras.optimizers.SGD):
    pass
class Plain(type(recipes.get(name))):
    def optimizer(self, steps):  # the gradient itself, as far as it is not cut
        if name == "dcgan_tiny":
            return super().optimizer(steps)
        # Keras measures an embedding's gradient before its rows are added up: on each device another norm
        return SGD(1.0) if name.startswith("bert") else SGD(1.0, clipnorm=0.01)
recipe = recipes.get(name)
given = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe)}
given |= {"monitor": "", "verbose": 0} | json.loads(settings)
(devices, one, expected), (two, other, found) = (
    stepped(Plain(**given | {"strategy": kind}), pathlib.Path(folder, kind)) for kind in ("none", "mirrored")
)
largest = max(np.abs(x).max() for x in expected)
apart = max(np.abs(a - b).max() for a, b in zip(expected, found))
print(json.dumps([devices, two, one, other, float(largest), float(apart)]))
"""
WITHOUT_DROPOUT = {"dropout": 0.0, "steps_per_execution": 1}
SAME = {  # what draws nothing on the way; batches with padding, whose parts have other numbers of tokens
    "char_rnn_tiny": {"dropout": 0.0},
    "seq2seq_tiny": {"dropout": 0.0, "scheduled_sampling": "none"},
    "transformer_tiny": {"dropout": 0.0},
    "bert_pretrain_tiny": {},
    "bert_tag_tiny": {"dropout": 0.0},
    "bert_answer_tiny": {"dropout": 0.0},
    "autoencoder_tiny": {"sparsity_weight": 1.0, "noise": "none", "steps_per_execution": 1},
    "autoencoder_greedy_tiny": {"coding_noise": 0.0, "steps_per_execution": 1},
}
DRAWN = {  # and what does: its figures are near
    "vae_tiny": {"steps_per_execution": 1},
    "dvae_tiny": {"normalize_logits": False},  # its mean and variance are those of each device's part
    "ddpm_tiny": WITHOUT_DROPOUT,
    "dcgan_tiny": WITHOUT_DROPOUT,
}


def mirrored(name, settings, folder):
    devices, two, *found = processes.run(MIRRORED, folder, name, json.dumps(settings))
    assert (devices, two) == ([], ["CPU:0", "CPU:1"])
    return found


@pytest.mark.usefixtures("tensorflow_process")
@pytest.mark.parametrize(
    "name", [n if n == "autoencoder_tiny" else pytest.param(n, marks=pytest.mark.slow) for n in SAME]
)
def test_two_devices_take_the_step_of_one_with_the_whole_batch(name, tmp_path):
    expected, found, largest, apart = mirrored(name, SAME[name], tmp_path)
    assert found == pytest.approx(expected, rel=1e-5)
    assert largest > 1e-3
    assert largest <= 0.01 or name.startswith("bert")  # that of some weight is cut
    assert apart < 1e-5 * largest


@pytest.mark.slow
@pytest.mark.usefixtures("tensorflow_process")
@pytest.mark.parametrize("name", DRAWN)
def test_two_devices_draw_apart(name, tmp_path):
    expected, found, largest, apart = mirrored(name, DRAWN[name], tmp_path)
    for key in expected:
        if key.endswith("loss"):
            assert found[key] == pytest.approx(expected[key], rel=0.1, abs=0.05)
    assert 0 < apart < largest


APART = """
import json, sys
import numpy as np, tensorflow as tf, keras
from homl_models.layers.dropout import Dropout
from homl_models.layers.gaussian import normal, uniform
devices = [device.name for device in tf.config.list_logical_devices("CPU")]
strategy = tf.distribute.MirroredStrategy(devices, tf.distribute.ReductionToOneDevice())
with strategy.scope():
    seeds, dropout = keras.random.SeedGenerator(1), Dropout(0.5, seed=2)
    def draws():
        return normal((50,), seeds.next()), uniform((50,), seeds.next()), dropout(tf.ones((50,)), training=True)
    found = strategy.run(draws)
print(json.dumps([[np.array(x).tolist() for x in strategy.experimental_local_results(y)] for y in found]))
"""


@pytest.mark.usefixtures("tensorflow_process")
def test_the_draws_of_two_devices_are_independent():
    for first, second in processes.run(APART):
        assert len(first) == len(second) == 50
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.5
