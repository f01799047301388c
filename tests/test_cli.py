"""Shared parts of the commands: TensorFlow without its chatter, oneDNN, output in UTF-8."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

CHATTER = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1700000000.123456   12345 cudart_stub.cc:31] Could not find cuda drivers on your machine.
W0000 00:00:1700000000.123456   12345 port.cc:153] oneDNN custom operations are on.
"""
REAL = """\
Importing what is amiss
E0000 00:00:1700000000.123456   12345 lib.cc:1] this is an error
"""
STAND_IN = f"""
import os
os.write(2, {CHATTER + REAL!r}.encode())
import sys
print("on the stream", file=sys.stderr)
if os.environ.get("ENDS") == "abort":
    os.write(2, b"F0000 00:00:1700000000.1 1 x.cc:1] compiled for another processor\\n")
    os.abort()
if os.environ.get("ENDS") == "raise":
    raise ImportError("no such library")
"""


def python(script, folder=None, **environment):
    """Run a script in a process of its own; folder: a package in it comes before any other of its name."""
    path = os.pathsep.join(map(str, [*filter(None, [folder]), ROOT]))
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", **environment}
    environment = {name: value for name, value in environment.items() if value is not None}
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)


@pytest.fixture
def stand_in(tmp_path):
    """A folder with a package "tensorflow" that writes to the file descriptor what TensorFlow writes."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text(STAND_IN)
    return tmp_path


IMPORT = "from homl_models import cli; cli.import_tensorflow(); import os; os.write(2, b'I0000 00:00:1: later\\n')"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="without processes of this sort nothing is left out")
def test_chatter_is_left_out_while_tensorflow_is_imported_and_nothing_else_is(stand_in):
    done = python(IMPORT, stand_in, TF_CPP_MIN_LOG_LEVEL=None)
    assert done.returncode == 0
    assert sorted(done.stderr.splitlines()) == sorted([*REAL.splitlines(), "on the stream", "I0000 00:00:1: later"])
    assert CHATTER in python(IMPORT, stand_in, TF_CPP_MIN_LOG_LEVEL="0").stderr


def test_an_import_that_fails_or_aborts_is_heard(stand_in):
    failed = python(IMPORT, stand_in, TF_CPP_MIN_LOG_LEVEL=None, ENDS="raise")
    assert "ImportError: no such library" in failed.stderr
    aborted = python(IMPORT, stand_in, TF_CPP_MIN_LOG_LEVEL=None, ENDS="abort")
    assert aborted.returncode not in (0, 1)
    assert "compiled for another processor" in aborted.stderr


def test_onednn_is_turned_on_before_tensorflow_is_imported_unless_somebody_has_decided():
    script = "import os, homl_models; print(os.environ['TF_ENABLE_ONEDNN_OPTS'])"
    assert python(script, TF_ENABLE_ONEDNN_OPTS=None).stdout == "1\n"
    assert python(script, TF_ENABLE_ONEDNN_OPTS="0").stdout == "0\n"


LATE = """
import os
import tensorflow
os.environ.pop("TF_ENABLE_ONEDNN_OPTS", None)  # as if nobody had decided: TensorFlow has read it
import warnings
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    import homl_models
    import homl_models.errors
print(*(str(w.message).split(":")[0] for w in found if "oneDNN" in str(w.message)), sep="\\n")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("setting", "warned"), [("0", 1), ("1", 0)])
def test_a_tensorflow_without_onednn_is_said_once(setting, warned):
    done = python(LATE, TF_ENABLE_ONEDNN_OPTS=setting)
    assert done.returncode == 0, done.stderr
    said = (
        "TensorFlow was imported before homl_models and computes without oneDNN on this processor, up to half as fast"
    )
    assert done.stdout == (f"{said}\n" if warned else "\n")


@pytest.mark.slow
def test_no_line_of_tensorflows_log_reaches_a_user(tmp_path, exported):
    """In the real commands, in processes of their own."""
    calls = {
        "train": ["char_rnn_tiny", "--epochs", "1", "--verbose", "0", "--run-dir", tmp_path / "run"],
        "predict": [exported("dates_tiny"), "translate", "May 3, 1999"],
        "evaluate": [tmp_path / "run"],
        "export": [tmp_path / "run", "--to", tmp_path / "saved_model"],
    }
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    for name, words in calls.items():
        command = [sys.executable, "-m", f"homl_models.{name}", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stderr) == (0, ""), name


def test_output_is_utf8_in_every_locale():
    script = "from homl_models import cli; cli.utf8_output(); print('é→', flush=True)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment)
    assert done.stdout == "é→\n".encode()
