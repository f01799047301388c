"""Augmentation of batches by Keras' layers, as a function of (seed, step): images that say which class they are of."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from homl_models.errors import UserError
from homl_models.pipelines.batch_augmentation import BatchAugmentation, StepSeeds
from homl_models.pipelines.random_access import RandomAccessDataset

SIZE, CLASSES = 16, 8
LEVELS = np.linspace(0.2, 0.9, CLASSES, dtype=np.float32)  # of the images of each class
LABELS = np.eye(CLASSES, dtype=np.float32)[np.arange(SIZE) % CLASSES]


def images(*shape):
    return tf.constant(np.broadcast_to((LABELS @ LEVELS).reshape(-1, *[1] * len(shape)), (SIZE, *shape)))


def key(seed, step):
    return tf.stack([tf.constant(seed, tf.int64), tf.cast(step, tf.int64)])


def run(augmentation, step=0, shape=(20, 20, 3)):
    return [x.numpy() for x in augmentation(images(*shape), tf.constant(LABELS), key(3, step))]


def test_mixup_mixes_labels_as_images():
    x, y = run(BatchAugmentation(mixup=0.8))
    np.testing.assert_allclose(x, np.broadcast_to((y @ LEVELS)[:, None, None, None], x.shape), atol=1e-5)
    np.testing.assert_allclose(y.sum(1), 1, atol=1e-6)
    assert ((y > 0).sum(1) <= 2).all()
    assert ((y > 0.01) & (y < 0.99)).any(1).sum() > SIZE / 3


def test_cutmix_weighs_labels_by_area():
    x, y = run(BatchAugmentation(cutmix=1.0), shape=(60, 60))
    fraction = np.stack([np.isclose(x, level).mean((1, 2)) for level in LEVELS], axis=1)
    np.testing.assert_allclose(fraction.sum(1), 1)  # each pixel is of one image
    np.testing.assert_allclose(fraction, y, atol=0.035)  # sides are cut to whole pixels
    assert ((y > 0.1) & (y < 0.9)).any(1).sum() > SIZE / 3


def test_random_erasing_leaves_labels_and_other_pixels():
    erased = []
    for step in range(12):
        x, y = run(BatchAugmentation(erasing=0.25), step, (12, 12, 3))
        np.testing.assert_array_equal(y, LABELS)
        changed = (x != images(12, 12, 3).numpy()).any(-1)
        erased += list(changed.mean((1, 2)))
        assert x.min() >= 0
        assert x.max() <= 1
        rows, columns = changed.any(2, keepdims=True), changed.any(1, keepdims=True)
        np.testing.assert_array_equal(changed, rows & columns)  # boxes
    erased = np.array(erased)
    assert abs((erased > 0).mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / len(erased))
    assert 0 < erased[erased > 0].mean() < 1 / 3


def test_mixup_and_cutmix_take_turns():
    augmentation = BatchAugmentation(mixup=1.0, cutmix=1.0)
    mixed = [len(np.unique(np.round(run(augmentation, step, (30, 30))[0], 4))) > CLASSES for step in range(24)]
    assert 5 < sum(mixed) < 19


def test_grey_images():
    for step in range(3):
        grey, colour = (run(BatchAugmentation(0.8, 1.0), step, shape)[0] for shape in ((9, 7), (9, 7, 3)))
        np.testing.assert_array_equal(grey, colour[..., 1])


def test_a_function_of_seed_and_step_in_a_pipeline_and_out_of_it():
    def dataset(seed):
        augmentation = BatchAugmentation(0.8, 1.0, 0.25)
        x, y = images(9, 7, 3), tf.constant(LABELS)
        return RandomAccessDataset(lambda step: augmentation(x, y, key(seed, step)), 5)

    whole = [[part.numpy() for part in batch] for batch in dataset(3).dataset()]
    alone = [part.numpy() for part in next(iter(dataset(3).dataset(3, 4)))]
    eager = run(BatchAugmentation(0.8, 1.0, 0.25), 3, (9, 7, 3))
    for part, same, third in zip(whole[3], alone, eager):
        np.testing.assert_array_equal(part, same)
        np.testing.assert_allclose(part, third, atol=1e-6)
    assert whole[0][0].shape == (SIZE, 9, 7, 3)
    assert len({x.tobytes() for x, _ in whole}) == 5
    assert (dataset(4).batch(0)[0].numpy() != whole[0][0]).any()


def test_seeds_differ_by_key_use_and_number():
    seeds = [tuple(StepSeeds(key(*at), use).next().numpy()) for at in ((0, 0), (0, 1), (1, 0)) for use in (0, 1)]
    generator = StepSeeds(key(0, 0), 0)
    seeds += [tuple(generator.next().numpy()) for _ in range(3)]
    assert len(set(seeds)) == 8  # the first of a generator is that of another with the same key and use
    assert seeds[0] == seeds[6]


def test_the_state_of_keras_generators_is_not_touched():
    augmentation = BatchAugmentation(0.8, 1.0, 0.25)
    layers = [*augmentation.mixers, augmentation.eraser]
    before = [keras.ops.convert_to_numpy(layer.generator.state) for layer in layers]
    run(augmentation)
    for state, layer in zip(before, layers):
        np.testing.assert_array_equal(state, layer.generator.state)


def test_nothing_is_changed_by_nothing():
    x, y = run(BatchAugmentation())
    np.testing.assert_array_equal(x, images(20, 20, 3))
    np.testing.assert_array_equal(y, LABELS)


@pytest.mark.parametrize("name", ["mixup", "cutmix", "erasing"])
def test_settings_that_cannot_be(name):
    with pytest.raises(UserError, match=f"{name} must lie in"):
        BatchAugmentation(**{name: 1.5})
