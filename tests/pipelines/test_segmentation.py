"""Cut-outs pasted on photographs: masks against the colours of the image; reading of cut-outs; bad input."""

import numpy as np
import pytest
from PIL import Image

from homl_models.errors import UserError
from homl_models.pipelines import segmentation
from homl_models.pipelines.image_datasets import digits
from homl_models.pipelines.images import Images
from homl_models.pipelines.segmentation import IGNORED, Pasting, batches, digit_cutouts, read_cutouts, with_borders
from tests import checks

COLORS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)  # of the background and the classes


def cutouts(size=16):
    """Discs, each class in its colour."""
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    alpha = np.uint8(255 * (rows**2 + columns**2 < size**2 / 4))
    images = np.stack([np.dstack([*(np.full_like(alpha, level) for level in color), alpha]) for color in COLORS[1:]])
    return Images(images, np.arange(3, dtype=np.int32), ("red", "green", "blue"))


PHOTOGRAPHS = np.zeros((2, 70, 90, 3), np.uint8)


def test_the_mask_is_what_the_image_shows():
    pasting = Pasting((48, 64), objects=(2, 5))
    dataset = batches(PHOTOGRAPHS, cutouts(), 40, pasting, steps=1, seed=2)
    images, masks = (x.numpy() for x in dataset.batch(0))
    assert images.shape == (40, 48, 64, 3)
    assert images.dtype == np.float32
    assert masks.shape == (40, 48, 64)
    assert masks.dtype == np.int32
    assert set(np.unique(masks)) == {0, 1, 2, 3, IGNORED}
    known = masks != IGNORED
    wrong = np.abs(images[known] - COLORS[masks[known]] / 255).max(-1) > 0.05
    assert wrong.mean() < 1e-4  # where edges of several meet
    assert 0.5 < (masks == 0).mean() < 0.95
    assert 0.01 < (~known).mean() < 0.2
    assert segmentation.class_names(cutouts()) == ("background", "red", "green", "blue")


def test_borders_lie_between_different_classes():
    mask = np.zeros((8, 9), np.uint8)
    mask[2:6, 3:7] = 1
    mask[2:6, 5:7] = 2
    found = with_borders(mask, 1)
    assert (found[1:7, 2:8] == IGNORED).sum() == 6 * 6  # on both sides of each border
    assert (found[[0, -1]] == 0).all()
    assert (found[:, [0, 1, -1]] == 0).all()
    np.testing.assert_array_equal(with_borders(mask, 0), mask)
    wide = np.kron(mask, np.ones((5, 5), np.uint8))
    assert with_borders(wide, 2)[20, 15:25].tolist() == [IGNORED] * 2 + [1] * 6 + [IGNORED] * 2


def test_numbers_and_sizes_of_cut_outs():
    alone = cutouts()
    alone = Images(alone.images[:1], alone.labels[:1], ("red",))
    empty, one = (
        batches(PHOTOGRAPHS, alone, 60, Pasting((40, 40), (n, n), (0.5, 0.5), border=0), 1, seed=3).batch(0)[1]
        for n in (0, 1)
    )
    assert (empty.numpy() == 0).all()
    areas = (one.numpy() == 1).sum((1, 2))
    np.testing.assert_allclose(areas, np.pi * 10**2, rtol=0.06)  # discs of 20 pixels
    rows = (one.numpy() == 1).any(2).argmax(1)
    assert (rows.min(), rows.max()) == (0, 20)


def test_a_batch_is_a_function_of_seed_and_step():
    photographs = [np.full((n, 2 * n), 3 * n, np.uint8) for n in (5, 30, 80)]  # grey, some smaller than the crop

    def dataset(seed):
        return batches(photographs, cutouts(), 3, Pasting((24, 32)), steps=5, seed=seed)

    whole = list(dataset(1).dataset())
    checks.close(next(iter(dataset(1).dataset(3, 4))), whole[3], 0)
    checks.close(dataset(1).batch(3), whole[3], 0)
    assert len({images.numpy().tobytes() for images, _ in whole}) == 5
    assert (dataset(2).batch(0)[0].numpy() != whole[0][0].numpy()).any()
    backgrounds = {round(255 * float(v)) for x, y in whole for v in x.numpy()[y.numpy() == 0][:, 0]}
    assert backgrounds == {15, 90, 240}


def test_cut_outs_of_folders_and_of_tables(tmp_path):
    discs = cutouts()
    for name, image in zip(discs.classes, discs.images):
        (tmp_path / "a" / name).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / "a" / name / "0.png")
    found = read_cutouts(tmp_path / "a")
    assert found.classes == ("blue", "green", "red")
    np.testing.assert_array_equal(found.images, discs.images[::-1])
    found = read_cutouts(tmp_path / "a", classes=("red", "blue"))
    assert found.classes == ("red", "blue")
    np.testing.assert_array_equal(found.images[found.labels == 0], discs.images[:1])
    (tmp_path / "b" / "images").mkdir(parents=True)
    rows = [f"{i}.png,{kind}" for i, kind in enumerate(["fruit", "animal", "fruit"])]
    (tmp_path / "b" / "captions.csv").write_text("\n".join(["file,category", *rows]))
    for i, image in enumerate(discs.images):
        Image.fromarray(image).save(tmp_path / "b" / "images" / f"{i}.png")
    found = read_cutouts(tmp_path / "b", (8, 8))
    assert found.classes == ("animal", "fruit")
    assert found.labels.tolist() == [1, 0, 1]
    assert found.images.shape == (3, 8, 8, 4)
    checks.fails(
        "has no images of vehicle; it has animal, fruit",
        lambda: read_cutouts(tmp_path / "b", classes=("vehicle",)),
        "b",
    )


def test_emoji(shared_data):
    kinds = "Smileys & Emotion", "Food & Drink"
    found = read_cutouts(shared_data / "noto_emoji64", (32, 32), classes=kinds)
    assert np.bincount(found.labels).tolist() == [154, 123]
    assert segmentation.class_names(found) == ("background", *kinds)


def test_digits_are_cut_out_by_their_levels():
    images, labels = digits()[1]
    found = digit_cutouts(images, labels)
    np.testing.assert_allclose(found.images[..., 3] / 255, images, atol=0.5 / 255)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.classes == tuple("0123456789")
    assert len(np.unique(found.images[:, 0, 0, :3], axis=0)) > 150


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((3, 9, 9, 3), np.uint8)}, r"must be bytes \(n, h, w, 4\) with transparency"),
        ({"images": np.full((3, 9, 9, 4), 255, np.uint8)}, "have no transparency"),
        ({"labels": np.array([0, -1, 1])}, "have no classes; give each class a folder"),
        ({"labels": np.array([0, 1, 254])}, "have 255 classes; a mask holds 254"),
    ],
)
def test_bad_cut_outs_are_refused(change, message):
    data = vars(cutouts()) | change
    with pytest.raises(UserError, match=message):
        batches(PHOTOGRAPHS, Images(**data), 2, Pasting((8, 8)), 1, 0)


def test_other_bad_input_is_refused(tmp_path):
    checks.fails("there is no such folder; give a folder of cut-outs", lambda: read_cutouts(tmp_path / "no"), "no")
    Image.fromarray(cutouts().images[0]).save(tmp_path / "0.png")
    checks.fails("have no classes; give each class a folder of its own", lambda: read_cutouts(tmp_path))
    with pytest.raises(UserError, match="these have 4 channels"):
        batches(np.zeros((2, 9, 9, 4), np.uint8), cutouts(), 2, Pasting((8, 8)), 1, 0)
    for settings in ({"size": (0, 8)}, {"objects": (3, 1)}, {"border": -1}, {"scale": (0.5, 0.1)}):
        with pytest.raises(UserError, match="of pasted cut-outs"):
            Pasting(**settings)
