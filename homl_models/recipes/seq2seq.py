"""Recipes of the recurrent encoder-decoder (`models/seq2seq.py`)."""

import dataclasses
from typing import ClassVar, Literal

from homl_models.recipes.recipe import positive, rate
from homl_models.recipes.results import Result
from homl_models.recipes.translation import TINY, TranslationRecipe


@dataclasses.dataclass(frozen=True)
class Seq2Seq(TranslationRecipe):
    """Recurrent encoder-decoder on English-Spanish pairs; by default the book's (Embedding 128, LSTM 512).

    The book's split, 1,000 words a side, teacher forcing; options: a bidirectional encoder, Luong's or Bahdanau's
    attention, scheduled sampling.
    """

    kind: ClassVar[str] = "scheduled_sampling"
    epochs: int = 4
    learning_rate: float = 3e-3
    num_buckets: int = 8
    embed_dim: int = 128
    """Size of a token's embedding."""
    units: int = 512
    """Units of each recurrent layer; a bidirectional encoder has half of them in each direction."""
    num_layers: int = 1
    """Recurrent layers of encoder and decoder."""
    cell: Literal["lstm", "gru"] = "lstm"
    """Kind of the recurrent layers."""
    bidirectional: bool = False
    """Bidirectional encoder."""
    attention: Literal["none", "dot", "general", "concat", "additive", "book"] = "none"
    """Luong's dot, general or concat; Bahdanau's additive; or the book's simplified attention."""
    dropout: float = 0.2
    """Dropout rate on embeddings and recurrent outputs."""
    scheduled_sampling: Literal["none", "linear", "exponential", "inverse_sigmoid"] = "none"
    """Schedule of the probability of teacher forcing; `none`: always 1."""
    sampling_k: float = 1000.0
    """k of the schedule (see `schedules.teacher_forcing_probability`), in steps; of `exponential` a number below 1."""

    def __post_init__(self):
        super().__post_init__()
        positive(embed_dim=self.embed_dim, units=self.units, num_layers=self.num_layers)
        rate(dropout=self.dropout)

    def model(self):
        from homl_models.models.seq2seq import Seq2Seq

        model = Seq2Seq(
            *self.vocabularies,
            self.tokenizer,
            embed_dim=self.embed_dim,
            units=self.units,
            num_layers=self.num_layers,
            cell=self.cell,
            bidirectional=self.bidirectional,
            attention=self.attention,
            dropout=self.dropout,
            scheduled_sampling=self.scheduled_sampling,
            sampling_k=self.sampling_k,
            dtype=self.precision,
        )
        return self.compile(model)


@dataclasses.dataclass(frozen=True)
class Dates(Seq2Seq):
    """Dates as people write them to ISO dates, by characters (exercise 9 of chapter 16); generated, needs no data."""

    kind: ClassVar[str] = "fit"
    epochs: int = 2
    learning_rate: float = 5e-3
    num_pairs: int = 20_000
    data: Literal["spa-eng", "dates"] = "dates"
    split: Literal["book", "honest"] = "honest"
    tokenizer: Literal["words", "subwords", "characters"] = "characters"
    num_buckets: int = 1
    dropout: float = 0.0
    embed_dim: int = 32
    units: int = 128
    cell: Literal["lstm", "gru"] = "gru"
    bidirectional: bool = True
    attention: Literal["none", "dot", "general", "concat", "additive", "book"] = "dot"


TINY_RNN = TINY | {"units": 12, "embed_dim": 8}
TINY_WORDS = TINY_RNN | {"tokenizer": "words", "vocab_size": 30, "num_buckets": 2}

RECIPES = {
    "dates": Dates(),
    "seq2seq": Seq2Seq(),
    "seq2seq_bidirectional": Seq2Seq(bidirectional=True),
    "seq2seq_attention": Seq2Seq(bidirectional=True, attention="dot"),
    "seq2seq_bahdanau": Seq2Seq(bidirectional=True, attention="additive"),
    "dates_tiny": Dates(**TINY_RNN),
    "seq2seq_tiny": Seq2Seq(**TINY_RNN | {"num_buckets": 2}, scheduled_sampling="linear"),
    "seq2seq_bahdanau_tiny": Seq2Seq(**TINY_WORDS, bidirectional=True, attention="additive", num_layers=2),
}

SUMMARIES = {
    "dates": "Written dates to ISO dates by characters: bidirectional GRU 128, dot attention; needs no data",
    "seq2seq": "The book's encoder-decoder, English to Spanish: Embedding 128, LSTM 512, 1,000 words a side",
    "seq2seq_bidirectional": "The book's encoder-decoder with a bidirectional encoder",
    "seq2seq_attention": "The book's bidirectional encoder-decoder with Luong's dot attention",
    "seq2seq_bahdanau": "The book's bidirectional encoder-decoder with Bahdanau's attention in the decoder's cell",
}

BLEU = (
    "Accuracy is the fraction of correct tokens, as the book's is. BLEU and chrF are of 2,000 test pairs, against "
    "references in the same 1,000 words, where `[UNK]` stands for every other word on both sides."
)
BESIDE = "one core of an Intel Xeon, beside other work"
RESULTS = [
    Result(
        "seq2seq",
        minutes=7.3,
        metrics={"epochs": 4, "val_accuracy": 0.6880, "bleu": 48.3, "bleu_beam4": 49.6},
        reference={"epochs": 10, "val_accuracy": 0.6829, "seconds per epoch": "673 to 698"},
        note=BLEU,
    ),
    Result(
        "seq2seq_bidirectional",
        machine=BESIDE,
        minutes=11.4,
        metrics={
            "epochs": 4,
            "val_accuracy": 0.6946,
            "test_accuracy": 0.6942,
            "bleu": 49.4,
            "bleu_beam4": 50.5,
            "chrf": 57.9,
            "chrf_beam4": 59.2,
        },
    ),
    Result(
        "seq2seq_bidirectional",
        "seq2seq_bidirectional --epochs 10",
        machine=BESIDE,
        minutes=86.7,
        metrics={
            "epochs": 10,
            "val_accuracy": 0.7183,
            "test_accuracy": 0.7173,
            "bleu": 52.4,
            "bleu_beam4": 53.4,
            "chrf": 61.2,
            "chrf_beam4": 62.5,
        },
        reference={"epochs": 10, "val_accuracy": 0.7025, "seconds per epoch": "564 to 574"},
        note="After 4 epochs it is behind the book's 10, after 10 ahead.",
    ),
    Result(
        "seq2seq_attention",
        machine=BESIDE,
        minutes=17.5,
        metrics={
            "epochs": 4,
            "val_accuracy": 0.7533,
            "test_accuracy": 0.7546,
            "bleu": 56.7,
            "bleu_beam4": 57.1,
            "chrf": 66.5,
            "chrf_beam4": 67.1,
        },
        reference={"epochs": 10, "val_accuracy": 0.7111, "seconds per epoch": "581 to 597"},
    ),
    Result(
        "seq2seq_bahdanau",
        machine=BESIDE,
        minutes=145,
        metrics={
            "epochs": 4,
            "val_accuracy": 0.7448,
            "test_accuracy": 0.7456,
            "bleu": 55.8,
            "bleu_beam4": 56.9,
            "chrf": 65.6,
            "chrf_beam4": 66.6,
        },
        note="Beside three other trainings; an earlier run, beside less, took 21 minutes.",
    ),
    Result(
        "dates",
        machine="2 cores of an Intel Xeon, beside other work",
        minutes=0.6,
        metrics={"epochs": 2, "exact": "2,000 of 2,000 unseen dates"},
        note="Trained on 20,000 dates, with seed 42, and with seed 1 alike. Also a preset.",
    ),
]
