"""Recipe of ESRGAN (`models/esrgan.py`): a network that enlarges images, trained in two stages."""

import dataclasses
import functools
from typing import ClassVar, Literal

from homl_models.errors import UserError
from homl_models.recipes.recipe import positive
from homl_models.recipes.results import Result
from homl_models.recipes.super_resolution import PHOTOGRAPHS, RRDB, SMALL, TINY, TINY_RRDB, residual_network

ALPHAS = 0.0, 0.5, 1.0  # of the network interpolation that is shown


@dataclasses.dataclass(frozen=True)
class ESRGAN(RRDB):
    """ESRGAN in two stages: RRDB for a small error of the pixels, then against a discriminator.

    The perceptual loss needs the weights of a classifier: --features.
    """

    kind: ClassVar[str] = "stages"
    start: str = ""
    """Run or preset of a network of the same sizes to begin the second stage with; the first stage is left out then,
    with --epochs, --learning-rate, --loss and --monitor, which are of that stage alone."""
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
    """Layer whose features are compared. Empty: the deepest convolution; `each`: the last of every resolution."""
    activated: bool = False
    """Compare features after the activation, as SRGAN does."""
    generator: Literal["rrdb", "srresnet", "msrresnet"] = "rrdb"
    """Blocks of the generator; the other two have --filters and --num-blocks, without batch normalization."""
    discriminator: Literal["vgg", "unet"] = "vgg"
    """Discriminator: VGG-style, whose crops are of a multiple of 32 pixels, or a U-Net with spectral normalization."""
    discriminator_filters: int = 64
    """Filters of the discriminator's first convolution."""
    adversarial: Literal["relativistic", "vanilla"] = "relativistic"
    """Adversarial loss: relativistic average (ESRGAN) or cross-entropy (SRGAN)."""
    adversarial_weight: float = 5e-3
    """Weight of the adversarial loss of the generator."""
    perceptual: Literal["l1", "srgan", "lpips"] = "l1"
    """Distance of features: absolute; squared after a division by 12.75; or squared, of features of length 1."""
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
        chosen = "features", "feature_layer", "activated", "perceptual"
        if not self.perceptual_weight and any(getattr(self, name) != getattr(type(self), name) for name in chosen):
            raise UserError(
                "--features, --feature-layer, --activated and --perceptual need a --perceptual-weight above 0"
            )
        if self.generator != "rrdb" and self.growth != type(self).growth:
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
        return residual_network(self, "plain" if self.generator == "srresnet" else self.generator, **kwargs)

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

        layers = self.feature_layer if self.feature_layer in ("", "each") else (self.feature_layer,)
        return FeatureExtractor(self.features, layers, self.activated)

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


RECIPES = {
    "esrgan": ESRGAN(),
    "esrgan_small": ESRGAN(**SMALL, discriminator_filters=32),
    "esrgan_tiny": ESRGAN(**TINY, **TINY_RRDB, gan_epochs=2, discriminator_filters=4, perceptual_weight=0.0),
}
SUMMARIES = {
    "esrgan": "ESRGAN in two stages: against the absolute error, then a relativistic discriminator",
    "esrgan_small": "ESRGAN in two stages with 6 blocks of 32 filters",
}
GAN = """--features squeezenet1_0.npz --feature-layer each --perceptual lpips --perceptual-weight 0.1 --pixel-weight 1
--adversarial-weight 2e-3 --steps-per-epoch 500 --batch-size 8 --patch 24 --halvings 0.5 0.75
--precision mixed_bfloat16""".replace("\n", " ")
NOTE = """From the preset `rrdb_small`. The perceptual distance is that of `evaluate --features` by SqueezeNet, which it
was trained by; by VGG16-HED, which it never saw, it is 0.703 / 1.224 / 1.637 on Set5 / Set14 / BSD100
(`rrdb_small` 0.605 / 1.222 / 1.674): no worse but on Set5, whose images are smooth. In the crops of validation images
stone, fur and cloth have texture where `rrdb_small` is smooth; in places it is a regular pattern that is not in the
original. The discriminator tells the two apart in 98 % of the crops. Network interpolation is monotone:

| alpha | Set5 PSNR | perceptual | Set14 PSNR | perceptual |
|---|---|---|---|---|
| 0 | 31.27 | 1.138 | 27.93 | 1.746 |
| 0.25 | 31.07 | 1.130 | 27.79 | 1.725 |
| 0.5 | 30.65 | 1.108 | 27.51 | 1.681 |
| 0.75 | 30.13 | 1.049 | 27.19 | 1.568 |
| 1 | 29.41 | 1.029 | 26.69 | 1.489 |

Choices of the paper, each changed alone, after 500 steps (`--gan-epochs 1`, beside other work; HED: the distance by
VGG16-HED; batch normalization is compared at `srresnet`):

| | Set5 PSNR | perceptual | HED | Set14 PSNR | perceptual | HED |
|---|---|---|---|---|---|---|
| as above | 28.88 | 1.076 | 0.719 | 26.30 | 1.532 | 1.236 |
| features after the activation (`--activated`) | 29.18 | 1.032 | 0.701 | 26.55 | 1.479 | 1.213 |
| standard discriminator (`--adversarial vanilla`) | 29.83 | 1.003 | 0.659 | 26.97 | 1.462 | 1.191 |

So soon, and at this size, the standard discriminator is ahead of the relativistic one, by which the two networks are
told apart too easily, and features after the activation of those before it, which is how the distance is measured:
neither is what the authors found in 23 blocks after 400,000 steps. Residual blocks in place of RRDB: see
`srresnet_small`. Two more failed: with `--pixel-weight 0.01`, and with the deepest features alone, the discriminator
won and PSNR fell to 24.6 dB, or the perceptual distance hardly changed.
"""
XEON = "2 cores of an Intel Xeon with AMX, beside other work"
RESULTS = [
    Result(
        "esrgan_small",
        f"esrgan_small {PHOTOGRAPHS} --start rrdb_small --gan-epochs 4 {GAN}",
        XEON,
        23,
        {
            "Set5": 29.41,
            "Set14": 26.69,
            "BSD100": 26.25,
            "Set5 perceptual": 1.029,
            "Set14 perceptual": 1.489,
            "BSD100 perceptual": 1.664,
        },
        {
            "rrdb_small Set5 perceptual": 1.138,
            "rrdb_small Set14 perceptual": 1.746,
            "rrdb_small BSD100 perceptual": 2.045,
            "bicubic Set5 perceptual": 1.477,
            "bicubic Set14 perceptual": 1.947,
            "bicubic BSD100 perceptual": 2.167,
        },
        NOTE,
    ),
]
