"""Stages of a training: one after the other, each from the weights of the one before."""

import dataclasses
from collections.abc import Callable


def load_by_name(model, weights):
    """Load a .weights.h5 file into the layers of the same names; layers of other shapes are left out with a warning."""
    optimizer = [model.optimizer] if model.optimizer else []  # begins anew, with every stage
    model.load_weights(weights, skip_mismatch=True, objects_to_skip=optimizer)


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of a training: its own data, compilation, monitor, patience and checkpoints.

    Most recipes have one. PSNR before GAN, a tokenizer before pre-training, one resolution or one layer after the other
    are several; see `recipes.recipe.Recipe.stages`.

    Args:
        name: of the folder in `checkpoints/`, and in history.csv; "" for the only stage.
        epochs: at most.
        datasets: () -> (training, validation), as `Recipe.datasets`.
        model: () -> a new model, built and compiled.
        begin: (model, weights) -> None, before the first step: takes what it needs from the .weights.h5 file of the
            stage before. Not called for the first stage.
        end_epoch: (model, epoch, folder) -> more metrics, as `Recipe.end_epoch`.
        monitor: metric whose best epoch gives the weights that the stage ends with; "" for the last epoch.
        monitor_mode: "min" or "max".
        patience: stop after that many epochs without a better monitored metric; 0: never.
    """

    name: str
    epochs: int
    datasets: Callable
    model: Callable
    begin: Callable = load_by_name
    end_epoch: Callable = lambda model, epoch, folder: {}
    monitor: str = ""
    monitor_mode: str = "min"
    patience: int = 0
