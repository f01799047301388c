"""Image batches: values, targets, order, random access and augmentation."""

import numpy as np
import scipy.stats
import tensorflow as tf

from homl_models.pipelines.image_batches import batches, crop_and_flip
from tests import checks

NUMBERED = np.arange(50, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 3), np.uint8)  # image i is all i


def numbers(dataset, first=0, last=None):
    """Indices of the images of each batch, whose pixels and targets have to be right."""
    found = []
    for x, y in dataset.dataset(first, last):
        assert x.dtype == tf.float32
        np.testing.assert_array_equal(x, y)
        assert (np.ptp(x, axis=(1, 2)) == 0).all()
        found.append(np.round(x.numpy()[:, 0, 0] * 255).astype(int).tolist())
    return found


def test_in_order_each_image_comes_once_with_a_smaller_last_batch():
    dataset = batches(NUMBERED, 8)
    assert dataset.steps == 7
    assert numbers(dataset) == [list(range(i, min(i + 8, 50))) for i in range(0, 50, 8)]


def test_every_shuffled_pass_is_a_new_permutation():
    dataset = batches(NUMBERED, 10, seed=1)
    passes = [sum(numbers(dataset, 5 * i, 5 * i + 5), []) for i in range(20)]
    assert all(sorted(p) == list(range(50)) for p in passes)
    assert len({tuple(p) for p in passes}) == 20
    assert passes != [sum(numbers(batches(NUMBERED, 10, seed=2), 5 * i, 5 * i + 5), []) for i in range(20)]
    neighbours = [scipy.stats.spearmanr(p[:-1], p[1:]).statistic for p in passes]
    assert abs(np.mean(neighbours)) < 0.15


def test_random_access_equals_sequential_access():
    dataset = batches(NUMBERED, 7, seed=3)
    assert dataset.steps == 7
    whole = numbers(dataset, 0, 30)
    assert numbers(dataset, 11, 19) == whole[11:19]
    order = sum(whole, [])  # the remainder of an epoch comes first in the next
    assert all(sorted(order[i : i + 50]) == list(range(50)) for i in range(0, 200, 50))


def test_floats_are_kept_and_bytes_are_divided():
    floats = np.random.default_rng(0).uniform(size=(4, 3, 3, 2)).astype("float32")
    (x, y), = batches(floats, 4).dataset()  # fmt: skip
    np.testing.assert_array_equal(x, floats)
    (x, _), = batches(np.uint8(floats * 255), 4).dataset()  # fmt: skip
    checks.close(x, np.uint8(floats * 255) / 255)


def test_targets_belong_to_their_images():
    for x, y in batches(NUMBERED, 10, seed=1, targets=np.arange(50) * 3).dataset():
        np.testing.assert_array_equal(np.round(x[:, 0, 0] * 255 * 3), y)


def test_augmentation_depends_on_seed_and_step_alone_and_leaves_validation_out():
    def shift(x, seed):
        return x + tf.random.stateless_uniform((), seed)

    def run(seed, first, last):
        dataset = batches(np.zeros((20, 2, 2), np.float32), 5, seed, augment=shift)
        return [float(x[0, 0, 0]) for x, y in dataset.dataset(first, last) if (x.numpy() == y.numpy()).all()]

    whole = run(1, 0, 12)
    assert len(set(whole)) == 12
    assert run(1, 5, 9) == whole[5:9]
    assert not set(run(2, 0, 12)) & set(whole)
    assert run(None, 0, 4) == [0.0] * 4


def test_crops_are_whole_shifts_of_reflected_images_and_their_mirror_images():
    """Each of the 2 (2 m + 1)^2 ways about as often; the same for the same seed."""
    image = np.random.default_rng(0).uniform(size=(5, 6, 3)).astype("float32")
    padded = np.pad(image, [(2, 2), (2, 2), (0, 0)], "reflect")
    shifts = [padded[i : i + 5, j : j + 6] for i in range(5) for j in range(5)]
    ways = {crop.tobytes(): number for number, crop in enumerate(shifts + [crop[:, ::-1] for crop in shifts])}
    many, seed = np.repeat(image[None], 5_000, 0), tf.constant([3, 4], tf.int64)
    crops = tf.function(crop_and_flip)(many, seed, 2).numpy()
    found = np.bincount([ways[crop.tobytes()] for crop in crops], minlength=50)
    assert scipy.stats.chisquare(found).pvalue > 1e-3
    np.testing.assert_array_equal(crop_and_flip(many, seed, 2), crops)
    grey = crop_and_flip(image[None, ..., 0], [1, 2], 2).numpy()[0]
    assert grey.tobytes() in {crop[..., 0].tobytes() for crop in shifts + [crop[:, ::-1] for crop in shifts]}
