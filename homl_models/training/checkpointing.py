"""Exact resume: checkpoints of all of the state of training, and the callback that writes them.

What a step depends on is the variables (weights, optimizers, metrics, seed generators,
carried states) and the number of the step; the data is a function of the latter. All
of it is in each checkpoint, but for the best weights so far, which are written when they
change; so a run that resumes from any of its checkpoints takes the same steps as one that
was never stopped. history.csv and TensorBoard are made from the checkpoint's history,
never the other way round.
"""

import errno
import math
import signal
import struct
import threading
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import keras
import numpy as np

from homl_models.errors import UserError
from homl_models.training import files

KEEP = 2  # checkpoints
DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, KeyError, NotImplementedError,
          RuntimeError)  # fmt: skip
INFO = "epoch", "step", "history", "patience_count", "seconds", "best_value", "best_epoch"


class Interrupted(Exception):
    """Training was stopped by a signal after a checkpoint had been written."""

    def __init__(self, number, where):
        super().__init__(where)
        self.number, self.where = number, where


class Progress(keras.callbacks.Callback):
    """Checkpoint callback of one stage: its state of training, saved and restored, and the best weights.

    epoch, step: how many epochs of the stage are complete, and how many steps of the one under way.
    history: one dictionary of metrics per epoch, those of the stages before included.
    best_value, best_epoch, best_weights: of the monitored metric (None, None and empty without `stage.monitor`).

    Args:
        stage: a `training.stages.Stage`.
        steps: per epoch.
        folder: of the run.
        seconds: between checkpoints within an epoch.
    """

    def __init__(self, stage, steps, folder, seconds=60.0):
        super().__init__()
        self.stage, self.steps, self.folder, self.checkpoint_seconds = stage, steps, folder, seconds
        self.place = folder / "checkpoints" / stage.name
        self.epoch = self.step = self.patience_count = self.seconds = 0
        self.history, self.best_value, self.best_epoch, self.best_weights = [], None, None, []
        self.signal = self.pending = None

    # The state as arrays, and back.

    def variables(self):
        """All variables of training, each once, in an order that does not change."""
        model = self.model
        every = [*model.variables, *(v for o in model.optimizers for v in o.variables), *model.metrics_variables]
        return list({id(v): v for v in every}.values())

    def save(self):
        self.count_time()
        arrays = {f"v{i:05d}": _array(v) for i, v in enumerate(self.variables())}
        info = {name: getattr(self, name) for name in INFO}
        write_checkpoint(self.place, self.epoch * self.steps + self.step, arrays, info)
        self.saved_at = time.monotonic()

    def restore(self):
        """Take up the newest good checkpoint, if there is one -> whether there is."""
        found = read_checkpoint(self.place)
        if found is None:
            return False
        arrays, self.best_weights, info = found
        for name, value in info.items():
            setattr(self, name, value)
        self.pending = [arrays[k] for k in sorted(arrays)]
        shapes = [tuple(v.shape) for v in self.variables()]
        if shapes != [a.shape for a in self.pending]:
            raise UserError(f"the checkpoint in {self.folder} does not fit this recipe; use another --run-dir")
        self.assign()
        if not self.step:  # an epoch begins: its metrics and carried states start anew, as `fit` has them
            self.pending = None
        return True

    def follow(self, place):
        """Take up the history of the stage before, whose checkpoints are in that folder."""
        _, _, info = read_checkpoint(place)
        self.history, self.seconds = info["history"], info["seconds"]

    def take_best_weights(self):
        """Give the model the weights of the best epoch, if one is known."""
        if self.best_weights:
            self.model.set_weights(self.best_weights)

    def assign(self):
        for variable, value in zip(self.variables(), self.pending):
            variable.assign(value)

    def weights(self):
        return [_array(w) for w in self.model.weights]

    def count_time(self):
        now = time.monotonic()
        self.seconds, self.started_at = self.seconds + now - self.started_at, now

    # What `fit` calls.

    def on_train_begin(self, logs=None):
        self.started_at = self.saved_at = time.monotonic()
        self.first = self.step

    def on_epoch_begin(self, epoch, logs=None):
        if self.pending is not None:  # `fit` has just reset the metrics of an epoch that was under way
            self.assign()
            self.pending = None

    def on_train_batch_end(self, batch, logs=None):
        self.step = self.first + batch + 1
        if self.step >= self.steps:  # the end of the epoch, where more is to be saved, is near
            return
        if self.signal or time.monotonic() - self.saved_at >= self.checkpoint_seconds:
            self.save()
        self.stop_if_asked()

    def on_epoch_end(self, epoch, logs=None):
        row = {"stage": self.stage.name} if self.stage.name else {}
        row |= {"epoch": len(self.history) + 1, **{name: float(value) for name, value in logs.items()}}
        for name, value in row.items():
            if name.endswith("loss") and not math.isfinite(value):
                raise UserError(f"{name} became {value} in epoch {row['epoch']}; try a smaller --learning-rate")
        row |= self.stage.end_epoch(self.model, row["epoch"], self.folder)
        self.history.append(row)
        self.epoch, self.step = epoch + 1, 0
        if self.stage.monitor:
            self.compare(row)
        self.save()
        self.stop_if_asked()

    def compare(self, row):
        if self.stage.monitor not in row:
            names = ", ".join(name for name in row if name not in ("stage", "epoch"))
            raise UserError(f"--monitor {self.stage.monitor} is not a metric of this recipe, which has {names}")
        value, sign = row[self.stage.monitor], 1 if self.stage.monitor_mode == "min" else -1
        if self.best_value is None or math.isnan(self.best_value) or sign * value < sign * self.best_value:
            self.best_value, self.best_epoch, self.best_weights = value, row["epoch"], self.weights()
            write_best(self.place, row["epoch"], self.best_weights)
            self.patience_count = 0
        else:
            self.patience_count += 1

    @property
    def finished(self):
        patience = self.stage.patience
        return self.epoch >= self.stage.epochs or bool(patience and self.patience_count >= patience)

    # Signals.

    def stop_if_asked(self):
        if self.signal and not self.finished:
            where = f"stage {self.stage.name}, " if self.stage.name else ""
            raise Interrupted(self.signal, f"{where}epoch {self.epoch + 1}, step {self.step} of {self.steps}")

    def __enter__(self):
        """Ctrl-C and SIGTERM wait for the end of the step; a second one does not."""
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self.ask)
        return self

    def ask(self, number, frame):
        self.signal = number
        signal.signal(number, self.before[number])

    def __exit__(self, *error):
        for number, handler in self.before.items():
            signal.signal(number, handler)


def _array(variable):
    return np.array(variable.numpy())


# Checkpoints on disk.


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
                best, info = ({}, None), info | {"best_epoch": None, "best_value": None, "patience_count": 0}
        return arrays, [best[0][name] for name in sorted(best[0])], info
    return None


def _read_whole(path, otherwise):
    """The result of `files.read_arrays`, or None of a file that is damaged or not there."""
    try:
        return files.read_arrays(path)
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL, errno.ENOENT):
            raise
        warnings.warn(f"{path} is damaged ({error}); it becomes {path.name}.damaged, and {otherwise}", stacklevel=3)
        if path.exists():
            path.rename(f"{path}.damaged")
    return None
