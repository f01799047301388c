"""Recipe of semantic segmentation with BEiT (`models/beit_segmentation.py`), on cut-outs pasted on photographs."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import ClassVar, Literal

from homl_models.errors import UserError
from homl_models.recipes.beit import TINY
from homl_models.recipes.recipe import positive
from homl_models.recipes.vision_transformer import FineTunedTransformer

SAMPLES, EVAL_BATCH = 8, 16  # images in samples.png; images of a batch of evaluation, at most


@dataclasses.dataclass(frozen=True)
class BeitSegment(FineTunedTransformer):
    """BEiT with UPerNet names the class of each pixel: cut-outs, such as emoji, pasted on photographs.

    Images are made while training, of photographs and cut-outs of which a tenth is held out for validation, and a
    tenth for the test. --start is a run of `beit_pretrain` or `beit_classify`, or a Hugging Face folder of BEiT.
    """

    kind: ClassVar[str] = "layerwise"
    channels: ClassVar[int] = 3
    epochs: int = 20
    batch_size: int = 16
    learning_rate: float = 1e-3
    monitor: str = "val_mean_iou"
    monitor_mode: Literal["min", "max"] = "max"
    data: Literal["images", "digits"] = "images"
    """--cutouts on --photographs, or scikit-learn's digits on its two photographs, to try it."""
    photographs: str = ""
    """A folder of photographs, of any sizes."""
    cutouts: str = ""
    """A folder of images with transparency: a subfolder for each class, or a table captions.csv with columns file and
    category, and the files in images/."""
    classes: tuple[str, ...] = ()
    """Classes of --cutouts to take. Default: all."""
    most_objects: int = 4
    """Cut-outs in an image, at most; at least there is one."""
    steps_per_epoch: int = 100
    """Training steps of an epoch."""
    eval_images: int = 160
    """Images of validation, and of the test; always the same."""
    out_indices: tuple[int, ...] = ()
    """Four numbers in their order, of which i stands for the output of block i - 1, as in `transformers`; the largest
    is --num-hidden-layers. Default: spread evenly, to the last."""

    def __post_init__(self):
        super().__post_init__()
        names = "steps_per_epoch", "eval_images", "most_objects"
        positive(**{name: getattr(self, name) for name in names})
        if self.data == "digits" and (self.photographs or self.cutouts or self.classes):
            raise UserError("--photographs, --cutouts and --classes are for --data images")
        if self.num_hidden_layers < 4:
            raise UserError(f"--num-hidden-layers must be 4 or more, not {self.num_hidden_layers}")
        if self.size < 2 * self.patch_size:
            raise UserError(f"--size must be at least twice --patch-size {self.patch_size}, not {self.size}")

    # Data.

    @functools.cached_property
    def found(self):
        """Photographs, and cut-outs with their classes, an `Images`."""
        from homl_models.pipelines import segmentation

        if self.data == "digits":
            import sklearn.datasets

            digits = sklearn.datasets.load_digits()
            folder = Path(sklearn.datasets.__file__).parent / "images"
            cutouts = segmentation.digit_cutouts(digits.images.astype("float32") / 16, digits.target, self.seed)
            return segmentation.read_photographs(folder), cutouts
        for name in ("photographs", "cutouts"):
            if not getattr(self, name):
                raise UserError(f"--{name} is needed: a folder of them; or --data digits to try it")
        cutouts = segmentation.read_cutouts(self.cutouts, classes=self.classes)
        return segmentation.read_photographs(self.photographs), cutouts

    @functools.cached_property
    def splits(self):
        """(photographs, cut-outs) for training, validation and test."""
        from homl_models.pipelines import images, segmentation

        photographs, cutouts = self.found
        parts = images.split(cutouts, self.seed, self.cutouts)
        cutouts = [images.Images(*part, cutouts.classes) for part in parts]
        return tuple(zip(segmentation.split_photographs(photographs, self.seed), cutouts, strict=True))

    def fingerprinted(self):
        data = [[photographs, cutouts.images, cutouts.labels] for photographs, cutouts in self.splits]
        return {"data": data, "classes": self.class_names}

    @property
    def class_names(self):
        """Names of a mask's classes: the background, then the classes of the cut-outs."""
        from homl_models.pipelines import segmentation

        return segmentation.class_names(self.found[1])

    def batches(self, split, batch_size, steps, seed):
        """`RandomAccessDataset` of (images, masks) of a split."""
        from homl_models.pipelines import segmentation

        pasting = segmentation.Pasting((self.size, self.size), (1, self.most_objects))
        return segmentation.batches(*split, batch_size, pasting, steps, seed)

    def eval_batches(self, i):
        """The validation images (i = 1), or those of the test (2): the same each time."""
        batch_size = math.gcd(self.eval_images, EVAL_BATCH)
        return self.batches(self.splits[i], batch_size, self.eval_images // batch_size, self.seed + i)

    def datasets(self):
        train = self.batches(self.splits[0], self.batch_size, self.steps_per_epoch, self.seed)
        return train, self.eval_batches(1)

    # The model.

    def compile_kwargs(self):
        # On a CPU TensorFlow's kernels of convolutions, which are most of the work, are faster than XLA's.
        return super().compile_kwargs() | {"jit_compile": "auto"}

    def model(self):
        from homl_models.models.beit_segmentation import BeitForSemanticSegmentation

        names = self.class_names
        spread = tuple(round(self.num_hidden_layers * i / 4) for i in range(1, 5))
        own = {"out_indices": self.out_indices or spread, "auxiliary_channels": self.hidden_size}
        model = self.head(BeitForSemanticSegmentation, {"num_labels": len(names), "labels": names}, **own)
        if not model.built:
            model.build()
        model.compile(self.optimizer(self.epochs * self.steps_per_epoch), **self.compile_kwargs())
        return model

    # Evaluation.

    def evaluate(self, model):
        """Loss, accuracy of pixels and mean intersection over union, and that of each class, of validation and test."""
        if not model.compiled:
            model.compile(**self.compile_kwargs())
        metrics = {}
        for i, prefix in ((1, "val_"), (2, "test_")):
            found = model.evaluate(self.eval_batches(i).dataset(), return_dict=True, verbose=0)
            found |= {f"iou_{name}": value for name, value in model.class_iou().items()}
            metrics |= {prefix + name: float(value) for name, value in found.items()}
        return metrics

    def show(self, model, folder):
        """samples.png: images of the test, their masks, and those predicted, in a colour for each class."""
        import numpy as np

        from homl_models.models.beit_segmentation import class_colors
        from homl_models.training import reports

        images, masks = (np.asarray(x) for x in self.batches(self.splits[2], SAMPLES, 1, self.seed + 3).batch(0))
        colors = class_colors(256) / 255
        found = np.stack(model.segment(images))
        reports.image_grid([images, colors[masks], colors[found]], folder / "samples.png")
        right = np.mean(found[masks != 255] == masks[masks != 255])
        return (
            "samples.png  images of the test, their masks (borders, which do not count, in cream), and those\n"
            f"             predicted, {100 * right:.0f} % of the pixels right"
        )


RECIPES = {
    "beit_segment": BeitSegment(),
    "beit_segment_tiny": BeitSegment(
        **{name: value for name, value in TINY.items() if name != "channels"}
        | {"size": 16, "patch_size": 4, "num_hidden_layers": 4, "steps_per_epoch": 4, "eval_images": 16}
    ),
}
SUMMARIES = {"beit_segment": "BEiT names the class of each pixel: cut-outs pasted on photographs"}
RESULTS = []
