"""Process-wide settings: Keras' backend and keras.json, matplotlib's backend."""

import json
import os
import subprocess
import sys

import pytest

from homl_models import cli, environment
from homl_models.errors import UserError
from tests.kinds import ROOT, command


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A KERAS_HOME of its own, and no KERAS_BACKEND."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    return tmp_path


@pytest.mark.parametrize("name", ["torch", "numpy", "openvino", "no_such_backend"])
def test_an_unsupported_backend_is_named_with_the_supported_ones(name, home, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", name)
    with pytest.raises(UserError, match=f"KERAS_BACKEND is '{name}'; set KERAS_BACKEND to tensorflow or jax"):
        environment.check_backend()


def test_the_backend_may_be_set_in_keras_json(home, monkeypatch):
    (home / "keras.json").write_text(json.dumps({"backend": "torch"}))
    with pytest.raises(UserError, match="backend in .*keras.json is 'torch'"):
        environment.check_backend()
    monkeypatch.setenv("KERAS_BACKEND", "jax")  # takes precedence
    environment.check_backend()


@pytest.mark.parametrize("text", [None, "{", "[]", '{"backend": "tensorflow"}', '{"epsilon": 1e-7}'])
def test_keras_json_without_another_backend_is_accepted(text, home):
    if text is not None:
        (home / "keras.json").write_text(text)
    environment.check_backend()


def test_a_backend_that_is_not_installed_is_named(home, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="KERAS_BACKEND is 'jax', which is not installed"):
        environment.check_backend()


def test_the_command_refuses_a_backend_before_it_reads_any_data(tmp_path):
    args, env = command("char_rnn", "--text-file", tmp_path / "none.txt", KERAS_BACKEND="torch")
    done = subprocess.run(args, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert (
        done.stderr
        == "error: KERAS_BACKEND is 'torch'; set KERAS_BACKEND to tensorflow or jax, the backends that work here\n"
    )


DEFAULTS = """
import json, warnings
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    import keras
    from homl_models import base
    from homl_models.models.feature_net import FeatureNet
    model = FeatureNet(num_classes=3, image_shape=(8, 8), filters=(4,), dim=8)
    model.build()
    found = model(keras.ops.zeros((2, 8, 8)))
    shapes = [list(x.shape) for x in keras.tree.flatten(found)]
    types = sorted({w.dtype for w in model.weights})
print(json.dumps([shapes, types, [str(w.message) for w in said if "keras.json" in str(w.message)]]))
"""


def test_data_format_and_floatx_are_set_whatever_keras_json_says(home):
    (home / "keras.json").write_text(json.dumps({"image_data_format": "channels_first", "floatx": "float64"}))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "jax"}  # the faster import
    done = subprocess.run([sys.executable, "-c", DEFAULTS], env=env, capture_output=True, text=True, timeout=100)
    shapes, types, said = json.loads(done.stdout.splitlines()[-1])
    assert [2, 3] in shapes
    assert types == ["float32"]
    assert ["image_data_format" in said[0], "floatx" in said[1]] == [True, True]


def test_a_command_writes_images_whatever_matplotlib_backend_a_notebook_has_set(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://no_such.backend")
    found = []
    assert cli.run_command(lambda: found.append(os.environ["MPLBACKEND"])) == 0
    assert found == ["agg"]
    script = "from homl_models import cli; cli.run_command(lambda: None); import keras"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "jax", "MPLBACKEND": "module://no_such.backend"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
