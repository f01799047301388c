"""Exact resume: a callback that keeps all of the state of training in checkpoints.

What a step depends on is the variables (weights, optimizers, metrics, seed generators,
carried states) and the number of the step; the data is a function of the latter. All
of it is in each checkpoint, but for the best weights so far, which are written when they
change; so a run that goes on from any of its checkpoints takes the same steps as one that
was never stopped. What people read (history.csv, TensorBoard) is made from the
checkpoint's history, never the other way round.
"""

import math
import signal
import threading
import time

import keras
import numpy as np

from homl_models import runs
from homl_models.errors import UserError


class Interrupted(Exception):
    """Training was stopped by a signal after a checkpoint had been written."""

    def __init__(self, number, where):
        super().__init__(where)
        self.number, self.where = number, where


class Progress(keras.callbacks.Callback):
    """Where training stands; saves it, restores it, and keeps the best weights.

    epoch, step: how many epochs are complete, and how many steps of the one under way.
    history: one dictionary of metrics per epoch.
    best: the monitored metric of the best epoch and its weights (empty without `monitor`).
    """

    def __init__(self, recipe, steps, folder):
        super().__init__()
        self.recipe, self.steps, self.folder = recipe, steps, folder
        self.epoch = self.step = self.waited = self.seconds = 0
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
        info = {name: getattr(self, name) for name in ("epoch", "step", "history", "waited", "seconds")}
        info |= {"best_value": self.best_value, "best_epoch": self.best_epoch}
        runs.write_checkpoint(self.folder / "checkpoints", self.epoch * self.steps + self.step, arrays, info)
        self.saved_at = time.monotonic()

    def restore(self):
        """Take up the newest good checkpoint, if there is one; the variables follow when the epoch begins."""
        found = runs.read_checkpoint(self.folder / "checkpoints")
        if found is None:
            return
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
        if self.signal or time.monotonic() - self.saved_at >= self.recipe.checkpoint_seconds:
            self.save()
        self.stop_if_asked()

    def on_epoch_end(self, epoch, logs=None):
        row = {"epoch": epoch + 1, **{name: float(value) for name, value in logs.items()}}
        for name, value in row.items():
            if name.endswith("loss") and not math.isfinite(value):
                raise UserError(f"{name} became {value} in epoch {epoch + 1}; try a smaller --learning-rate")
        row |= self.recipe.end_epoch(self.model, epoch + 1, self.folder)
        self.history.append(row)
        self.epoch, self.step = epoch + 1, 0
        if self.recipe.monitor:
            self.compare(row)
        self.save()
        self.stop_if_asked()

    def compare(self, row):
        if self.recipe.monitor not in row:
            names = ", ".join(name for name in row if name != "epoch")
            raise UserError(f"--monitor {self.recipe.monitor} is not a metric of this recipe, which has {names}")
        value, sign = row[self.recipe.monitor], 1 if self.recipe.monitor_mode == "min" else -1
        if self.best_value is None or math.isnan(self.best_value) or sign * value < sign * self.best_value:
            self.best_value, self.best_epoch, self.best_weights = value, self.epoch, self.weights()
            runs.write_best(self.folder / "checkpoints", self.epoch, self.best_weights)
            self.waited = 0
        else:
            self.waited += 1

    @property
    def finished(self):
        patience = self.recipe.patience
        return self.epoch >= self.recipe.epochs or bool(patience and self.waited >= patience)

    # Signals.

    def stop_if_asked(self):
        if self.signal and not self.finished:
            raise Interrupted(self.signal, f"epoch {self.epoch + 1}, step {self.step} of {self.steps}")

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
