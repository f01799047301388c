"""Masked images for the pre-training of BEiT (Bao et al., 2021, https://arxiv.org/abs/2106.08254, section 2.3).

Of each image a random crop is taken, seen by the model at one size and by its tokenizer at another, half as large where
nothing else is said, and a part of its patches is masked. Labels are not needed.

Shapes: b batch, c channels, h and w rows and columns of patches, k masked patches.
"""

import dataclasses

from homl_models.errors import UserError
from homl_models.pipelines import blockwise_masking
from homl_models.pipelines.image_augmentation import Augmentation, center_crops
from homl_models.pipelines.image_batches import augmented_views, check_channels, to_bytes, to_floats
from homl_models.pipelines.random_access import RandomAccessDataset, num_batches


def patch_grid(size, patch):
    """(h, w) of the patches of an image of a size (height, width); `UserError` unless the patches fill it."""
    if patch < 1 or size[0] % patch or size[1] % patch or min(size) < patch:
        sizes = f"{size[1]}x{size[0]}" if size[0] != size[1] else f"{size[0]}"
        raise UserError(f"patches of {patch} pixels do not fill images of {sizes}; take a size that they divide")
    return size[0] // patch, size[1] // patch


def batches(images, batch_size, size, patch, seed, token_size=None, masked=blockwise_masking.RATIO, augmentation=None):
    """`RandomAccessDataset` of batches in random order, dictionaries of four arrays.

    images and token_images, the two views of a crop, (b, height, width, c) float32 in [0, 1]; bool_masked_pos (b, h, w)
    bool, True where a patch is masked; masked_positions (b, k) int32, the numbers of these patches, row by row.

    Args:
        images: sequence of (height, width, c), of any sizes; see `image_batches.augmented_views`.
        size: (height, width) of the images. patch: height and width of a patch.
        token_size: (height, width) of the images for the tokenizer; default: half of `size`, rounded down.
        masked: fraction of the patches; the authors mask 75 of 196.
        augmentation: an `Augmentation`, of which the sizes are replaced.
    """
    import tensorflow as tf

    h, w = patch_grid(size, patch)
    count = blockwise_masking.num_masked(h, w, masked)
    sizes = tuple(size), tuple(token_size or (size[0] // 2, size[1] // 2))
    augmentation = dataclasses.replace(augmentation or Augmentation(), sizes=sizes, filters=("bicubic", "lanczos"))
    views = augmented_views(images, batch_size, augmentation, seed)

    def batch(step):
        (first, second), _ = views.batch(step)
        mask = blockwise_masking.masks(batch_size, h, w, count, tf.stack([tf.cast(seed, tf.int64), step]))
        return _inputs(first, second, mask, count)

    return RandomAccessDataset(batch, views.steps)


def eval_batches(images, batch_size, size, patch, seed, token_size=None, masked=blockwise_masking.RATIO):
    """As `batches`, of the middle of each image, in order and with the same masks each time; the last batch is smaller.

    images: sequence of (height, width) or (height, width, c).
    """
    import tensorflow as tf

    h, w = patch_grid(size, patch)
    count, number = blockwise_masking.num_masked(h, w, masked), len(images)
    channels = check_channels(images)
    levels = [to_bytes(image[..., 0] if channels == (1,) else image) for image in images]
    views = [
        tf.constant(center_crops(levels, shape).reshape(number, *shape, *channels))
        for shape in (size, token_size or (size[0] // 2, size[1] // 2))
    ]
    masks = blockwise_masking.masks(number, h, w, count, (seed, 0))

    def batch(step):
        rows = slice(step * batch_size, (step + 1) * batch_size)
        return _inputs(*(to_floats(view[rows]) for view in views), masks[rows], count)

    return RandomAccessDataset(batch, num_batches(number, batch_size))


def _inputs(images, token_images, mask, count):
    """A batch, with the numbers of its masked patches."""
    import tensorflow as tf

    patches = tf.where(tf.reshape(mask, (tf.shape(mask)[0], -1)))[:, 1]
    positions = tf.reshape(tf.cast(patches, tf.int32), (-1, count))
    return {
        "images": images,
        "token_images": token_images,
        "bool_masked_pos": mask,
        "masked_positions": tf.ensure_shape(positions, (mask.shape[0], count)),
    }
