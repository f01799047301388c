"""`python -m homl_models.upscale`: files and folders in and out, and the lines of what cannot be."""

import numpy as np
import pytest
from PIL import Image

from homl_models import predict, upscale
from homl_models.models.srvgg import SRVGGNetCompact
from homl_models.training.saved_model import write_saved_model
from tests.test_commands import output, refusal


@pytest.fixture(scope="module")
def network():
    model = SRVGGNetCompact(scale=2, filters=4, num_convs=1)
    model.build()
    return model


@pytest.fixture(scope="module")
def model(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "model.keras"
    network.save(path)
    return path


@pytest.fixture
def photo(tmp_path):
    return saved(tmp_path / "photo.png", 12, 9, 3)


def saved(path, *shape, dtype="uint8", seed=0, **settings):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape).astype(dtype)).save(path, **settings)
    return path


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def leftovers(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_a_photograph_in_and_a_photograph_out(model, network, photo, tmp_path, capsys):
    assert output(capsys, model, photo, "--out", tmp_path / "big.png", main=upscale.main) == ""
    np.testing.assert_array_equal(read(tmp_path / "big.png"), network.upscale(read(photo)))
    flags = "--tile", 8, "--overlap", 2, "--outscale", 1.5, "--precision", "mixed_bfloat16"
    output(capsys, model, "upscale", photo, "--out", tmp_path / "other.webp", *flags)  # predict is the same command
    half = network.with_precision("mixed_bfloat16")
    expected = half.upscale(read(photo), tile=8, overlap=2, outscale=1.5, progress=False)
    np.testing.assert_array_equal(read(tmp_path / "other.webp"), expected)
    assert expected.shape == (18, 14, 3)


def test_orientation_is_applied_and_alpha_16_bits_and_the_profile_are_kept(model, network, tmp_path, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = saved(tmp_path / "alpha.png", 12, 9, 4, exif=exif, icc_profile=b"profile")
    output(capsys, model, alpha, "--out", tmp_path / "a.png", main=upscale.main)
    upright = np.rot90(read(alpha), -1)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), network.upscale(upright))
    with Image.open(tmp_path / "a.png") as image:
        assert image.info["icc_profile"] == b"profile"
    deep = saved(tmp_path / "deep.png", 12, 9, dtype="uint16")
    output(capsys, model, deep, "--out", tmp_path / "d.png", main=upscale.main)
    np.testing.assert_array_equal(read(tmp_path / "d.png"), network.upscale(read(deep)))


def test_a_folder_in_and_a_folder_out(model, tmp_path, capsys):
    for i, name in enumerate(("a.jpg", "sub/b.webp", "c.gif")):
        saved(tmp_path / "photos" / name, 5 + i, 6, 3)
    (tmp_path / "photos" / "notes.txt").write_text("not an image")
    out = tmp_path / "new" / "large"
    status = upscale.main([str(model), str(tmp_path / "photos"), "--out", str(out)])
    assert status == 0
    assert capsys.readouterr().err == f"{tmp_path / 'photos'}: 1 files that are not images are left out\n"
    assert {str(p.relative_to(out)): read(p).shape for p in out.rglob("*.png")} == {
        "a.png": (10, 12, 3), "sub/b.png": (12, 12, 3), "c.png": (14, 12, 3),
    }  # fmt: skip


def test_of_many_images_the_damaged_are_said_and_the_others_enlarged(model, photo, tmp_path, capsys):
    (tmp_path / "damaged.png").write_bytes(photo.read_bytes()[:60])
    out = tmp_path / "out"
    status = upscale.main(
        [str(model), str(tmp_path / "damaged.png"), str(photo), "--out", str(out), "--format", ".jpg"]
    )
    assert status == 2
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: cannot read {tmp_path / 'damaged.png'} as an image (")
    assert last == "error: 1 of 2 images could not be enlarged, for the reasons above"
    assert leftovers(out) == ["photo.jpg"]


def content(kind, photo):
    return {"no image": b"text", "empty": b"", "truncated": photo.read_bytes()[:-40]}[kind]


@pytest.mark.parametrize("kind", ["no image", "empty", "truncated"])
def test_a_file_that_is_no_image_is_one_line_and_nothing_is_written(kind, model, photo, tmp_path, capsys):
    (tmp_path / "x.png").write_bytes(content(kind, photo))
    message = refusal(capsys, model, tmp_path / "x.png", "--out", tmp_path / "out" / "big.png", main=upscale.main)
    assert f"cannot read {tmp_path / 'x.png'} as an image (" in message
    assert not (tmp_path / "out").exists()


def test_what_is_changed_or_lost_is_said(model, tmp_path, capsys):
    first = Image.fromarray(np.uint8(np.arange(60).reshape(6, 10)))
    first.save(tmp_path / "x.gif", save_all=True, append_images=[first.rotate(180), first])
    first.convert("CMYK").save(tmp_path / "x.jpg")
    deep = saved(tmp_path / "deep.png", 6, 10, dtype="uint16")
    for source, target, words in (
        (tmp_path / "x.gif", "gif.png", "holds 3 images: the first is taken"),
        (tmp_path / "x.jpg", "cmyk.png", "is CMYK: its colours become RGB without a profile"),
        (deep, "deep.jpg", "loses 8 of 16 bits in deep.jpg; a .png keeps it"),
    ):
        assert upscale.main([str(model), str(source), "--out", str(tmp_path / target)]) == 0
        assert capsys.readouterr().err == f"{source} {words}\n"
        assert read(tmp_path / target).shape[:2] == (12, 20)


def test_what_is_stopped_leaves_nothing(model, photo, tmp_path, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(SRVGGNetCompact, "enlarge_array", stop)
    assert upscale.main([str(model), str(photo), "--out", str(tmp_path / "big.png")]) == 130
    assert capsys.readouterr().err == "stopped; the image in work is not written\n"
    assert leftovers(tmp_path) == ["photo.png"]


REFUSED = [
    (["gone.png", "--out", "x.png"], "cannot read gone.png: there is no such file"),
    (["PHOTO", "--out", "x.gif"], "images cannot be written to x.gif"),
    (["PHOTO", "--out", "PHOTO"], "it is the image itself"),
    (["PHOTO"], "--out"),
    (["--out", "x.png"], "IMAGE"),
    (["PHOTO", "--out", "x.png", "--tile", "-3"], "tile must be a whole number"),
    (["PHOTO", "--out", "x.png", "--tile", "8", "--overlap", "9"], "overlap must be below the tile's 8 pixels"),
    (["PHOTO", "--out", "x.png", "--outscale", "0"], "outscale must be a number above 0"),
    (["PHOTO", "--out", "x.png", "--precision", "float8"], "--precision"),
    (["EMPTY", "--out", "x"], "holds no images"),
    (["PHOTO", "PHOTO", "--out", "x"], "would both be written to x/photo.png"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_what_cannot_work_is_refused_before_anything_is_done(
    words, message, model, photo, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    words = [{"PHOTO": str(photo), "EMPTY": "empty"}.get(word, word) for word in words]
    assert message in refusal(capsys, model, *words, main=upscale.main)
    assert leftovers(tmp_path) == ["photo.png"]


def test_a_model_that_does_not_enlarge_is_refused(exported, photo, tmp_path, capsys):
    run = exported("char_rnn_tiny")
    assert "CharRNN, which does not enlarge images" in refusal(
        capsys, run, photo, "--out", tmp_path / "x.png", main=upscale.main
    )


def test_predict_enlarges_by_a_saved_model_alone(network, photo, tmp_path, capsys):
    write_saved_model(network, tmp_path / "saved")
    output(capsys, tmp_path / "saved", "upscale", photo, "--out", tmp_path / "big.png", main=predict.main)
    np.testing.assert_allclose(np.int32(read(tmp_path / "big.png")), network.upscale(read(photo)), atol=1)
