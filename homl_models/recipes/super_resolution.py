"""Recipes of super-resolution: SRCNN, SRResNet and RRDB, trained for a small error of the pixels; ESRGAN.

The models are in `models/srcnn.py`, `models/srresnet.py`, `models/rrdb.py` and `models/esrgan.py`.
"""

import dataclasses
import functools
import math
import sys
from pathlib import Path
from typing import ClassVar, Literal

from homl_models.errors import UserError
from homl_models.recipes.recipe import Recipe, positive

CROPS_PER_IMAGE, VALID_BATCH, MAX_VALID_STEPS = 4, 8, 32  # of the validation after each epoch
SAMPLES_SHOWN = 4
CROP_SHOWN = 48  # pixels of low resolution
ALPHAS = 0.0, 0.5, 1.0  # of the network interpolation that is shown


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
        """What samples.png has beside the originals: {name: function that enlarges an image of bytes}."""
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
    batch_norm: bool = True
    """Batch normalization after the convolutions of the blocks."""

    def network(self, **kwargs):
        from homl_models.models.srresnet import SRResNet

        return SRResNet(self.scale, self.filters, self.num_blocks, self.batch_norm, **kwargs)


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


@dataclasses.dataclass(frozen=True)
class ESRGAN(RRDB):
    """ESRGAN in two stages: RRDB for a small error of the pixels, then against a discriminator.

    The perceptual loss needs the weights of a classifier: --features.
    """

    kind: ClassVar[str] = "stages"
    start: str = ""
    """Run or preset of a network of the same sizes to begin the second stage with; the first stage is left out then."""
    gan_epochs: int = 10
    """Epochs of the second stage."""
    gan_learning_rate: float = 1e-4
    """Learning rate of both networks in the second stage; it is halved after each of --halvings."""
    halvings: tuple[float, ...] = (0.125, 0.25, 0.5, 0.75)
    """Fractions of the second stage after which the learning rate is halved."""
    features: str = "vgg19"
    """Classifier of the perceptual loss: vgg19, with the ImageNet weights of Keras' cache or the network, or an .npz
    file of weights of VGG16 or SqueezeNet; see `models/perceptual.py`."""
    feature_layer: str = ""
    """Layer whose features are compared. Empty: the deepest convolution."""
    activated: bool = False
    """Compare features after the activation, as SRGAN does."""
    generator: Literal["rrdb", "srresnet"] = "rrdb"
    """Blocks of the generator; `srresnet` has --filters and --num-blocks, without batch normalization."""
    discriminator: Literal["vgg", "unet"] = "vgg"
    """Discriminator: VGG-style, whose crops are of a multiple of 32 pixels, or a U-Net with spectral normalization."""
    discriminator_filters: int = 64
    """Filters of the discriminator's first convolution."""
    adversarial: Literal["relativistic", "vanilla"] = "relativistic"
    """Adversarial loss: relativistic average (ESRGAN) or cross-entropy (SRGAN)."""
    adversarial_weight: float = 5e-3
    """Weight of the adversarial loss of the generator."""
    perceptual: Literal["l1", "srgan"] = "l1"
    """Distance of features: absolute, or squared after a division by 12.75."""
    perceptual_weight: float = 1.0
    """Weight of the perceptual loss. 0: none."""
    pixel_weight: float = 1e-2
    """Weight of the mean absolute error of the pixels in the second stage."""

    def __post_init__(self):
        super().__post_init__()
        names = "gan_epochs", "gan_learning_rate", "discriminator_filters"
        positive(**{name: getattr(self, name) for name in names})
        if min(self.adversarial_weight, self.perceptual_weight, self.pixel_weight) < 0:
            raise UserError("--adversarial-weight, --perceptual-weight and --pixel-weight must be 0 or more")
        if any(not 0 < fraction < 1 for fraction in self.halvings):
            raise UserError("--halvings must be fractions between 0 and 1")
        if self.generator == "srresnet" and self.growth != type(self).growth:
            raise UserError("--growth is for --generator rrdb")
        if self.discriminator == "vgg" and (size := self.scale * self.patch) % (32 if size <= 128 else 64):
            raise UserError(
                f"--patch times --scale is {size}; for --discriminator vgg a multiple of 32 (above 128: 64)"
            )

    def stages(self):
        """The error of the pixels (PSNR), unless there is a --start; then the adversarial stage."""
        gan = self.stage(
            "gan",
            epochs=self.gan_epochs,
            datasets=self.crop_datasets,
            model=self.gan,
            begin=self.begin,
            monitor="",
            patience=0,
        )
        return [gan] if self.start else [self.stage("psnr"), gan]

    def network(self, **kwargs):
        if self.generator == "rrdb":
            return super().network(**kwargs)
        from homl_models.models.srresnet import SRResNet

        return SRResNet(self.scale, self.filters, self.num_blocks, batch_norm=False, **kwargs)

    def gan(self):
        """Model of the second stage, with the weights of --start if there is one."""
        from homl_models.models.esrgan import ESRGAN

        names = "adversarial", "adversarial_weight", "perceptual", "perceptual_weight", "pixel_weight"
        discriminator = self.discriminator_network()
        generator = self.network(name="generator", dtype=self.precision)
        model = ESRGAN(generator, discriminator, **{name: getattr(self, name) for name in names}, dtype=self.precision)
        model.build()
        if self.start:
            model.begin(self.start_weights(model))
        features = self.feature_network() if self.perceptual_weight else None
        model.compile(self.gan_optimizer(), features, auto_scale_loss=False, **self.compile_kwargs())
        return model

    def discriminator_network(self):
        from homl_models.models.sr_discriminators import UNetDiscriminator, VGGDiscriminator

        if self.discriminator == "unet":
            return UNetDiscriminator(self.discriminator_filters, dtype=self.precision)
        return VGGDiscriminator(self.scale * self.patch, self.discriminator_filters, dtype=self.precision)

    def feature_network(self):
        from homl_models.models.perceptual import FeatureExtractor

        return FeatureExtractor(self.features, (self.feature_layer,) if self.feature_layer else (), self.activated)

    def start_weights(self, model):
        """Weights of the network in --start; `UserError` if they do not fit."""
        from homl_models import loading

        network = loading.load(self.start)
        network = getattr(network, "generator", network)
        weights = network.get_weights()
        if [w.shape for w in weights] != [tuple(w.shape) for w in model.generator.weights]:
            raise UserError(
                f"{self.start} is no generator of these sizes; take --filters, --num-blocks and --growth of it"
            )
        return weights

    def gan_optimizer(self):
        """Adam for each network, at a learning rate that is halved at some steps."""
        import keras

        from homl_models.optimizers import GANOptimizer

        steps = self.gan_epochs * self.steps_per_epoch
        bounds = sorted({max(1, round(fraction * steps)) for fraction in self.halvings})
        rates = [self.gan_learning_rate * 0.5**i for i in range(len(bounds) + 1)]

        def adam():
            schedule = keras.optimizers.schedules.PiecewiseConstantDecay(bounds, rates) if bounds else rates[0]
            adam = keras.optimizers.Adam(schedule)
            return keras.optimizers.LossScaleOptimizer(adam) if self.precision == "mixed_float16" else adam

        return GANOptimizer(adam(), adam())

    def evaluate(self, model, images="", low_images="", features="", alpha=1.0):
        """As for other networks; `alpha` in [0, 1] interpolates between the stages' networks, 1 is the adversarial one.

        Perceptual distances: see `features`.
        """
        upscale = functools.partial(model.interpolated(alpha).upscale, progress=False)
        return self.evaluate_with(upscale, images, low_images, features)

    def columns(self, model):
        networks = {f"alpha {alpha:g}": model.interpolated(alpha) for alpha in ALPHAS}
        enlarge = {name: functools.partial(network.upscale, progress=False) for name, network in networks.items()}
        return {"bicubic": super().columns(model)["bicubic"], **enlarge}

    def begin(self, model, weights):
        """Both generators of the adversarial stage from the .weights.h5 file of the stage before."""
        network = self.network(dtype=self.precision)
        network.build()
        network.load_weights(weights)
        model.begin(network.get_weights())


TINY = {
    "data": "sample_photographs",
    "scale": 2,
    "patch": 16,
    "batch_size": 2,
    "epochs": 2,
    "steps_per_epoch": 4,
    "steps_per_execution": 1,
}
SMALL = {"filters": 32, "num_blocks": 6, "growth": 16}
RECIPES = {
    "srcnn": SRCNN(),
    "srresnet": SRResNet(),
    "srresnet_small": SRResNet(filters=32, num_blocks=8, batch_norm=False),
    "rrdb": RRDB(),
    "rrdb_small": RRDB(**SMALL),
    "esrgan": ESRGAN(),
    "esrgan_small": ESRGAN(**SMALL, discriminator_filters=32),
    "srcnn_tiny": SRCNN(**TINY, filters=(4, 4)),
    "srresnet_tiny": SRResNet(**TINY, filters=4, num_blocks=1),
    "rrdb_tiny": RRDB(**TINY, filters=4, num_blocks=1, growth=4),
    "esrgan_tiny": ESRGAN(
        **TINY, filters=4, num_blocks=1, growth=4, gan_epochs=2, discriminator_filters=4, perceptual_weight=0.0
    ),
}
SUMMARIES = {
    "srcnn": "SRCNN: three convolutions on the luma, against the squared error",
    "srresnet": "SRResNet: residual blocks and sub-pixel convolutions, against the absolute error",
    "srresnet_small": "SRResNet of 8 blocks of 32 filters, without batch normalization",
    "rrdb": "ESRGAN's generator of 23 blocks, against the absolute error",
    "rrdb_small": "ESRGAN's generator of 6 blocks of 32 filters",
    "esrgan": "ESRGAN in two stages: against the absolute error, then a relativistic discriminator",
    "esrgan_small": "ESRGAN in two stages with 6 blocks of 32 filters",
}
RESULTS = []
