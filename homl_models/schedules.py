"""Schedules over the training steps: learning rates, temperatures, weights, the probability of teacher forcing."""

import math

import keras
from keras import ops

from homl_models.errors import UserError


@keras.saving.register_keras_serializable("homl_models")
class InverseSquareRoot(keras.optimizers.schedules.LearningRateSchedule):
    """Inverse square root decay: linear warm-up to `peak` over `warmup_steps`, then peak * sqrt(warmup_steps / step).

    With peak = dim^-0.5 * warmup_steps^-0.5 it is the Transformer's (Vaswani et al., 2017, equation 3).

    Args:
        peak: largest learning rate.
        warmup_steps: steps of the warm-up.
    """

    def __init__(self, peak, warmup_steps):
        self.peak, self.warmup_steps = peak, warmup_steps

    def __call__(self, step):
        step = ops.cast(step, "float32") + 1
        return self.peak * ops.minimum(step / self.warmup_steps, ops.sqrt(self.warmup_steps / step))

    def get_config(self):
        return {"peak": self.peak, "warmup_steps": self.warmup_steps}


SHAPES = "constant", "linear", "polynomial", "cosine"


@keras.saving.register_keras_serializable("homl_models")
class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up to `peak`, then decay to `end` at step `steps`, and `end` from there on.

    The first step has the learning rate peak / warmup_steps. `UserError` for another shape, or too long a warm-up.

    Args:
        peak: largest learning rate.
        steps: steps of the training, warm-up included.
        warmup_steps: steps of the warm-up.
        shape: of the decay, as a function of its remaining fraction s in [0, 1]:
            "constant" (no decay), "linear" s, "polynomial" s^power, "cosine" (1 - cos(pi s)) / 2.
        end: final learning rate.
        power: of "polynomial".
    """

    def __init__(self, peak, steps, warmup_steps=0, shape="linear", end=0.0, power=1.0):
        if shape not in SHAPES:
            raise UserError(f"the shape must be one of {', '.join(SHAPES)}, not {shape!r}")
        if not 0 <= warmup_steps < steps:
            raise UserError(f"the warm-up must be shorter than the {steps} steps of training, not {warmup_steps}")
        self.peak, self.steps, self.warmup_steps = peak, steps, warmup_steps
        self.shape, self.end, self.power = shape, end, power

    def __call__(self, step):
        step = ops.cast(step, "float32")
        remaining = ops.clip((self.steps - step) / (self.steps - self.warmup_steps), 0.0, 1.0)
        if self.shape == "constant":
            return self.peak * ops.minimum((step + 1) / max(self.warmup_steps, 1), 1.0)
        if self.shape == "cosine":
            fraction = (1 - ops.cos(math.pi * remaining)) / 2
        else:
            fraction = remaining if self.shape == "linear" else ops.power(remaining, self.power)
        decayed = self.end + (self.peak - self.end) * fraction
        return ops.where(step < self.warmup_steps, self.peak * (step + 1) / max(self.warmup_steps, 1), decayed)

    def get_config(self):
        names = "peak", "steps", "warmup_steps", "shape", "end", "power"
        return {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable("homl_models")
class Cosine(keras.optimizers.schedules.LearningRateSchedule):
    """Half a cosine from `start` at step 0 to `end` at step `steps`, and `end` from there on.

    Args:
        start, end: values of the schedule.
        steps: above 0; `UserError` for others.
    """

    def __init__(self, start, end, steps):
        if steps <= 0:
            raise UserError(f"a cosine schedule takes a number of steps above 0, not {steps}")
        self.start, self.end, self.steps = start, end, steps

    def __call__(self, step):
        done = ops.minimum(ops.cast(step, "float32") / self.steps, 1.0)
        return self.end + (self.start - self.end) * (1 + ops.cos(math.pi * done)) / 2

    def get_config(self):
        return {"start": self.start, "end": self.end, "steps": self.steps}


def teacher_forcing_probability(schedule, k, step):
    """Probability epsilon_i of teacher forcing at a training step i (Bengio et al., 2015, section 2.4).

    Args:
        schedule: "linear" max(0, 1 - i / k), "exponential" k^i with k < 1, or
            "inverse_sigmoid" k / (k + exp(i / k)) with k >= 1.
        k: of the schedule.
        step: i, a number or a tensor.
    """
    step = ops.cast(step, "float32")
    if schedule == "linear":
        return ops.maximum(0.0, 1.0 - step / k)
    if schedule == "exponential":
        return ops.exp(step * math.log(k))
    return ops.sigmoid(math.log(k) - step / k)


def check_teacher_forcing(schedule, k):
    """Raise `UserError` unless `teacher_forcing_probability` has that schedule and k is in its range."""
    allowed = {
        "linear": (k > 0, "above 0"),
        "exponential": (0 < k < 1, "between 0 and 1"),
        "inverse_sigmoid": (k >= 1, "of at least 1"),
    }
    if schedule not in allowed:
        raise UserError(f"the schedule must be one of {', '.join(allowed)}, not {schedule!r}")
    fits, range_of_k = allowed[schedule]
    if not fits:
        raise UserError(f"the {schedule} schedule takes a k {range_of_k}, not {k}")
