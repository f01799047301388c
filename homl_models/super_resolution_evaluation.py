"""Evaluation of super-resolution: PSNR and SSIM of enlarged images on a folder of real ones, with the protocol stated.

The protocol of the literature: images are cropped at the bottom right to a multiple of the scale, made smaller by
MATLAB's bicubic interpolation, enlarged, rounded to bytes, and compared on luma without a border as wide as the scale.
An image without colour is compared on its levels.
"""

import dataclasses
import functools
from pathlib import Path

import numpy as np

from homl_models.errors import UserError
from homl_models.image_quality import luma, psnr, ssim
from homl_models.pipelines.image_files import is_grey, open_image
from homl_models.pipelines.images import list_files, open_folder, refuse_empty, warn_of_unreadable
from homl_models.pipelines.resize import imresize
from homl_models.pipelines.super_resolution import pair_name


@dataclasses.dataclass(frozen=True)
class FolderQuality:
    """Quality of the enlarged images of a folder.

    Args:
        rows: of each image, {"name": ..., "psnr_y": dB, "ssim_y": -1 to 1, "psnr_rgb": dB}, and "perceptual" with a
            distance.
        protocol: how they were measured, a sentence or two.
    """

    rows: tuple[dict, ...]
    protocol: str

    def __str__(self):
        """The protocol, and a line for each image."""
        rows = [{"name": "mean", **self.means}, *self.rows]
        width = max(len(row["name"]) for row in rows)
        names = [name for name in rows[0] if name != "name"]
        head = f"{'':{width}}" + "".join(f"  {name:>10}" for name in names)
        lines = (f"{row['name']:{width}}" + "".join(f"  {row[name]:10.4f}" for name in names) for row in rows)
        return "\n".join([self.protocol, head, *lines])

    @property
    def means(self):
        """{metric: mean over the images}; images too small for SSIM do not count there."""
        names = [name for name in self.rows[0] if name != "name"]
        return {name: float(np.nanmean([row[name] for row in self.rows])) for name in names}


def evaluate_folder(upscale, folder, scale, low_folder=None, progress=iter, distance=None):
    """`FolderQuality` of the images below a folder.

    upscale: image (h, w) or (h, w, 3) of bytes -> (s * h, s * w) or (s * h, s * w, 3), bytes or floats in [0, 1].
    scale: s, a whole number.
    low_folder: of the images of low resolution, with the same names; by default FOLDER_LRbicxS if there is one, else
        they are made by `imresize`.
    progress: wraps the iterator of images, e.g. `tqdm`.
    distance: images of bytes, enlarged and real, -> a number, "perceptual" in the rows; None: none.
    Images that cannot be read are left out with a warning. `UserError` if none is left, or if one of low resolution is
    missing or of another size.
    """
    folder, given = Path(folder), Path(f"{str(folder).rstrip('/')}_LRbicx{scale}")
    if not folder.is_dir():
        raise UserError(f"cannot read {folder}: there is no such folder; give a folder of images")
    low_folder = low_folder or (given if given.is_dir() else None)
    low_paths = list_files(low_folder) if low_folder else ()
    low_files = {pair_name(path.relative_to(low_folder), scale): path for path in low_paths}
    rows, unreadable = [], []
    for path, image in progress(open_folder(folder, 3, unreadable)):
        high = cropped_to_multiple(np.asarray(image)[..., 0] if is_grey(path) else np.asarray(image), scale)
        low = _read_low(path.relative_to(folder), high, scale, low_files) if low_folder else imresize(high, 1 / scale)
        rows.append({"name": path.stem, **quality(to_bytes(upscale(low)), high, scale, distance)})
    if not rows:
        refuse_empty(folder, unreadable)
    warn_of_unreadable(unreadable, len(rows))
    made = f"given in {Path(low_folder).name}" if low_folder else f"made by MATLAB's imresize of {folder.name}"
    return FolderQuality(tuple(rows), protocol(scale, made))


def evaluate_pairs(upscale, pairs, distance=None):
    """`FolderQuality` of pairs of images, a `pipelines.super_resolution.Pairs`; see `evaluate_folder`."""
    rows = []
    for i, name in enumerate(pairs.high.names):
        low, high = (x[..., 0] if x.shape[-1] == 1 else x for x in pairs[i])
        name = Path(name.partition("/")[2]).stem
        rows.append({"name": name, **quality(to_bytes(upscale(low)), high, pairs.scale, distance)})
    return FolderQuality(tuple(rows), protocol(pairs.scale, "of the validation images"))


def quality(image, real, border, distance=None):
    """{metric: value} of an image of bytes, (h, w) or (h, w, 3), against the real one, without a border."""
    if image.shape != real.shape:
        raise UserError(f"an enlarged image is {image.shape}, and the real one {real.shape}: does the scale agree?")
    y, real_y = (luma(x) if x.ndim == 3 else x for x in (image, real))
    found = {
        "psnr_y": psnr(y, real_y, border),
        "ssim_y": ssim(y, real_y, border),
        "psnr_rgb": psnr(image, real, border),
    }
    return found | ({"perceptual": distance(image, real)} if distance else {})


def bicubic(scale):
    """The function that enlarges an image by MATLAB's bicubic interpolation, the baseline of every table."""
    return functools.partial(imresize, scale=scale)


def protocol(scale, made):
    """How all is measured, in words for a table; `made`: where the images of low resolution come from."""
    return (
        f"x{scale}; low resolution {made}. PSNR (dB) and SSIM (Gaussian 11x11, sigma 1.5) on Y of BT.601 (16 to 235), "
        f"8-bit images, without a border of {scale} pixels; psnr_rgb on all channels, which is lower by 1 to 2 dB."
    )


def cropped_to_multiple(image, scale):
    """An image (h, w, ...) without its last rows and columns beyond a multiple of the scale."""
    height, width = (n - n % scale for n in image.shape[:2])
    return image[:height, :width]


def to_bytes(image):
    """An image of bytes, or of floats in [0, 1], beyond which they are clipped -> bytes."""
    image = np.asarray(image)
    return image if image.dtype == np.uint8 else np.uint8(np.round(np.clip(np.float32(image), 0, 1) * 255))


def _read_low(name, high, scale, low_files):
    """The image of low resolution of that name, grey if `high` is."""
    path = low_files.get(pair_name(name))
    if path is None:
        raise UserError(f"{name} has no image of low resolution beside it; add one, or take them all away")
    low = np.asarray(open_image(path, 3 if high.ndim == 3 else 1))
    height, width = (n // scale for n in high.shape[:2])
    if low.shape[:2] != (height, width):
        raise UserError(f"{path} is {low.shape[1]}x{low.shape[0]}, not {width}x{height}, 1/{scale} of {name}")
    return low
