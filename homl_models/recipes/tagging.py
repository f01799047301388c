"""Recipe of token classification with BERT and ELECTRA: named entities, or tags of your own."""

import dataclasses
from typing import ClassVar, Literal

from homl_models.errors import UserError
from homl_models.recipes.bert import SHOWN
from homl_models.recipes.fine_tuning import TINY_TASK, FineTuning
from homl_models.recipes.results import Result


@dataclasses.dataclass(frozen=True)
class Tag(FineTuning):
    """Labels words: names, places and dates in synthetic sentences, or tags of your own in columns (CoNLL, CoNLL-U)."""

    kind: ClassVar[str] = "layerwise"
    learning_rate: float = 3e-4
    word_column: int = 0
    """Column of --data-file with the word, counted from 0, from the end if below 0; of CoNLL-U 1."""
    tag_column: int = -1
    """Column with the tag; of CoNLL-U 3 (universal) or 4 (of the language)."""
    scheme: Literal["", "BIO", "IOB1", "BIOES"] = ""
    """Learn the tags of entities in this scheme, whatever that of the files. Empty: as they are."""

    def documents(self, path):
        """Documents of a file, lists of sentences [(words, tags), ...]."""
        from homl_models.pipelines import tagged_text

        documents = tagged_text.read_documents(path, self.word_column, self.tag_column)
        if not self.scheme:
            return documents
        return [[(words, tagged_text.convert(tags, self.scheme)) for words, tags in some] for some in documents]

    def read(self, path):
        return [sentence for document in self.documents(path) for sentence in document]

    def read_groups(self, path):
        """Documents stay whole, where the file marks 10 or more."""
        documents = self.documents(path)
        return documents if len(documents) >= 10 else super().read_groups(path)

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
        return self.head("TokenClassification", num_labels=len(self.labels), labels=self.labels)

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
        """Accuracy of the words; precision, recall and F1 of whole entities, where tags are of entities."""
        return self.scores(model, examples, self.predict(model, examples))

    def scores(self, model, examples, found):
        """`metrics` of predicted labels."""
        from homl_models import metrics
        from homl_models.pipelines import tagged_text

        unknown = sorted({label for _, labels in examples for label in labels} - set(model.label_names))
        if unknown:
            known = ", ".join(model.label_names)
            raise UserError(f"the label {unknown[0]!r} is not among those that are learned: {known}")
        scores = metrics.tagging(found, [labels for _, labels in examples])
        return scores if tagged_text.has_entities(model.label_names) else {"accuracy": scores["accuracy"]}

    def evaluate(self, model, data_file="", predictions_file=""):
        """Metrics of the validation and the test split, or of the examples in `data_file`.

        With `predictions_file` of `data_file`, or else of the test split, whose words, tags and predicted tags are
        written to it, a column each, as the evaluation of CoNLL-2003 reads them.
        """
        if not predictions_file:
            return super().evaluate(model, data_file)
        from homl_models.pipelines import tagged_text
        from homl_models.training import files

        documents = self.documents(data_file) if data_file else [self.splits[2]]
        examples = [sentence for document in documents for sentence in document]
        found = self.predict(model, examples)
        rest = iter(found)
        text = tagged_text.as_columns([[(*sentence, next(rest)) for sentence in some] for some in documents])
        with files.atomic_write(predictions_file) as aside:
            aside.write_text(text, encoding="utf-8")
        return self.scores(model, examples, found)

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
MINILM = "--pretrained all-MiniLM-L6-v2 --batch-size 16 --learning-rate 5e-5 --max-length 128"
RESULTS = [
    Result(
        "bert_tag",
        f"bert_tag --data-file wnut17train.conll --valid-file emerging.dev.conll --test-file emerging.test.annotated "
        f"{MINILM} --epochs 5 --precision mixed_bfloat16",
        "1 core of an Intel Xeon",
        11,
        {"test_f1": 0.379, "test_precision": 0.541, "test_recall": 0.291, "val_f1": 0.535},
        {"test_f1 of the shared task's best (Derczynski et al., 2017)": 0.419, "test_f1 of no entity": 0.0},
        """Names in WNUT-17, new and rare ones in users' texts: 3,394 sentences for training, 1,287 for the test. The
encoder is all-MiniLM-L6-v2, 6 blocks of 384, made for whole sentences and without case, by which names are known. Of
the test's names, chosen to be unlike those of the training, it finds 29 %, of the validation's 49 %.""",
    ),
    Result(
        "bert_tag",
        "bert_tag --data-file en_ewt-ud-train.conllu --valid-file en_ewt-ud-dev.conllu "
        f"--test-file en_ewt-ud-test.conllu --word-column 1 --tag-column 3 {MINILM} --epochs 3",
        "1 core of an Intel Xeon",
        metrics={"test_accuracy": 0.964, "val_accuracy": 0.964},
        reference={"test_accuracy of each word's most frequent tag": 0.862, "test_accuracy of NOUN": 0.164},
        note="Parts of speech of the English Web Treebank, 12,544 sentences for training; 20 minutes of one core.",
    ),
    Result(
        "bert_tag",
        machine="one core of an AMD EPYC (AVX2)",
        minutes=1.1,
        metrics={"test_f1": 0.994, "test_accuracy": 0.995},
        note="3 epochs. F1 of the names, places and dates of the test split.",
    ),
]
