"""Trained models: runs, presets, .keras files and networks of others for super-resolution, found and loaded.

A preset is a run packed small (`python -m homl_models.pack`): recipe.json, metrics.json, samples.txt, config.json and
weights.npz, in a folder of its name. This module knows no recipe.
"""

import hashlib
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from homl_models.errors import UserError
from homl_models.training import files

PRESETS = Path(__file__).parent / "presets"


def list_presets():
    """Names of the presets of this package."""
    return sorted(path.parent.name for path in PRESETS.glob("*/recipe.json"))


def find(run_or_preset):
    """The folder of a run, or of a preset by name; `UserError` if there is none."""
    folder = Path(run_or_preset)
    if (folder / "recipe.json").is_file():
        return folder
    presets = list_presets()
    if run_or_preset in presets:
        return PRESETS / run_or_preset
    raise UserError(
        f"{run_or_preset} is neither a run folder (it has no recipe.json) "
        f"nor a preset ({', '.join(presets) or 'there are none'})"
    )


def load(run_or_preset):
    """See `homl_models.load`."""
    import keras

    from homl_models import losses, metrics, models, optimizers, regularizers, schedules  # noqa: F401, registers what files hold
    from homl_models.checkpoints import super_resolution

    for module in pkgutil.iter_modules(models.__path__):
        importlib.import_module(f"homl_models.models.{module.name}")
    if str(run_or_preset).endswith(".keras"):
        return keras.models.load_model(run_or_preset)
    if super_resolution.reads(run_or_preset):
        return super_resolution.from_pretrained(run_or_preset)
    folder = find(run_or_preset)
    if (folder / "model.keras").is_file():
        return keras.models.load_model(folder / "model.keras")
    if (folder / "weights.npz").is_file():
        return _unpack(folder)
    raise UserError(f"the run in {folder} is not finished; resume it with the command that started it")


def pack(model, folder):
    """Write a model into a preset folder: its configuration, its weights in half precision, to compute in float32."""
    import keras

    config = keras.saving.serialize_keras_object(model)
    config.pop("compile_config", None)
    files.write_json(folder / "config.json", json.loads(re.sub('"mixed_b?float16"', '"float32"', json.dumps(config))))
    weights = model.packed_weights()
    arrays = {f"{i:04d}": np.asarray(w.numpy()) for i, w in enumerate(weights)}
    arrays = {k: a.astype(np.float16) if a.dtype == np.float32 else a for k, a in arrays.items()}
    files.write_arrays(folder / "weights.npz", arrays, [w.path for w in weights])


def _unpack(folder):
    import keras

    model = keras.saving.deserialize_keras_object(files.read_json(folder / "config.json"))
    if not model.built:
        model.build()
    arrays, _ = files.read_arrays(folder / "weights.npz")
    for weight, key in zip(model.packed_weights(), sorted(arrays), strict=True):
        weight.assign(arrays[key])
    model.unpacked()
    return model


# The SavedModel of a run.


def find_saved_model(run):
    """The SavedModel folder of a run folder, a SavedModel folder, or of a preset that has been exported; or None."""
    for folder in (Path(run), Path(run) / "saved_model"):
        if (folder / "saved_model.pb").is_file():
            return folder
    folder = find(run)
    if not (folder / "weights.npz").is_file():
        raise UserError(f"the run in {folder} has no SavedModel yet; resume it with the command that started it")
    cache = preset_cache(folder)
    return cache if cache.is_dir() else None


def preset_cache(folder):
    """The folder for the SavedModel of a preset, one for each state of it, of this package and of TensorFlow."""
    digest = hashlib.sha256(importlib.import_module("tensorflow").__version__.encode())
    package = Path(__file__).parent
    for path in [*sorted(path for path in folder.iterdir() if path.is_file()), *sorted(package.rglob("*.py"))]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras"))
    return home / "homl_models" / f"{folder.name}-{digest.hexdigest()[:12]}"


def export_preset(run):
    """Write the SavedModel of a preset into the cache, whole, whoever else does so meanwhile -> its folder."""
    cache = preset_cache(find(run))
    print(f"exporting {run} to {cache}, this once", file=sys.stderr)
    aside = cache.with_name(f".aside-{os.getpid()}-{cache.name}")
    command = [sys.executable, "-m", "homl_models.export", run, "--to", str(aside)]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        if done.returncode:
            *trace, reason = done.stderr.decode("utf-8", "replace").strip().splitlines() or [
                f"status {done.returncode}"
            ]
            print("".join(f"{line}\n" for line in trace), end="", file=sys.stderr)
            reason = reason.removeprefix("error: ")
            raise UserError(
                f"cannot export {run} to {cache} ({reason}); set KERAS_HOME to a folder that can be written"
            )
        os.rename(aside, cache)
    except OSError:
        if not cache.is_dir():  # or else another process was faster
            raise
    finally:
        files.remove(aside)
    return cache
