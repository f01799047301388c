"""The image processor of a Hugging Face folder as fields of `vit_config.VisionConfig`, in and out.

preprocessor_config.json says how images are resized, cropped, scaled and normalized. Models here take images in [0, 1].
"""

import math
import os
import warnings

from homl_models.checkpoints.hub import read_json
from homl_models.errors import UserError
from homl_models.training import files

FILE = "preprocessor_config.json"
ARGUMENTS = "image_mean", "image_std", "resample", "crop_fraction"  # fields of `VisionConfig`
CONFIG = {}  # entries of config.json
RESAMPLING = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # numbers of Pillow


def read(folder, config, settings=()):
    """{field: value} of `ARGUMENTS`; {} for a folder without the file, with a warning unless `settings` has them.

    config: the model's config.json. `UserError` for values that cannot be.
    """
    found = read_json(os.path.join(folder, FILE), {})
    if not found:
        if not {"image_mean", "image_std"} <= set(settings):
            message = f"{folder} has no {FILE}: images are normalized as is usual for a {config.get('model_type')}"
            warnings.warn(f"{message}; give image_mean and image_std if that is wrong", stacklevel=4)
        return {}
    return _normalization(found, folder) | _resizing(found, folder)


def _normalization(found, folder):
    """Mean and standard deviation for images in [0, 1]: those of the file are for pixels times its factor."""
    factor = _number(found, "rescale_factor", 1 / 255, folder) if found.get("do_rescale", True) else 1.0
    scale = 1.0 if math.isclose(255 * factor, 1) else 255 * factor
    arguments = {}
    for name, usual, none in (("image_mean", 0.5, 0.0), ("image_std", 0.5, 1.0)):
        value = found.get(name, usual) if found.get("do_normalize", True) else none
        values = value if isinstance(value, (list, tuple)) else [value]
        numbers = all(type(one) in (int, float) and math.isfinite(one) for one in values)
        if not numbers or (name == "image_std" and not all(one > 0 for one in values)):
            raise UserError(f"{folder}: {name} in {FILE} must be a number, or one for each channel, not {value!r}")
        values = tuple(one / scale for one in values)
        arguments[name] = values if isinstance(value, (list, tuple)) else values[0]
    return arguments


def _resizing(found, folder):
    resample = found.get("resample", 2)
    if resample not in RESAMPLING:
        warnings.warn(f"{folder}: images are resized by bicubic interpolation, not by {resample!r}", stacklevel=5)
    size, crop = (_shortest(found.get(name)) for name in ("size", "crop_size"))
    cropped = found.get("do_center_crop", False) and size and crop
    return {
        "resample": RESAMPLING.get(resample, "bicubic"),
        "crop_fraction": min(1.0, crop / size) if cropped else 1.0,
    }


def _number(found, name, usual, folder):
    value = found.get(name, usual)
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise UserError(f"{folder}: {name} in {FILE} must be a number above 0, not {value!r}")
    return value


def _shortest(size):
    """The smaller of height and width, of any form of a size; None for none."""
    sizes = size.values() if isinstance(size, dict) else size if isinstance(size, (list, tuple)) else [size]
    return min((one for one in sizes if type(one) is int and one > 0), default=None)


def write(folder, model):
    """preprocessor_config.json of a vision Transformer, or of a head around one."""
    backbone = getattr(model, "backbone", model)
    config, c = backbone.config, backbone.config.num_channels

    def per_channel(value):
        return list(value) if isinstance(value, tuple) else [value] * c

    def size(fraction):
        return {name: round(n / fraction) for name, n in zip(("height", "width"), config.image_shape)}

    processor = {
        "image_processor_type": f"{type(backbone).__name__}ImageProcessor",
        "do_resize": True,
        "size": size(config.crop_fraction),
        "resample": next(i for i, name in RESAMPLING.items() if name == config.resample),
        "do_center_crop": config.crop_fraction < 1,
        "crop_size": size(1),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": per_channel(config.image_mean),
        "image_std": per_channel(config.image_std),
    }
    files.write_json(os.path.join(folder, FILE), processor)
