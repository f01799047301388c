"""Image files with all that they hold, and what is said of the rest."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from homl_models.pipelines.image_levels import read_levels
from tests import checks
from tests.pipelines.test_image_files import STORED, UPRIGHT, cutout

DEEP = np.linspace(0, 65535, 5 * 7 * 4).reshape(5, 7, 4).astype(np.uint16)


def png(pixels, colour_type):
    """A PNG file of 16 bits, unfiltered."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("channels", "colour_type"), [(1, 0), (2, 4), (3, 2), (4, 6)])
def test_16_bits_of_a_png_are_kept(channels, colour_type, tmp_path):
    (tmp_path / "x.png").write_bytes(png(DEEP[..., :channels], colour_type))
    found = read_levels(tmp_path / "x.png")
    assert found.pixels.dtype == np.uint16
    np.testing.assert_array_equal(found.pixels.reshape(5, 7, channels), DEEP[..., :channels])
    assert not found.notes


def test_16_bits_of_grey_tiff_and_floats_are_kept(tmp_path):
    Image.fromarray(DEEP[..., 0]).save(tmp_path / "x.tif")
    np.testing.assert_array_equal(read_levels(tmp_path / "x.tif").pixels, DEEP[..., 0])
    Image.fromarray(np.float32(DEEP[..., 0] / 65535)).save(tmp_path / "f.tif")
    np.testing.assert_allclose(read_levels(tmp_path / "f.tif").pixels, DEEP[..., 0], atol=1)
    Image.fromarray(DEEP[..., 0]).save(tmp_path / "x.png", transparency=int(DEEP[2, 3, 0]))
    alpha = read_levels(tmp_path / "x.png").pixels[..., 1]
    assert alpha[2, 3] == 0
    assert (alpha == 65535).sum() == alpha.size - 1


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied(orientation, suffix, tmp_path):
    exif, transpose = Image.Exif(), STORED[orientation]
    exif[0x0112] = orientation
    image = Image.fromarray(UPRIGHT)
    image = image if transpose is None else image.transpose(transpose)
    image.save(tmp_path / f"photo{suffix}", exif=exif, quality=100)
    found = np.float64(read_levels(tmp_path / f"photo{suffix}").pixels)
    assert found.shape == UPRIGHT.shape
    assert np.abs(found - UPRIGHT).mean() < 3


def colour():
    return cutout((1, 2, 3)).convert("RGB")


MODES = {  # how an image is made and saved, and its channels
    "RGBA": (lambda: cutout((1, 2, 3)), {}, 4),
    "LA": (lambda: cutout((1, 2, 3)).convert("LA"), {}, 2),
    "RGB": (colour, {}, 3),
    "a transparent colour": (colour, {"transparency": (1, 2, 3)}, 4),
    "L": (lambda: colour().convert("L"), {}, 0),
    "1": (lambda: colour().convert("1"), {}, 0),
    "a palette": (lambda: colour().quantize(4), {}, 3),
    "a palette with a transparent colour": (lambda: colour().quantize(4), {"transparency": 1}, 4),
}


@pytest.mark.parametrize("mode", MODES)
def test_channels_are_those_of_the_file(mode, tmp_path):
    make, settings, channels = MODES[mode]
    make().save(tmp_path / "x.png", **settings)
    found = read_levels(tmp_path / "x.png").pixels
    assert found.dtype == np.uint8
    assert found.shape == (8, 8, channels)[: 3 if channels else 2]
    if channels > 2:
        np.testing.assert_allclose(found[4, 4, :3], (200, 60, 30), atol=2)
    if "transparent" in mode or mode == "RGBA":
        assert (found[0, 0, 3], found[4, 4, 3]) == (0, 255)


def test_what_is_changed_is_said_and_a_profile_is_kept(tmp_path):
    photo = Image.fromarray(np.uint8(DEEP[..., :3] >> 8))
    photo.convert("CMYK").save(tmp_path / "x.jpg", icc_profile=b"of CMYK")
    found = read_levels(tmp_path / "x.jpg")
    assert (found.pixels.shape, found.profile) == ((5, 7, 3), None)
    assert "is CMYK" in found.notes[0]
    photo.save(tmp_path / "x.png", icc_profile=b"of RGB")
    assert read_levels(tmp_path / "x.png").profile == b"of RGB"
    photo.save(tmp_path / "x.gif", save_all=True, append_images=[photo.rotate(180), photo])
    found = read_levels(tmp_path / "x.gif")
    assert found.notes == ("holds 3 images: the first is taken",)
    assert np.abs(found.pixels[..., :3] - np.float64(photo)).mean() < 10


def test_what_is_no_image_is_one_line(tmp_path):
    for name, content in {"empty.png": b"", "text.jpg": b"not an image", "half.png": png(DEEP, 6)[:150]}.items():
        (tmp_path / name).write_bytes(content)
        checks.fails(f"cannot read {tmp_path / name} as an image", lambda name=name: read_levels(tmp_path / name))
    checks.fails("No such file", lambda: read_levels(tmp_path / "gone.png"))
