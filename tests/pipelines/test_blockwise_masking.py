"""Blockwise masking: Algorithm 1 by hand, the authors' code by its distribution, batches by the plain algorithm."""

import math
import random

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from homl_models.errors import UserError
from homl_models.pipelines import blockwise_masking
from homl_models.pipelines.blockwise_masking import exactly, masks, num_masked, paper_mask, released_mask
from homl_models.pipelines.random_access import RandomAccessDataset


def numbers(*blocks):
    """`random` that gives these numbers."""
    given = iter(blocks)
    return lambda count: next(given)


def reference(h, w, count, smallest, rng):
    """The authors' algorithm with sets of patches and Python's random numbers."""
    masked = set()
    while len(masked) < count:
        for _ in range(10):
            area, aspect = (
                rng.uniform(smallest, count - len(masked)),
                math.exp(rng.uniform(math.log(0.3), -math.log(0.3))),
            )
            rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if rows >= h or columns >= w:
                continue
            top, left = rng.randint(0, h - rows), rng.randint(0, w - columns)
            new = {(i, j) for i in range(top, top + rows) for j in range(left, left + columns)} - masked
            if 0 < len(new) <= count - len(masked):
                masked |= new
                break
        else:
            break
    mask = np.zeros((h, w), bool)
    mask[tuple(np.array(sorted(masked)).T)] = True
    return mask


def test_algorithm_1_by_hand():
    # s = 47.2, r = 0.907: a = 6.54, b = 7.21; then s = 22.7, r = 1.817: a = 6.42, b = 3.53; then s = 16, r = 0.3
    found = paper_mask(14, 14, numbers((0.5, 0.2, 0.5, 0.99), (0.5, 0.5, 0.0, 0.2), (0.3, 0.0, 0.999, 0.0)))
    expected = np.zeros((14, 14), bool)
    expected[4:11, 7:14] = True
    expected[0:6, 2:6] = True
    expected[12:14, 0:7] = True
    np.testing.assert_array_equal(found, expected)
    assert expected.sum() == 87


def test_masks_of_algorithm_1_exceed_40_percent_by_less_than_a_block():
    generator = np.random.default_rng(0)
    counts = np.array([paper_mask(14, 14, generator.random).sum() for _ in range(300)])
    assert counts.min() > 0.4 * 196
    assert counts.max() <= 0.4 * 196 + 20  # 16, with its sides rounded
    assert 80 < counts.mean() < 88


def test_the_authors_algorithm_by_hand():
    too_high, inside = (0.9999, 0.9999, 0, 0), (0.0, 0.5, 0.0, 0.0)  # a = 15.8 of 14 rows; 4x4 in the corner
    first = (0.5, 0.5, 0.0, 0.0)  # s = 45.5, r = 1: 7x7 in the corner
    found = released_mask(14, 14, 75, numbers(too_high, first, *[inside] * 10))
    assert found[:7, :7].all()
    assert found.sum() == 49  # ten attempts within it
    second = (0.0, 0.5, 0.999, 0.999)  # 4x4 in the other corner, at the tenth attempt
    found = released_mask(14, 14, 65, numbers(too_high, first, *[inside] * 9, second, *[inside] * 10))
    assert found[:6, :6].all()  # s = 40.5
    assert found[10:, 10:].all()
    assert found.sum() == 52


@pytest.mark.parametrize(("h", "w", "count"), [(14, 14, 75), (8, 6, 19)])
def test_a_batch_is_the_authors_algorithm_filled_up(h, w, count):
    seed, size = (3, 7), 48
    found = masks(size, h, w, count, seed).numpy()
    blocks = np.stack([blockwise_masking.block_numbers(size, seed, i) for i in range(1, 100)], axis=1)
    fill = blockwise_masking.fill_numbers(size, h * w, seed).numpy()
    for mask, u, v in zip(found, blocks, fill):
        expected = exactly(released_mask(h, w, count, numbers(*u)), count, numbers(v))
        np.testing.assert_array_equal(mask, expected)


def test_the_plain_algorithm_has_the_distribution_of_the_authors():
    generator, rng, size = np.random.default_rng(0), random.Random(0), 1500
    ours = np.stack([released_mask(14, 14, 75, generator.random) for _ in range(size)])
    theirs = np.stack([reference(14, 14, 75, 16, rng) for _ in range(size)])
    counts = scipy.stats.ks_2samp(ours.sum((1, 2)), theirs.sum((1, 2)))
    assert counts.pvalue > 0.001
    assert ours.sum((1, 2)).max() == theirs.sum((1, 2)).max() == 75
    edges = [(np.diff(x.astype(int), axis=1) != 0).sum((1, 2)) for x in (ours, theirs)]  # by size and number of blocks
    assert scipy.stats.ks_2samp(*edges).pvalue > 0.001
    same_places(ours, theirs)


def same_places(some, others):
    """Each patch is as often masked in both, within five standard errors."""
    p = (some.mean(0) + others.mean(0)) / 2
    error = np.sqrt(p * (1 - p) * (1 / len(some) + 1 / len(others)))
    assert np.abs((some.mean(0) - others.mean(0)) / error).max() < 5


def test_no_corner_is_preferred_and_all_masks_have_their_share():
    found = np.concatenate([masks(1024, 14, 14, 75, (1, step)).numpy() for step in range(3)])
    assert (found.sum((1, 2)) == 75).all()
    for axes in ((1,), (2,), (1, 2)):
        same_places(found, np.flip(found, axes))
    same_places(found, found.swapaxes(1, 2))
    fraction = found.mean(0)
    assert fraction[0, 0] < fraction[0, 7] < fraction[7, 7]


def test_sizes_and_aspect_ratios_of_blocks():
    size, generator = 20_000, np.random.default_rng(1)
    u = blockwise_masking.block_numbers(size, (0, 0), 1)
    found = blockwise_masking.blocks(u, tf.fill([size], 75), 14, 14, 16, 0.3).numpy()
    a, b = found.any(2).sum(1), found.any(1).sum(1)
    np.testing.assert_array_equal(found.sum((1, 2)), a * b)  # rectangles
    s, r = generator.uniform(16, 75, size), np.exp(generator.uniform(np.log(0.3), np.log(1 / 0.3), size))
    rows, columns = np.round(np.sqrt(s * r)), np.round(np.sqrt(s / r))
    fits = (rows < 14) & (columns < 14)
    assert abs((a > 0).mean() - fits.mean()) < 0.015
    for ours, expected in ((a * b, rows * columns), (a / np.maximum(b, 1), rows / columns)):
        assert scipy.stats.ks_2samp(ours[a > 0], expected[fits]).statistic < 0.02
    assert (a * b)[a > 0].min() >= 12  # 16, with its sides rounded
    top, left = found.any(2).argmax(1), found.any(1).argmax(1)
    for first, length in ((top, a), (left, b)):
        places = np.bincount(first[length == 5], minlength=10)
        assert scipy.stats.chisquare(places).pvalue > 0.001  # of 10 positions each as often


@pytest.mark.parametrize(("h", "w"), [(4, 4), (2, 3), (1, 5), (3, 17), (24, 24)])
def test_other_grids_keep_the_shares(h, w):
    count = num_masked(h, w)
    assert count == int(0.4 * h * w)
    found = masks(16, h, w, count, (5, 5)).numpy()
    assert (found.sum((1, 2)) == count).all()
    assert len({mask.tobytes() for mask in found}) > 1
    assert blockwise_masking.smallest_block(14, 14) == 16
    assert blockwise_masking.smallest_block(8, 8) == 5  # 16 / 196 of 64 is 5.2
    assert blockwise_masking.smallest_block(2, 2) == 1


def test_a_function_of_seed_and_step_in_a_pipeline_and_out_of_it():
    def dataset(seed):
        return RandomAccessDataset(lambda step: masks(4, 14, 14, 75, tf.stack([tf.constant(seed, tf.int64), step])), 6)

    whole = [mask.numpy() for mask in dataset(9).dataset()]
    for step in (0, 4):
        np.testing.assert_array_equal(whole[step], masks(4, 14, 14, 75, (9, step)))
    np.testing.assert_array_equal(whole[4], next(iter(dataset(9).dataset(4, 5))))
    assert len({mask.tobytes() for mask in np.concatenate(whole)}) == 24
    assert (masks(4, 14, 14, 75, (8, 0)).numpy() != whole[0]).any()


@pytest.mark.parametrize("ratio", [0.0, 1.0, -0.4, 0.05])
def test_a_share_that_masks_nothing_is_refused(ratio):
    with pytest.raises(UserError, match="of 3x3 patches cannot be masked"):
        num_masked(3, 3, ratio)
