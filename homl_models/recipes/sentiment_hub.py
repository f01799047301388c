"""Recipe of text classification on a module of TensorFlow Hub (`models/sentiment_hub.py`)."""

import dataclasses
import functools
import os
from pathlib import Path
from typing import ClassVar, Literal

from homl_models.errors import UserError
from homl_models.recipes.classification import Classify
from homl_models.recipes.recipe import Recipe, positive
from homl_models.recipes.sources import Sourced

HASHED_WORDS = "hashed_words"


@dataclasses.dataclass(frozen=True)
class HubClassify(Sourced, Recipe):
    """Classifies texts by a module of TensorFlow Hub: the sentiment of film reviews, or labels of your own.

    `python -m homl_models.export RUN --to FOLDER --hub` writes such a module of a BERT or an ELECTRA.
    """

    kind: ClassVar[str] = "fit"
    module: str = ""
    """The module: a folder with a SavedModel of TensorFlow 2, or a URL (see TFHUB_CACHE_DIR). `hashed_words` is made
    here: untrained embeddings of words."""
    preprocessor: str = ""
    """A module that makes the inputs of --module from texts. Empty: it takes texts itself."""
    signature: str = ""
    """Signature of the module to call. Empty: its own call."""
    output_key: str = ""
    """Output of the module to take, e.g. pooled_output. Empty: the only one."""
    frozen: bool = False
    """Train the two dense layers alone, not the module."""
    hidden_units: int = 64
    """Units of the dense layer on the module."""
    data: Literal["imdb", "events"] = "imdb"
    """The film reviews of IMDb, from Keras' cache or the network, or synthetic sentences, labelled with the season."""
    data_file: str = ""
    """Your own examples: a .csv with columns `text` and `label`."""
    valid_file: str = ""
    """Your own validation examples. Empty: a tenth of --data-file."""
    test_file: str = ""
    """Your own test examples. Empty: a tenth of --data-file."""
    num_examples: int = 0
    """Training examples, sampled by --seed. 0: all."""

    def __post_init__(self):
        super().__post_init__()
        positive(hidden_units=self.hidden_units)
        assert self.task  # it refuses flags of the data that do not go together

    @functools.cached_property
    def task(self):
        """The same task for BERT, which has its data and metrics."""
        names = "data", "source", "data_file", "valid_file", "test_file", "num_examples", "seed"
        return Classify(**{name: getattr(self, name) for name in names})

    @property
    def splits(self):
        return self.task.splits

    @property
    def handle(self):
        """The module's URL or absolute path; that of `hashed_words` is in Keras' cache, made where it is missing."""
        if not self.module:
            raise UserError("give a module of TensorFlow Hub: --module PATH (or --module hashed_words to try it)")
        if self.module == HASHED_WORDS:
            return str(hashed_words())
        return self.module if "://" in self.module else os.path.abspath(self.module)

    def batches(self, split, seed=None):
        """Dataset of (texts, labels) of a split."""
        from homl_models.pipelines import strings

        texts, labels = zip(*split)
        return strings.batches(texts, self.task.label_ids(labels, self.task.labels), self.batch_size, seed)

    def datasets(self):
        train, valid, _ = self.splits
        return self.batches(train, self.seed), self.batches(valid)

    def model(self):
        import keras

        from homl_models.models.sentiment_hub import HubClassifier

        if len(self.task.labels) < 2:
            raise UserError(f"all texts have the label {self.task.labels[0]!r}; give texts with two labels or more")
        model = HubClassifier(
            self.handle,
            self.task.labels,
            trainable_module=not self.frozen,
            hidden_units=self.hidden_units,
            signature=self.signature or None,
            output_key=self.output_key or None,
            preprocessor=self.preprocessor,
            dtype=self.precision,
        )
        model.build()
        loss, metric = keras.losses.SparseCategoricalCrossentropy(from_logits=True), "accuracy"
        if len(self.task.labels) == 2:
            loss = keras.losses.BinaryCrossentropy(from_logits=True)
            metric = keras.metrics.BinaryAccuracy("accuracy", threshold=0.0)
        optimizer = self.optimizer(self.epochs * self.datasets()[0].steps)
        model.compile(optimizer, loss, metrics=[metric], jit_compile=False)
        return model

    def evaluate(self, model, data_file=""):
        """Accuracy, and cross-entropy in nats, of the validation and the test split, or of `data_file`."""
        return self.task.evaluate(model, data_file)

    def show(self, model, folder):
        """Texts of the test split, their labels, and the predicted ones with their probability."""
        return self.task.show(model, folder)


def hashed_words():
    """The folder of the module `hashed_words` in Keras' cache."""
    from homl_models.pipelines import strings
    from homl_models.training import files

    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    folder = home / "homl_models" / HASHED_WORDS
    if not folder.is_dir():
        with files.atomic_write(folder) as aside:
            strings.save_hashed_words(aside)
    return folder


RECIPES = {
    "sentiment_hub": HubClassify(epochs=5, monitor="val_accuracy", monitor_mode="max"),
    "sentiment_hub_tiny": HubClassify(
        epochs=2, batch_size=8, module=HASHED_WORDS, data="events", num_examples=80, hidden_units=8
    ),
}
SUMMARIES = {"sentiment_hub": "A module of TensorFlow Hub, Dense 64, Dense 1: the sentiment of film reviews"}
RESULTS = []
