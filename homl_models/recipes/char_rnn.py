"""Recipes of the character RNN (`models/char_rnn.py`)."""

import dataclasses
import functools
from typing import Literal

from homl_models.errors import UserError
from homl_models.recipes.recipe import Recipe, positive, rate


@dataclasses.dataclass(frozen=True)
class _Characters(Recipe):
    """What all of them share: the model's size, and the way from a text to batches."""

    batch_size: int = 64
    length: int = 100
    """Characters per window."""
    steps_per_epoch: int = 2400
    """Training steps per epoch. 0: one pass over the text (of streams, or of every window)."""
    embed_dim: int = 16
    """Size of a character's embedding."""
    units: int = 128
    """Units of each recurrent layer."""
    num_layers: int = 1
    """Recurrent layers."""
    cell: Literal["gru", "lstm"] = "gru"
    """Kind of the recurrent layers."""
    dropout: float = 0.0
    """Dropout rate on the output of each recurrent layer."""
    tie_weights: bool = False
    """Use the embedding matrix in the output layer."""

    stateful = lowercase = False
    eval_stride = 1

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
        """Ids of the training, validation and test part."""
        from homl_models.pipelines import text_windows
        from homl_models.tokenizers import characters

        return text_windows.split(characters.encode(self.text, self.vocabulary), length=self.length)

    def learnt_from(self):
        return super().learnt_from() | {"vocabulary": self.vocabulary}

    def datasets(self):
        from homl_models.pipelines import text_windows

        train, valid, _ = self.splits
        if self.stateful:
            streams = text_windows.streams(train, self.length, self.batch_size)
            return dataclasses.replace(streams, steps=self.steps_per_epoch or streams.steps), self.judged(valid)
        steps = self.steps_per_epoch or None
        windows = text_windows.windows(train, self.length, self.batch_size, self.seed, steps)
        return windows, self.judged(valid, stride=self.length)

    def judged(self, ids, stride=None):
        """Ids as an evaluation `RandomAccessDataset`: windows, or for a stateful model the whole part as one row."""
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
        """What the model is compiled with beside an optimizer."""
        import keras

        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return {"loss": loss, "metrics": ["accuracy"], "jit_compile": True}


@dataclasses.dataclass(frozen=True)
class CharRNN(_Characters):
    """The book's character RNN (Embedding 16, GRU 128) on shuffled windows of a text.

    Measured: `python -m homl_models.train char_rnn` on tiny Shakespeare, lower-cased, the book's split,
    2 cores of an Intel Xeon that did other work as well: 22.3 minutes for 10 epochs; validation accuracy
    0.5543 and loss 1.4923 over every window (the book, after 10 epochs of about 1,380 s: 0.5513 and
    1.5477), test accuracy 0.5263. At temperature 0.5 it writes
    "to part and the wife mark and deny the scart of my country / and for the son, made not the day of my true good".
    """

    kind = "fit"
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
    """Read the text as contiguous streams, the state going on from batch to batch, instead of shuffled windows."""
    eval_stride: int = 1
    """Distance between the windows that are evaluated at the end; 1 takes every window, as the book does."""

    def __post_init__(self):
        super().__post_init__()
        if self.stateful and self.strategy == "mirrored":
            raise UserError("--stateful carries its state on one device; leave --strategy at none")

    @functools.cached_property
    def text(self):
        from homl_models.pipelines import text_windows

        if self.text_file:
            text = text_windows.read_text(self.text_file)
        else:
            text = text_windows.shakespeare() if self.data == "shakespeare" else text_windows.sonnets()
        return text.lower() if self.lowercase else text

    def evaluate(self, model, text_file=""):
        """Loss (nats), accuracy and bits per character; `text_file` instead of the recipe's test data."""
        from homl_models.pipelines import text_windows
        from homl_models.tokenizers import characters

        if text_file:
            named = text_windows.read_text(text_file)
            parts = {"": characters.encode(named.lower() if self.lowercase else named, model.vocabulary)}
        else:
            parts = {"val_": self.splits[1], "test_": self.splits[2]}
        if not model.compiled:
            model.compile(**self.compile_kwargs())
        metrics = {}
        for prefix, ids in parts.items():
            for name, value in model.evaluate(self.judged(ids).dataset(), return_dict=True, verbose=0).items():
                metrics[prefix + name] = float(value)
            metrics[prefix + "bits_per_character"] = model.score(characters.decode(ids, model.vocabulary))
        return metrics

    def show(self, model, folder):
        """Three temperatures, as in the book, after the book's prompt where the text has its characters."""
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
    """The book's stateful character RNN: contiguous streams, the state going on from batch to batch.

    Measured: `python -m homl_models.train char_rnn_stateful` on tiny Shakespeare, lower-cased, the book's split,
    2 cores of an Intel Xeon that did other work as well: 8.8 minutes for 50 epochs (a pass each); validation
    accuracy 0.5574 (the book: 0.5420) and loss 1.4865, test accuracy 0.5316, each part read as one stream.
    """

    kind = "stateful"
    epochs: int = 50
    batch_size: int = 32
    learning_rate: float = 7e-3
    stateful: bool = True
    steps_per_epoch: int = 0


@dataclasses.dataclass(frozen=True)
class CharRNNLarge(CharRNN):
    """A larger stateful character RNN (Embedding 64, two GRU of 512, dropout 0.3), for an hour on two cores.

    Measured: `python -m homl_models.train char_rnn_large` on tiny Shakespeare, lower-cased, the book's split,
    2 cores of an Intel Xeon that did other work as well: 50.4 minutes for 20 epochs (a pass each); the best
    epoch is 17, validation accuracy 0.5884, loss 1.3604, 1.963 bits per character, each part read as one
    stream; test accuracy 0.5554. It has learned the form of a play: speakers, speeches, verse. Also a preset.
    """

    kind = "stateful"
    epochs: int = 20
    learning_rate: float = 3e-3
    stateful: bool = True
    steps_per_epoch: int = 0
    embed_dim: int = 64
    units: int = 512
    num_layers: int = 2
    dropout: float = 0.3


@dataclasses.dataclass(frozen=True)
class CharRNNReber(_Characters):
    """Learns the embedded Reber grammar from generated strings; judged by the strings that it writes.

    Measured: `python -m homl_models.train char_rnn_reber`, 2 cores of an Intel Xeon that did other work as well:
    0.8 minutes for 10 epochs; the grammar accepts 99.7 % of 1,000 strings drawn at temperature 1 (the aim: 99 %).
    """

    kind = "fit"
    learning_rate: float = 5e-3
    length: int = 30
    steps_per_epoch: int = 500
    embed_dim: int = 8
    units: int = 64
    num_strings: int = 20_000
    """Strings to learn from."""
    num_judged: int = 1_000
    """Strings to generate and check against the grammar."""

    @functools.cached_property
    def text(self):
        from homl_models.pipelines import reber

        return "\n" + "\n".join(reber.generate(self.num_strings, self.seed)) + "\n"

    def written(self, model, count, seed):
        """`count` strings that the model writes."""
        texts = model.generate(["\n"] * count, length=100, seed=seed, stop="\n")
        return [text.strip("\n") for text in texts]

    def evaluate(self, model):
        """Share of generated strings that the grammar accepts, and of those the share not in the training text."""
        from homl_models.pipelines import reber

        written = self.written(model, self.num_judged, self.seed)
        valid = [string for string in written if reber.accepts(string)]
        known = set(self.text.split("\n"))
        new = sum(string not in known for string in valid) / max(1, len(valid))
        return {"valid": len(valid) / len(written), "new_of_valid": new}

    def show(self, model, folder):
        from homl_models.pipelines import reber

        rows = [f"{'ok ' if reber.accepts(s) else 'BAD'} {s}" for s in self.written(model, 10, self.seed + 1)]
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
