"""Blockwise masking of image patches (Bao et al., 2021, BEiT, https://arxiv.org/abs/2106.08254, Algorithm 1).

Rectangular blocks of random size, aspect ratio and position are masked until there are enough masked patches.
`paper_mask` is Algorithm 1 as it is printed: its last block may go beyond 0.4 N, so masks differ in their number of
patches. `released_mask` is the algorithm of the authors' code: at most `count` patches (75 of 196 there), because a
block that would mask more is not placed; the aspect ratio is log-uniform, and ten blocks in a row that cannot be placed
end it, at times short of `count`. `masks` is the released algorithm for a batch in TensorFlow operations; so that all
masks of a batch have exactly `count` patches, single patches at random make up for those that are missing, as in the
authors' later code of BEiT v2.

Shapes: b batch, h and w rows and columns of patches, N = h w of them. A mask is True where a patch is masked.

What Algorithm 1 leaves open: the sides of a block are rounded, and limited to those of the grid; once less than the
smallest block is missing, blocks are of the smallest size. In other grids than 14x14 the smallest block is the same
fraction of the patches, 16 of 196.
"""

import numpy as np

from homl_models.errors import UserError

RATIO = 0.4  # of patches that are masked
SMALLEST = 16 / 196  # block, as a fraction of the patches
ASPECT = 0.3  # smallest aspect ratio of a block; the largest is its reciprocal
ATTEMPTS = 10  # at a block, in the authors' code


def num_masked(h, w, ratio=RATIO):
    """Number of masked patches of a grid, rounded down; `UserError` unless some patches are masked and some are not."""
    if not 0 < ratio < 1 or not 0 < (count := int(ratio * h * w)) < h * w:
        raise UserError(f"{ratio:g} of {h}x{w} patches cannot be masked; take smaller patches or another fraction")
    return count


def smallest_block(h, w):
    """Least number of patches of a block: 16 of 14x14, and as large a fraction of other grids."""
    return max(1, round(SMALLEST * h * w))


# Algorithm 1, as it is printed.


def paper_mask(h, w, random, ratio=RATIO, smallest=None, aspect=ASPECT):
    """Mask (h, w) by Algorithm 1, with more than `ratio` of the patches masked.

    random: (count) -> that many uniform random numbers in [0, 1), such as `np.random.Generator.random`.
    smallest: least number of patches of a block; default `smallest_block`.
    """
    N, smallest = h * w, smallest or smallest_block(h, w)
    M = np.zeros((h, w), bool)
    while M.sum() <= ratio * N:
        u = random(4)
        s = _rand(smallest, max(smallest, ratio * N - M.sum()), u[0])
        r = _rand(aspect, 1 / aspect, u[1])
        a, b = min(round(np.sqrt(s * r)), h), min(round(np.sqrt(s / r)), w)
        top, left = int(u[2] * (h - a + 1)), int(u[3] * (w - b + 1))
        M[top : top + a, left : left + b] = True
    return M


# The authors' code.


def released_mask(h, w, count, random, smallest=None, aspect=ASPECT):
    """Mask (h, w) by the algorithm of the authors' code, with at most `count` masked patches; see `paper_mask`."""
    smallest = smallest or smallest_block(h, w)
    M, attempts = np.zeros((h, w), bool), 0
    while M.sum() < count and attempts < ATTEMPTS:
        u, rest = random(4), count - M.sum()
        s = _rand(smallest, rest, u[0])
        r = np.exp(_rand(np.log(aspect), -np.log(aspect), u[1]))
        a, b = round(np.sqrt(s * r)), round(np.sqrt(s / r))
        top, left = int(u[2] * (h - a + 1)), int(u[3] * (w - b + 1))
        block = M[top : top + a, left : left + b]
        if a < h and b < w and 0 < (~block).sum() <= rest:
            block[:], attempts = True, 0
        else:
            attempts += 1
    return M


def exactly(M, count, random):
    """A mask with `count` masked patches: missing ones are chosen at random; see `paper_mask`."""
    score = np.where(M.ravel(), -1, random(M.size))
    filled = np.zeros(M.size, bool)
    filled[np.argsort(score)[:count]] = True
    return filled.reshape(M.shape)


def _rand(low, high, u):
    return low + (high - low) * u


# A batch of masks, as a function of a seed.


def masks(batch_size, h, w, count, seed, smallest=None, aspect=ASPECT):
    """Masks (b, h, w) bool of exactly `count` patches each: `released_mask`, then `exactly`, in TensorFlow operations.

    seed: (2,) int64, such as (seed, step), of which the masks are a pure function.
    """
    import tensorflow as tf

    smallest = smallest or smallest_block(h, w)

    def place(i, M, missing, attempts):
        new = blocks(block_numbers(batch_size, seed, i), missing, h, w, smallest, aspect) & ~M
        gain = tf.math.count_nonzero(new, (1, 2), dtype=tf.int32)
        placed = (gain > 0) & (gain <= missing) & (attempts < ATTEMPTS)
        attempts = tf.where(placed, 0, attempts + 1)
        return i + 1, M | (new & placed[:, None, None]), missing - tf.where(placed, gain, 0), attempts

    def unfinished(i, M, missing, attempts):
        return tf.reduce_any((missing > 0) & (attempts < ATTEMPTS))

    start = tf.zeros((batch_size, h, w), bool), tf.fill([batch_size], count), tf.zeros([batch_size], tf.int32)
    _, M, _, _ = tf.while_loop(unfinished, place, (tf.constant(1, tf.int64), *start))
    masked = tf.reshape(M, (batch_size, h * w))
    score = tf.where(masked, tf.constant(-1, tf.float64), fill_numbers(batch_size, h * w, seed))
    last = tf.sort(score, axis=1)[:, count - 1 : count]
    return tf.reshape(score <= last, (batch_size, h, w))


def block_numbers(batch_size, seed, i):
    """Uniform random numbers (b, 4) float64 of the i-th blocks, counted from 1; see `masks`."""
    import tensorflow as tf

    key = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int64), tf.cast(i, tf.int64))
    return tf.random.stateless_uniform((batch_size, 4), key, dtype=tf.float64)


def fill_numbers(batch_size, size, seed):
    """Uniform random numbers (b, N) float64 by which patches are chosen that fill a mask up; see `masks`."""
    import tensorflow as tf

    key = tf.random.experimental.stateless_fold_in(tf.cast(seed, tf.int64), tf.constant(0, tf.int64))
    return tf.random.stateless_uniform((batch_size, size), key, dtype=tf.float64)


def blocks(u, missing, h, w, smallest, aspect):
    """Blocks (b, h, w) bool by the random numbers (b, 4), for masks that lack `missing` (b,) patches.

    A block that does not fit into the grid is empty.
    """
    import tensorflow as tf

    log_aspect = np.log(aspect)
    s = _rand(smallest, tf.cast(missing, tf.float64), u[:, 0])
    r = tf.exp(_rand(log_aspect, -log_aspect, u[:, 1]))
    a, b = tf.round(tf.sqrt(s * r)), tf.round(tf.sqrt(s / r))
    top, left = tf.floor(u[:, 2] * (h - a + 1)), tf.floor(u[:, 3] * (w - b + 1))
    fits = (a < h) & (b < w)
    return (_span(top, a, h) & fits[:, None])[:, :, None] & _span(left, b, w)[:, None, :]


def _span(first, length, size):
    """Spans (b, size) bool: True from `first` (b,) on, `length` (b,) long."""
    i = np.arange(size, dtype=np.float64)
    return (first[:, None] <= i) & (i < (first + length)[:, None])
