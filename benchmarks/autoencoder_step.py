"""Training of autoencoders for an epoch, against the book's: `fit` on NumPy arrays, in graph mode.

Our side is as in `train`: the recipe's model compiled by XLA, batches gathered by index from bytes in memory, many
steps per execution. The book's is the same network of Keras' layers, compiled with "nadam" and fitted on an array of
floats. Checked first: with the same weights both have the same loss on the same images, without noise.
Seconds are of an epoch of 55,000 images, extrapolated from --images of them. `ratio_same_batch` is the ratio with
batches of 32, the book's, on our side.

    python benchmarks/autoencoder_step.py [--recipes autoencoder_stacked ...] [--rounds 3] [--images 16000]

Reads Fashion MNIST (`KERAS_HOME`).
"""

import argparse
import dataclasses
import itertools

import keras
import numpy as np
import timing
from keras import layers

EPOCH = 55_000
RELU = {"activation": "relu"}
DECODER = (layers.Dense, 100, RELU), (layers.Dense, 784, {}), (layers.Reshape, (28, 28), {})


def network(*layers_and_settings):
    """A `Sequential` model of (layer class, first argument or None, settings)."""
    model = keras.Sequential([layers.Input((28, 28))])
    for layer, argument, settings in layers_and_settings:
        model.add(layer(argument, **settings) if argument is not None else layer(**settings))
    return model


def book_model(name):
    """The book's network (chapter 17) for a recipe, in Keras' layers, without noise."""
    flat, first = (layers.Flatten, None, {}), (layers.Dense, 100, RELU)
    if name == "autoencoder_stacked":
        return network(flat, first, (layers.Dense, 30, RELU), *DECODER)
    if name == "autoencoder_denoising":
        return network(flat, (layers.Dropout, 0.5, {}), first, (layers.Dense, 30, RELU), *DECODER)
    if name == "autoencoder_sparse_l1":
        regularized = (layers.ActivityRegularization, None, {"l1": 1e-4})
        return network(flat, first, (layers.Dense, 300, {"activation": "sigmoid"}), regularized, *DECODER)
    if name == "autoencoder_conv":
        parts = [(layers.Reshape, (28, 28, 1), {})]
        for filters in (16, 32, 64):
            parts += [(layers.Conv2D, filters, {"kernel_size": 3, "padding": "same"} | RELU), (layers.MaxPool2D, 2, {})]
        parts += [(layers.Conv2D, 30, {"kernel_size": 3, "padding": "same"} | RELU), (layers.GlobalAvgPool2D, None, {})]
        parts += [(layers.Dense, 144, {}), (layers.Reshape, (3, 3, 16), {})]
        upsample = {"kernel_size": 3, "strides": 2}
        parts += [(layers.Conv2DTranspose, 32, upsample | RELU)]
        parts += [(layers.Conv2DTranspose, 16, upsample | RELU | {"padding": "same"})]
        parts += [(layers.Conv2DTranspose, 1, upsample | {"padding": "same"}), (layers.Reshape, (28, 28), {})]
        return network(*parts)
    if name == "autoencoder_recurrent":
        sequences = {"return_sequences": True}
        return network(
            (layers.LSTM, 100, sequences),
            (layers.LSTM, 30, {}),
            (layers.RepeatVector, 28, {}),
            (layers.LSTM, 100, sequences),
            (layers.Dense, 28, {}),
        )
    raise SystemExit(f"the book has no network for {name}; choose of {', '.join(NAMES)}")


NAMES = (
    "autoencoder_stacked",
    "autoencoder_denoising",
    "autoencoder_sparse_l1",
    "autoencoder_conv",
    "autoencoder_recurrent",
)


def compare(name, rounds, count):
    from homl_models.pipelines.image_batches import batches
    from homl_models.recipes import RECIPES

    recipe = RECIPES[name]
    pixels = recipe.splits[0][0][:count]
    floats = np.float32(pixels / 255)
    sides, models = {}, {}
    for side, batch_size in (("ours", recipe.batch_size), ("same_batch", 32)):
        model = dataclasses.replace(recipe, batch_size=batch_size).model()
        dataset = batches(pixels, batch_size, seed=1)
        sides[side] = fitter(model, dataset)
        models[side] = model
    book = book_model(name)
    book.compile(loss="mse", optimizer="nadam", jit_compile=False)
    book.set_weights(models["ours"].get_weights())
    ours = np.square(np.float64(models["ours"](floats[:500])) - floats[:500]).mean()
    theirs = np.square(np.float64(book(floats[:500])) - floats[:500]).mean()
    assert abs(ours - theirs) < 1e-6 * theirs, "the two sides compute different reconstructions"
    sides["peer"] = lambda: book.fit(floats, floats, epochs=1, verbose=0)
    for run in sides.values():
        run()  # compiles
    medians = timing.interleaved(sides, rounds)
    scale = EPOCH / count
    claim = f"an epoch of {name}, against fit on NumPy arrays in graph mode"
    more = {"ratio_same_batch": round(medians["peer"] / medians["same_batch"], 2), "batch_size": recipe.batch_size}
    timing.report(claim, medians["ours"] * scale, medians["peer"] * scale, **more)


def fitter(model, dataset):
    """A function that trains a model for one pass over the images."""
    passes = itertools.count()

    def run():
        first = next(passes) * dataset.steps
        model.fit(dataset.dataset(first, first + dataset.steps), epochs=1, shuffle=False, verbose=0)

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=NAMES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=16_000)
    args = parser.parse_args()
    for name in args.recipes:
        compare(name, args.rounds, args.images)


if __name__ == "__main__":
    main()
