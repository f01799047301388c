"""The opener of image files: as a viewer shows them, in every format, or one line that names the file."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.Image import Transpose

from homl_models.errors import UserError
from homl_models.pipelines.image_files import open_image
from tests import checks

UPRIGHT = np.uint8(20 * np.arange(12)[:, None] + 2 * np.arange(8))  # higher than wide, no two corners alike
STORED = {  # how a camera stores an image of each orientation: the inverse of its transform
    1: None, 2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE, 6: Transpose.ROTATE_90, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_270,
}  # fmt: skip
LEVELS = np.linspace(0, 65535, 48).reshape(6, 8).astype(np.uint16)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_applied(orientation, suffix, tmp_path):
    exif, transpose = Image.Exif(), STORED[orientation]
    exif[0x0112] = orientation
    image = Image.fromarray(UPRIGHT)
    image = image if transpose is None else image.transpose(transpose)
    image.save(tmp_path / f"photo{suffix}", exif=exif, quality=100)
    for channels in (1, 3):
        found = np.float64(open_image(tmp_path / f"photo{suffix}", channels)).reshape(12, 8, channels)
        assert np.abs(found - UPRIGHT[..., None]).mean() < 3


def test_damaged_exif_data_are_ignored(tmp_path):
    Image.fromarray(UPRIGHT).save(tmp_path / "photo.png", exif=b"Exif\0\0MM\0*\0\0\0\xff\0\0")
    np.testing.assert_array_equal(open_image(tmp_path / "photo.png"), UPRIGHT)


RED = (200, 60, 30)


def cutout(hidden):
    """A red square on transparent pixels of the colour `hidden`."""
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., :3] = hidden
    pixels[2:6, 2:6] = (*RED, 255)
    return Image.fromarray(pixels)


def keyed(image, key):
    """An image whose pixels of one colour are transparent, and how to save it."""
    return image, {"transparency": key}


TRANSPARENT = {
    "rgba": lambda: (cutout((10, 250, 10)), {}),
    "grey and alpha": lambda: (cutout((10, 250, 10)).convert("LA"), {}),
    "a colour": lambda: keyed(cutout((1, 2, 3)).convert("RGB"), (1, 2, 3)),
    "a grey level": lambda: keyed(cutout((7, 7, 7)).convert("L"), 7),
    "an entry of a palette": lambda: keyed(p := cutout((0, 0, 0)).convert("RGB").quantize(8), p.getpixel((0, 0))),
    "entries of a palette": lambda: keyed(p := cutout((0, 0, 0)).convert("RGB").quantize(2), _alpha(p)),
    "16 bits": lambda: keyed(Image.fromarray(np.uint16(cutout((7, 7, 7)).convert("L")) * 257), 7 * 257),
}


def _alpha(image):
    return bytes(0 if i == image.getpixel((0, 0)) else 255 for i in range(2))


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparency_is_composited_on_white(kind, tmp_path):
    image, settings = TRANSPARENT[kind]()
    image.save(tmp_path / "cut.png", **settings)
    for channels in (1, 3):
        found = np.asarray(open_image(tmp_path / "cut.png", channels))
        assert (found[0, 0] == 255).all()
        assert np.abs(found[4, 4] - np.float64(RED).mean()).max() < 110  # and not white
    whole = open_image(tmp_path / "cut.png", 4)
    assert whole.mode == "RGBA"
    assert whole.getpixel((0, 0))[3] == 0
    assert whole.getpixel((4, 4))[3] == 255


def test_half_transparent_pixels_are_blended_with_white(tmp_path):
    Image.new("RGBA", (2, 2), (100, 0, 200, 51)).save(tmp_path / "glass.png")  # 51 of 255 is a fifth
    found = np.float64(open_image(tmp_path / "glass.png", 3))[0, 0]
    checks.close(found, np.array([224.0, 204.0, 244.0]), 1)


def test_opaque_images_are_unchanged(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    alpha = np.full((5, 6, 1), 255, np.uint8)
    for name, image in (("a", pixels), ("b", np.concatenate([pixels, alpha], -1))):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(open_image(tmp_path / f"{name}.png", 3), pixels)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_sixteen_bits_are_scaled(suffix, tmp_path):
    Image.fromarray(LEVELS).save(tmp_path / f"scan{suffix}")
    for channels in (1, 3):
        found = np.asarray(open_image(tmp_path / f"scan{suffix}", channels)).reshape(6, 8, channels)
        assert np.abs(found / 255 - LEVELS[..., None] / 65535).max() < 0.5 / 255 + 1e-6


def test_sixteen_bits_where_zero_is_white(tmp_path):
    Image.fromarray(LEVELS).save(tmp_path / "fax.tif", tiffinfo={262: 0})
    assert np.abs(np.asarray(open_image(tmp_path / "fax.tif")) / 255 - (1 - LEVELS / 65535)).max() < 0.5 / 255 + 1e-6


def test_sixteen_bits_of_colour_and_alpha(tmp_path):
    """Pillow writes no such file: made by hand, RGBA of 16 bits."""
    rows = b"".join(b"\0" + struct.pack(">8H", 65535, 32768, 0, 65535, 65535, 0, 0, 0) for _ in range(2))

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 6, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(data)
    assert np.asarray(open_image(tmp_path / "deep.png", 3))[0].tolist() == [[255, 128, 0], [255, 255, 255]]


def test_floats_are_scaled_and_other_ranges_refused(tmp_path):
    for value in (0.0, 0.5, 1.0):
        Image.new("F", (2, 2), value).save(tmp_path / "f.tif")
        assert open_image(tmp_path / "f.tif").getpixel((0, 0)) == round(255 * value)
    for kind, value, message in (
        ("F", 2.0, "levels are 2 to 2"),
        ("F", float("nan"), "levels are nan"),
        ("I", 70000, "32 bits per level"),
    ):
        Image.new(kind, (2, 2), value).save(tmp_path / "bad.tif")
        checks.fails(message, lambda: open_image(tmp_path / "bad.tif"), "bad.tif")


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_the_first_frame_of_an_animation_is_taken(suffix, tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    frames[0].save(tmp_path / f"film{suffix}", save_all=True, append_images=frames[1:], lossless=True)
    assert open_image(tmp_path / f"film{suffix}", 3).getpixel((1, 1)) == (250, 0, 0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "RGBa", "La", "RGBX", "PA"])
def test_every_mode_is_converted_to_the_channels(mode, tmp_path, monkeypatch):
    image = Image.new("RGB", (3, 2), (255, 255, 255)).convert({"La": "LA", "RGBa": "RGBA", "PA": "P"}.get(mode, mode))
    image = image.convert(mode) if image.mode != mode else image
    Image.new("L", (3, 2)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "open", lambda *_, **__: image)  # no format holds all of the modes
    for channels, wanted in ((1, "L"), (3, "RGB"), (4, "RGBA")):
        found = open_image(tmp_path / "x.png", channels)
        assert found.mode == wanted
        assert np.asarray(found).min() >= 254


WHOLE = {".png": {}, ".jpg": {}, ".gif": {}, ".bmp": {}, ".tif": {"compression": "tiff_lzw"}, ".webp": {}, ".ppm": {}}


@pytest.mark.parametrize("suffix", WHOLE)
def test_damaged_files_give_one_line_that_names_them(suffix, tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / f"photo{suffix}"
    Image.fromarray(rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(path, **WHOLE[suffix])
    data = path.read_bytes()
    for bad in (b"", b"not an image\n" * 9, data[: len(data) // 2], data[:9]):
        path.write_bytes(bad)
        checks.fails("as an image", lambda: open_image(path), f"photo{suffix}")


def test_missing_files_folders_and_decompression_bombs_are_refused(tmp_path):
    checks.fails("nothing.png", lambda: open_image(tmp_path / "nothing.png"), "No such file")
    checks.fails("as an image", lambda: open_image(tmp_path), str(tmp_path))
    Image.new("1", (19000, 10000)).save(tmp_path / "map.png")
    checks.fails("190000000 pixels", lambda: open_image(tmp_path / "map.png"), "map.png")


def test_pillow_runs_no_other_program_for_an_image(tmp_path):
    (tmp_path / "x.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(UserError, match="none that can be read"):
        open_image(tmp_path / "x.eps")
