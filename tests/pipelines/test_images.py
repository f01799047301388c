"""Images of people: folders and NumPy files, their labels, and what is refused."""

import contextlib
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from homl_models.errors import UserError
from homl_models.pipelines import images
from tests import checks

NUMBERED = np.arange(50, dtype=np.uint8)[:, None, None] * np.ones((1, 2, 3), np.uint8)  # image i is all i


def save(path, level=0, shape=(4, 6), **settings):
    """An image file of random pixels, or of one level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(abs(hash(str(path))) % 2**32).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(np.full(shape, level, np.uint8) if level else pixels).save(path, **settings)


def counts(data):
    """How many images each class has, by name."""
    return {name: int((data.labels == i).sum()) for i, name in enumerate(data.classes)}


@pytest.fixture
def folder(tmp_path):
    """12 images of two classes: 6x4, one 12x8, one grey, one with alpha."""
    rng = np.random.default_rng(0)
    for i in range(12):
        sub = tmp_path / ("cats" if i % 2 else "dogs")
        sub.mkdir(exist_ok=True)
        pixels = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((12, 8)) if i == 3 else Image.fromarray(pixels)
        image = image.convert("L") if i == 4 else image.convert("RGBA") if i == 5 else image
        image.save(sub / f"{i:02}.png")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_of_images_with_classes(folder):
    message = "1 of 12 images are not 6x4 as the first: they are cropped and resized; --size"
    with pytest.warns(UserWarning, match=message):
        data = images.read_folder(folder, channels=3)
    assert data.images.shape == (12, 4, 6, 3)
    assert data.images.dtype == np.uint8
    assert data.labels.tolist() == [0] * 6 + [1] * 6
    assert data.classes == ("cats", "dogs")
    np.testing.assert_array_equal(data.images[0], np.asarray(Image.open(folder / "cats" / "01.png")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no warning for sizes that were given, nor for notes.txt
        grey = images.read_folder(folder, (8, 8))
    assert grey.images.shape == (12, 8, 8)
    splits = images.split(images.read(folder, (8, 8)))
    assert [len(x) for x, _ in splits] == [9, 1, 2]
    wanted = {(x.tobytes(), int(y)) for x, y in zip(grey.images, grey.labels)}
    assert {(x.tobytes(), int(y)) for each in splits for x, y in zip(*each)} == wanted


def test_unreadable_images_are_counted_named_and_skipped(folder):
    (folder / "cats" / "01.png").write_bytes(b"not a png")
    whole = (folder / "dogs" / "00.png").read_bytes()
    (folder / "dogs" / "00.png").write_bytes(whole[: len(whole) // 2])
    (folder / "dogs" / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    os.symlink("nowhere.png", folder / "dogs" / "link.png")
    message = r"4 of 14 images cannot be read .*3 \.png, 1 \.heic.*01\.png.*00\.png.*link\.png.*phone\.HEIC"
    with pytest.warns(UserWarning, match=message):
        data = images.read_folder(folder, (4, 6))
    assert len(data.images) == len(data.labels) == 10
    for path in folder.rglob("*.png"):
        path.unlink()
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of the 14 images"):
        images.read_folder(folder)


def test_the_default_size_is_that_of_the_first_readable_image(tmp_path):
    save(tmp_path / "a.png", shape=(9, 7))
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:60])  # it still says that it is 7x9
    for name in "bc":
        save(tmp_path / f"{name}.png", shape=(4, 6))
    with pytest.warns(UserWarning, match="1 of 3 images cannot be read") as warned:
        assert images.read_folder(tmp_path).images.shape == (2, 4, 6)
    assert len(warned) == 1


def test_hidden_files_and_junk_folders_are_skipped(tmp_path):
    for name in ("cat/0.png", "dog/0.png", "dog/.ipynb_checkpoints/0-checkpoint.png", ".thumbs/0.png", "cat/.1.png",
                 "__MACOSX/cat/0.png", "dog/@eaDir/0.png/thumb.jpg"):  # fmt: skip
        save(tmp_path / name)
    (tmp_path / "cat" / "._0.png").write_bytes(b"\0\5\x16\7")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert counts(images.read_folder(tmp_path)) == {"cat": 1, "dog": 1}
    assert len(images.read_folder(tmp_path / ".thumbs").images) == 1  # unless it is asked for


def test_files_are_recognized_by_their_content(tmp_path):
    for name in ("a.PNG", "a.jfif", "a.jpe", "a.tif", "a.ppm", "a", "a.bin"):
        kind = {"": "PNG", ".bin": "BMP", ".jfif": "JPEG"}.get(Path(name).suffix)
        save(tmp_path / name, format=kind)
    for name in ("labels.csv", "read.me", "a.json"):
        (tmp_path / name).write_text("file,class\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(images.read_folder(tmp_path).images) == 7


def test_links_are_followed_and_cycles_are_not(tmp_path):
    for name in ("store/cat/0.png", "store/dog/0.png", "store/dog/young/1.png"):
        save(tmp_path / name)
    os.symlink(".", tmp_path / "store" / "cat" / "again")
    os.symlink("..", tmp_path / "store" / "dog" / "up")
    (tmp_path / "links").mkdir()
    for name in ("cat", "dog"):
        os.symlink(f"../store/{name}", tmp_path / "links" / name)
    os.symlink("store", tmp_path / "root")
    os.symlink("0.png", tmp_path / "store" / "cat" / "same.png")
    for name in ("links", "root"):
        assert counts(images.read_folder(tmp_path / name)) == {"cat": 2, "dog": 2}


def test_folders_below_a_class_belong_to_it(tmp_path):
    for name in ("cat/young/0.png", "cat/old/very/1.png", "cat/2.png", "dog/big/0.png", "dog/small/0.png"):
        save(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.warns(UserWarning, match="subfolders without images, which are no classes: empty"):
        data = images.read_folder(tmp_path)
    assert counts(data) == {"cat": 3, "dog": 2}


def test_class_names_are_sorted_naturally(tmp_path):
    for i in range(12):
        save(tmp_path / "plain" / str(i) / "0.png", 20 * i + 1)
        save(tmp_path / "worded" / f"class{i}" / "0.png", 20 * i + 1)
    for name in ("plain", "worded"):
        data = images.read_folder(tmp_path / name)
        assert [int(x[0, 0]) // 20 for x in data.images[np.argsort(data.labels)]] == list(range(12))
        assert [int(n.removeprefix("class")) for n in data.classes] == list(range(12))


def test_class_names_are_normalized_and_can_be_saved(tmp_path):
    """Decomposed, as macOS may give them; and bytes that are not UTF-8, as other systems allow them."""
    save(tmp_path / "train" / "caf\u00e9" / "0.png")
    save(tmp_path / "test" / "cafe\u0301" / "0.png")
    assert images.read_folder(tmp_path / "train").classes == images.read_folder(tmp_path / "test").classes
    with contextlib.suppress(OSError):  # of a system that does not allow them
        save(tmp_path / "latin" / os.fsdecode(b"caf\xe9") / "0.png")
        assert images.read_folder(tmp_path / "latin").classes == ("caf\ufffd",)


def test_images_beside_the_classes_have_no_label(tmp_path):
    save(tmp_path / "cat" / "0.png")
    save(tmp_path / "loose.png")
    data = images.read_folder(tmp_path)
    assert (data.labels.tolist(), data.classes) == ([0, images.NO_LABEL], ("cat",))


@pytest.mark.parametrize("names", [("train", "val"), ("Training", "TEST", "more"), ("train",)])
def test_splits_are_no_classes(names, tmp_path):
    for name in names:
        for kind in ("cat", "dog"):
            save(tmp_path / name / kind / "0.png")
    checks.fails("which are no classes", lambda: images.read_folder(tmp_path), names[0])
    assert counts(images.read_folder(tmp_path / names[0])) == {"cat": 1, "dog": 1}


def test_a_class_may_be_called_like_a_split(tmp_path):
    for name in ("car", "plane", "train"):
        save(tmp_path / name / "0.png")
    assert images.read_folder(tmp_path).classes == ("car", "plane", "train")


def test_folders_with_too_few_images_are_refused(tmp_path):
    with pytest.raises(UserError, match="holds no image"):
        images.read_folder(tmp_path)
    save(tmp_path / "one.png")
    data = images.read(tmp_path)
    assert (data.labels.tolist(), data.classes) == ([images.NO_LABEL], ())
    with pytest.raises(UserError, match="the data has 1 images; at least 10"):
        images.split(data)
    checks.fails("cannot read .*nowhere", lambda: images.read(tmp_path / "nowhere"), "No such file")


def test_arrays_are_read_from_numpy_files(tmp_path):
    np.save(tmp_path / "a.npy", NUMBERED[..., None])
    np.savez(tmp_path / "b.npz", images=NUMBERED, labels=np.arange(50))
    np.savez(tmp_path / "c.npz", NUMBERED / 255)
    for name, labels in (("a.npy", [images.NO_LABEL] * 50), ("b.npz", list(range(50)))):
        found = images.read_array(tmp_path / name)
        np.testing.assert_array_equal(found.images, NUMBERED)
        assert (found.labels.tolist(), found.classes) == (labels, ())
    checks.close(images.read_array(tmp_path / "c.npz").images, NUMBERED / 255)
    assert [len(x) for x, _ in images.split(images.read(tmp_path / "a.npy"))] == [40, 5, 5]


@pytest.mark.parametrize(
    ("name", "labels"), [("x", "y"), ("x_train", "y_train"), ("X", "label"), ("images", "y"), ("data", "targets")]
)
def test_a_single_array_of_images_may_have_any_name(name, labels, tmp_path):
    np.savez(tmp_path / "a.npz", **{name: NUMBERED, labels: np.arange(50) % 3, "size": np.array([2, 3])})
    found = images.read_array(tmp_path / "a.npz")
    np.testing.assert_array_equal(found.images, NUMBERED)
    assert found.labels.tolist() == [i % 3 for i in range(50)]


COLOUR = np.zeros((3, 4, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("array", "channels", "message"),
    [
        (NUMBERED / 10.0, 1, "must lie in"),
        (np.full((3, 2, 2), np.nan), 1, "must lie in"),
        (NUMBERED.astype(int), 1, "bytes or floats, not int64"),
        (NUMBERED[0], 1, r"must be \(n, h, w\)"),
        (NUMBERED[:0], 1, r"must be \(n, h, w\)"),
        (NUMBERED[:, :0], 1, r"must be \(n, h, w\)"),
        (COLOUR, 1, r"shape \(3, 4, 5, 3\), not \(n, h, w\); give --channels 3"),
        (NUMBERED, 3, r"shape \(50, 2, 3\), not \(n, h, w, 3\); give --channels 1"),
        (COLOUR[..., :2], 3, r"shape \(3, 4, 5, 2\), not \(n, h, w, 3\)$"),
        (np.zeros((3, 3, 9, 8), np.uint8), 3, r"\(3, 3, 9, 8\), not \(n, h, w, 3\): its channels come first"),
        (np.zeros((3, 1, 9, 8), np.uint8), 1, r"\(3, 1, 9, 8\), not \(n, h, w\): its channels come first"),
        (np.array(["a", "b"], object), 1, "cannot read"),
        (np.array(["a", "b"]), 1, r"must be \(n, h, w\)"),
    ],
)
def test_arrays_that_are_not_images_are_refused(array, channels, message, tmp_path):
    np.save(tmp_path / "bad.npy", array)
    checks.fails(message, lambda: images.read_array(tmp_path / "bad.npy", channels=channels), "bad.npy")


def test_damaged_or_ambiguous_files_are_refused(tmp_path):
    np.savez(tmp_path / "whole.npz", images=NUMBERED)
    (tmp_path / "half.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:300])
    np.save(tmp_path / "vast.npy", NUMBERED)
    vast = (tmp_path / "vast.npy").read_bytes().replace(b"(50, 2, 3)", b"(2**50, 2)"[:10])
    (tmp_path / "vast.npy").write_bytes(vast)
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04")
    for name in ("bad.npz", "missing.npy", "half.npz", "vast.npy"):
        checks.fails("cannot read", lambda name=name: images.read_array(tmp_path / name), name)
    np.savez(tmp_path / "two.npz", x_train=NUMBERED, x_test=NUMBERED)
    message = r"x_train \(50, 2, 3\), x_test \(50, 2, 3\): save the array to use as `images`"
    checks.fails(message, lambda: images.read_array(tmp_path / "two.npz"), "two.npz")
    np.savez(tmp_path / "none.npz")
    checks.fails("has nothing", lambda: images.read_array(tmp_path / "none.npz"))
    np.save(tmp_path / "size.npy", NUMBERED)
    checks.fails(r"not \(n, 4, 4\)", lambda: images.read_array(tmp_path / "size.npy", (4, 4)), "resized")


LABELS = np.arange(50) % 3


@pytest.mark.parametrize(
    "given",
    [LABELS, LABELS[:, None], LABELS.astype(float), np.uint8(LABELS), LABELS[:, None].astype("float16")],
)
def test_labels_are_whole_numbers_in_a_row_or_a_column(given, tmp_path):
    np.savez(tmp_path / "a.npz", images=NUMBERED, labels=given)
    found = images.read_array(tmp_path / "a.npz")
    assert (found.labels.tolist(), found.classes) == (LABELS.tolist(), ())
    assert found.labels.dtype == np.int32


@pytest.mark.parametrize("kind", ["U3", "S3"])
def test_labels_may_be_names(kind, tmp_path):
    names = np.array(["eel", "cat", "dog"])[LABELS].astype(kind)
    for given in (names, names[:, None]):
        np.savez(tmp_path / "a.npz", images=NUMBERED, labels=given)
        found = images.read_array(tmp_path / "a.npz")
        assert found.classes == ("cat", "dog", "eel")
        assert [found.classes[i] for i in found.labels[:3]] == ["eel", "cat", "dog"]
    np.savez(tmp_path / "latin.npz", images=NUMBERED[:2], labels=np.array([b"caf\xe9", b"tea"]))
    assert images.read_array(tmp_path / "latin.npz").classes == ("caf\ufffd", "tea")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (LABELS[:40], r"labels of shape \(40,\), not \(50,\)"),
        (np.eye(3)[LABELS], r"labels of shape \(50, 3\).*labels.argmax\(1\)"),
        (LABELS + 0.5, "neither whole numbers nor names"),
        (np.where(LABELS, LABELS, np.nan), "neither whole numbers nor names"),
        (np.where(LABELS, LABELS, np.inf), "neither whole numbers nor names"),
        (LABELS - 1, "labels from -1 to 1"),
        (LABELS * 10**6, "labels from 0 to 2000000"),
        (LABELS * 1j, "neither whole numbers nor names"),
        (np.array(5), r"labels of shape \(\)"),
    ],
)
def test_other_labels_are_refused(given, message, tmp_path):
    np.savez(tmp_path / "a.npz", images=NUMBERED, labels=given)
    checks.fails(message, lambda: images.read_array(tmp_path / "a.npz"), "a.npz")


def data_of(*classes, labels=None):
    labels = np.arange(len(classes)) if labels is None else np.array(labels)
    return images.Images(NUMBERED[: len(labels)], labels, classes)


def test_classes_are_matched_by_their_names():
    names, mixed = ("dark", "light", "middle"), data_of("middle", "dark", labels=[1, 0, 0, -1])
    assert images.match_labels(data_of("light", "middle"), names, 3).labels.tolist() == [1, 2]
    assert images.match_labels(mixed, names, 3).labels.tolist() == [0, 2, 2, -1]
    assert images.match_labels(data_of("5", "10"), ("2", "5", "10"), 3).labels.tolist() == [1, 2]
    checks.fails(
        "does not know: grey; it has dark, light", lambda: images.match_labels(data_of("grey"), names, 3, "new"), "new"
    )
    assert images.match_labels(data_of(labels=[2, 0]), names, 3).labels.tolist() == [2, 0]
    checks.fails(
        "labels up to 3; the model's classes are 0 to 2", lambda: images.match_labels(data_of(labels=[3]), names, 3)
    )


def test_without_names_classes_are_matched_by_their_numbers():
    assert images.match_labels(data_of("7", "8"), (), 10).labels.tolist() == [7, 8]
    assert images.match_labels(data_of("1", "0"), ("cat", "dog"), 2).labels.tolist() == [1, 0]
    assert images.match_labels(data_of("cat", "dog"), (), 2).labels.tolist() == [0, 1]
    checks.fails(
        "does not know: cat, dog; it has 10 without names", lambda: images.match_labels(data_of("cat", "dog"), (), 10)
    )
    checks.fails("does not know: 3", lambda: images.match_labels(data_of("3"), ("1", "2", "4", "5"), 4))
