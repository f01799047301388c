"""What recipes of images share: where the images come from, batches of them, and how models are judged on them."""

import dataclasses
import functools
import math
import sys
from typing import Literal

from homl_models.errors import UserError
from homl_models.recipes.recipe import Recipe, positive

GRID_COLUMNS = 10  # images in a row
EVAL_BATCH_SIZE, SMALL = 500, 32  # images in a batch of evaluation, at most, and of parts that are evaluated at once
MIN_SAMPLES = 100  # images to measure generation by
MAX_CLASS_COLUMNS = 20  # classes that are shown side by side
FASHION = "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"


@dataclasses.dataclass(frozen=True)
class ImageRecipe(Recipe):
    """A recipe whose data are images, in three parts."""

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
    """Train on that many images at most. 0: on all."""
    steps_per_execution: int = 50
    """Training steps between two looks at the progress; more costs less time."""

    def __post_init__(self):
        super().__post_init__()
        positive(steps_per_execution=self.steps_per_execution)
        if min(self.size, self.num_images) < 0:
            raise UserError("--size and --num-images must be 0 or more")
        if self.data == "mnist" and not self.images:
            raise UserError("--data mnist needs --images, the folder of its four IDX files")
        if (self.size or self.channels != 1) and (self.data == "mnist" or not self.images):
            raise UserError("--size and --channels are for --images of your own; the data sets are grey, of one size")

    @functools.cached_property
    def user_images(self):
        """Your own images, a `pipelines.images.Images`; None where a data set is trained on."""
        from homl_models.pipelines import images

        if not self.images or self.data == "mnist":
            return None
        data = images.read(self.images, (self.size, self.size) if self.size else None, self.channels)
        if data.classes and self.verbose:
            told = f"{self.images} has {len(data.images)} images of {len(data.classes)} classes"
            print(f"{told}: {listed(data.classes)}", file=sys.stderr)
        return data

    @functools.cached_property
    def splits(self):
        """Training, validation and test part: (images, labels) each."""
        from homl_models.pipelines import image_datasets, images

        if self.user_images:
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

    def learnt_from(self):
        return super().learnt_from() | ({"classes": self.user_images.classes} if self.user_images else {})

    @property
    def class_names(self):
        """Names of the classes, in the order of their numbers; () for labels without names."""
        if self.user_images:
            return self.user_images.classes
        return FASHION if self.data == "fashion_mnist" else tuple(map(str, range(10)))

    @property
    def num_classes(self):
        labels = [labels for _, labels in self.splits]
        if missing := sum(int((part < 0).sum()) for part in labels):
            wanted = "give each class a folder of its own, or an .npz with `labels`"
            raise UserError(f"{missing} of {sum(map(len, labels))} images have no label; {wanted}")
        return len(self.class_names) or int(max(map(max, labels))) + 1

    def batches(self, part, batch_size, seed=None):
        """Batches of a part, as the model is trained on them."""
        from homl_models.pipelines.image_batches import batches

        return batches(part[0], batch_size, seed, self.targets(part))

    def targets(self, part):
        """What a part's images are to be mapped to; None for themselves."""
        return None

    def datasets(self):
        train, valid, _ = self.splits
        return self.batches(train, self.batch_size, self.seed), self.batches(
            valid, eval_batch_size(valid, self.splits[1:])
        )

    def compiled(self, model):
        """`model` with its optimizer and objective."""
        model.build()
        model.compile(self.optimizer(self.epochs * self.datasets()[0].steps), **self.compile_kwargs())
        return model

    @property
    def convolutional(self):
        """Whether the time goes into convolutions, which TensorFlow's kernels for a CPU do faster than XLA's."""
        return False

    def compile_kwargs(self):
        """What the model is compiled with beside an optimizer."""
        jit_compile = "auto" if self.convolutional else True  # "auto": XLA wherever there is more than a CPU
        return {"jit_compile": jit_compile, "steps_per_execution": self.steps_per_execution}

    def evaluate(self, model, images=""):
        """The loss and its parts on validation and test images, or on `images`, a folder or file of yours.

        Its classes are those of the model of the same names.
        """
        return self.loss_and_metrics(model, self.evaluation_splits(model, images))

    def evaluation_splits(self, model, images):
        """{prefix of metrics: part}: validation and test part, or `images`, a folder or file."""
        from homl_models.pipelines import images as pipeline

        if not images:
            return {"val_": self.splits[1], "test_": self.splits[2]}
        data = pipeline.read(images, model.image_shape[:2], model.channels)
        if num_classes := getattr(model, "num_classes", 0):
            names = model.class_names or (() if self.images and self.data != "mnist" else self.class_names)
            data = pipeline.match_labels(data, names, num_classes, images)
        return {"": (data.images, data.labels)}

    def loss_and_metrics(self, model, parts):
        """The loss and its parts, and what `extra_metrics` adds, on `parts`."""
        if not model.compiled:
            model.compile(**self.compile_kwargs())
        if any(labels is not None and labels.min() < 0 for labels in map(self.targets, parts.values())):
            raise UserError("there are images without a label; give each class a folder of its name")
        metrics = {}
        for prefix, part in parts.items():
            size = eval_batch_size(part, parts.values())
            found = model.evaluate(self.batches(part, size).dataset(), return_dict=True, verbose=0)
            metrics |= {prefix + name: float(value) for name, value in found.items()}
            metrics |= {prefix + name: value for name, value in self.extra_metrics(model, part[0]).items()}
        return metrics

    def extra_metrics(self, model, images):
        """More metrics on images (n, ...)."""
        return {}


def eval_batch_size(part, parts):
    """Batch size of the evaluation of a split (images, labels): at most `EVAL_BATCH_SIZE`, all batches about as large.

    parts: all that are evaluated, which should have batches of one size, as that is what is compiled for.
    """
    most = min(EVAL_BATCH_SIZE, max(SMALL, min(len(images) for images, _ in parts)))
    count = len(part[0])
    sizes = (math.ceil(count / batches) for batches in range(math.ceil(count / most), count + 1))
    return next(size for size in sizes if count % size == 0 or count % size > size / 2)


def listed(names):
    """Names of classes, the first of them where they are many."""
    return ", ".join(names[:MAX_CLASS_COLUMNS]) + (", ..." if len(names) > MAX_CLASS_COLUMNS else "")


class GeneratorRecipe(ImageRecipe):
    """A recipe of a model that draws images: `model.sample(count, seed)`."""

    conditional = False  # whether it is trained on pairs (images, labels)

    def batches(self, part, batch_size, seed=None):
        from homl_models.pipelines.random_access import RandomAccessDataset

        pairs = super().batches(part, batch_size, seed)
        return RandomAccessDataset(lambda step: (pairs.batch(step),), pairs.steps) if self.conditional else pairs

    def targets(self, part):
        return part[1] if self.conditional else None

    def reset_sampling_seed(self, model):
        """Make the draws of the next evaluation those of every evaluation."""

    def evaluate(self, model, images="", features="", count=10_000):
        """The loss and its parts on validation and test images, or on `images`, a folder or file of yours.

        The same draws every time. New images are compared with `count` of the test images (or of `images`), chosen at
        random by the run's seed, by the network `features`; see `GeneratorRecipe.measured`. Default: the preset
        fashion_features for models of Fashion MNIST; without one, by their pixels, through `metrics.prdc`
        alone.
        """
        self.reset_sampling_seed(model)
        parts = self.evaluation_splits(model, images)
        metrics = self.loss_and_metrics(model, parts)
        features, real = features or self.features, self.evaluation_subset(list(parts.values())[-1][0], count)
        if features:
            metrics |= self.measured(model, real, features)
        elif len(real) >= MIN_SAMPLES:
            metrics |= by_pixels(model.checked_images(real), self.sample_images(model, len(real))[0])
        return metrics

    def evaluation_subset(self, images, count):
        """`count` of the images (n, ...), in their order, drawn by the seed; all where there are no more."""
        import numpy as np

        if count < 0:
            raise UserError(f"--count must be 0 or more, not {count}")
        if count >= len(images):
            return images
        return images[np.sort(np.random.default_rng(self.seed).permutation(len(images))[:count])]

    def sample_grid(self, model):
        """New images (rows, columns, ...): of the first classes, one in each column; 8 by 8 without classes."""
        import numpy as np

        if not self.conditional:
            images = self.sample_images(model, 64)[0]
            return images.reshape(8, 8, *images.shape[1:])
        classes = min(model.num_classes, MAX_CLASS_COLUMNS)
        images = self.sample_images(model, GRID_COLUMNS * classes, np.tile(np.arange(classes), GRID_COLUMNS))[0]
        return images.reshape(GRID_COLUMNS, classes, *images.shape[1:])

    def sample_grid_legend(self, model):
        """Which class is in which column of `sample_grid`, in words."""
        return "a class in each column: " + listed(model.class_names or tuple(map(str, range(model.num_classes))))

    @property
    def features(self):
        """The preset that judges what is drawn, or ""."""
        return "fashion_features" if self.data == "fashion_mnist" and not self.images else ""

    def sample_images(self, model, count, labels=None):
        """New images (count, ...) and the labels (count,) that they were drawn for, or None.

        labels: of a conditional model; by default all classes in turn.
        """
        return model.sample(count, self.seed), None

    def measured(self, model, real, features):
        """`metrics.generation_metrics` of as many samples of `model` as there are of `real`, and fractions of classes.

        Beside it the same of training images, NAME_floor, and of noise, NAME_noise. ImageRecipe are compared by
        `FeatureNet.described`, each number in units of its standard deviation among the real. label_agreement: the
        share of images that the features' classifier takes for what they were drawn for.
        """
        import numpy as np

        from homl_models import loading, metrics
        from homl_models.models.feature_net import FeatureNet

        net, count = loading.load(features), len(real)
        if not isinstance(net, FeatureNet):
            raise UserError(f"{features} is no run of a feature network, as fashion_features trains one")
        if math.prod(net.image_shape) != math.prod(model.image_shape):
            raise UserError(f"{features} judges images of {net.image_shape}, the model draws {model.image_shape}")
        if count < MIN_SAMPLES:
            raise UserError(f"{count} images are too few to measure generation by; give {MIN_SAMPLES} at least")
        rng = np.random.default_rng(self.seed)
        train = self.splits[0][0]
        images, labels = self.sample_images(model, count)
        kinds = {
            "": images,
            "_floor": train[rng.choice(len(train), count, replace=count > len(train))],
            "_noise": rng.uniform(size=real.shape),
        }
        judged = {
            suffix: net.features_and_probabilities(images.reshape(-1, *net.image_shape))
            for suffix, images in kinds.items()
        }
        wanted, found = net.features_and_probabilities(real.reshape(-1, *net.image_shape))[0], {}
        scaled = in_units_of(wanted)
        for suffix, (fake, probabilities) in judged.items():
            values = metrics.generation_metrics(scaled(wanted), scaled(fake), probabilities)
            found |= {name + suffix: value for name, value in values.items()}
        if labels is not None:
            found["label_agreement"] = float(np.mean(judged[""][1].argmax(1) == labels))
        shares = metrics.class_fractions(judged[""][1])
        return found | {f"class_fraction_{label}": float(share) for label, share in enumerate(shares)}


def in_units_of(real):
    """What brings features (n, d) to units of the standard deviations among `real`, those that never vary left out."""
    spread = real.std(0)
    alive = spread > 1e-6
    return lambda features: features[:, alive] / spread[alive]


def by_pixels(real, fake):
    """`metrics.prdc` of images (n, ...), by their pixels."""
    from homl_models import metrics

    return metrics.prdc(real.reshape(len(real), -1), fake.reshape(len(fake), -1))
