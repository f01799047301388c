"""A training step of the DCGAN against the book's: two calls of `train_on_batch` for every batch.

Ours is the step of `train`: both phases in one compiled step, batches gathered by index from bytes in memory, many
steps per execution, the moving average of the generator's weights and all metrics included. The book's has the same
layers, a model for the discriminator and one for the two together, RMSprop, and batches of 32 from `tf.data`. Checked
first: with the same weights both networks of each give the same. Seconds are those of an epoch of 55,000 images;
`ratio_same_batch` is the ratio if ours takes batches of 32.

    python benchmarks/gan_step.py [--rounds 3] [--images 3200]

Reads Fashion MNIST (`KERAS_HOME`).
"""

import argparse
import dataclasses

import keras
import numpy as np
import tensorflow as tf
import timing
from keras import layers

from homl_models import recipes

EPOCH = 55_000


def book_networks():
    """The book's generator (codings of 100) and discriminator."""
    leaky = {
        "kernel_size": 5,
        "strides": 2,
        "padding": "same",
        "activation": keras.layers.LeakyReLU(negative_slope=0.2),
    }
    generator = keras.Sequential(
        [
            layers.Input((100,)),
            layers.Dense(7 * 7 * 128),
            layers.Reshape((7, 7, 128)),
            layers.BatchNormalization(),
            layers.Conv2DTranspose(64, 5, strides=2, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2DTranspose(1, 5, strides=2, padding="same", activation="tanh"),
        ]
    )
    discriminator = keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(64, **leaky),
            layers.Dropout(0.4),
            layers.Conv2D(128, **leaky),
            layers.Dropout(0.4),
            layers.Flatten(),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    return generator, discriminator


def book_trainer(generator, discriminator, images, batch_size=32):
    """A function that trains on all images once, as the book does."""
    gan = keras.Sequential([generator, discriminator])
    discriminator.compile("rmsprop", "binary_crossentropy")
    discriminator.trainable = False
    gan.compile("rmsprop", "binary_crossentropy")
    data = (
        tf.data.Dataset.from_tensor_slices(images)
        .shuffle(len(images))
        .batch(batch_size, drop_remainder=True)
        .prefetch(1)
    )

    def epoch():
        for real in data:
            discriminator.trainable = True  # Keras 3 would leave it as it is otherwise
            fake = generator(tf.random.normal((batch_size, 100)))
            labels = tf.constant([[0.0]] * batch_size + [[1.0]] * batch_size)
            discriminator.train_on_batch(tf.concat([fake, real], axis=0), labels)
            discriminator.trainable = False
            gan.train_on_batch(tf.random.normal((batch_size, 100)), tf.constant([[1.0]] * batch_size))

    return epoch


def our_trainer(recipe):
    """A function that trains on all images once, and the model."""
    model, (batches, _) = recipe.model(), recipe.datasets()
    return lambda: model.fit(batches.dataset(), shuffle=False, verbose=0), model


def check_same(model, generator, discriminator):
    """The same weights give the same images and the same probabilities."""
    ours = model.generator
    parts = [ours.dense[0], ours.norms[0], ours.transposed[0], ours.norms[1], ours.last]
    generator.set_weights([w for part in parts for w in part.get_weights()])
    parts = [*model.discriminator.hidden, model.discriminator.last]
    discriminator.set_weights([w for part in parts for w in part.get_weights()])
    images = generator(model.codings(8))
    np.testing.assert_allclose(images, ours(model.codings(8)), atol=1e-5)
    probabilities = keras.ops.sigmoid(model.discriminator(images))
    np.testing.assert_allclose(discriminator(images)[:, 0], probabilities, atol=1e-5)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=3200, help="images in a timed pass")
    args = parser.parse_args()

    recipe = dataclasses.replace(recipes.get("dcgan"), num_images=args.images, num_evaluation_samples=0, monitor="")
    ours, model = our_trainer(recipe)
    same_batch, _ = our_trainer(dataclasses.replace(recipe, batch_size=32))
    networks = book_networks()
    check_same(model, *networks)
    book = book_trainer(*networks, np.float32(recipe.splits[0][0])[..., None] / 127.5 - 1)
    sides = {"ours": ours, "same_batch": same_batch, "book": book, "product": timing.matrix_product()}
    for side in sides.values():
        side()
    taken = timing.interleaved(sides, args.rounds, {"product": 20})
    scale = EPOCH / args.images
    timing.report(
        "an epoch of dcgan against the book's loop",
        taken["ours"] * scale,
        taken["book"] * scale,
        ratio_same_batch=taken["book"] / taken["same_batch"],
        matrix_product_gflops=timing.PEAK_FLOPS / taken["product"] / 1e9,
    )


if __name__ == "__main__":
    main()
