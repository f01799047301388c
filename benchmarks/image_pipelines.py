"""Pipelines of images for BEiT on one core: masks, RandAugment, and whole batches.

masks: a batch of 64 masks of 14x14 patches by `blockwise_masking.masks` in `tf.data`, against the plain algorithm,
    a mask after the other. Checked first: both give the same masks of the same random numbers.
rand_augment: 64 images of 64 pixels by `image_augmentation.rand_augment`, against `keras.layers.RandAugment` in
    `tf.data`. They do not compute the same: Keras' has its own ranges, and the same operations for a batch.
images_per_second, without a peer, of 128-pixel images: masked batches as `beit_pretrain` has them, and labelled
    batches with RandAugment, MixUp or CutMix and random erasing as `beit_classify` has them, at 64 and 224 pixels.

    python benchmarks/image_pipelines.py [--rounds 7]
"""

import argparse
import json

import keras
import numpy as np
import tensorflow as tf
import timing
from PIL import Image

from homl_models.pipelines import blockwise_masking, labelled_images, masked_images
from homl_models.pipelines.batch_augmentation import BatchAugmentation
from homl_models.pipelines.image_augmentation import Augmentation, rand_augment

BATCH, GRID, COUNT, KEY = 64, (14, 14), 75, (3, 5)


def on_one_core(batch):
    """A function that makes the next batch of `batch(step)` in `tf.data`, in one thread."""
    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = options.threading.max_intra_op_parallelism = 1
    batches = iter(tf.data.Dataset.range(10**9).map(batch).with_options(options))
    next(batches)
    return lambda: next(batches)


def plain_masks(numbers, fill):
    """The masks of a batch by the plain algorithm, of these random numbers: (b, blocks, 4) and (b, N)."""
    found = []
    for blocks, last in zip(map(iter, numbers), fill):
        mask = blockwise_masking.released_mask(*GRID, COUNT, lambda n, blocks=blocks: next(blocks))
        found.append(blockwise_masking.exactly(mask, COUNT, lambda n, last=last: last))
    return np.stack(found)


def masks(rounds):
    numbers = np.stack([blockwise_masking.block_numbers(BATCH, KEY, i) for i in range(1, 150)], axis=1)
    fill = blockwise_masking.fill_numbers(BATCH, GRID[0] * GRID[1], KEY).numpy()
    np.testing.assert_array_equal(plain_masks(numbers, fill), blockwise_masking.masks(BATCH, *GRID, COUNT, KEY))
    sides = {
        "ours": on_one_core(lambda step: blockwise_masking.masks(BATCH, *GRID, COUNT, tf.stack([3, step]))),
        "peer": lambda: plain_masks(numbers, fill),
    }
    medians = timing.interleaved(sides, rounds, {"ours": 20, "peer": 20})
    microseconds = 1e6 * medians["ours"] / BATCH
    timing.report(f"{BATCH} masks, against the plain algorithm", **both(medians), microseconds_per_mask=microseconds)


def augmentation(rounds):
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 64, 64, 3), np.uint8)
    layer, generator = keras.layers.RandAugment((0, 255), 2, 0.5), np.random.default_rng(0)
    tensor = tf.constant(images, tf.float32)
    sides = {
        "ours": lambda: [np.asarray(rand_augment(Image.fromarray(image), 2, 9.0, generator)) for image in images],
        "peer": on_one_core(lambda step: layer(tensor, training=True)),
    }
    medians = timing.interleaved(sides, rounds)
    timing.report(f"RandAugment of {BATCH} images of 64 pixels, against Keras'", **both(medians))


def both(medians):
    return {"ours_s": medians["ours"], "peer_s": medians["peer"]}


def throughput(rounds):
    generator = np.random.default_rng(0)
    images, labels = generator.integers(0, 256, (256, 128, 128, 3), np.uint8), generator.integers(0, 10, 256)
    sides = {}
    for size, patch in ((64, 8), (224, 16)):
        masked = masked_images.batches(images, BATCH, (size, size), patch, 1)
        crops = Augmentation(((size, size),), ("bicubic",), color_jitter=0.0, num_ops=2)
        mix = BatchAugmentation(0.8, 1.0, 0.25)
        labelled = labelled_images.batches(images, labels, BATCH, 10, 1, crops, mix)
        sides |= {f"masked, {size} pixels": masked.batch, f"labelled, {size} pixels": labelled.batch}
    medians = timing.interleaved({name: on_one_core(batch) for name, batch in sides.items()}, rounds)
    for name, taken in medians.items():
        print(json.dumps({"claim": f"batches of {name}", "images_per_second": round(BATCH / taken)}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each side")
    args = parser.parse_args()
    for claim in (masks, augmentation, throughput):
        claim(args.rounds)


if __name__ == "__main__":
    main()
