"""Recipes of super-resolution: SRCNN, SRResNet and RRDB, trained for a small error of the pixels.

The models are in `models/srcnn.py`, `models/srresnet.py` and `models/rrdb.py`; ESRGAN is in `esrgan.py`.
"""

import dataclasses
import functools
import math
import sys
from pathlib import Path
from typing import ClassVar, Literal

from homl_models.errors import UserError
from homl_models.recipes.recipe import Recipe, positive
from homl_models.recipes.results import Result

CROPS_PER_IMAGE, VALID_BATCH, MAX_VALID_STEPS = 4, 8, 32  # of the validation after each epoch
SAMPLES_SHOWN = 4
CROP_SHOWN = 48  # pixels of low resolution


@dataclasses.dataclass(frozen=True)
class SuperResolution(Recipe):
    """A network that enlarges images, trained on random crops of photographs.

    Images of low resolution are made by MATLAB's bicubic interpolation, as in the papers. A twentieth of the images, at
    least one, is held out for validation.
    """

    monitor: str = "val_psnr"
    monitor_mode: Literal["min", "max"] = "max"
    batch_size: int = 16
    data: Literal["images", "sample_photographs"] = "images"
    """Photographs of --images, or the two that come with scikit-learn, which are enough to try it."""
    images: tuple[str, ...] = ()
    """Folders of images of high resolution."""
    low_images: tuple[str, ...] = ()
    """Folders of the same images in low resolution, one for each of --images. Default: they are made."""
    degradation: Literal["bicubic", "real"] = "bicubic"
    """How images lose their resolution: bicubic interpolation, or the second-order degradation of Real-ESRGAN, blur,
    noise and JPEG, for photographs of unknown history; targets are sharpened then, but not for the discriminator."""
    scale: int = 4
    """Factor by which images are enlarged."""
    patch: int = 32
    """Height and width of a crop, in pixels of low resolution."""
    steps_per_epoch: int = 1000
    """Training steps of an epoch."""
    steps_per_execution: int = 10
    """Training steps per call of the compiled function; more costs less time."""
    loss: Literal["l1", "mse"] = "l1"
    """Mean absolute or mean squared error of the pixels."""
    channels: ClassVar[int] = 3
    """1: the luma, of which the rest of the image keeps the bicubic interpolation."""

    def __post_init__(self):
        super().__post_init__()
        names = "scale", "patch", "steps_per_epoch", "steps_per_execution"
        positive(**{name: getattr(self, name) for name in names})
        if self.data != "images" and (self.images or self.low_images):
            raise UserError("--images and --low-images are for --data images")
        if self.low_images and self.degradation == "real":
            raise UserError("--low-images are for --degradation bicubic; real makes them itself")

    # Data.

    @functools.cached_property
    def pairs(self):
        """All pairs of images, a `pipelines.super_resolution.Pairs`."""
        from homl_models.pipelines import super_resolution

        if self.data == "images":
            if not self.images:
                wanted = "a folder of photographs, or several, or --data sample_photographs to try it"
                raise UserError(f"--images is needed: {wanted}")
            return super_resolution.read_pairs(self.images, self.scale, self.channels, self.low_images)
        import sklearn.datasets

        folder = Path(sklearn.datasets.__file__).parent / "images"
        return super_resolution.read_pairs(folder, self.scale, self.channels)

    @functools.cached_property
    def splits(self):
        """Training and validation pairs."""
        import numpy as np

        count = len(self.pairs)
        if count < 2:
            raise UserError(f"{', '.join(self.images)} has one image; at least 2 are needed")
        order = np.random.default_rng(self.seed).permutation(count)
        held_out = max(1, count // 20)
        return self.pairs.subset(sorted(order[held_out:])), self.pairs.subset(sorted(order[:held_out]))

    def fingerprinted(self):
        return {"data": [pairs.digest for pairs in self.splits]}

    def crops(self, pairs, batch_size, steps, seed):
        """`RandomAccessDataset` of random crops, (low, high), or for the real degradation (low, (high, sharpened))."""
        from homl_models.pipelines import degradation, super_resolution

        real = self.degradation == "real"
        made = {"degrade": degradation.Degradation(self.scale), "sharpen": degradation.sharpen} if real else {}
        return super_resolution.crops(pairs, batch_size, self.patch, steps, seed, **made)

    def crop_datasets(self):
        """Crops of the training images, and of the validation images, the same ones each epoch."""
        train, valid = self.splits
        valid_steps = min(math.ceil(CROPS_PER_IMAGE * len(valid) / VALID_BATCH), MAX_VALID_STEPS)
        return (
            self.crops(train, self.batch_size, self.steps_per_epoch, self.seed),
            self.crops(valid, VALID_BATCH, valid_steps, self.seed + 1),
        )

    def datasets(self):
        """As `crop_datasets`, with one target."""
        from homl_models.pipelines.random_access import RandomAccessDataset

        def one_target(crops):
            def batch(step):
                low, high = crops.batch(step)
                return low, high[1]

            return RandomAccessDataset(batch, crops.steps)

        both = self.crop_datasets()
        return both if self.degradation == "bicubic" else tuple(map(one_target, both))

    # Training.

    def network(self, **kwargs):
        """A new network."""
        raise TypeError(f"{type(self).__name__} must define network()")

    def model(self):
        from homl_models.metrics import PSNR

        model = self.network(dtype=self.precision)
        model.build()
        loss = {"l1": "mean_absolute_error", "mse": "mean_squared_error"}[self.loss]
        optimizer = self.optimizer(self.epochs * self.steps_per_epoch)
        model.compile(optimizer, loss, metrics=[PSNR()], **self.compile_kwargs())
        return model

    def compile_kwargs(self):
        # On a CPU TensorFlow's kernels of convolutions are faster than XLA's.
        return {"jit_compile": "auto", "steps_per_execution": self.steps_per_execution}

    # Evaluation.

    def evaluate(self, model, images="", low_images="", features=""):
        """PSNR in dB and SSIM of enlarged validation images, or of the folder `images`, beside bicubic interpolation.

        psnr_y and ssim_y are of the luma (BT.601, 16 to 235) without a border of `scale` pixels, as in the tables of
        the literature; psnr_rgb, of all channels, is lower. `low_images`: folder of the same images in low resolution;
        by default FOLDER_LRbicxSCALE beside `images`, or else they are made by MATLAB's bicubic interpolation.
        `features`: a file of weights of VGG16 or SqueezeNet, or vgg19, for a perceptual distance (LPIPS without its
        learned weights) as well. Each image has a line on the standard error.
        """
        return self.evaluate_with(functools.partial(model.upscale, progress=False), images, low_images, features)

    def evaluate_with(self, upscale, images, low_images, features):
        """Metrics of a function that enlarges an image, and those of bicubic interpolation, named bicubic_..."""
        from homl_models import super_resolution_evaluation as evaluation

        distance = perceptual_distance(features) if features else None
        metrics = {}
        for prefix, function in (("", upscale), ("bicubic_", evaluation.bicubic(self.scale))):
            if images:
                found = evaluation.evaluate_folder(function, images, self.scale, low_images or None, distance=distance)
            else:
                found = evaluation.evaluate_pairs(function, self.splits[1], distance)
            metrics |= {prefix + name: value for name, value in found.means.items()}
            if not prefix and self.verbose:
                print(found, file=sys.stderr)
        return metrics

    def show(self, model, folder):
        """Write samples.png, crops of validation images: bicubic, enlarged, and the original."""
        import numpy as np

        from homl_models.training import reports

        valid = self.splits[1]
        size = min(CROP_SHOWN, *(n for shape in valid.low.shapes for n in shape[:2]))
        rows = []
        for i in range(min(SAMPLES_SHOWN, len(valid))):
            low, high = valid[i]
            top, left = ((n - size) // 2 for n in low.shape[:2])
            low = low[top : top + size, left : left + size]
            top, left, length = self.scale * top, self.scale * left, self.scale * size
            columns = [*(function(low) for function in self.columns(model).values())]
            columns.append(high[top : top + length, left : left + length])
            rows.append(np.squeeze(np.float32(columns) / 255, -1) if self.channels == 1 else np.float32(columns) / 255)
        reports.image_grid(rows, folder / "samples.png", scale=1)
        return "samples.png  crops of validation images: " + ", ".join([*self.columns(model), "original"])

    def columns(self, model):
        """Columns of samples.png beside the originals: {name: function that enlarges an image of bytes}."""
        from homl_models import super_resolution_evaluation as evaluation

        return {"bicubic": evaluation.bicubic(self.scale), "enlarged": functools.partial(model.upscale, progress=False)}


def perceptual_distance(source):
    """Function of two images of bytes, (h, w) or (h, w, 3) -> their perceptual distance, by the features of a file."""
    import numpy as np

    from homl_models.models.perceptual import FeatureExtractor

    network = FeatureExtractor(source, "each", activated=True)

    def distance(image, other):
        image, other = (np.float32(x if x.ndim == 3 else x[..., None])[None] / 255 for x in (image, other))
        return float(network.distance(image, other)[0])

    return distance


@dataclasses.dataclass(frozen=True)
class SRCNN(SuperResolution):
    """Three convolutions on the luma of an image that bicubic interpolation has enlarged."""

    kind: ClassVar[str] = "fit"
    loss: Literal["l1", "mse"] = "mse"
    kernel_sizes: tuple[int, ...] = (9, 5, 5)
    """Sizes of the three kernels; 9 1 5 is the paper's small network."""
    filters: tuple[int, ...] = (64, 32)
    """Filters of the first two convolutions."""
    channels: ClassVar[int] = 1

    def network(self, **kwargs):
        from homl_models.models.srcnn import SRCNN

        return SRCNN(self.scale, self.kernel_sizes, self.filters, **kwargs)


@dataclasses.dataclass(frozen=True)
class SRResNet(SuperResolution):
    """A residual network that works at the low resolution and ends in sub-pixel convolutions."""

    kind: ClassVar[str] = "fit"
    filters: int = 64
    """Filters of all convolutions."""
    num_blocks: int = 16
    """Residual blocks."""
    variant: Literal["srresnet", "plain", "msrresnet"] = "srresnet"
    """The paper's network; `plain`, without its batch normalization; or BasicSR's, also without, of 3x3 convolutions
    alone, added to the bilinear enlargement."""

    def network(self, **kwargs):
        return residual_network(self, self.variant, **kwargs)


def residual_network(recipe, variant, **kwargs):
    """A new network of a recipe's sizes; see `SRResNet.variant`."""
    from homl_models.models import srresnet

    sizes = recipe.scale, recipe.filters, recipe.num_blocks
    if variant == "msrresnet":
        return srresnet.MSRResNet(*sizes, recipe.channels, **kwargs)
    return srresnet.SRResNet(*sizes, variant == "srresnet", recipe.channels, **kwargs)


@dataclasses.dataclass(frozen=True)
class RRDB(SuperResolution):
    """ESRGAN's generator: residual-in-residual dense blocks, without batch normalization."""

    kind: ClassVar[str] = "fit"
    filters: int = 64
    """Filters of the convolutions outside of dense blocks."""
    num_blocks: int = 23
    """Residual-in-residual dense blocks."""
    growth: int = 32
    """Filters of the convolutions within dense blocks."""

    def network(self, **kwargs):
        from homl_models.models.rrdb import RRDBNet

        return RRDBNet(self.scale, self.filters, self.num_blocks, self.growth, **kwargs)


TINY = {
    "data": "sample_photographs",
    "scale": 2,
    "patch": 16,
    "batch_size": 2,
    "epochs": 2,
    "steps_per_epoch": 4,
    "steps_per_execution": 1,
}
TINY_RRDB = {"filters": 4, "num_blocks": 1, "growth": 4}
SMALL = {"filters": 32, "num_blocks": 6, "growth": 16}
RECIPES = {
    "srcnn": SRCNN(),
    "srresnet": SRResNet(),
    "srresnet_small": SRResNet(filters=32, variant="msrresnet"),
    "rrdb": RRDB(),
    "rrdb_small": RRDB(**SMALL),
    "srcnn_tiny": SRCNN(**TINY, filters=(4, 4)),
    "srresnet_tiny": SRResNet(**TINY, filters=4, num_blocks=1),
    "rrdb_tiny": RRDB(**TINY, **TINY_RRDB),
}
SUMMARIES = {
    "srcnn": "SRCNN: three convolutions on the luma, against the squared error",
    "srresnet": "SRResNet: residual blocks and sub-pixel convolutions, against the absolute error",
    "srresnet_small": "BasicSR's SRResNet, of 16 blocks of 32 filters",
    "rrdb": "ESRGAN's generator of 23 blocks, against the absolute error",
    "rrdb_small": "ESRGAN's generator of 6 blocks of 32 filters",
}
PHOTOGRAPHS = "--images train T91 Kodak16"
H200 = "one NVIDIA H200 on JAX, with 13 other trainings on its 16 cores"
VDSR = {"VDSR Set5": 31.35, "VDSR Set14": 28.01, "VDSR BSD100": 27.29}
BICUBIC = {"bicubic Set5": 28.43, "bicubic Set14": 26.00, "bicubic BSD100": 25.96}
PROTOCOL = """PSNR in dB of luma (BT.601) without a border of `scale` pixels, from low resolution by MATLAB's bicubic
interpolation. Learned from 227 photographs: the first 120 of BSD200, T91, and 16 of Kodak's; 11 are held out."""
SMALLER = "--filters 32 --num-blocks 8 --epochs 20 --learning-rate 5e-4 --precision mixed_bfloat16"
RESULTS = [
    Result(
        "srcnn",
        f"srcnn {PHOTOGRAPHS} --epochs 30",
        H200,
        4.3,
        {"Set5": 30.37, "Set14": 27.40, "BSD100": 26.89, "Set5 SSIM": 0.862},
        {"Set5, the paper": 30.48} | BICUBIC,
        PROTOCOL + " The paper's network learned from ImageNet, in 8e8 backpropagations; this one sees 480,000 crops.",
    ),
    Result(
        "srcnn",
        f"srcnn {PHOTOGRAPHS} --epochs 30 --scale 3 --patch 42",
        H200,
        4.3,
        {"Set5": 32.66, "Set14": 29.19, "Set5 SSIM": 0.909},
        {"Set5, the paper": 32.75},
    ),
    Result(
        "srresnet",
        f"srresnet {PHOTOGRAPHS} {SMALLER}",
        H200,
        5.8,
        {"Set5": 29.95, "Set14": 27.06, "BSD100": 26.72, "Set5 SSIM": 0.850},
        BICUBIC,
        "Half of the paper's blocks and filters, for the next row.",
    ),
    Result(
        "srresnet",
        f"srresnet {PHOTOGRAPHS} {SMALLER} --variant plain",
        H200,
        4.5,
        {"Set5": 30.48, "Set14": 27.48, "BSD100": 26.94, "Set5 SSIM": 0.864},
        BICUBIC,
        """Without batch normalization half a decibel better after as many steps, on Set5, and a quarter on BSD100: what
ESRGAN's authors say of it.""",
    ),
    Result(
        "srresnet_small",
        f"srresnet_small {PHOTOGRAPHS} --batch-size 8 --epochs 16 --learning-rate 6e-4 --precision mixed_bfloat16",
        "1 core of an Intel Xeon with AMX, beside other work",
        81,
        {"Set5": 31.33, "Set14": 28.02, "BSD100": 27.29, "Set5 SSIM": 0.885},
        BICUBIC | VDSR,
        """With 381,000 weights a little better than `rrdb_small` with 1.1 million, which saw twice as many crops:
residual blocks and the bilinear enlargement are enough at this size. The learning rate of the first 7 epochs fell as if
there were 24.""",
    ),
    Result(
        "rrdb_small",
        f"rrdb_small {PHOTOGRAPHS} --epochs 15 --learning-rate 5e-4 --precision mixed_bfloat16",
        H200 + " (13 of the 15 epochs), 2 cores of an Intel Xeon with AMX, beside other work",
        19.5,
        {"Set5": 31.27, "Set14": 27.93, "BSD100": 27.22, "Set5 SSIM": 0.882},
        BICUBIC | VDSR,
        """It is the preset of that name (2.3 MB). The learning rate of the first 13 epochs fell as if there were 20.
VDSR: Kim et al., 2016. In the crops of validation images edges are sharp where bicubic interpolation blurs them, and
fine texture, such as hair and grass, is smooth.""",
    ),
]
