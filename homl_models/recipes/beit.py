"""Recipes of BEiT (`models/beit.py`): pre-training by masked patches, and classification of images."""

import dataclasses
import functools
from typing import ClassVar, Literal

from homl_models.errors import UserError
from homl_models.recipes import dvae
from homl_models.recipes.images import GRID_COLUMNS, ImageRecipe, eval_batch_size
from homl_models.recipes.recipe import rate
from homl_models.recipes.results import Result
from homl_models.recipes.vision_transformer import VisionTransformer


@dataclasses.dataclass(frozen=True)
class ImageTransformer(VisionTransformer, ImageRecipe):
    """Settings of BEiT on images, a folder or file of them, and of their augmentation."""

    data: Literal["images", "digits"] = "images"
    """The images of --images, or scikit-learn's digits, to try it."""
    images: str = ""
    """A folder of images, a subfolder for each class, or of such folders named train, validation and test; or an .npz
    file with `images` and `labels`, or with x_train, y_train, x_test and y_test."""
    stored_size: int = 0
    """Height and width of the images that crops are taken from. 0: --size, or for an .npz file its own."""
    channels: Literal[1, 3] = 3
    """1: grey, 3: colour."""
    crop_scale: float = 0.3
    """Smallest area of a random crop, as a fraction of the image; 0.08 is that of the paper, for ImageNet."""
    flip: float = 0.5
    """Probability to mirror a training image; 0 for digits and letters."""
    color_jitter: float = 0.4
    """Brightness, contrast and saturation change by this fraction at most."""
    labelled: ClassVar[bool] = True  # whether every image must have a label

    def __post_init__(self):
        super().__post_init__()
        rate(color_jitter=self.color_jitter, flip=self.flip)
        if not 0 < self.crop_scale <= 1:
            raise UserError(f"--crop-scale must lie in (0, 1], not {self.crop_scale}")
        if self.stored_size < 0:
            raise UserError("--stored-size must be 0 or more")

    def check_data(self):
        if self.data == "digits" and (self.images or self.channels != 1):
            raise UserError("--data digits is grey: it takes --channels 1, and no --images")

    # Data.

    @functools.cached_property
    def found(self):
        """`labelled_images.Splits` of the data, images (n, h, w, c)."""
        from homl_models.pipelines import image_datasets, labelled_images

        if self.data == "digits":
            splits = labelled_images.Splits(*image_datasets.digits(), tuple(map(str, range(10))))
        elif not self.images:
            wanted = "a folder of images or an .npz file; or --data digits --channels 1 to try it"
            raise UserError(f"--images is needed: {wanted}")
        else:
            size = None if self.images.endswith(".npz") else (self.stored_size or self.size,) * 2
            splits = labelled_images.read_splits(self.images, size, self.channels, self.seed, self.labelled)
        return labelled_images.Splits(*((with_channels(x), y) for x, y in splits[:3]), splits.classes)

    @functools.cached_property
    def splits(self):
        train, valid, test = self.found[:3]
        return tuple(x[: self.num_images or None] for x in train), valid, test

    def fingerprinted(self):
        return {"data": self.splits, "classes": self.class_names}

    @property
    def class_names(self):
        return self.found.classes

    def augmentation(self, **settings):
        """Random crops and flips, as an `image_augmentation.Augmentation`."""
        from homl_models.pipelines.image_augmentation import Augmentation

        return Augmentation(((self.size,) * 2,), ("bicubic",), (self.crop_scale, 1.0), flip=self.flip, **settings)


def with_channels(images):
    """Images (n, h, w[, c]) with their axis of channels."""
    return images if images.ndim == 4 else images[..., None]


def without_grey_channel(rows):
    """Rows of images (n, h, w, c), as `reports.image_grid` takes them."""
    return [row if row.shape[-1] == 3 else row[..., 0] for row in rows]


@dataclasses.dataclass(frozen=True)
class BeitPretrain(ImageTransformer):
    """BEiT pre-trained on images without labels: the visual tokens of masked patches.

    --tokenizer is a run of `dvae`, trained on images of the same channels.
    """

    kind: ClassVar[str] = "fit"
    epochs: int = 100
    learning_rate: float = 1.5e-3
    tokenizer: str = ""
    """The run of a discrete VAE; or the name of its recipe, for an untrained one."""
    masked: float = 0.4
    """Fraction of the patches that are masked."""
    labelled: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.masked < 1:
            raise UserError(f"--masked must lie in (0, 1), not {self.masked}")

    @functools.cached_property
    def visual_tokenizer(self):
        """The discrete VAE of --tokenizer."""
        from homl_models import loading
        from homl_models.models.dvae import DVAE

        if not self.tokenizer:
            raise UserError("--tokenizer is needed: the folder of a run of dvae")
        if self.tokenizer in dvae.RECIPES:
            import keras

            keras.utils.set_random_seed(self.seed)  # or else each run would have another
            model = dataclasses.replace(dvae.RECIPES[self.tokenizer], seed=self.seed).model()
        else:
            model = loading.load(self.tokenizer)
        if not isinstance(model, DVAE):
            raise UserError(f"{self.tokenizer} is a {type(model).__name__}, no tokenizer: give the run of a dvae")
        if model.channels != self.channels:
            raise UserError(f"{self.tokenizer} takes images of {model.channels} channels: --channels {model.channels}")
        tokenizer = type(model).from_config(model.get_config())  # without the optimizer, which files would hold
        tokenizer.build()
        tokenizer.set_weights(model.get_weights())
        return tokenizer

    def views(self):
        """Arguments of `masked_images.batches` and `eval_batches`: a token of the tokenizer for each patch."""
        grid, size = self.size // self.patch_size, (self.size,) * 2
        token_size = (grid * self.visual_tokenizer.stride,) * 2
        return {"size": size, "patch": self.patch_size, "token_size": token_size, "masked": self.masked}

    def eval_batches(self, images, batch_size):
        """`RandomAccessDataset` of masked images (n, h, w, c), with the same masks each time."""
        from homl_models.pipelines import masked_images

        return masked_images.eval_batches(images, batch_size, seed=self.seed, **self.views())

    def datasets(self):
        from homl_models.pipelines import masked_images

        train, valid, _ = self.splits
        crops = self.augmentation(color_jitter=self.color_jitter)
        return (
            masked_images.batches(train[0], self.batch_size, seed=self.seed, augmentation=crops, **self.views()),
            self.eval_batches(valid[0], self.eval_batch_size(valid)),
        )

    def eval_batch_size(self, split):
        return min(self.batch_size, eval_batch_size(split, self.splits[1:]))

    def model(self):
        from homl_models.models.beit import Beit, BeitForMaskedImageModeling
        from homl_models.models.beit_pretraining import BeitPretrainer

        tokenizer = self.visual_tokenizer
        position = {"use_shared_relative_position_bias": True, "use_mask_token": True}
        backbone = Beit(self.config(vocab_size=tokenizer.vocab_size, **position), False, dtype=self.precision)
        head = BeitForMaskedImageModeling(backbone, dtype=self.precision)
        return self.compiled(BeitPretrainer(head, tokenizer, dtype=self.precision))

    def evaluate(self, model, images=""):
        """Loss and accuracy of masked tokens, of the validation and test images, or of `images`, a folder or file.

        most_frequent_token is the accuracy of always naming the token that is most frequent there; perplexity is of all
        tokens.
        """
        from homl_models.pipelines import images as pipeline

        if images:
            size = None if images.endswith(".npz") else (self.stored_size or self.size,) * 2
            splits = {"": with_channels(pipeline.read(images, size, self.channels).images)}
        else:
            splits = {"val_": self.splits[1][0], "test_": self.splits[2][0]}
        metrics = {}
        for prefix, split in splits.items():
            dataset = self.eval_batches(split, self.eval_batch_size((split,))).dataset()
            found = model.evaluate(dataset, return_dict=True, verbose=0) | token_statistics(model, dataset)
            metrics |= {prefix + name: float(value) for name, value in found.items()}
        return metrics

    def show(self, model, folder):
        """masked.png: validation images, their masks, and the images that the tokenizer decodes from tokens."""
        import numpy as np

        from homl_models.training import reports

        batch = self.eval_batches(self.splits[1][0], GRID_COLUMNS).batch(0)
        mask, images = np.asarray(batch["bool_masked_pos"]), np.asarray(batch["images"])
        patches = np.kron(mask, np.ones((1, self.patch_size, self.patch_size)))[..., None]
        filled = model.filled(batch["images"], batch["token_images"], mask)
        own = model.filled(batch["images"], batch["token_images"], np.zeros_like(mask))
        decoded = [resized(model.tokenizer.decode(np.asarray(tokens)), self.size) for tokens in (own, filled)]
        rows = [images, np.where(patches > 0, 0.5, images), *decoded]
        reports.image_grid(without_grey_channel(rows), folder / "masked.png")
        right = np.mean(np.asarray(own)[mask] == np.asarray(filled)[mask])
        return (
            "masked.png  validation images, their masks, decoded from all their tokens, and with those\n"
            f"            of masked patches predicted, {100 * right:.0f} % of them right"
        )


def token_statistics(model, dataset):
    """Fraction of the most frequent visual token, and perplexity of all of them, in batches of masked images."""
    import numpy as np

    counts = np.zeros(model.config.vocab_size)
    for batch in dataset:
        counts += np.bincount(np.asarray(model.tokens(batch["token_images"])).ravel(), minlength=len(counts))
    p = counts[counts > 0] / counts.sum()
    return {"most_frequent_token": p.max(), "perplexity": np.exp(-(p * np.log(p)).sum())}


def resized(images, size):
    """Images (n, h, w[, c]) in [0, 1] -> (n, size, size, c)."""
    import keras

    images = with_channels(images)
    return keras.ops.convert_to_numpy(keras.ops.image.resize(images, (size, size), data_format="channels_last"))


TINY = {"data": "digits", "channels": 1, "size": 8, "patch_size": 2, "hidden_size": 16, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 2, "intermediate_size": 16, "epochs": 2, "batch_size": 16, "steps_per_execution": 1}

RECIPES = {
    "beit_pretrain": BeitPretrain(),
    "beit_pretrain_tiny": BeitPretrain(**TINY, num_images=64, tokenizer="dvae_tiny"),
}
SUMMARIES = {"beit_pretrain": "BEiT pre-trained on images without labels: the visual tokens of masked patches"}
RESULTS = [
    Result(
        "beit_pretrain",
        "beit_pretrain --images clothing128 --stored-size 128 --tokenizer runs/dvae",
        "one NVIDIA H200 on JAX, with 13 other trainings on its 16 cores (70 of the 100 epochs); then 1 core of an "
        "Intel Xeon, beside other work",
        72,
        {"val_accuracy": 0.149, "test_accuracy": 0.139, "val_loss": 3.94, "test_loss": 4.06},
        {"val_accuracy of the most frequent token": 0.006, "val_loss of equal chances": 6.24},
        "Of the masked patches of clothes, 40 % of an image, 15 % get the very token of 512 that the tokenizer of "
        "`dvae` gives them (perplexity 456). On the validation images: after 10 epochs 4 %, 20: 7, 30: 8, 40: 10, "
        "50: 11, 60: 11, 70: 14, 80: 14, 100: 15; until epoch 70 the learning rate fell as if there were 200. In "
        "`masked.png`, decoded from the predicted tokens, legs, sleeves and hems go on under the mask in their "
        "colours; a sleeve is missed here and there, and a collar.",
    ),
]
