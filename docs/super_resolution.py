"""python docs/super_resolution.py: docs/super_resolution.jpg, enlarged photographs; needs the extra [realesrgan].

Above, a part of a photograph whose low resolution was made by bicubic interpolation; below, one that was blurred,
resized, made noisy and compressed twice over, as Real-ESRGAN's training does.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image

import homl_models
from homl_models.pipelines.degradation import Degradation
from homl_models.pipelines.resize import imresize

SCALE, SEED = 4, 11
CHINA, FLOWER = (slice(60, 252), slice(20, 308)), (slice(140, 332), slice(190, 478))  # multiples of the scale


def enlarged(low, networks):
    """{title: image of bytes} of a small image, by bicubic interpolation and by networks {title: function}."""
    images = {"low resolution": low.repeat(SCALE, 0).repeat(SCALE, 1), "bicubic": imresize(low, SCALE)}
    return images | {title: upscale(low, progress=False) for title, upscale in networks.items()}


def degraded(high):
    """Low resolution of unknown history, after Real-ESRGAN's second-order degradation."""
    low = Degradation(SCALE)(np.float32(high) / 255, np.random.default_rng(SEED))
    return np.uint8(np.round(255 * np.clip(low, 0, 1)))


def main():
    rrdb, gan = homl_models.load("rrdb_small"), homl_models.load("realesrgan_x4plus")
    china, flower = load_sample_image("china.jpg")[CHINA], load_sample_image("flower.jpg")[FLOWER]
    networks = {"rrdb_small": rrdb.upscale, "realesrgan_x4plus": gan.upscale}
    rows = [
        enlarged(imresize(flower, 1 / SCALE), networks) | {"original": flower},
        enlarged(degraded(china), networks) | {"original": china},
    ]
    figure = Figure(figsize=(13, 4), layout="constrained")
    for axes, images in zip(figure.subplots(2, 5), rows):
        for ax, (title, image) in zip(axes, images.items()):
            ax.imshow(image, interpolation="nearest")
            ax.set_title(title, fontsize=10)
            ax.axis("off")
    path = Path(__file__).with_name("super_resolution.jpg")
    figure.savefig(path, dpi=90, pil_kwargs={"quality": 92})
    print(f"{path}: {path.stat().st_size / 1000:.0f} KB")


if __name__ == "__main__":
    main()
