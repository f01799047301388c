"""Labelled images: splits of folders and arrays, matched by the names of classes; few labels; augmented batches."""

import numpy as np
import pytest
from PIL import Image

from homl_models.errors import UserError
from homl_models.pipelines import labelled_images
from homl_models.pipelines.batch_augmentation import BatchAugmentation
from homl_models.pipelines.image_augmentation import Augmentation
from homl_models.pipelines.labelled_images import few, one_hot, read_splits
from tests import checks

LEVELS = {"bag": 10, "coat": 60, "shoe": 110, "hat": 160}  # of the images of a class


def write(folder, size=(6, 8), **counts):
    """Folders of images of each class, the i-th of the class's level plus i."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.new("RGB", size, (LEVELS[name] + i,) * 3).save(folder / name / f"{i:02}.png")
    return folder


def agree(splits):
    """Each image has the label of its level."""
    for images, labels in splits[:3]:
        for image, label in zip(images, labels):
            level = LEVELS[splits.classes[label]]
            assert level <= image.min() <= image.max() < level + 50


def levels(split):
    return sorted(split[0][:, 0, 0].ravel().tolist())


def test_a_folder_of_classes_is_split_at_random(tmp_path):
    splits = read_splits(write(tmp_path, bag=12, coat=18))
    assert [len(images) for images, _ in splits[:3]] == [24, 3, 3]
    assert splits.classes == ("bag", "coat")
    agree(splits)
    assert sorted(sum(map(levels, splits[:3]), [])) == [*range(10, 22), *range(60, 78)]
    checks.close(read_splits(tmp_path)[:3], splits[:3], 0)
    assert levels(read_splits(tmp_path, seed=1).test) != levels(splits.test)


def test_folders_of_three_splits_are_matched_by_name(tmp_path):
    write(tmp_path / "train", bag=4, coat=4, shoe=5)
    write(tmp_path / "Val", size=(16, 12), shoe=2)  # fewer classes, in other places, of another size
    write(tmp_path / "test", coat=3, shoe=1)
    splits = read_splits(tmp_path, channels=3)
    assert [images.shape for images, _ in splits[:3]] == [(13, 8, 6, 3), (2, 8, 6, 3), (4, 8, 6, 3)]
    assert splits.classes == ("bag", "coat", "shoe")
    assert splits.valid[1].tolist() == [2, 2]
    agree(splits)


@pytest.mark.parametrize("name", ["validation", "test"])
def test_a_single_split_beside_the_training_images_is_the_test(name, tmp_path):
    write(tmp_path / "training", bag=12, coat=8)
    write(tmp_path / name, coat=3)
    splits = read_splits(tmp_path)
    assert [len(images) for images, _ in splits[:3]] == [18, 2, 3]
    assert levels(splits.test) == [60, 61, 62]
    assert sorted(levels(splits.train) + levels(splits.valid)) == [*range(10, 22), *range(60, 68)]
    agree(splits)


def test_arrays_of_two_splits(tmp_path):
    x, y = np.arange(20, dtype=np.uint8)[:, None, None] * np.ones((1, 4, 5), np.uint8), np.arange(20) % 3
    np.savez(tmp_path / "a.npz", x_train=x, y_train=y[:, None], x_test=x[:7], y_test=y[:7])
    splits = read_splits(tmp_path / "a.npz")
    assert [len(images) for images, _ in splits[:3]] == [18, 2, 7]
    assert splits.classes == ()
    for images, labels in splits[:3]:
        np.testing.assert_array_equal(images[:, 0, 0] % 3, labels)
    names = np.array(["bag", "coat", "hat"])
    np.savez(tmp_path / "b.npz", x_train=x, y_train=names[y], x_test=x[:2], y_test=names[[2, 2]])
    splits = read_splits(tmp_path / "b.npz")
    assert splits.classes == ("bag", "coat", "hat")
    assert splits.test[1].tolist() == [2, 2]
    np.savez(tmp_path / "c.npz", images=x, labels=y)
    assert [len(images) for images, _ in read_splits(tmp_path / "c.npz")[:3]] == [16, 2, 2]


def test_the_first_4000_of_cifar_10(shared_data):
    splits = read_splits(shared_data / "cifar10_part" / "cifar10_first4000.npz", channels=3)
    assert [images.shape for images, _ in splits[:3]] == [(2700, 32, 32, 3), (300, 32, 32, 3), (1000, 32, 32, 3)]
    assert all(set(labels) == set(range(10)) for _, labels in splits[:3])


@pytest.mark.slow
def test_photographs_of_clothes(shared_data):
    splits = read_splits(shared_data / "clothing128", (64, 64), channels=3)
    assert [len(images) for images, _ in splits[:3]] == [2762, 306, 341]
    assert len(splits.classes) == 10


def test_classes_and_labels_that_are_not_there_are_refused(tmp_path):
    write(tmp_path / "a" / "train", bag=4, coat=8)
    write(tmp_path / "a" / "test", hat=2)
    wanted = r"a \(test\) has classes that the model does not know: hat; it has bag, coat"
    checks.fails(wanted, lambda: read_splits(tmp_path / "a"), "hat")
    write(tmp_path / "b", bag=11)
    Image.new("L", (6, 8)).save(tmp_path / "b" / "alone.png")
    checks.fails(
        "1 of 12 images in .* have no label; give each class a folder", lambda: read_splits(tmp_path / "b"), "b"
    )
    write(tmp_path / "c" / "train", bag=4, coat=4)
    write(tmp_path / "c" / "test", bag=2)
    checks.fails("has 8 images to train on; at least 10", lambda: read_splits(tmp_path / "c"), "c")
    write(tmp_path / "d" / "train", bag=12)
    checks.fails("has subfolders train, which are no classes; give one", lambda: read_splits(tmp_path / "d"), "train")
    x = np.zeros((12, 4, 4, 4), np.uint8)
    np.savez(tmp_path / "e.npz", x_train=x, y_train=np.arange(12), x_test=x, y_test=np.arange(12))
    checks.fails(r"images of shape \(12, 4, 4, 4\), not", lambda: read_splits(tmp_path / "e.npz", channels=3), "e.npz")


def test_labels_may_be_missing_where_they_do_not_matter(tmp_path):
    write(tmp_path / "a" / "train", bag=10)
    (tmp_path / "a" / "test").mkdir()
    Image.new("L", (6, 8)).save(tmp_path / "a" / "test" / "0.png")
    assert [len(images) for images, _ in read_splits(tmp_path / "a", labelled=False)[:3]] == [9, 1, 1]
    np.save(tmp_path / "b.npy", np.zeros((20, 4, 4), np.uint8))
    assert [len(images) for images, _ in read_splits(tmp_path / "b.npy", labelled=False)[:3]] == [16, 2, 2]
    checks.fails("20 of 20 images", lambda: read_splits(tmp_path / "b.npy"))


def test_few_labels_in_proportion_and_each_class_once():
    labels = np.repeat([0, 1, 2], [60, 30, 2])
    images = np.arange(92)
    chosen, their = few(images, labels, 31, seed=0)
    np.testing.assert_array_equal(their, labels[chosen])
    assert len(set(chosen)) == 31
    np.testing.assert_allclose(np.bincount(their), [20, 10, 1], atol=1)
    assert sorted(few(images, labels, 3, seed=0)[1]) == [0, 1, 2]
    assert len(few(images, labels, 1000, seed=0)[0]) == 92
    np.testing.assert_array_equal(few(images, labels, 31, seed=0)[0], chosen)
    assert set(few(images, labels, 31, seed=1)[0]) != set(chosen)


def test_one_hot_labels():
    np.testing.assert_array_equal(one_hot([2, 0], 3), [[0, 0, 1], [1, 0, 0]])
    for bad in ([-1, 0], [3]):
        with pytest.raises(UserError, match="labels must be 0 to 2, not"):
            one_hot(bad, 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_augmented_batches_keep_their_labels_and_are_functions_of_seed_and_step(channels):
    images = np.uint8(np.arange(0, 240, 20)[:, None, None] * np.ones((1, 9, 7)))
    images = images if channels == 1 else np.stack([images] * 3, axis=-1)
    labels = np.arange(12)

    def dataset(seed, mix=None, label_smoothing=0.0):
        augmentation = Augmentation(((8, 6),), ("bicubic",), color_jitter=0.0, num_ops=0)
        return labelled_images.batches(images, labels, 4, 12, seed, augmentation, mix, label_smoothing)

    whole = list(dataset(1).dataset())
    assert len(whole) == dataset(1).steps == 3
    for x, y in whole:
        assert x.shape == (4, 8, 6, 3)[: 3 if channels == 1 else 4]
        np.testing.assert_allclose(np.asarray(x).reshape(4, -1).mean(1) * 255 / 20, np.argmax(y, 1), atol=1e-4)
    assert sorted(np.concatenate([np.argmax(y, 1) for _, y in whole])) == list(range(12))
    np.testing.assert_allclose(dataset(1, None, 0.3).batch(0)[1], 0.7 * whole[0][1] + 0.3 / 12, atol=1e-6)
    mix = BatchAugmentation(0.8, 1.0, 0.25)
    checks.close(dataset(1, mix).batch(7), next(iter(dataset(1, mix).dataset(7, 8))), 1e-6)
    assert (dataset(2).batch(0)[0].numpy() != whole[0][0].numpy()).any()
