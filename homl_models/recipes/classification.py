"""Recipes of text classification with BERT and ELECTRA: sentiment of film reviews, or labels of your own."""

import dataclasses
from typing import ClassVar, Literal

from homl_models.errors import UserError
from homl_models.recipes.bert import SHOWN
from homl_models.recipes.fine_tuning import TINY_TASK, FineTuning
from homl_models.recipes.results import Result
from homl_models.recipes.sources import Sourced


@dataclasses.dataclass(frozen=True)
class Classify(Sourced, FineTuning):
    """Classifies texts: the sentiment of film reviews, or labels of a .csv with columns `text` and `label`."""

    kind: ClassVar[str] = "layerwise"
    data: Literal["imdb", "events"] = "imdb"
    """The film reviews of IMDb, from Keras' cache or the network, or synthetic sentences, labelled with the season."""

    def __post_init__(self):
        super().__post_init__()
        self.check_source(data_file=self.data_file)

    def read(self, path):
        from homl_models.pipelines import text_files

        return list(zip(*text_files.read_labelled(path)))

    def synthetic(self):
        from homl_models.pipelines import events

        if self.data == "imdb":
            return list(zip(*self.reviews("train")))
        return list(zip(*events.labelled(self.num_synthetic(), self.seed)))

    def test_examples(self):
        if self.data == "imdb" and not self.data_file:
            return list(zip(*self.reviews("test")))
        return super().test_examples()

    def text(self, example):
        return example[0]

    def labels_of(self, example):
        return example[1:]

    def examples(self, rows, wordpiece, names):
        from homl_models.pipelines import labelled_text

        texts, labels = zip(*rows)
        return labelled_text.text_classification(texts, self.label_ids(labels, names), wordpiece, self.max_length)

    def label_ids(self, labels, names):
        """Indices of labels in the names. Raises UserError for a label that is not there."""
        ids = {name: i for i, name in enumerate(names)}
        unknown = sorted(set(labels) - set(ids))
        if unknown:
            raise UserError(f"the label {unknown[0]!r} is not among those that are learned: {', '.join(names)}")
        return [ids[label] for label in labels]

    def model(self):
        if len(self.labels) < 2:
            raise UserError(f"all texts have the label {self.labels[0]!r}; give texts with two labels or more")
        names = {"num_labels": len(self.labels), "labels": self.labels}
        return self.head("SequenceClassification", **names, problem_type=None)

    def metrics(self, model, examples):
        """Accuracy and cross-entropy in nats."""
        import numpy as np

        texts, labels = zip(*examples)
        ids = np.array(self.label_ids(labels, model.label_names))
        _, p = model.classify(list(texts))
        loss = -np.log(np.maximum(p[np.arange(len(ids)), ids], 1e-30)).mean()
        return {"accuracy": float(np.mean(p.argmax(1) == ids)), "loss": float(loss)}

    def show(self, model, folder):
        """Texts of the test split, their labels, and the predicted ones with their probability."""
        from homl_models.training import reports

        texts, labels = zip(*self.splits[2][:SHOWN])
        found, p = model.classify(list(texts))
        short = [text if len(text) < 300 else f"{text[:300]}..." for text in texts]
        found = [f"{label} {row.max():.3f}" for label, row in zip(found, p)]
        return reports.blocks({"text": short, "label": labels, "found": found})


FILES = "--data-file reviews.csv --test-file test.csv"
RECIPES = {
    "bert_classify": Classify(),
    "electra_classify": Classify(family="electra"),
    "electra_classify_tiny": Classify(**TINY_TASK, family="electra", data="events"),
}
SUMMARIES = {
    "bert_classify": "BERT classifies texts: the sentiment of film reviews, or labels of your own",
    "electra_classify": "ELECTRA classifies texts: the sentiment of film reviews, or labels of your own",
}
RESULTS = [
    Result(
        "bert_classify",
        f"bert_classify {FILES} --pretrained runs/bert_pretrain --epochs 2 --learning-rate 3e-4",
        "one core of an AMD EPYC (AVX2)",
        7.3,
        {"test_accuracy": 0.811},
        note="""12,500 test reviews of IMDb as they were written (Maas et al., 2011), their first 128 tokens.

Few labels, 5,000 test reviews, accuracy in %: means of five seeds and their standard deviation, at the learning rate of
3e-4, 1e-3 and 3e-3 that validates best with the first seed (`benchmarks/pretraining.py --labels --epochs`):

| labels (epochs) | 100 (30) | 300 (15) | 1,000 (6) |
| --- | --- | --- | --- |
| from scratch | 52.6 (3.3) | 65.4 (2.1) | 70.6 (2.1) |
| from BERT | 59.7 (3.0) | 64.4 (2.2) | 70.6 (0.4) |
| from ELECTRA | 52.3 (0.9) | 56.5 (2.1) | 66.8 (3.8) |
| words, no network | 60.0 (4.5) | 69.5 (1.3) | 73.7 (0.7) |

So for this task nearly three hours of pre-training on one core teach little that 300 labels do not: the outcome is
steadier, and better at smaller learning rates (3e-4, 1,000 labels, first seed: 50.0, 71.4 and 58.7 %), but single
words, of which the last line is a logistic regression, predict the sentiment as well or better. ELECTRA's discriminator
had only begun to learn. Where words must be understood together, pre-training is worth more: see `bert_answer`.""",
    ),
    Result(
        "bert_classify",
        f"bert_classify {FILES} --vocab-file vocab.txt --epochs 2 --learning-rate 3e-4",
        "one core of an AMD EPYC (AVX2)",
        7.0,
        {"test_accuracy": 0.809},
        note="From scratch, with the word pieces of `runs/bert_pretrain`; at a learning rate of 1e-3 80.7 %.",
    ),
    Result(
        "electra_classify",
        f"electra_classify {FILES} --pretrained runs/electra_pretrain --epochs 2 --learning-rate 3e-4",
        "one core of an AMD EPYC (AVX2)",
        7.2,
        {"test_accuracy": 0.81},
    ),
]
