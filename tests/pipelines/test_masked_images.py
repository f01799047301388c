"""Masked images: two views of a crop and a mask, of images that say where a pixel comes from."""

import numpy as np
import pytest

from homl_models.errors import UserError
from homl_models.pipelines.image_augmentation import Augmentation
from homl_models.pipelines.masked_images import batches, eval_batches, patch_grid
from tests import checks

SMOOTH = Augmentation(flip=0.0, color_jitter=0.0, scale=(0.5, 1.0))


def ramps(*sizes, channels=3):
    """Red counts rows, green columns and blue images."""
    images = []
    for i, (height, width) in enumerate(sizes):
        rows, columns = np.mgrid[:height, :width]
        image = np.uint8(np.stack([rows, columns, np.full_like(rows, i)], axis=-1))
        images.append(image if channels == 3 else image[..., 0])
    return images


def test_both_views_are_of_the_same_crop():
    images = ramps(*[(100, 120)] * 6)
    batch = batches(images, 6, (32, 48), 8, seed=1, augmentation=SMOOTH).batch(0)
    first, second, mask = (batch[name].numpy() for name in ("images", "token_images", "bool_masked_pos"))
    assert first.shape == (6, 32, 48, 3)
    assert second.shape == (6, 16, 24, 3)
    assert first.dtype == second.dtype == np.float32
    assert sorted(np.round(255 * first[:, 0, 0, 2])) == list(range(6))
    halved = first.reshape(6, 16, 2, 24, 2, 3).mean((2, 4))
    np.testing.assert_allclose(second[:, 1:-1, 1:-1], halved[:, 1:-1, 1:-1], atol=1.5 / 255)
    assert mask.shape == (6, 4, 6)
    assert mask.dtype == bool
    assert (mask.sum((1, 2)) == 9).all()  # 0.4 of 24
    assert len({m.tobytes() for m in mask}) > 1
    assert [row.tolist() for row in batch["masked_positions"].numpy()] == [np.flatnonzero(m).tolist() for m in mask]


def test_every_image_once_in_a_pass():
    dataset = batches(ramps(*[(9, 9)] * 12), 4, (8, 8), 4, seed=1, augmentation=SMOOTH)
    assert dataset.steps == 3
    for first in (0, 3):
        found = [np.round(255 * dataset.batch(step)["images"].numpy()[:, 0, 0, 2]) for step in range(first, first + 3)]
        assert sorted(np.concatenate(found)) == list(range(12))


def test_grey_images_with_an_axis_of_channels():
    images = ramps((33, 17), (20, 40), channels=1)
    expected = batches(images, 2, (16, 24), 8, seed=1).batch(0)
    found = batches([image[..., None] for image in images], 2, (16, 24), 8, seed=1).batch(0)
    for name in ("images", "token_images"):
        checks.close(found[name], expected[name][..., None], 0)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_is_a_function_of_seed_and_step(channels):
    images = ramps((33, 17), (5, 4), (20, 40), (1, 1), channels=channels)  # of other sizes, and smaller than the crop

    def dataset(seed):
        return batches(images, 3, (16, 24), 8, seed, token_size=(6, 9), masked=0.5)

    whole = list(dataset(3).dataset(0, 4))
    checks.close(next(iter(dataset(3).dataset(2, 3))), whole[2], 0)
    checks.close(dataset(3).batch(3), whole[3], 0)
    assert whole[0]["token_images"].shape == (3, 6, 9, 3)[: 4 if channels == 3 else 3]
    assert (np.sum(whole[0]["bool_masked_pos"], (1, 2)) == 3).all()
    assert len({batch["images"].numpy().tobytes() for batch in whole}) == 4
    assert (dataset(4).batch(0)["images"].numpy() != whole[0]["images"].numpy()).any()


def test_floats_become_bytes():
    floats = np.random.default_rng(0).uniform(size=(4, 8, 8)).astype("float32")
    bytes_ = np.uint8(np.round(255 * floats))
    checks.close(*(batches(x, 2, (8, 8), 4, seed=1).batch(0) for x in (floats, bytes_)))


@pytest.mark.parametrize("channels", [1, 3])
def test_evaluation_has_each_image_once_with_the_same_mask_for_every_size_of_batches(channels):
    images = ramps(*[(20 + i, 30) for i in range(7)], channels=channels)
    images = [image[..., None] if channels == 1 else image for image in images]
    found = [
        [np.concatenate(parts) for parts in zip(*(map(np.asarray, batch.values()) for batch in dataset.dataset()))]
        for dataset in (eval_batches(images, n, (16, 16), 4, 1) for n in (3, 7))
    ]
    checks.close(*found, 0)
    views, halves, masks, positions = found[0]
    assert views.shape == (7, 16, 16, channels)
    assert halves.shape == (7, 8, 8, channels)
    np.testing.assert_allclose(views[:, [0, -1], 8, 0].mean(1) * 255, [(19 + i) / 2 for i in range(7)], atol=0.6)
    assert (masks.sum((1, 2)) == 6).all()
    assert len({mask.tobytes() for mask in masks}) > 4
    assert [row.tolist() for row in positions] == [np.flatnonzero(mask).tolist() for mask in masks]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": (30, 32)}, "patches of 8 pixels do not fill images of 32x30; take a size that they divide"),
        ({"patch": 0}, "patches of 0 pixels do not fill images of 32"),
        ({"patch": 64}, "patches of 64 pixels do not fill images of 32"),
        ({"masked": 1.5}, "1.5 of 4x4 patches cannot be masked"),
        (
            {"images": np.zeros((2, 9, 9, 4), np.uint8)},
            "images must all have 1 channel or all 3; these have 4 channels",
        ),
        ({"images": ramps((9, 9)) + ramps((9, 9), channels=1)}, "these have 1 and 3 channels"),
        ({"images": np.zeros((0, 9, 9), np.uint8)}, "these have no channels"),
    ],
)
def test_bad_input_is_refused_in_a_line(settings, message):
    with pytest.raises(UserError, match=message) as error:
        batches(**{"images": ramps((9, 9)), "batch_size": 2, "size": (32, 32), "patch": 8, "seed": 0} | settings)
    assert "\n" not in str(error.value)


def test_the_grid_of_beit():
    assert patch_grid((224, 224), 16) == (14, 14)
    assert patch_grid((64, 96), 8) == (8, 12)
