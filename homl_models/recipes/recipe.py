"""Recipe: a way of training one model, as a frozen dataclass.

The contract, which tests/test_recipes.py holds:
- Fields are the settings: flags of `train`, arguments in Python, kept in recipe.json. Their docstrings are the help.
  A class attribute that is no setting is annotated `typing.ClassVar`.
- Methods import TensorFlow, models and pipelines when they are called, so that the command line costs nothing.
- `model()` gives a model that is built and compiled; every constructor argument of a model is stored under its own
  name (see `base.Configured`), and `build()` works without arguments.
- The class docstring is what `--help` shows. A module has `RECIPES` {name: instance}, `SUMMARIES` {name: a line for the
  listing} and `RESULTS`, a list of `results.Result`.
- Each class has an instance named `*_tiny`, which needs no network and trains in seconds; the tests train it. It names
  in `kind` which of `KINDS` its training is: what a kind has in common is tested once.
"""

import dataclasses
import typing
from typing import ClassVar, Literal

from homl_models.errors import UserError
from homl_models.training.stages import Stage

KINDS = {
    "fit": "Keras' own step",
    "stateful": "recurrent states carried from batch to batch",
    "stages": "several stages, each from the weights of the one before",
    "draws": "random numbers within the step, from a seed generator of the model",
    "adversarial": "two networks, two optimizers and a replay buffer, in one step",
    "scheduled_sampling": "a decoder that is fed its own predictions, on batches of several lengths",
    "joint": "two models trained at once, the second on samples of the first",
    "layerwise": "a learning rate for each layer of an encoder, which may come from another run",
}


def positive(**values):
    """`UserError` for values that are not above 0; it names their flags."""
    for name, value in values.items():
        if not value > 0:
            raise UserError(f"--{name.replace('_', '-')} must be above 0, not {value}")


def rate(**values):
    """`UserError` for values outside [0, 1)."""
    for name, value in values.items():
        if not 0 <= value < 1:
            raise UserError(f"--{name.replace('_', '-')} must lie in [0, 1), not {value}")


def check_type(name, value, wanted):
    """`UserError` where a setting has a value that its type does not allow; flags have been checked before."""
    flag, kind = f"--{name.replace('_', '-')}", typing.get_origin(wanted)
    if kind is Literal:
        if value not in typing.get_args(wanted):
            raise UserError(f"{flag} must be one of {', '.join(map(str, typing.get_args(wanted)))}, not {value!r}")
    elif kind is tuple:
        if not isinstance(value, (tuple, list)):
            raise UserError(f"{flag} must be several values, not {value!r}")
        for part in value:
            check_type(name, part, typing.get_args(wanted)[0])
    else:
        allowed = (int, float) if wanted is float else wanted
        if not isinstance(value, allowed) or (isinstance(value, bool) and wanted is not bool):
            raise UserError(f"{flag} must be {wanted.__name__}, not {value!r}")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings and methods that all recipes have."""

    kind: ClassVar[str]

    run_dir: str = ""
    """Folder of the run. Default: runs/RECIPE."""
    epochs: int = 10
    """Epochs to train, at most."""
    batch_size: int = 32
    """Examples per training step, over all devices."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    seed: int = 42
    """Seed of the weights, of dropout and of the order of the data."""
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    """Precision of the computation; weights are always kept in float32."""
    strategy: Literal["none", "mirrored"] = "none"
    """`mirrored` trains on all devices of this machine, each with its part of the batch (on TensorFlow without XLA)."""
    monitor: str = ""
    """Metric whose best epoch gives the final weights, e.g. val_loss. Empty: the last epoch."""
    monitor_mode: Literal["min", "max"] = "min"
    """Whether the monitored metric is better when smaller or larger."""
    patience: int = 0
    """Stop after that many epochs without a better monitored metric. 0: never."""
    checkpoint_seconds: float = 60.0
    """Seconds between checkpoints within an epoch; one is always written at its end."""
    verbose: Literal[0, 1, 2] = 1
    """0: silent, 1: progress bar, 2: one line per epoch."""
    beta_2: ClassVar[float] = 0.999  # of Adam

    def __post_init__(self):
        known = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            check_type(field.name, getattr(self, field.name), known[field.name])
        positive(epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate)
        if self.seed < 0 or self.seed >= 2**31:
            raise UserError(f"--seed must lie in [0, 2^31), not {self.seed}")
        if self.patience < 0 or self.checkpoint_seconds < 0:
            raise UserError("--patience and --checkpoint-seconds must be 0 or more")
        if self.patience and not self.monitor:
            raise UserError("--patience needs --monitor, the metric to watch")

    def datasets(self):
        """(training, validation) as `pipelines.random_access.RandomAccessDataset`; validation may be None."""
        raise TypeError(f"{type(self).__name__} must define datasets()")

    def fingerprinted(self):
        """The data of a run, and what was learned from it: {"data": ..., "vocabulary": ...}.

        Arrays, texts and numbers, of which the run keeps digests; it resumes with the same only.
        """
        return {"data": self.splits}

    def model(self):
        """A new model, built and compiled."""
        raise TypeError(f"{type(self).__name__} must define model()")

    def stages(self):
        """The stages of the training (`training.stages.Stage`), each from the weights of the one before; here one."""
        return [self.stage("")]

    def stage(self, name, **changes):
        """A stage with the settings and methods of this recipe, but for `changes`."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(Stage) if hasattr(self, f.name)}
        return Stage(**{"name": name, **own, **changes})

    def end_epoch(self, model, epoch, folder):
        """Called after the last step of an epoch (counted from 1) -> more metrics of it; may write into `folder`.

        It must not change `model.variables`. What it gives can be monitored.
        """
        return {}

    def calibrate(self, model):
        """Called with the final weights, before the model is saved: sets what is chosen on the validation split."""

    def evaluate(self, model):
        """Metrics of a trained model: {name: number}. Keyword arguments with defaults become flags of `evaluate`."""
        raise TypeError(f"{type(self).__name__} must define evaluate()")

    def show(self, model, folder):
        """Samples of the model, as text; images are written into `folder`."""
        raise TypeError(f"{type(self).__name__} must define show()")

    def optimizer(self, steps):
        """Adam with a warm-up (2 % of `steps`) to the learning rate and a cosine down to zero."""
        import keras

        from homl_models.optimizers import Adam

        warmup = max(1, steps // 50)
        schedule = keras.optimizers.schedules.CosineDecay(
            0.0, max(1, steps - warmup), warmup_target=self.learning_rate, warmup_steps=warmup
        )
        return Adam(schedule, beta_2=self.beta_2, clipnorm=1.0)
