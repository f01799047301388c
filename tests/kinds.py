"""The tiny recipes, and which of them stands for each kind of training."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from homl_models.recipes import RECIPES
from homl_models.training import checkpointing

ROOT = Path(__file__).parents[1]
TINY = [name for name in RECIPES if name.endswith("_tiny")]
OF_KIND = {
    "fit": "char_rnn_tiny",
    "stateful": "char_rnn_large_tiny",
    "stages": "autoencoder_greedy_tiny",
    "draws": "vae_tiny",
    "adversarial": "dcgan_tiny",
    "scheduled_sampling": "seq2seq_tiny",
    "joint": "electra_pretrain_tiny",
    "layerwise": "bert_tag_tiny",
}
_marks = {name: () if name in OF_KIND.values() else pytest.mark.slow for name in TINY}
_heavy = {name: pytest.mark.slow for name in TINY if name.startswith("beit_")}  # tracing takes 10 to 20 s
EACH = pytest.mark.parametrize("name", TINY)  # what a recipe has to itself
OTHER = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=_heavy.get(name, ())) for name in TINY if name not in OF_KIND.values()]
)
WHOLE = pytest.mark.parametrize("name", [pytest.param(name, marks=_marks[name]) for name in TINY])  # what a kind has


def checkpoints(folder):
    """The folder of the newest checkpoint: that of a run, or of the stage that was trained last."""
    return max(Path(folder).glob("checkpoints/**/step-*.npz"), key=lambda path: path.stat().st_mtime_ns).parent


def state(folder):
    """All of the last checkpoint but the time that it took."""
    arrays, best, info = checkpointing.read_checkpoint(checkpoints(folder))
    info.pop("seconds")
    return {name: array.tobytes() for name, array in arrays.items()}, [array.tobytes() for array in best], info


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


def start(name, folder, *flags, env=None, **kwargs):
    """The training command in a process of its own, with a checkpoint after every step."""
    flags = ("--run-dir", folder, "--checkpoint-seconds", "0", "--verbose", "0", *flags)
    args, env = command(name, *flags, **(env or {}))
    return subprocess.Popen(args, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


def wait_for_checkpoint(process, folder, beyond=-1, seconds=120):
    """Until a checkpoint of a later step than `beyond` is there, or the process has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if latest(folder) > beyond:
            return
        time.sleep(0.002)
    assert process.poll() is not None, "no checkpoint was written"


def latest(folder):
    return max((int(p.stem[5:]) for p in folder.glob("checkpoints/**/step-*.npz")), default=-1)


def results(folder):
    """Metrics but for the time, samples and history of a finished run, byte for byte."""
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics.pop("minutes")
    return metrics, (folder / "samples.txt").read_bytes(), (folder / "history.csv").read_bytes()
