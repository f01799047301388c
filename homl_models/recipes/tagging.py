"""Recipe of token classification with BERT and ELECTRA: named entities, or tags of your own."""

import dataclasses
from typing import ClassVar

from homl_models.errors import UserError
from homl_models.recipes.bert import SHOWN
from homl_models.recipes.fine_tuning import TINY_TASK, FineTuning
from homl_models.recipes.results import Result


@dataclasses.dataclass(frozen=True)
class Tag(FineTuning):
    """Labels words: names, places and dates in synthetic sentences, or tags of your own in a file in CoNLL format."""

    kind: ClassVar[str] = "layerwise"
    learning_rate: float = 3e-4
    token_column: int = 0
    """Column of --data-file with the word, counted from 0, from the end if below 0."""
    label_column: int = -1
    """Column with the label."""

    def read(self, path):
        from homl_models.pipelines import text_files

        return text_files.read_tagged(path, self.token_column, self.label_column)

    def synthetic(self):
        from homl_models.pipelines import events

        return events.tagged(self.num_synthetic(), self.seed)

    def text(self, example):
        return " ".join(example[0])

    def labels_of(self, example):
        return example[1]

    def examples(self, rows, wordpiece, names):
        from homl_models.pipelines import labelled_text

        return labelled_text.token_classification(rows, names, wordpiece, self.max_length)

    def model(self):
        from homl_models.models.bert_heads import BertForTokenClassification
        from homl_models.models.electra import ElectraForTokenClassification

        kinds = BertForTokenClassification, ElectraForTokenClassification
        return self.head(*kinds, num_labels=len(self.labels), labels=self.labels)

    def predict(self, model, rows):
        """Predicted labels of the words, a list for each example."""
        names = model.label_names
        found = [[names[0]] * len(words) for words, _ in rows]
        examples = self.examples([(words, names[:1] * len(words)) for words, _ in rows], model.tokenizer, names)
        tokens = model.call_in_batches("label_ids", examples.tokens)
        samples, starts = examples.overflow_to_sample_mapping, examples.word_starts
        for sample, words, (_, (ids, _)) in zip(samples, starts, tokens):
            for column in (words >= 0).nonzero()[0]:
                found[sample][words[column]] = names[ids[column]]
        return found

    def metrics(self, model, examples):
        """Accuracy of the words; precision, recall and F1 of whole entities."""
        from homl_models import metrics

        unknown = sorted({label for _, labels in examples for label in labels} - set(model.label_names))
        if unknown:
            known = ", ".join(model.label_names)
            raise UserError(f"the label {unknown[0]!r} is not among those that are learned: {known}")
        return metrics.tagging(self.predict(model, examples), [labels for _, labels in examples])

    def show(self, model, folder):
        """Sentences of the test split with the predicted labels; the right ones where they differ."""
        lines = []
        for (words, labels), found in zip(self.splits[2][:SHOWN], self.predict(model, self.splits[2][:SHOWN])):
            marks = [
                word + (f"/{tag}" if tag != "O" else "") + (f" (wrong: {label})" if tag != label else "")
                for word, label, tag in zip(words, labels, found)
            ]
            lines.append(" ".join(marks))
        return "\n".join(lines)


RECIPES = {"bert_tag": Tag(), "bert_tag_tiny": Tag(**TINY_TASK)}
SUMMARIES = {"bert_tag": "BERT labels words: names, places and dates in synthetic sentences, or tags of your own"}
RESULTS = [
    Result(
        "bert_tag",
        machine="one core of an AMD EPYC (AVX2)",
        minutes=1.1,
        metrics={"test_f1": 0.994, "test_accuracy": 0.995},
        note="3 epochs. F1 of the names, places and dates of the test split.",
    )
]
