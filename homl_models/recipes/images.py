"""Recipes of image models: data, batches, compilation and evaluation. Those that sample are in `generators.py`."""

import dataclasses
import functools
import math
import sys
from typing import ClassVar, Literal

from homl_models.errors import UserError
from homl_models.recipes.recipe import Recipe, positive
from homl_models.recipes.sources import Sourced

GRID_COLUMNS = 10  # images in a row
EVAL_BATCH_SIZE = 500  # at most
SMALL_SPLIT = 32  # images of a split that is evaluated in one batch
MAX_CLASSES_SHOWN = 20
FASHION = "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"


@dataclasses.dataclass(frozen=True)
class ImageRecipe(Sourced, Recipe):
    """A recipe of a model of images, with training, validation and test split."""

    monitor: str = "val_loss"
    data: Literal["fashion_mnist", "mnist", "digits"] = "fashion_mnist"
    """Fashion MNIST, from Keras' cache or the network; MNIST, from the folder --images; or scikit-learn's digits."""
    images: str = ""
    """Your own images: a folder (with a subfolder for each class; what is transparent lies on white), an .npy or .npz
    file; with --data mnist the folder of its four IDX files."""
    size: int = 0
    """Height and width to bring the images of a folder to. 0: those of the first."""
    channels: Literal[1, 3] = 1
    """1: grey, 3: colour."""
    num_images: int = 0
    """Training images, at most. 0: all."""
    steps_per_execution: int = 50
    """Training steps per call of the compiled function; more costs less time."""
    convolutional: ClassVar[bool] = False  # on a CPU TensorFlow's kernels of convolutions are faster than XLA's

    def __post_init__(self):
        super().__post_init__()
        positive(steps_per_execution=self.steps_per_execution)
        if min(self.size, self.num_images) < 0:
            raise UserError("--size and --num-images must be 0 or more")
        self.check_source(images=self.images)
        self.check_data()

    def check_data(self):
        """`UserError` for settings of the data that do not go together."""
        if self.data == "mnist" and not self.images and self.source == "keras":
            raise UserError("--data mnist needs --images, the folder of its four IDX files")
        if (self.size or self.channels != 1) and (self.data == "mnist" or not self.images):
            raise UserError("--size and --channels are for --images of your own; the data sets are grey, of one size")

    @functools.cached_property
    def user_images(self):
        """The images of --images, a `pipelines.images.Images`; None for a known data set."""
        from homl_models.pipelines import images

        if not self.images or self.data == "mnist":
            return None
        data = images.read(self.images, (self.size, self.size) if self.size else None, self.channels)
        if data.classes and self.verbose:
            counts = f"{len(data.images)} images of {len(data.classes)} classes"
            print(f"{self.images} has {counts}: {listed(data.classes)}", file=sys.stderr)
        return data

    @functools.cached_property
    def tfds_images(self):
        """Training split, test split and class names of --source; None for another source."""
        from homl_models.pipelines import tfds

        return tfds.images(self.tfds_name) if self.tfds_name else None

    @functools.cached_property
    def splits(self):
        """Training, validation and test split, (images, labels) each."""
        from homl_models.pipelines import image_datasets, images

        if self.tfds_images:
            (x, labels), test, _ = self.tfds_images
            valid = -(-len(x) // 12)  # 5,000 of 60,000
            train, valid, test = images.split_at(x, labels, len(x) - valid, valid, test)
        elif self.user_images:
            train, valid, test = images.split(self.user_images, self.seed, self.images)
        elif self.data == "mnist":
            train, valid, test = image_datasets.mnist(self.images)
        else:
            load = image_datasets.fashion_mnist if self.data == "fashion_mnist" else image_datasets.digits
            train, valid, test = load()
        return tuple(x[: self.num_images or None] for x in train), valid, test

    @property
    def image_shape(self):
        return self.splits[0][0].shape[1:]

    def fingerprinted(self):
        return super().fingerprinted() | ({"classes": self.user_images.classes} if self.user_images else {})

    @property
    def class_names(self):
        """Names of the classes, in the order of the labels; () for labels without names."""
        if self.user_images:
            return self.user_images.classes
        if self.source.startswith("tfds:"):
            return self.tfds_images[2]
        return FASHION if self.data == "fashion_mnist" else tuple(map(str, range(10)))

    @property
    def num_classes(self):
        labels = [labels for _, labels in self.splits]
        if missing := sum(int((each < 0).sum()) for each in labels):
            wanted = "give each class a folder of its own, or an .npz with `labels`"
            raise UserError(f"{missing} of {sum(map(len, labels))} images have no label; {wanted}")
        return len(self.class_names) or int(max(map(max, labels))) + 1

    def batches(self, split, batch_size, seed=None):
        """Dataset of (inputs, targets) of a split (images, labels)."""
        from homl_models.pipelines.image_batches import batches

        return batches(split[0], batch_size, seed, self.targets(split))

    def targets(self, split):
        """Targets of a split (images, labels); None for the images themselves."""
        return None

    def datasets(self):
        train, valid, _ = self.splits
        return self.batches(train, self.batch_size, self.seed), self.batches(
            valid, eval_batch_size(valid, self.splits[1:])
        )

    def compiled(self, model):
        """`model`, built and compiled."""
        if not model.built:
            model.build()
        model.compile(self.optimizer(self.epochs * self.datasets()[0].steps), **self.compile_kwargs())
        return model

    def compile_kwargs(self):
        """Arguments of `compile` beside the optimizer."""
        jit_compile = "auto" if self.convolutional else True  # "auto": XLA wherever there is more than a CPU
        return {"jit_compile": jit_compile, "steps_per_execution": self.steps_per_execution}

    def evaluate(self, model, images=""):
        """Loss and metrics on validation and test images, or on `images`, a folder or file of yours.

        Its classes are matched with the classes of the model by name.
        """
        return self.loss_and_metrics(model, self.evaluation_splits(model, images))

    def evaluation_splits(self, model, images):
        """{prefix of metrics: split}: validation and test split, or `images`, a folder or file."""
        from homl_models.pipelines import images as pipeline

        if not images:
            return {"val_": self.splits[1], "test_": self.splits[2]}
        data = pipeline.read(images, model.image_shape[:2], model.channels)
        if num_classes := getattr(model, "num_classes", 0):
            names = model.class_names or (() if self.images and self.data != "mnist" else self.class_names)
            data = pipeline.match_labels(data, names, num_classes, images)
        return {"": (data.images, data.labels)}

    def loss_and_metrics(self, model, splits):
        """Loss, metrics and `extra_metrics` on {prefix: (images, labels)}: {prefix + name: value}."""
        if not model.compiled:
            model.compile(**self.compile_kwargs())
        if any(labels is not None and labels.min() < 0 for labels in map(self.targets, splits.values())):
            raise UserError("there are images without a label; give each class a folder of its name")
        metrics = {}
        for prefix, split in splits.items():
            size = eval_batch_size(split, splits.values())
            values = model.evaluate(self.batches(split, size).dataset(), return_dict=True, verbose=0)
            metrics |= {prefix + name: float(value) for name, value in values.items()}
            metrics |= {prefix + name: value for name, value in self.extra_metrics(model, split[0]).items()}
        return metrics

    def extra_metrics(self, model, images):
        """Metrics on images (n, ...) beside the compiled ones."""
        return {}


def eval_batch_size(split, splits):
    """Batch size of the evaluation of a split (images, labels): at most `EVAL_BATCH_SIZE`, all batches about as large.

    splits: all that are evaluated; one batch size for all of them is compiled once.
    """
    most = min(EVAL_BATCH_SIZE, max(SMALL_SPLIT, min(len(images) for images, _ in splits)))
    count = len(split[0])
    sizes = (math.ceil(count / batches) for batches in range(math.ceil(count / most), count + 1))
    return next(size for size in sizes if count % size == 0 or count % size > size / 2)


def listed(names):
    """Names of classes in one line, at most 20."""
    return ", ".join(names[:MAX_CLASSES_SHOWN]) + (", ..." if len(names) > MAX_CLASSES_SHOWN else "")
