"""PSNR, SSIM and luma, against scikit-image with MATLAB's settings, and the figures that every paper prints."""

import numpy as np
import pytest
from PIL import Image

from homl_models.image_quality import luma, psnr, ssim
from homl_models.pipelines.super_resolution import read_pairs
from homl_models.super_resolution_evaluation import bicubic, evaluate_folder, evaluate_pairs, quality, to_bytes
from tests import checks

MATLAB = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def pair(*shape):
    generator = np.random.default_rng(0)
    smooth = np.cumsum(np.cumsum(generator.normal(size=shape), axis=0), axis=1)
    image = np.uint8(255 * (smooth - smooth.min()) / np.ptp(smooth))
    return image, np.uint8(np.clip(image + generator.normal(0, 9, shape), 0, 255))


@pytest.mark.parametrize("shape", [(40, 52), (40, 52, 3)])
@pytest.mark.parametrize("border", [0, 4])
def test_psnr_and_ssim_are_those_of_scikit_image(shape, border):
    metrics = pytest.importorskip("skimage.metrics")
    image, noisy = pair(*shape)
    inner = [np.float64(x)[border : 40 - border, border : 52 - border] for x in (image, noisy)]
    expected = metrics.peak_signal_noise_ratio(*inner, data_range=255)
    np.testing.assert_allclose(psnr(image, noisy, border), expected, rtol=1e-12)
    expected = metrics.structural_similarity(*inner, channel_axis=2 if len(shape) == 3 else None, **MATLAB)
    np.testing.assert_allclose(ssim(image, noisy, border), expected, rtol=1e-10)


def test_luma_is_that_of_scikit_image():
    color = pytest.importorskip("skimage.color")
    image, _ = pair(8, 9, 3)
    np.testing.assert_allclose(luma(image), color.rgb2ycbcr(image)[..., 0], atol=1e-9)
    assert luma(np.zeros((1, 3))) == 16
    np.testing.assert_allclose(luma(np.full((1, 3), 255)), 235)


def test_equal_images_and_images_smaller_than_the_window():
    image, noisy = pair(12, 12)
    assert psnr(image, image) == float("inf")
    assert ssim(image, image) == 1
    assert np.isnan(ssim(image, noisy, border=1))


@pytest.mark.parametrize(
    ("name", "count", "figure", "rgb"),
    [
        ("Set5", 5, 28.42, 26.69),
        ("Set14", 14, 26.00, 24.46),
        pytest.param("BSD100", 100, 25.96, 24.63, marks=pytest.mark.slow),
    ],
)
def test_bicubic_interpolation_has_the_figures_of_the_literature(name, count, figure, rgb, shared_data):
    """x4: Dong et al. (2016), Kim et al. (2016); on RGB measured once."""
    found = evaluate_folder(bicubic(4), shared_data / "sr" / name, 4)
    assert len(found.rows) == count
    assert abs(found.means["psnr_y"] - figure) < 0.02
    assert abs(found.means["psnr_rgb"] - rgb) < 0.02
    assert f"given in {name}_LRbicx4" in found.protocol


def test_low_resolution_is_made_where_it_is_not_given(shared_data, tmp_path):
    (tmp_path / "Set5").symlink_to(shared_data / "sr" / "Set5")
    given = evaluate_folder(bicubic(3), shared_data / "sr" / "Set5", 3)
    made = evaluate_folder(bicubic(3), tmp_path / "Set5", 3)
    assert made.rows == given.rows
    assert "made by MATLAB's imresize of Set5" in made.protocol
    assert [row["name"] for row in made.rows] == ["baby", "bird", "butterfly", "head", "woman"]


def save(folder, **images):
    folder.mkdir(exist_ok=True)
    for name, image in images.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    return folder


def test_grey_images_are_measured_on_their_levels_and_crops_are_those_of_the_scale(tmp_path):
    grey, colour = pair(23, 30)[0], pair(21, 33, 3)[0]
    folder, seen = save(tmp_path / "images", colour=colour, grey=grey), []

    def brighter(low):
        seen.append(low.shape)
        return np.minimum(bicubic(2)(low) / 255 + 0.1, 1.5)  # floats, to be clipped

    rows = evaluate_folder(brighter, folder, 2, progress=list).rows
    assert seen == [(10, 16, 3), (11, 15)]
    for row, image in zip(rows, (colour[:20, :32], grey[:22, :30])):
        result = np.clip(bicubic(2)(bicubic(0.5)(image)) + 25.5, 0, 255).round()
        y = [x @ [65.481, 128.553, 24.966] / 255 if x.ndim == 3 else x for x in (result, image)]
        error = np.square(np.float64(y[0]) - y[1])[2:-2, 2:-2].mean()
        np.testing.assert_allclose(row["psnr_y"], 10 * np.log10(255**2 / error), atol=1e-3)


def test_pairs_and_distances(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    colour = pair(48, 64, 3)[0]
    folder, seen = save(tmp_path / "images", a=colour, b=colour[:24, :33]), []

    def distance(image, real):
        seen.append((image.dtype, image.shape, real.shape))
        return float(len(image))

    found = evaluate_pairs(bicubic(4), read_pairs(folder, 4), distance)
    assert [row.pop("perceptual") for row in found.rows] == [48, 24]
    assert seen == [(np.uint8, (48, 64, 3), (48, 64, 3)), (np.uint8, (24, 32, 3), (24, 32, 3))]
    assert found.rows == evaluate_folder(bicubic(4), folder, 4).rows
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["mean", "a", "b"]
    assert float(lines[2].split()[1]) == pytest.approx(np.mean([row["psnr_y"] for row in found.rows]), abs=1e-4)
    grey = evaluate_pairs(bicubic(4), read_pairs(folder, 4, channels=1))
    assert grey.means["psnr_y"] == grey.means["psnr_rgb"]
    assert abs(grey.means["psnr_y"] - found.means["psnr_y"]) < 0.3  # Y is rounded to bytes


def test_bad_folders(tmp_path):
    low, high = save(tmp_path / "low", ax2=pair(12, 16)[0]), save(tmp_path / "high", a=pair(24, 32)[0])
    assert len(evaluate_folder(bicubic(2), high, 2, low).rows) == 1
    low_4 = save(tmp_path / "low_4", ax4=pair(12, 16)[0])
    checks.fails("is 16x12, not 8x6", lambda: evaluate_folder(bicubic(4), high, 4, low_4), "ax4.png")
    save(high, b=pair(24, 32)[0])
    checks.fails("b.png has no image of low resolution", lambda: evaluate_folder(bicubic(2), high, 2, low))
    checks.fails("does the scale agree", lambda: evaluate_folder(bicubic(3), high, 2))
    checks.fails("there is no such folder", lambda: evaluate_folder(bicubic(2), tmp_path / "none", 2))
    (tmp_path / "empty").mkdir()
    checks.fails("holds no image", lambda: evaluate_folder(bicubic(2), tmp_path / "empty", 2))


def test_bytes_of_floats():
    assert to_bytes(np.array([-0.1, 0.0, 0.5, 1.0, 2.0])).tolist() == [0, 0, 128, 255, 255]
    assert quality(*pair(30, 30), 2).keys() == {"psnr_y", "ssim_y", "psnr_rgb"}
