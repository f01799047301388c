"""Recipes of the character RNN (`models/char_rnn.py`)."""

import dataclasses
import functools
from typing import ClassVar, Literal

from homl_models.errors import UserError
from homl_models.recipes.recipe import Recipe, positive, rate
from homl_models.recipes.results import Result
from homl_models.recipes.sources import Sourced


@dataclasses.dataclass(frozen=True)
class CharacterRecipe(Recipe):
    """Base class: size of the model, splits of a text and their batches."""

    batch_size: int = 64
    length: int = 100
    """Characters per window."""
    steps_per_epoch: int = 2400
    """Training steps per epoch. 0: one pass over the streams, or over all windows."""
    embed_dim: int = 16
    """Size of a character's embedding."""
    units: int = 128
    """Units of each recurrent layer."""
    num_layers: int = 1
    """Recurrent layers."""
    cell: Literal["gru", "lstm"] = "gru"
    """Type of the recurrent layers."""
    dropout: float = 0.0
    """Dropout rate on the output of each recurrent layer."""
    tie_weights: bool = False
    """Use the embedding matrix in the output layer."""

    stateful: ClassVar[bool] = False
    lowercase: ClassVar[bool] = False
    eval_stride: ClassVar[int] = 1

    def __post_init__(self):
        super().__post_init__()
        positive(length=self.length, embed_dim=self.embed_dim, units=self.units)
        positive(num_layers=self.num_layers, eval_stride=self.eval_stride)
        rate(dropout=self.dropout)
        if self.steps_per_epoch < 0:
            raise UserError("--steps-per-epoch must be 0 (one pass over the text) or more")

    @functools.cached_property
    def vocabulary(self):
        return "".join(sorted(set(self.text)))

    @functools.cached_property
    def splits(self):
        """Ids of the training, validation and test split."""
        from homl_models.pipelines import text_windows
        from homl_models.tokenizers import characters

        return text_windows.split(characters.encode(self.text, self.vocabulary), length=self.length)

    def fingerprinted(self):
        return super().fingerprinted() | {"vocabulary": self.vocabulary}

    def datasets(self):
        from homl_models.pipelines import text_windows

        train, valid, _ = self.splits
        if self.stateful:
            streams = text_windows.streams(train, self.length, self.batch_size)
            return dataclasses.replace(streams, steps=self.steps_per_epoch or streams.steps), self.eval_dataset(valid)
        steps = self.steps_per_epoch or None
        windows = text_windows.windows(train, self.length, self.batch_size, self.seed, steps)
        return windows, self.eval_dataset(valid, stride=self.length)

    def eval_dataset(self, ids, stride=None):
        """Evaluation `RandomAccessDataset` of a split: windows, or for a stateful model all of it as one row."""
        from homl_models.pipelines import text_windows

        if self.stateful:
            return text_windows.streams(ids, len(ids) - 1, 1)
        stride = stride or self.eval_stride
        count = (len(ids) - self.length - 1) // stride + 1
        batch_size = max(size for size in (1, 2, 24, 480) if size <= count)  # Keras: devices share the first evenly
        return text_windows.windows(ids, self.length, batch_size, stride=stride)

    def model(self):
        from homl_models.models.char_rnn import CharRNN

        model = CharRNN(
            self.vocabulary,
            embed_dim=self.embed_dim,
            units=self.units,
            num_layers=self.num_layers,
            cell=self.cell,
            dropout=self.dropout,
            stateful=self.stateful,
            batch_size=self.batch_size if self.stateful else None,
            tie_weights=self.tie_weights,
            lowercase=self.lowercase,
            dtype=self.precision,
        )
        model.build()
        model.compile(self.optimizer(self.epochs * self.datasets()[0].steps), **self.compile_kwargs())
        return model

    def compile_kwargs(self):
        """Arguments of `compile` beside the optimizer."""
        import keras

        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return {"loss": loss, "metrics": ["accuracy"], "jit_compile": True}


@dataclasses.dataclass(frozen=True)
class CharRNN(Sourced, CharacterRecipe):
    """Character RNN on shuffled windows of a text, by default the book's (Embedding 16, GRU 128), tiny Shakespeare."""

    kind: ClassVar[str] = "fit"
    learning_rate: float = 1e-2
    monitor: str = "val_accuracy"
    monitor_mode: Literal["min", "max"] = "max"
    data: Literal["shakespeare", "sonnets"] = "shakespeare"
    """Tiny Shakespeare, from Keras' cache or the network, or four sonnets that come with the package."""
    text_file: str = ""
    """Your own text instead: a UTF-8 file, or a folder of .txt files."""
    lowercase: bool = True
    """Lower-case the text, as the book does."""
    stateful: bool = False
    """Stateful RNN: contiguous streams of the text instead of shuffled windows, the state kept between batches."""
    eval_stride: int = 1
    """Stride of the windows of the final evaluation; 1, as in the book, takes every window."""

    def __post_init__(self):
        super().__post_init__()
        self.check_source(text_file=self.text_file)
        if self.stateful and self.strategy == "mirrored":
            raise UserError("--stateful keeps its state on one device; leave --strategy at none")

    @functools.cached_property
    def text(self):
        from homl_models.pipelines import text_windows, tfds

        if self.text_file:
            text = text_windows.read_text(self.text_file)
        elif self.tfds_name:
            text = tfds.text(self.tfds_name)
        else:
            text = text_windows.shakespeare() if self.data == "shakespeare" else text_windows.sonnets()
        return text.lower() if self.lowercase else text

    def evaluate(self, model, text_file=""):
        """Loss (nats), accuracy and bits per character; `text_file` instead of the recipe's test data."""
        from homl_models.pipelines import text_windows
        from homl_models.tokenizers import characters

        if text_file:
            text = text_windows.read_text(text_file)
            splits = {"": characters.encode(text.lower() if self.lowercase else text, model.vocabulary)}
        else:
            splits = {"val_": self.splits[1], "test_": self.splits[2]}
        if not model.compiled:
            model.compile(**self.compile_kwargs())
        metrics = {}
        for prefix, ids in splits.items():
            for name, value in model.evaluate(self.eval_dataset(ids).dataset(), return_dict=True, verbose=0).items():
                metrics[prefix + name] = float(value)
            metrics[prefix + "bits_per_character"] = model.score(characters.decode(ids, model.vocabulary))
        return metrics

    def show(self, model, folder):
        """Continuations of the book's prompt at three temperatures; of the text's start if it lacks its characters."""
        prompt = "To be or not to be"
        if not set(prompt.lower() if self.lowercase else prompt) <= set(model.vocabulary):
            prompt = self.text[:20]
        blocks = []
        for temperature in (0.01, 0.5, 1.0):
            text = model.generate(prompt, length=300, temperature=temperature, seed=self.seed)
            blocks.append(f"--- temperature {temperature}\n{text}\n")
        return "\n".join(blocks)


@dataclasses.dataclass(frozen=True)
class CharRNNStateful(CharRNN):
    """Stateful character RNN, as the book's: contiguous streams, the state kept between batches."""

    kind: ClassVar[str] = "stateful"
    epochs: int = 50
    batch_size: int = 32
    learning_rate: float = 7e-3
    stateful: bool = True
    steps_per_epoch: int = 0


@dataclasses.dataclass(frozen=True)
class CharRNNLarge(CharRNN):
    """Larger stateful character RNN (Embedding 64, two GRU of 512, dropout 0.3), for an hour on two cores."""

    kind: ClassVar[str] = "stateful"
    epochs: int = 20
    learning_rate: float = 3e-3
    stateful: bool = True
    steps_per_epoch: int = 0
    embed_dim: int = 64
    units: int = 512
    num_layers: int = 2
    dropout: float = 0.3


@dataclasses.dataclass(frozen=True)
class CharRNNReber(CharacterRecipe):
    """Character RNN on generated strings of the embedded Reber grammar, evaluated by the strings that it generates."""

    kind: ClassVar[str] = "fit"
    learning_rate: float = 5e-3
    length: int = 30
    steps_per_epoch: int = 500
    embed_dim: int = 8
    units: int = 64
    num_strings: int = 20_000
    """Training strings."""
    num_judged: int = 1_000
    """Strings to generate and check against the grammar."""

    @functools.cached_property
    def text(self):
        from homl_models.pipelines import reber

        return "\n" + "\n".join(reber.generate(self.num_strings, self.seed)) + "\n"

    def generate(self, model, count, seed):
        """`count` strings sampled from the model."""
        texts = model.generate(["\n"] * count, length=100, seed=seed, stop="\n")
        return [text.strip("\n") for text in texts]

    def evaluate(self, model):
        """Fraction of generated strings that the grammar accepts, and of these the fraction that is new."""
        from homl_models.pipelines import reber

        generated = self.generate(model, self.num_judged, self.seed)
        valid = [string for string in generated if reber.accepts(string)]
        known = set(self.text.split("\n"))
        new = sum(string not in known for string in valid) / max(1, len(valid))
        return {"valid": len(valid) / len(generated), "new_of_valid": new}

    def show(self, model, folder):
        from homl_models.pipelines import reber

        rows = [f"{'ok ' if reber.accepts(s) else 'BAD'} {s}" for s in self.generate(model, 10, self.seed + 1)]
        metrics = self.evaluate(model)
        count = round(metrics["valid"] * self.num_judged)
        rows.append(f"{count} of {self.num_judged} generated strings obey the embedded Reber grammar")
        return "\n".join(rows)


TINY = {"epochs": 2, "batch_size": 4, "length": 16, "units": 12, "embed_dim": 6}

RECIPES = {
    "char_rnn": CharRNN(),
    "char_rnn_stateful": CharRNNStateful(),
    "char_rnn_large": CharRNNLarge(),
    "char_rnn_reber": CharRNNReber(),
    "char_rnn_tiny": CharRNN(**TINY, data="sonnets", steps_per_epoch=30),
    "char_rnn_stateful_tiny": CharRNNStateful(**TINY, data="sonnets"),
    "char_rnn_large_tiny": CharRNNLarge(**TINY, data="sonnets"),
    "char_rnn_reber_tiny": CharRNNReber(**TINY, steps_per_epoch=30, num_strings=200, num_judged=20),
}

SUMMARIES = {
    "char_rnn": "The book's character RNN: Embedding 16, GRU 128, shuffled windows of tiny Shakespeare",
    "char_rnn_stateful": "The book's stateful character RNN: Embedding 16, GRU 128, contiguous streams",
    "char_rnn_large": "A larger stateful character RNN: Embedding 64, two GRU of 512, dropout 0.3",
    "char_rnn_reber": "Character RNN on the embedded Reber grammar: Embedding 8, GRU 64; needs no data",
}

BESIDE = "2 cores of an Intel Xeon, beside other work"
DATA = "Tiny Shakespeare, lower-cased, the book's split."
RESULTS = [
    Result(
        "char_rnn",
        machine=BESIDE,
        minutes=22.3,
        metrics={"epochs": 10, "val_accuracy": 0.5543, "val_loss": 1.4923, "test_accuracy": 0.5263},
        reference={"epochs": 10, "val_accuracy": 0.5513, "val_loss": 1.5477, "seconds per epoch": "about 1,380"},
        note=(
            f'{DATA} Validation over every window. At temperature 0.5 it writes "to part and the wife mark and deny '
            'the scart of my country / and for the son, made not the day of my true good".'
        ),
    ),
    Result(
        "char_rnn_stateful",
        machine=BESIDE,
        minutes=8.8,
        metrics={"epochs": 50, "val_accuracy": 0.5574, "val_loss": 1.4865, "test_accuracy": 0.5316},
        reference={"val_accuracy": 0.5420},
        note=f"{DATA} An epoch is one pass. Evaluated on each split as one stream.",
    ),
    Result(
        "char_rnn_large",
        machine=BESIDE,
        minutes=50.4,
        metrics={
            "epochs": 20,
            "best_epoch": 17,
            "val_accuracy": 0.5884,
            "val_loss": 1.3604,
            "val_bits_per_character": 1.963,
            "test_accuracy": 0.5554,
        },
        note=(
            f"{DATA} An epoch is one pass. Evaluated on each split as one stream. It has learned the form of a play: "
            "speakers, speeches, verse. Also a preset."
        ),
    ),
    Result(
        "char_rnn_reber",
        machine=BESIDE,
        minutes=0.8,
        metrics={"epochs": 10, "valid": 0.997},
        note="The grammar accepts 99.7 % of 1,000 strings sampled at temperature 1 (the aim: 99 %).",
    ),
]
