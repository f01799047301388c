"""Base of the recipes of classifiers of texts that are trained from scratch: data, batches, metrics, samples."""

import dataclasses
import functools
import random
from typing import ClassVar, Literal

from homl_models.errors import UserError
from homl_models.recipes.recipe import Recipe, positive
from homl_models.recipes.sources import Sourced

SHOWN = 4  # test texts


@dataclasses.dataclass(frozen=True)
class TextRecipe(Recipe):
    """Base class: labelled texts, their splits, vocabulary, batches and metrics.

    A subclass has `learn(texts)`, a vocabulary; `labelled()`, lists (texts, labels) of the training data and of the
    test data, or None; and `new_model()`.
    """

    batch_size: int = 64
    monitor: str = "val_accuracy"
    monitor_mode: Literal["min", "max"] = "max"
    num_buckets: int = 8
    """Most lengths of batches."""

    shuffled: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        positive(num_buckets=self.num_buckets)

    # The data.

    @functools.cached_property
    def splits(self):
        """Lists of (text, label) for training, validation and test; equal texts are in one of them.

        As in the book a tenth of the training data is for validation; another tenth for test where there is none.
        """
        given, test = (list(zip(*some, strict=True)) if some else [] for some in self.labelled())
        groups = {}
        for text, label in given:
            groups.setdefault(text, []).append((text, label))
        groups = random.Random(self.seed).sample(list(groups.values()), len(groups))
        tenth = len(groups) // 10
        if not tenth:
            raise UserError(f"{len(given)} texts are too few to split; give more")
        bounds = [0, tenth, tenth if test else 2 * tenth, len(groups)]
        valid, own_test, train = ([row for group in groups[a:b] for row in group] for a, b in zip(bounds, bounds[1:]))
        return train, valid, test or own_test

    @functools.cached_property
    def label_names(self):
        """Label names in order, numbers as numbers. `UserError` for a test label that is not in the training data."""
        own, other = ({label for split in some for _, label in split} for some in (self.splits[:2], self.splits[2:]))
        if other - own:
            raise UserError(f"the test data has the label {min(other - own)!r}, which the training data does not have")
        if len(own) < 2:
            raise UserError(f"all texts have the label {min(own)!r}; give texts with two labels or more")
        return tuple(sorted(own, key=lambda name: (int(name) if name.isdecimal() else 0, name)))

    @functools.cached_property
    def vocabulary(self):
        return self.learn([text for text, _ in self.splits[0]])

    def fingerprinted(self):
        return super().fingerprinted() | {"vocabulary": self.vocabulary}

    def label_ids(self, rows, names):
        """Labels of (text, label) as indices of names. `UserError` for a label that is not among them."""
        ids = {name: i for i, name in enumerate(names)}
        unknown = sorted({label for _, label in rows} - set(ids))
        if unknown:
            raise UserError(f"the label {unknown[0]!r} is not among those that are learned: {', '.join(ids)}")
        return [ids[label] for _, label in rows]

    def encoded(self, split):
        """Ids of the texts of a split, and where each begins; see `tokenizers.classification.encode`."""
        from homl_models.tokenizers import classification

        return classification.encode([text for text, _ in self.splits[split]], self.tokenizer)

    @functools.cached_property
    def _datasets(self):
        from homl_models.pipelines import token_ids

        make = token_ids.shuffled_batches if self.shuffled else token_ids.batches
        labels = [self.label_ids(rows, self.label_names) for rows in self.splits]  # refused before texts are counted
        return tuple(
            make(*self.encoded(i), labels[i], self.batch_size, seed, self.num_buckets)
            for i, seed in enumerate((self.seed, None))
        )

    def datasets(self):
        return self._datasets

    # The model.

    def model(self):
        model = self.new_model()
        if not model.built:
            model.build()
        model.compile(self.optimizer(self.epochs * self.datasets()[0].steps), jit_compile=True)
        return model

    def evaluate(self, model, data_file=""):
        """Accuracy and cross-entropy of the validation and the test split, or of the texts in `data_file`."""
        if data_file:
            from homl_models.pipelines import text_files

            return self.metrics(model, list(zip(*text_files.read_labelled(data_file))))
        found = {name: self.metrics(model, split) for name, split in zip(("val", "test"), self.splits[1:])}
        return {f"{split}_{name}": value for split, values in found.items() for name, value in values.items()}

    def metrics(self, model, rows):
        """Accuracy and cross-entropy in nats of (text, label)."""
        import numpy as np

        ids = np.array(self.label_ids(rows, model.label_names))
        _, p = model.classify([text for text, _ in rows])
        loss = -np.log(np.maximum(p[np.arange(len(ids)), ids], 1e-30)).mean()
        return {"accuracy": float(np.mean(p.argmax(1) == ids)), "loss": float(loss)}

    def classified(self, model, texts, labels):
        """Texts, their labels, and the predicted ones with their probability, as text."""
        from homl_models.training import reports

        found, p = model.classify(texts)
        short = [text if len(text) < 300 else f"{text[:300]}..." for text in texts]
        found = [f"{label} {row.max():.3f}" for label, row in zip(found, p)]
        return reports.blocks({"text": short, "label": labels, "found": found})

    def show(self, model, folder):
        """Texts of the test split with their labels."""
        return self.classified(model, *map(list, zip(*self.splits[2][:SHOWN])))


@dataclasses.dataclass(frozen=True)
class ReviewRecipe(Sourced, TextRecipe):
    """Base class: film reviews, or your own texts."""

    data: Literal["imdb", "events"] = "imdb"
    """The film reviews of IMDb, from Keras' cache or the network, or synthetic sentences, labelled with the season."""
    data_file: str = ""
    """Your own texts: a .csv with columns `text` and `label`, also gzipped."""
    test_file: str = ""
    """Your own test texts. Empty: a tenth of --data-file."""
    num_examples: int = 0
    """Texts to begin with, sampled by --seed. 0: all."""
    vocab_size: int = 1000
    """Tokens of the vocabulary, padding and unknown included: the most frequent ones of the training texts."""

    def __post_init__(self):
        super().__post_init__()
        if self.vocab_size < 3:
            raise UserError(f"--vocab-size must be 3 or more, not {self.vocab_size}")
        if self.num_examples < 0:
            raise UserError(f"--num-examples must be 0 or more, not {self.num_examples}")
        if self.test_file and not self.data_file:
            raise UserError("--test-file is for --data-file; give both")
        self.check_source(data_file=self.data_file)

    def labelled(self):
        train, test = self.files()
        if self.num_examples > len(train[0]):
            raise UserError(f"--num-examples must be at most {len(train[0])}, what there is")
        if self.num_examples:
            some = random.Random(self.seed).sample(range(len(train[0])), self.num_examples)
            train = tuple([column[i] for i in some] for column in train)
        return train, test

    def files(self):
        from homl_models.pipelines import events, text_files

        if self.data_file:
            read = text_files.read_labelled
            return read(self.data_file), read(self.test_file) if self.test_file else None
        if self.data == "imdb":
            return self.reviews("train"), self.reviews("test")
        return events.labelled(self.num_examples or 2000, self.seed), None
