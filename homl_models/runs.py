"""What a run leaves on disk: checkpoints, finding and loading runs.

A run folder holds
    recipe.json        the recipe's name and settings
    data.json          digests of the data and of what was learnt of it, such as vocabularies
    checkpoints/       step-*.npz, all of the state of training, and best-*.npz, the best weights; two of each are kept
    history.csv  learning_curves.png  tensorboard/     made from the checkpoint's history
    model.keras  saved_model/  samples.txt  *.png      made from the best (or last) weights
    metrics.json       written last: a run that has it is finished
A preset is a packed run: recipe.json, metrics.json, config.json and weights.npz.
"""

import dataclasses
import errno
import importlib
import json
import pkgutil
import re
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np

from homl_models import files
from homl_models.errors import UserError

PRESETS = Path(__file__).parent / "presets"
KEEP = 2  # checkpoints
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, KeyError, NotImplementedError,
          RuntimeError)  # fmt: skip


def write_checkpoint(folder, step, arrays, info):
    """Save a checkpoint, then drop all but the last `KEEP`, and the best weights that none of them names.

    info["best_epoch"] names the best weights of that epoch, which `write_best` has saved, or none.
    """
    files.write_arrays(Path(folder) / f"step-{step:012d}.npz", arrays, info)
    for path in sorted(Path(folder).glob("step-*.npz"))[:-KEEP]:
        path.unlink()
    for path in sorted(Path(folder).glob("best-*.npz"))[:-KEEP]:
        path.unlink()


def write_best(folder, epoch, weights):
    """Save the weights of the best epoch so far, a list of arrays, beside the checkpoints."""
    files.write_arrays(_best(folder, epoch), {f"{i:05d}": weight for i, weight in enumerate(weights)}, {})


def _best(folder, epoch):
    return Path(folder) / f"best-{epoch:06d}.npz"


def read_checkpoint(folder):
    """(arrays, best weights, info) of the newest checkpoint that is whole, or None.

    Warns of each that is damaged, renames it to *.damaged, and goes back to the one before; where only the best weights
    are damaged, the best epoch is looked for anew. What else keeps a file from being read (memory, rights, too many
    open files) is raised: it may be read later.
    """
    for path in sorted(Path(folder).glob("step-*.npz"), reverse=True):
        found = _read_whole(path, "going back to the checkpoint before it")
        if found is None:
            continue
        (arrays, info), best = found, ({}, None)
        if info["best_epoch"]:
            best = _read_whole(_best(folder, info["best_epoch"]), "the best epoch is looked for anew from here")
            if best is None:
                best, info = ({}, None), info | {"best_epoch": None, "best_value": None, "waited": 0}
        return arrays, [best[0][name] for name in sorted(best[0])], info
    return None


def _read_whole(path, otherwise):
    """What `files.read_arrays` gives, or None of a file that is damaged or not there."""
    try:
        return files.read_arrays(path)
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL, errno.ENOENT):
            raise
        warnings.warn(f"{path} is damaged ({error}); it becomes {path.name}.damaged, and {otherwise}", stacklevel=3)
        if path.exists():
            path.rename(f"{path}.damaged")
    return None


def find(run_or_preset):
    """The folder of a run, or of a preset by name."""
    folder = Path(run_or_preset)
    if (folder / "recipe.json").is_file():
        return folder
    presets = sorted(path.parent.name for path in PRESETS.glob("*/recipe.json"))
    if run_or_preset in presets:
        return PRESETS / run_or_preset
    raise UserError(
        f"{run_or_preset} is neither a run folder (it has no recipe.json) "
        f"nor a preset ({', '.join(presets) or 'there are none'})"
    )


def read_recipe(folder):
    """(name, recipe) of a run folder or preset."""
    from homl_models.recipes import RECIPES

    saved = files.read_json(Path(folder) / "recipe.json")
    name = saved["recipe"]
    if name not in RECIPES:
        raise UserError(f"{folder} was made by the recipe {name}, which this version of homl_models does not have")
    known = {field.name for field in dataclasses.fields(RECIPES[name])}
    return name, dataclasses.replace(RECIPES[name], **{k: v for k, v in saved["settings"].items() if k in known})


def load(run_or_preset):
    """See `homl_models.load`."""
    import keras

    from homl_models import losses, metrics, models, optimizers, regularizers, schedules  # noqa: F401, registers what files hold

    for module in pkgutil.iter_modules(models.__path__):
        importlib.import_module(f"homl_models.models.{module.name}")
    if str(run_or_preset).endswith(".keras"):
        return keras.models.load_model(run_or_preset)
    folder = find(run_or_preset)
    if (folder / "model.keras").is_file():
        return keras.models.load_model(folder / "model.keras")
    if (folder / "weights.npz").is_file():
        return _unpack(folder)
    raise UserError(f"the run in {folder} is not finished; go on with it by the command that started it")


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
