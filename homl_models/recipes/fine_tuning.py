"""Fine-tuning of BERT's family: settings, splits and start of `classification.py`, `tagging.py`, `answering.py`."""

import dataclasses
import functools
import warnings
from typing import ClassVar, Literal

from homl_models.errors import UserError
from homl_models.recipes.bert import SIZES, TINY, BertPretrain, Encoder

SYNTHETIC = 5000  # examples
TINY_TASK = TINY | {"num_examples": 80}


@dataclasses.dataclass(frozen=True)
class FineTuning(Encoder):
    """Settings of fine-tuning: examples, their split, and a model to start from.

    A subclass has `read(path)` and `synthetic()`, lists of examples; `text(example)`, its text, by which examples are
    grouped before the split; `labels_of(example)`, its labels; `examples(rows, wordpiece, label_names)`, tokens and
    labels as `labelled_text.Examples`; `model()`; and `metrics(model, examples)`, which depends on these alone.
    """

    epochs: int = 3
    learning_rate: float = 1e-4
    layer_decay: float = 1.0
    """Learning rate of each block as a fraction of that of the block above it; 0.8 is ELECTRA's."""
    family: Literal["bert", "electra", "distilbert"] = "bert"
    """Architecture of the encoder."""
    pretrained: str = ""
    """Start from this model: a run of bert_pretrain or electra_pretrain, or the folder (or name) of a Hugging Face
    model. Empty: from scratch."""
    hidden_size: int = 0
    """Size of a token's hidden states. 0: as --pretrained, or else 128."""
    num_hidden_layers: int = 0
    """Blocks of the encoder. 0: as --pretrained, or else 2."""
    num_attention_heads: int = 0
    """Attention heads of a block. 0: as --pretrained, or else 2."""
    intermediate_size: int = 0
    """Hidden units of the feed-forward networks. 0: as --pretrained, or else 512."""
    position_embedding_type: Literal["", "absolute", "relative_key", "relative_key_query"] = ""
    """Embeddings of absolute or of relative positions. Empty: as --pretrained, or else the default of the recipe."""
    lowercase: bool = True
    """Uncased: read texts without case and accents. With --pretrained: as it was trained."""
    vocab_size: int = 0
    """Most tokens of a vocabulary that is learned. 0: 8192, or the vocabulary of --pretrained."""
    data_file: str = ""
    """Your own examples; see the recipe."""
    valid_file: str = ""
    """Your own validation examples. Empty: a tenth of --data-file."""
    test_file: str = ""
    """Your own test examples. Empty: a tenth of --data-file."""
    num_examples: int = 0
    """Training examples, sampled by --seed. 0: all."""
    default_positions: ClassVar[str] = "absolute"  # position_embedding_type of a new encoder

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
        for name in ("valid_file", "test_file"):
            if getattr(self, name) and not self.data_file:
                raise UserError(f"--{name.replace('_', '-')} is for --data-file; give both")
        if not self.pretrained:
            super().check_sizes()

    @property
    def sizes(self):
        """Sizes of a new encoder, and of a vocabulary that is learned."""
        return {name: getattr(self, name) or getattr(BertPretrain, name) for name in (*SIZES, "vocab_size")}

    def settings(self):
        default = "absolute" if self.family == "distilbert" else self.default_positions
        return super().settings() | {"position_embedding_type": self.position_embedding_type or default}

    # The data.

    @functools.cached_property
    def splits(self):
        """Lists of examples for training, validation and test; examples with the same text are in one of them."""
        import random

        groups = self.read_groups(self.data_file) if self.data_file else self.by_text(self.synthetic())
        groups = random.Random(self.seed).sample(groups, len(groups))
        valid, test, tenth = self.valid_examples(), self.test_examples(), len(groups) // 10
        bounds = [0, 0 if valid else tenth]
        bounds += [bounds[1] if test else bounds[1] + tenth, len(groups)]
        own_valid, own_test, train = ([e for group in groups[a:b] for e in group] for a, b in zip(bounds, bounds[1:]))
        if not tenth:
            raise UserError(f"{sum(map(len, groups))} examples are too few to split; give more")
        if self.num_examples > len(train):
            raise UserError(f"--num-examples must be at most {len(train)}, what there is to train on")
        return train[: self.num_examples or None], valid or own_valid, test or own_test

    def read_groups(self, path):
        """Lists of examples that stay together when they are split; here those of one text."""
        return self.by_text(self.read(path))

    def by_text(self, examples):
        groups = {}
        for example in examples:
            groups.setdefault(self.text(example), []).append(example)
        return list(groups.values())

    def valid_examples(self):
        """Examples of a validation split that comes with the data, or none."""
        return self.read(self.valid_file) if self.valid_file else []

    def num_synthetic(self, most=SYNTHETIC):
        """Number of synthetic examples: ten times --num-examples, or `most` if that is less."""
        return min(10 * self.num_examples, most) or most

    def test_examples(self):
        """Examples of a test split that comes with the data, or none."""
        return self.read(self.test_file) if self.test_file else []

    def training_texts(self):
        return map(self.text, self.splits[0])

    def labels_of(self, example):
        return ()

    @functools.cached_property
    def labels(self):
        """Label names in order: O first, numbers as numbers. `UserError` where --test-file has others."""
        own, other = [
            {label for split in some for example in split for label in self.labels_of(example)}
            for some in ((self.splits[:2], self.splits[2:]) if self.test_file else (self.splits, ()))
        ]
        if other - own:
            raise UserError(f"--test-file has the label {min(other - own)!r}, which --data-file does not have")
        return tuple(sorted(own, key=lambda name: (name != "O", int(name) if name.isdecimal() else 0, name)))

    @functools.cached_property
    def _datasets(self):
        from homl_models.pipelines import labelled_text

        train, valid = (self.examples(split, self.wordpiece, self.labels) for split in self.splits[:2])
        return (
            labelled_text.batches(train, self.batch_size, self.seed, self.num_buckets),
            labelled_text.batches(valid, self.batch_size, buckets=self.num_buckets),
        )

    def datasets(self):
        return self._datasets

    def evaluate(self, model, data_file=""):
        """Metrics of the validation and the test split, or of the examples in `data_file`."""
        if data_file:
            return self.metrics(model, self.read(data_file))
        found = {name: self.metrics(model, split) for name, split in zip(("val", "test"), self.splits[1:])}
        return {f"{split}_{name}": value for split, values in found.items() for name, value in values.items()}

    # The model.

    @functools.cached_property
    def pretrained_model(self):
        """The model of --pretrained."""
        from homl_models import loading
        from homl_models.checkpoints import huggingface

        try:
            loading.find(self.pretrained)
        except UserError:
            return huggingface.from_pretrained(self.pretrained)
        model = loading.load(self.pretrained)
        return getattr(model, "student", model)

    @functools.cached_property
    def wordpiece(self):
        if not self.pretrained:
            return super().wordpiece
        from homl_models.checkpoints import huggingface
        from homl_models.tokenizers.wordpiece import WordPiece
        from homl_models.tokenizers.wordpiece_graph import tensorflow_text

        tensorflow_text()
        texts = huggingface.tokenizer_settings(self.pretrained_model)
        texts.pop("model_max_length", None)
        if not texts.get("vocabulary"):
            raise UserError(
                f"{self.pretrained} has no vocabulary of word pieces, so it cannot read texts; add its vocab.txt"
            )
        if texts.get("lowercase", True) and not self.lowercase:
            raise UserError(f"{self.pretrained} reads texts in lower case; leave --no-lowercase out")
        size = self.backbone_of(self.pretrained_model).config.vocab_size
        if len(texts["vocabulary"]) > size:
            raise UserError(f"the vocabulary of {self.pretrained} has {len(texts['vocabulary'])} tokens, it {size}")
        return WordPiece(**texts)

    def head(self, task, **settings):
        """A new head for a task, such as "QuestionAnswering", by --family, on a new encoder or that of --pretrained."""
        from homl_models import models

        prefix = {"bert": "Bert", "electra": "Electra", "distilbert": "DistilBert"}[self.family]
        head_class = getattr(models, f"{prefix}For{task}")
        if self.pretrained:
            return self.compiled(self.with_pretrained_encoder(head_class, settings))
        return self.compiled(head_class(self.new_encoder(head_class), **self.tokenizer_kwargs(), **settings))

    def new_encoder(self, head_class):
        from homl_models.models import bert, bert_config, distilbert, electra

        settings = self.settings()
        if self.family == "distilbert":
            return distilbert.DistilBert(bert_config.DistilBertConfig(**settings), dtype=self.precision)
        if self.family == "electra":
            config = bert_config.ElectraConfig(**settings, embedding_size=min(128, settings["hidden_size"]))
            return electra.Electra(config, dtype=self.precision)
        config = bert_config.BertConfig(**settings)
        return bert.Bert(config, add_pooling_layer=head_class.uses_pooler, dtype=self.precision)

    def with_pretrained_encoder(self, head_class, settings):
        """A new head on the encoder of --pretrained. Raises UserError for flags that do not fit it."""
        from homl_models.checkpoints import huggingface

        config = self.backbone_of(self.pretrained_model).config
        for name in (*SIZES, "position_embedding_type"):
            if getattr(self, name) and getattr(self, name) != getattr(config, name):
                flag = f"--{name.replace('_', '-')}"
                raise UserError(f"{flag} of {self.pretrained} is {getattr(config, name)}; leave the flag out")
        if config.max_position_embeddings < self.max_length:
            raise UserError(f"{self.pretrained} takes --max-length {config.max_position_embeddings} at most")
        settings |= {"hidden_dropout_prob": self.dropout, "attention_probs_dropout_prob": self.dropout}
        settings["initializer_range"] = self.initializer_range  # of the head
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*newly initialized.*")  # as this head is
            return huggingface.replace_head(
                self.pretrained_model,
                head_class,
                **settings,
                model_max_length=self.max_length,
                dtype=self.precision,
            )

    def backbone_of(self, model):
        """The encoder of a model. Raises UserError for other models and for the other family."""
        from homl_models.models import bert, distilbert, electra

        backbone = getattr(model, "discriminator", None) or getattr(model, "backbone", model)
        if not isinstance(backbone, bert.Bert):
            raise UserError(f"{self.pretrained} is a {type(model).__name__}, neither a BERT nor an ELECTRA")
        kinds = {"electra": electra.Electra, "distilbert": distilbert.DistilBert}
        family = next((name for name, kind in kinds.items() if isinstance(backbone, kind)), "bert")
        if family != self.family:
            raise UserError(f"{self.pretrained} is of another family: --family {family}")
        return backbone

    @property
    def num_layers(self):
        return (
            self.backbone_of(self.pretrained_model).config.num_hidden_layers if self.pretrained else super().num_layers
        )
