"""Recipes that teach a pre-trained BERT or ELECTRA, or a new one, a task: labels of texts or words, answers."""

import dataclasses
import functools
import warnings
from typing import Literal

from homl_models.errors import UserError
from homl_models.recipes.bert import SHOWN, SIZES, TINY, BertPretrain, Encoder

SYNTHETIC = 5000  # examples


@dataclasses.dataclass(frozen=True)
class _FineTune(Encoder):
    """What these share: examples, their split, and a model to start from.

    A subclass has `read(path)` and `synthetic()`, which give lists of examples; `text(example)`, what is read of one;
    `labels_of(example)`, its labels; `examples(rows, wordpiece, labels)`, them as tokens and labels; and
    `judge(model, examples)`, metrics, for which it asks the model alone.
    """

    epochs: int = 3
    learning_rate: float = 1e-4
    layer_decay: float = 1.0
    """What each block learns of what the one above it does; 0.8 is ELECTRA's."""
    family: Literal["bert", "electra"] = "bert"
    """What the encoder is."""
    pretrained: str = ""
    """What to start from: a run of bert_pretrain or electra_pretrain, or the folder (or name) of a Hugging Face
    model. Empty: from nothing."""
    hidden_size: int = 0
    """Size of what becomes of a token. 0: that of --pretrained, or else 128."""
    num_hidden_layers: int = 0
    """Blocks of the encoder. 0: those of --pretrained, or else 2."""
    num_attention_heads: int = 0
    """Heads of every attention. 0: those of --pretrained, or else 2."""
    intermediate_size: int = 0
    """Hidden units of the feed-forward networks. 0: those of --pretrained, or else 512."""
    position_embedding_type: Literal["", "absolute", "relative_key", "relative_key_query"] = ""
    """Embeddings of positions or of distances. Empty: those of --pretrained, or else what suits the recipe."""
    lowercase: bool = True
    """Read texts without case and accents; those of --pretrained are read as it was trained."""
    vocab_size: int = 0
    """Most tokens of a vocabulary that is learned. 0: 8192, or the vocabulary of --pretrained."""
    data_file: str = ""
    """Your own examples; see the recipe."""
    test_file: str = ""
    """And those to test on. Empty: a tenth of --data-file."""
    num_examples: int = 0
    """Examples to train on, drawn by --seed. 0: all."""
    new_positions = "absolute"  # of a new encoder

    def check_sizes(self):
        names = *SIZES, "vocab_size", "num_examples"
        for name in names:
            if getattr(self, name) < 0:
                raise UserError(f"--{name.replace('_', '-')} must be 0 or more, not {getattr(self, name)}")
        if not 0 < self.layer_decay <= 1:
            raise UserError(f"--layer-decay must lie in (0, 1], not {self.layer_decay}")
        if self.vocab_file and (self.pretrained or self.vocab_size):
            raise UserError("--vocab-file is not for --pretrained or --vocab-size, which say what the vocabulary is")
        if self.vocab_size and self.pretrained:
            raise UserError("--vocab-size is not for --pretrained, which has a vocabulary")
        if self.test_file and not self.data_file:
            raise UserError("--test-file is for --data-file; give both")
        if not self.pretrained:
            super().check_sizes()

    @property
    def sizes(self):
        """Those of the encoder, if it is new."""
        return {name: getattr(self, name) or getattr(BertPretrain, name) for name in (*SIZES, "vocab_size")}

    def settings(self):
        return super().settings() | {"position_embedding_type": self.position_embedding_type or self.new_positions}

    # The data.

    @functools.cached_property
    def splits(self):
        """Lists of examples for training, validation and test; those with the same text are in one of them."""
        import random

        given = self.read(self.data_file) if self.data_file else self.synthetic()
        groups = {}
        for example in given:
            groups.setdefault(self.text(example), []).append(example)
        groups = random.Random(self.seed).sample(list(groups.values()), len(groups))
        test, tenth = self.test_part(), len(groups) // 10
        bounds = [0, tenth, tenth if test else 2 * tenth, len(groups)]
        valid, own_test, train = ([e for group in groups[a:b] for e in group] for a, b in zip(bounds, bounds[1:]))
        if not tenth:
            raise UserError(f"{len(given)} examples are too few to split; give more")
        if self.num_examples > len(train):
            raise UserError(f"--num-examples must be at most {len(train)}, what there is to train on")
        return train[: self.num_examples or None], valid, test or own_test

    def number(self, most=SYNTHETIC):
        """Examples to make up: ten times --num-examples, if that is less."""
        return min(10 * self.num_examples, most) or most

    def test_part(self):
        """Examples that come with the others to test on, if they do."""
        return self.read(self.test_file) if self.test_file else []

    def training_texts(self):
        return map(self.text, self.splits[0])

    def labels_of(self, example):
        return ()

    @functools.cached_property
    def labels(self):
        """Names of the labels, in order: O first, numbers as numbers. `UserError` where --test-file has others."""
        own, other = [
            {label for part in some for example in part for label in self.labels_of(example)}
            for some in ((self.splits[:2], self.splits[2:]) if self.test_file else (self.splits, ()))
        ]
        if other - own:
            raise UserError(f"--test-file has the label {min(other - own)!r}, which --data-file does not have")
        return tuple(sorted(own, key=lambda name: (name != "O", int(name) if name.isdecimal() else 0, name)))

    @functools.cached_property
    def _datasets(self):
        from homl_models.pipelines import labelled_text

        train, valid = (self.examples(part, self.wordpiece, self.labels) for part in self.splits[:2])
        return (
            labelled_text.batches(train, self.batch_size, self.seed, self.num_buckets),
            labelled_text.batches(valid, self.batch_size, buckets=self.num_buckets),
        )

    def datasets(self):
        return self._datasets

    def evaluate(self, model, data_file=""):
        """Metrics of the validation and the test part, or of the examples in `data_file`."""
        if data_file:
            return self.judge(model, self.read(data_file))
        parts = {"val_": self.splits[1], "test_": self.splits[2]}
        return {f"{at}{name}": value for at, part in parts.items() for name, value in self.judge(model, part).items()}

    # The model.

    @functools.cached_property
    def start(self):
        """The model to start from."""
        from homl_models import loading
        from homl_models.checkpoints import huggingface

        try:
            loading.find(self.pretrained)
        except UserError:
            return huggingface.from_pretrained(self.pretrained)
        return loading.load(self.pretrained)

    @functools.cached_property
    def wordpiece(self):
        if not self.pretrained:
            return super().wordpiece
        from homl_models.checkpoints import huggingface
        from homl_models.tokenizers.wordpiece import WordPiece
        from homl_models.tokenizers.wordpiece_graph import tensorflow_text

        tensorflow_text()
        texts = huggingface.tokenizer_settings(self.start)
        texts.pop("model_max_length", None)
        if not texts.get("vocabulary"):
            raise UserError(
                f"{self.pretrained} has no vocabulary of word pieces, so it cannot read texts; add its vocab.txt"
            )
        if texts.get("lowercase", True) and not self.lowercase:
            raise UserError(f"{self.pretrained} reads texts in lower case; leave --no-lowercase out")
        size = self.encoder_of(self.start).config.vocab_size
        if len(texts["vocabulary"]) > size:
            raise UserError(f"the vocabulary of {self.pretrained} has {len(texts['vocabulary'])} tokens, it {size}")
        return WordPiece(**texts)

    def head(self, bert_kind, electra_kind, **settings):
        """A new head of one of two classes, on a new encoder or on that of `pretrained`."""
        from homl_models.checkpoints import huggingface
        from homl_models.models import bert, bert_config, electra

        kind = electra_kind if self.family == "electra" else bert_kind
        if not self.pretrained:
            encoder = self.settings()
            if self.family == "electra":
                config = bert_config.ElectraConfig(**encoder, embedding_size=min(128, encoder["hidden_size"]))
                backbone = electra.Electra(config, dtype=self.precision)
            else:
                config = bert_config.BertConfig(**encoder)
                backbone = bert.Bert(config, add_pooling_layer=kind.uses_pooler, dtype=self.precision)
            return self.compiled(kind(backbone, **self.reading(), **settings))
        config = self.encoder_of(self.start).config
        for name in (*SIZES, "position_embedding_type"):
            if getattr(self, name) and getattr(self, name) != getattr(config, name):
                flag = f"--{name.replace('_', '-')}"
                raise UserError(f"{flag} of {self.pretrained} is {getattr(config, name)}; leave the flag out")
        if config.max_position_embeddings < self.max_length:
            raise UserError(f"{self.pretrained} takes --max-length {config.max_position_embeddings} at most")
        settings |= {"hidden_dropout_prob": self.dropout, "attention_probs_dropout_prob": self.dropout}
        settings["initializer_range"] = self.initializer_range  # of what is new
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*newly initialized.*")  # as this head is
            model = huggingface.replace_head(
                self.start, kind, **settings, model_max_length=self.max_length, dtype=self.precision
            )
        return self.compiled(model)

    def encoder_of(self, model):
        """The encoder of a model to start from, of this family."""
        from homl_models.models import bert, electra

        backbone = getattr(model, "discriminator", None) or getattr(model, "backbone", model)
        if not isinstance(backbone, bert.Bert):
            raise UserError(f"{self.pretrained} is a {type(model).__name__}, neither a BERT nor an ELECTRA")
        family = "electra" if isinstance(backbone, electra.Electra) else "bert"
        if family != self.family:
            raise UserError(f"{self.pretrained} is of the other family: --family {family}")
        return backbone

    @property
    def num_layers(self):
        return self.encoder_of(self.start).config.num_hidden_layers if self.pretrained else super().num_layers


@dataclasses.dataclass(frozen=True)
class Classify(_FineTune):
    """What film reviews think of films, or any labels of texts: a .csv with columns `text` and `label`.

    Measured on the reviews of IMDb as they were written (Maas et al., 2011), their first 128 tokens, from the runs in
    `BertPretrain` and `ElectraPretrain`; one core of an AMD EPYC (AVX2).

    All labels: `python -m homl_models.train bert_classify --data-file reviews.csv --test-file test.csv --pretrained
    runs/bert_pretrain --epochs 2 --learning-rate 3e-4`, 7.3 minutes: 81.1 % of 12,500 test reviews right.
    `electra_classify` from `runs/electra_pretrain`, the same: 7.2 minutes, 81.0 %. A new network with the word pieces
    of the first (`--vocab-file` instead of `--pretrained`): 7.0 minutes, 80.9 %; at 1e-3 80.7 %.

    Few labels, 5,000 test reviews, means of five seeds and their deviation in %, at the learning rate of 3e-4, 1e-3
    and 3e-3 that validates best with the first seed (`benchmarks/pretraining.py --labels --epochs`):

        labels (epochs)     100 (30)     300 (15)     1,000 (6)
        from nothing       52.6 (3.3)   65.4 (2.1)   70.6 (2.1)
        from BERT          59.7 (3.0)   64.4 (2.2)   70.6 (0.4)
        from ELECTRA       52.3 (0.9)   56.5 (2.1)   66.8 (3.8)
        words, no network  60.0 (4.5)   69.5 (1.3)   73.7 (0.7)

    So of this task nearly three hours of pre-training on one core teach little that 300 labels do not: the outcome is
    steadier, and better at smaller learning rates (3e-4, 1,000 labels, first seed: 50.0, 71.4 and 58.7 %), but single
    words, of which the last line is a logistic regression, tell as much or more of what a review thinks. ELECTRA's
    discriminator had only begun to learn. Where words must be seen together, pre-training is worth more: see `Answer`.
    """

    kind = "layerwise"
    data: Literal["imdb", "events"] = "imdb"
    """The film reviews of IMDb, from Keras' cache or the network, or made-up sentences, to be sorted by season."""

    def read(self, path):
        from homl_models.pipelines import text_files

        return list(zip(*text_files.read_labelled(path)))

    def synthetic(self):
        from homl_models.pipelines import events, text_files

        return list(
            zip(*(text_files.imdb("train") if self.data == "imdb" else events.labelled(self.number(), self.seed)))
        )

    def test_part(self):
        from homl_models.pipelines import text_files

        if self.data == "imdb" and not self.data_file:
            return list(zip(*text_files.imdb("test")))
        return super().test_part()

    def text(self, example):
        return example[0]

    def labels_of(self, example):
        return example[1:]

    def examples(self, rows, wordpiece, names):
        from homl_models.pipelines import labelled_text

        texts, labels = zip(*rows)
        return labelled_text.text_classification(texts, self.ids(labels, names), wordpiece, self.max_length)

    def ids(self, labels, names):
        """Places of labels among the names of all."""
        places = {name: i for i, name in enumerate(names)}
        unknown = sorted(set(labels) - set(places))
        if unknown:
            raise UserError(f"the label {unknown[0]!r} is not among those that are learned: {', '.join(names)}")
        return [places[label] for label in labels]

    def model(self):
        from homl_models.models.bert_heads import BertForSequenceClassification
        from homl_models.models.electra import ElectraForSequenceClassification

        kinds = BertForSequenceClassification, ElectraForSequenceClassification
        if len(self.labels) < 2:
            raise UserError(f"all texts have the label {self.labels[0]!r}; give texts with two labels or more")
        return self.head(*kinds, num_labels=len(self.labels), labels=self.labels, problem_type=None)

    def judge(self, model, examples):
        """Share of texts whose label is found, and the mean of -log p(label)."""
        import numpy as np

        texts, labels = zip(*examples)
        ids = np.array(self.ids(labels, model.label_names))
        _, p = model.classify(list(texts))
        loss = -np.log(np.maximum(p[np.arange(len(ids)), ids], 1e-30)).mean()
        return {"accuracy": float(np.mean(p.argmax(1) == ids)), "loss": float(loss)}

    def show(self, model, folder):
        """Texts of the test part, their labels, and what is found."""
        from homl_models.training import reports

        texts, labels = zip(*self.splits[2][:SHOWN])
        found, p = model.classify(list(texts))
        short = [text if len(text) < 300 else f"{text[:300]}..." for text in texts]
        found = [f"{label} {row.max():.3f}" for label, row in zip(found, p)]
        return reports.blocks({"text": short, "label": labels, "found": found})


@dataclasses.dataclass(frozen=True)
class Tag(_FineTune):
    """Names, places and dates in sentences, or any labels of words: a file of CoNLL's format.

    Measured: `python -m homl_models.train bert_tag`, made-up sentences, one core of an AMD EPYC (AVX2), 3 epochs, 1.1
    minutes: F1 0.994 of the names, places and dates of the test part, 99.5 % of its words right.
    """

    kind = "layerwise"
    learning_rate: float = 3e-4
    token_column: int = 0
    """Which column of --data-file holds the word, counted from 0, from the end if below 0."""
    label_column: int = -1
    """Which holds the label."""

    def read(self, path):
        from homl_models.pipelines import text_files

        return text_files.read_tagged(path, self.token_column, self.label_column)

    def synthetic(self):
        from homl_models.pipelines import events

        return events.tagged(self.number(), self.seed)

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

    def tags(self, model, rows):
        """Examples -> labels that are found, a list for each."""
        names = model.label_names
        found = [[names[0]] * len(words) for words, _ in rows]
        examples = self.examples([(words, names[:1] * len(words)) for words, _ in rows], model.tokenizer, names)
        tokens = model.call_in_batches("label_ids", examples.tokens)
        samples, starts = examples.overflow_to_sample_mapping, examples.word_starts
        for sample, words, (_, (ids, _)) in zip(samples, starts, tokens):
            for place in (words >= 0).nonzero()[0]:
                found[sample][words[place]] = names[ids[place]]
        return found

    def judge(self, model, examples):
        """Share of words whose label is found; precision, recall and f1 of whole entities."""
        from homl_models import metrics

        unknown = sorted({label for _, labels in examples for label in labels} - set(model.label_names))
        if unknown:
            known = ", ".join(model.label_names)
            raise UserError(f"the label {unknown[0]!r} is not among those that are learned: {known}")
        return metrics.tagging(self.tags(model, examples), [labels for _, labels in examples])

    def show(self, model, folder):
        """Sentences of the test part, with the labels that are found, and those that are wrong."""
        lines = []
        for (words, labels), found in zip(self.splits[2][:SHOWN], self.tags(model, self.splits[2][:SHOWN])):
            marks = [
                word + (f"/{tag}" if tag != "O" else "") + (f" (wrong: {label})" if tag != label else "")
                for word, label, tag in zip(words, labels, found)
            ]
            lines.append(" ".join(marks))
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class Answer(_FineTune):
    """Who, where and when in made-up texts, or any questions about texts: a file of SQuAD's format.

    Measured on the made-up texts, three sentences each, one core of an AMD EPYC (AVX2): `python -m homl_models.train
    bert_answer`, 9.2 minutes: 98.6 % of the 2,000 answers of the test part exact. First and last tokens found, of
    the validation part, after epochs 1 to 10:

        31.6  49.0  59.3  84.8  91.3  95.7  97.6  98.4  99.0  99.2 %

    For the first epoch or two it knows whether a name, a place or a date is asked for, but not which of the three.
    How long depends on the start: with `--initializer-range 0.02`, BERT's for a size of 768, 88.4 % at the end, with
    `--position-embedding-type absolute` 64.0 %. It goes by what was done, not by who did it: where two did the
    same, which the texts do not have, it cannot tell them apart.

    Pre-training is worth much here. 10 epochs, tokens found after epochs 1 to 5, and exact answers at the end; all
    three with absolute positions, with `--pretrained` (and `--family electra`) from the runs in `recipes/bert.py`:

        from nothing  33.6  32.8  33.4  34.2  37.0 %    64.0 %
        from BERT     62.7  68.4  69.8  88.8  94.7 %    99.95 %, 11.5 minutes
        from ELECTRA  56.0  79.2  90.7  92.6  93.4 %    92.1 %, 13.3 minutes beside other work

    With `--epochs 3 --seed` 1, 2 and 3 exact answers are 26.9, 24.5 and 26.8 % from nothing, 88.0, 70.5 and 78.7 % from
    BERT, 87.5, 76.7 and 94.3 % from ELECTRA: ahead of BERT in the mean, by less than the seeds differ.
    """

    kind = "layerwise"
    epochs: int = 10
    learning_rate: float = 1e-3
    initializer_range: float = 0.08
    doc_stride: int = 32
    """Tokens that consecutive windows of a long context share in training; to answer, a quarter of --max-length."""
    new_positions = "relative_key_query"

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.doc_stride < self.max_length // 2:
            raise UserError(f"--doc-stride must lie in [0, {self.max_length // 2}), less than half of --max-length")

    def read(self, path):
        from homl_models.pipelines import text_files

        return text_files.read_questions(path)

    def synthetic(self):
        from homl_models.pipelines import events

        return events.questions(self.number(20_000), self.seed)

    def text(self, example):
        return example[1]

    def training_texts(self):
        return (text for question, context, _ in self.splits[0] for text in (question, context))

    def examples(self, rows, wordpiece, names):
        from homl_models.pipelines import labelled_text

        return labelled_text.question_answering(rows, wordpiece, self.max_length, self.doc_stride)

    def model(self):
        from homl_models.models.bert_heads import BertForQuestionAnswering
        from homl_models.models.electra import ElectraForQuestionAnswering

        answered = [bool(answers) for _, _, answers in self.splits[0]]
        if not any(answered):
            raise UserError("none of the questions to learn has an answer in its context; give some that have")
        return self.head(BertForQuestionAnswering, ElectraForQuestionAnswering, unanswerable=not all(answered))

    def judge(self, model, examples):
        """SQuAD's share of exact answers, and f1 of their words; of questions without an answer, of which "" is right.

        Where there are both, of each kind alone as well (Rajpurkar et al., 2018).
        """
        from homl_models import metrics

        questions, contexts, right = zip(*examples)
        found = model.answer(list(questions), list(contexts))
        return metrics.answering([text for text, _ in found], [[text for _, text in some] for some in right])

    def show(self, model, folder):
        """Questions of the test part, and answers."""
        from homl_models.training import reports

        questions, contexts, right = zip(*self.splits[2][:SHOWN])
        found = [f"{text or '(none)'} ({p:.2f})" for text, p in model.answer(list(questions), list(contexts))]
        right = [" | ".join(text for _, text in some) or "(none)" for some in right]
        return reports.blocks({"context": contexts, "question": questions, "answer": right, "found": found})


TINY_TASK = TINY | {"num_examples": 80}

RECIPES = {
    "bert_classify": Classify(),
    "electra_classify": Classify(family="electra"),
    "bert_tag": Tag(),
    "bert_answer": Answer(),
    "electra_classify_tiny": Classify(**TINY_TASK, family="electra", data="events"),
    "bert_tag_tiny": Tag(**TINY_TASK),
    "bert_answer_tiny": Answer(**TINY_TASK | {"max_length": 48}, doc_stride=8),
}
