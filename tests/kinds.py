"""The tiny recipes, and which of them stands for each kind of training."""

import json
import os
import sys
from pathlib import Path

import pytest

from homl_models import runs
from homl_models.recipes import RECIPES

ROOT = Path(__file__).parents[1]
TINY = [name for name in RECIPES if name.endswith("_tiny")]
OF_KIND = {
    "fit": "char_rnn_tiny",
    "stateful": "char_rnn_large_tiny",
    "phases": "autoencoder_greedy_tiny",
    "draws": "ddpm_tiny",
    "adversarial": "dcgan_tiny",
    "scheduled_sampling": "seq2seq_tiny",
    "joint": "electra_pretrain_tiny",
    "layerwise": "bert_tag_tiny",
}
_marks = {name: () if name in OF_KIND.values() else pytest.mark.slow for name in TINY}
EACH = pytest.mark.parametrize("name", TINY)  # what a recipe has to itself
OTHER = pytest.mark.parametrize("name", [name for name in TINY if name not in OF_KIND.values()])
WHOLE = pytest.mark.parametrize("name", [pytest.param(name, marks=_marks[name]) for name in TINY])  # what a kind has


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
