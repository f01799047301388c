"""Python processes that stay, so that each imports TensorFlow once for all scripts that run in it.

A process is known by what it is for: `TENSORFLOW` (with two logical devices), `JAX`, or `NO_KERAS`, in which neither
Keras nor this package can be imported, as in a server that has only the SavedModel.
"""

import atexit
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

TENSORFLOW, JAX, NO_KERAS = "tensorflow", "jax", "no keras"
ENVIRONMENT = {
    TENSORFLOW: {},
    # compiled for one step: without the optimizations that take longer than what they save
    JAX: {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_backend_optimization_level=0"},
    NO_KERAS: {},
}
PRELUDE = {
    TENSORFLOW: """
import tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
""",
    JAX: "",
    NO_KERAS: """
import sys
sys.modules["keras"] = sys.modules["homl_models"] = None  # importing either fails from here on
import importlib.util, pathlib
import tensorflow as tf
text = pathlib.Path(importlib.util.find_spec("tensorflow_text").origin).parent  # its import would import Keras
tf.load_op_library(str(text / "python" / "ops" / "_fast_wordpiece_tokenizer.so"))
""",
}
LOOP = """
import contextlib, gc, io, json, sys, traceback
exec(sys.argv[1], {})
answers, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    script, *sys.argv[1:] = json.loads(line)
    printed, error = io.StringIO(), ""
    try:
        with contextlib.redirect_stdout(printed):
            exec(script, {"__name__": "__main__"})
    except BaseException:
        error = traceback.format_exc()
    if sys.modules.get("keras"):
        sys.modules["keras"].backend.clear_session()
    gc.collect()
    print(json.dumps([printed.getvalue(), error]), file=answers, flush=True)
"""
_RUNNING = {}


def run(script, *arguments, process=TENSORFLOW):
    """The last line, of JSON, that a Python script prints when it runs in `process`, which is started if need be."""
    if process not in _RUNNING:
        command = [sys.executable, "-c", LOOP, PRELUDE[process]]
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT), **ENVIRONMENT[process]}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        _RUNNING[process] = subprocess.Popen(command, env=environment, cwd=ROOT, text=True, **pipes)
        atexit.register(_RUNNING[process].kill)
    running = _RUNNING[process]
    running.stdin.write(json.dumps([script, *map(str, arguments)]) + "\n")
    running.stdin.flush()
    answer = running.stdout.readline()
    if not answer:
        raise RuntimeError(f"the process for {process} ended with status {_RUNNING.pop(process).wait()}")
    printed, error = json.loads(answer)
    assert not error, error[-3000:]
    return json.loads(printed.splitlines()[-1])
