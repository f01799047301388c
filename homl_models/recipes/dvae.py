"""Recipes of the discrete variational autoencoder (`models/dvae.py`)."""

import dataclasses
import functools
import warnings
from typing import ClassVar, Literal

from homl_models.errors import UserError
from homl_models.recipes.images import GRID_COLUMNS, ImageRecipe
from homl_models.recipes.recipe import positive
from homl_models.recipes.results import Result

STRIDE = 8
SMALL_USAGE, SMALL_PERPLEXITY = 0.1, 0.02  # of an index that has collapsed, as fractions of the codes


def collapsed(usage, perplexity, vocab_size, num_tokens):
    """Whether the index has collapsed: under a tenth of the codes that can be in use are, or few of them nearly always.

    usage: fraction of the codes in use. num_tokens: of which usage and perplexity were counted.
    """
    possible = min(vocab_size, num_tokens)
    return usage * vocab_size < max(2, SMALL_USAGE * possible) or perplexity < SMALL_PERPLEXITY * possible


@dataclasses.dataclass(frozen=True)
class DVAE(ImageRecipe):
    """Discrete variational autoencoder: images as a grid of tokens, one for 8x8 pixels, for BEiT to predict.

    Image files lie in the folder --images. The fraction of codes in use, their perplexity and the reconstruction are in
    every report. If the index collapses, so that few codes are in use, a warning says so.
    """

    kind: ClassVar[str] = "draws"
    monitor: str = "val_reconstruction"
    data: Literal["images", "digits"] = "images"
    """The images of --images, or scikit-learn's digits, to try it."""
    images: str = ""
    """Your own images: a folder (what is transparent lies on white), or an .npy or .npz file."""
    size: int = 64
    """Height and width to bring the images of a folder to, a multiple of 8. 0: those of the first."""
    channels: Literal[1, 3] = 3
    """1: grey, 3: colour."""
    steps_per_execution: int = 10
    """Training steps per call of the compiled function; more costs less time."""
    epochs: int = 100
    learning_rate: float = 2e-3
    form: Literal["small", "dalle"] = "small"
    """Networks: three strided convolutions and residual blocks, or DALL-E's four groups of bottleneck blocks."""
    vocab_size: int = 512
    """Number of codes; DALL-E has 8192."""
    dim: int = 128
    """Channels of the smallest feature maps of the small networks, or of the largest of DALL-E's, which has 256."""
    num_blocks: int = 2
    """Residual blocks of each network, or of each of DALL-E's groups."""
    likelihood: Literal["logit_laplace", "mse"] = "mse"
    """Reconstruction: the squared error, or the logit-Laplace distribution of DALL-E."""
    kl_weight: float = 0.1
    """Weight of the KL divergence from the uniform distribution over codes. DALL-E has 6.6, for millions of images;
    with few the index collapses so, and 0.5 suits the logit-Laplace distribution."""
    kl_warmup: float = 0.05
    """Fraction of the training in which that weight rises from 0."""
    temperature: float = 1 / 16
    """Last temperature of the Gumbel-softmax; the first is 1."""
    annealing: float = 0.5
    """Fraction of the training in which the temperature falls."""
    normalize_logits: bool = True
    """Batch normalization of the logits, so that all codes are in use from the start; DALL-E has none."""
    straight_through: bool = False
    """Decode one-hot samples in training, with the gradient of the relaxed ones."""
    crop: int = 8
    """Pixels by which images are moved at random in training, at most, besides being mirrored. 0: no augmentation."""
    convolutional: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        names = "vocab_size", "dim", "num_blocks", "temperature", "annealing", "kl_warmup"
        positive(**{name: getattr(self, name) for name in names})
        if self.vocab_size < 2:
            raise UserError(f"--vocab-size must be 2 or more, not {self.vocab_size}")
        if self.dim % 4:
            raise UserError(f"--dim must be a multiple of 4, not {self.dim}")
        if max(self.annealing, self.kl_warmup) > 1:
            raise UserError("--annealing and --kl-warmup must lie in (0, 1]")
        if min(self.kl_weight, self.crop) < 0:
            raise UserError("--kl-weight and --crop must be 0 or more")

    def check_data(self):
        if self.size % STRIDE:
            raise UserError(f"--size must be a multiple of {STRIDE}, not {self.size}")
        if self.data == "digits" and (self.images or self.size or self.channels != 1):
            raise UserError("--data digits is grey, of one size: it takes --size 0 --channels 1, and no --images")

    @functools.cached_property
    def user_images(self):
        if self.data == "images" and not self.images:
            wanted = "a folder of images, or an .npy or .npz file; or --data digits --size 0 --channels 1 to try it"
            raise UserError(f"--images is needed: {wanted}")
        return super().user_images

    @property
    def class_names(self):
        return self.user_images.classes if self.user_images else super().class_names

    def batches(self, split, batch_size, seed=None):
        from homl_models.pipelines import image_batches

        margin = min(self.crop, *(side - 1 for side in split[0].shape[1:3]))
        augment = functools.partial(image_batches.crop_and_flip, margin=margin) if self.crop else None
        return image_batches.batches(split[0], batch_size, seed, augment=augment)

    def networks(self):
        """A new encoder and decoder."""
        from homl_models.models import dvae_networks

        classes = {
            "small": (dvae_networks.ConvEncoder, dvae_networks.ConvDecoder),
            "dalle": (dvae_networks.DalleEncoder, dvae_networks.DalleDecoder),
        }[self.form]
        channels = 1 if len(self.image_shape) == 2 else self.image_shape[2]
        outputs = channels * (2 if self.likelihood == "logit_laplace" else 1)
        settings = {
            "vocab_size": self.vocab_size,
            "dim": self.dim,
            "num_blocks": self.num_blocks,
            "dtype": self.precision,
        }
        return classes[0](**settings), classes[1](outputs, **settings)

    def model(self):
        from homl_models.models.dvae import DVAE
        from homl_models.schedules import Cosine

        steps = self.epochs * self.datasets()[0].steps
        model = DVAE(
            *self.networks(),
            temperature=Cosine(1.0, self.temperature, max(1, round(self.annealing * steps))),
            kl_weight=Cosine(0.0, self.kl_weight, max(1, round(self.kl_warmup * steps))),
            likelihood=self.likelihood,
            normalize_logits=self.normalize_logits,
            straight_through=self.straight_through,
            seed=self.seed,
            image_shape=self.image_shape,
            dtype=self.precision,
        )
        return self.compiled(model)

    def end_epoch(self, model, epoch, folder):
        """The temperature and the weight of the KL divergence; a warning if the index has collapsed."""
        from keras import ops

        num_tokens = float(ops.sum(model.codebook.counts))  # of the validation images, which come last
        found = {name: float(value) for name, value in model.codebook.result().items()}
        self.warn_of_collapse(model, found, num_tokens)
        return {name: float(model.schedule(name)) for name in ("temperature", "kl_weight")}

    def warn_of_collapse(self, model, metrics, num_tokens, prefix=""):
        """A warning if codebook usage and perplexity are those of a collapsed index; at each place it is given once."""
        usage, perplexity = (metrics[prefix + name] for name in ("codebook_usage", "perplexity"))
        if collapsed(usage, perplexity, model.vocab_size, num_tokens):
            advice = "try --normalize-logits, another --kl-weight, a slower --annealing or fewer codes"
            warnings.warn(
                f"index collapse: less than {SMALL_USAGE:.0%} of the {model.vocab_size} codes are in use, or nearly "
                f"all tokens are the same few (codebook_usage, perplexity); {advice}",
                stacklevel=2,
            )

    def loss_and_metrics(self, model, splits):
        metrics = super().loss_and_metrics(model, splits)
        for prefix, (images, _) in splits.items():
            num_tokens = len(images) * images.shape[1] * images.shape[2] // STRIDE**2
            self.warn_of_collapse(model, metrics, num_tokens, prefix)
        return metrics

    def show(self, model, folder):
        """reconstructions.png: validation images, their reconstructions, and their tokens as colours."""
        import numpy as np

        from homl_models.training import reports

        images = model.checked_images(self.splits[1][0][:GRID_COLUMNS])
        tokens = model.tokens(images)
        rows = [images, model.decode(tokens)]
        rows = [x if x.ndim == 4 and x.shape[3] == 3 else x.reshape(*x.shape[:3], 1).repeat(3, 3) for x in rows]
        colours = reports.index_colours(model.vocab_size)[tokens].repeat(STRIDE, 1).repeat(STRIDE, 2)
        reports.image_grid([*rows, colours], folder / "reconstructions.png")
        used = len(np.unique(model.tokens(self.splits[1][0])))
        return (
            "reconstructions.png  validation images, their reconstructions, and their tokens, a colour for each code\n"
            f"{used} of {model.vocab_size} codes are in use for {len(self.splits[1][0])} validation images"
        )


RECIPES = {
    "dvae": DVAE(),
    "dvae_tiny": DVAE(
        data="digits", size=0, channels=1, epochs=2, batch_size=64, num_images=320, steps_per_execution=1,
        vocab_size=16, dim=8, num_blocks=1, likelihood="logit_laplace", kl_weight=0.1, crop=1,
    ),
}  # fmt: skip

SUMMARIES = {"dvae": "Discrete VAE: images as tokens, for BEiT"}
RESULTS = [
    Result(
        "dvae",
        command="dvae --images clothing128/train --epochs 100",
        machine="1 core of an Intel Xeon, beside other work",
        minutes=63,
        metrics={
            "val_psnr": 22.61,
            "val_codebook_usage": 0.994,
            "val_perplexity": 453,
            "test_psnr": 22.83,
            "test_perplexity": 457,
        },
        reference={"psnr of the mean image": 12.70, "psnr of a colour for each token": 19.02},
        note=(
            "3,068 photographs of clothes, at 64 pixels; validation and test are tenths of them, 306 and 308 images. "
            "The PSNR is in dB. The reference is that of the validation images: always the mean of the training "
            "images; and of each image the mean colour of every 8x8 pixels, which are as many numbers as tokens but of "
            "any colour (of 512 colours, found by k-means, 18.86). 341 other photographs of the same collection have "
            "PSNR 22.54, perplexity 453, and with a colour for each token 18.91. In `reconstructions.png` the kind of "
            "garment, its colours and a collar or a waistband can be told, and the ground that it lies on; but edges "
            "are soft, and checks, stripes, prints and buttons are gone or smears."
        ),
    ),
]
