"""python docs/overview.py: docs/overview.png, the image of README.md, from the presets."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import homl_models

SENTENCE = "They stopped talking as soon as I came into the room."


def clothes(rows=6):
    """Images of `ddpm_conditional`, a class in each column -> one image."""
    model = homl_models.load("ddpm_conditional")
    images = model.sample(10 * rows, seed=1, labels=list(range(10)), guidance=1.5)
    grid = images.reshape(rows, 10, *images.shape[1:])
    return 1 - np.concatenate(list(np.concatenate(list(grid.transpose(1, 0, 2, 3)), axis=2)), axis=0)


def attention():
    """Tokens of a sentence and of its translation by `transformer`, and the weights between them."""
    return homl_models.load("transformer").attention_weights(SENTENCE)


def main():
    figure = Figure(figsize=(11, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.55, 1])
    left.imshow(clothes(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    left.set_title("ddpm_conditional: a class in each column", fontsize=10)
    left.axis("off")
    source, target, weights = attention()
    right.imshow(weights, cmap="Blues", vmin=0, aspect="auto")
    right.set_xticks(range(len(source)), source, rotation=60, ha="right", fontsize=8)
    right.set_yticks(range(len(target)), target, fontsize=8)
    right.set_title("transformer: attention of a translation", fontsize=10)
    path = Path(__file__).with_name("overview.png")
    figure.savefig(path, dpi=110)
    print(f"{path}: {path.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
