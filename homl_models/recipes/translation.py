"""Recipes of translation (`models/seq2seq.py`, `models/transformer.py`)."""

import dataclasses
import functools
from typing import Literal

from homl_models.errors import UserError
from homl_models.recipes.recipe import Recipe, positive, rate

BOOK_SENTENCES = ("I like soccer", "I like soccer and also going to the beach")


@dataclasses.dataclass(frozen=True)
class _Translation(Recipe):
    """What all of them share: pairs of sentences, their split, vocabularies and batches; how they are judged."""

    epochs: int = 5
    batch_size: int = 64
    monitor: str = "val_accuracy"
    monitor_mode: Literal["min", "max"] = "max"
    data: Literal["spa-eng", "dates"] = "spa-eng"
    """The book's English-Spanish pairs, from Keras' cache or the network, or generated dates."""
    pairs_file: str = ""
    """Your own pairs instead: UTF-8 lines of source, tab, target; plain, .gz or .zip."""
    num_pairs: int = 0
    """Use only that many pairs. 0: all of a file; of dates 20,000."""
    split: Literal["book", "honest"] = "book"
    """`book` shuffles pairs; `honest` keeps pairs that share a sentence in one part."""
    tokenizer: Literal["words", "subwords", "characters"] = "words"
    """The book's lower-cased words, learned subwords, or characters."""
    vocab_size: int = 1000
    """Tokens of a vocabulary (no limit to characters)."""
    max_length: int = 50
    """Leave out pairs with more tokens than that."""
    num_buckets: int = 5
    """Shapes of batches: pairs of like length share one."""
    num_judged: int = 2000
    """Test pairs that are translated to judge the model."""

    def __post_init__(self):
        super().__post_init__()
        positive(vocab_size=self.vocab_size - 4, max_length=self.max_length, num_buckets=self.num_buckets)
        positive(num_judged=self.num_judged)
        if self.num_pairs < 0:
            raise UserError("--num-pairs must be 0 (all) or more")
        if self.synthetic and self.split == "book":
            raise UserError("--split book is for files of pairs; a generated date of a test is never trained on")

    @property
    def synthetic(self):
        """Whether pairs are generated."""
        return self.data == "dates" and not self.pairs_file

    @functools.cached_property
    def splits(self):
        """Training, validation and test pairs."""
        import random

        from homl_models.pipelines import dates, translation

        if self.synthetic:
            count = self.num_pairs or 20_000
            held_out = dates.generate(2 * max(16, min(2000, count // 10)), self.seed + 1)
            train = dates.generate(count, self.seed, without={iso for _, iso in held_out})
            return train, held_out[: len(held_out) // 2], held_out[len(held_out) // 2 :]
        pairs = translation.read_pairs(self.pairs_file) if self.pairs_file else translation.spa_eng()
        if self.num_pairs:
            pairs = random.Random(self.seed).sample(pairs, min(self.num_pairs, len(pairs)))
        split = translation.book_split if self.split == "book" else translation.group_split
        parts = split(pairs, self.seed)
        if not all(parts):
            raise UserError(f"{len(pairs)} pairs are too few to split; give more")
        return parts

    @functools.cached_property
    def vocabularies(self):
        """Of source and target, learned on the training part; subwords are learned on both and shared."""
        from homl_models.tokenizers import subwords
        from homl_models.tokenizers.characters import learn_characters
        from homl_models.tokenizers.words import learn_words

        sources, targets = map(list, zip(*self.splits[0]))
        if self.tokenizer == "subwords":
            return (subwords.learn_subwords(sources + targets, self.vocab_size),) * 2
        if self.tokenizer == "characters":
            return learn_characters(sources), learn_characters(targets)
        return learn_words(sources, self.vocab_size), learn_words(targets, self.vocab_size)

    def learnt_from(self):
        return super().learnt_from() | {"vocabulary": self.vocabularies}

    def stream(self, pairs, vocabularies, max_length=None, seed=None):
        """The pairs with at most `max_length` tokens on a side, and batches of them as a `RandomAccessDataset`."""
        from homl_models.pipelines import translation
        from homl_models.tokenizers import TOKENIZERS

        make = TOKENIZERS[self.tokenizer]
        sources, targets = translation.encode(pairs, *map(make, vocabularies))
        if max_length is not None:
            pairs, sources, targets = translation.short_enough(pairs, sources, targets, max_length)
        return pairs, translation.batches(translation.bucket(sources, targets, self.num_buckets), self.batch_size, seed)

    @functools.cached_property
    def _datasets(self):
        train, valid, _ = self.splits
        how = self.vocabularies, self.max_length
        return self.stream(train, *how, self.seed)[1], self.stream(valid, *how)[1]

    def datasets(self):
        return self._datasets

    def compiled(self, model):
        """`model` with its optimizer and objective."""
        model.build()
        model.compile(self.optimizer(self.epochs * self.datasets()[0].steps), **self.compile_kwargs())
        return model

    def compile_kwargs(self):
        """What the model is compiled with beside an optimizer."""
        import keras

        from homl_models import metrics

        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return {"loss": loss, "metrics": [metrics.TokenAccuracy()], "jit_compile": True}

    def evaluate(self, model, pairs_file=""):
        """Loss in nats per token, share of right tokens, and what translations are worth; `pairs_file` as test data.

        The loss is that of training: with label smoothing where that has it. Words are those that the model knows.
        """
        from homl_models.pipelines import translation

        if not model.compiled:
            model.compile(**self.compile_kwargs())
        if pairs_file:
            parts = {"": translation.read_pairs(pairs_file)}
        else:
            parts = {"val_": self.splits[1], "test_": self.splits[2]}
        metrics, vocabularies = {}, (model.source_vocabulary, model.target_vocabulary)
        for prefix, pairs in parts.items():
            pairs, stream = self.stream(pairs, vocabularies, model.max_length)
            for name, value in model.evaluate(stream.dataset(), return_dict=True, verbose=0).items():
                metrics[prefix + name] = float(value)
        return metrics | self.judge(model, pairs[: self.num_judged])

    def judge(self, model, pairs):
        """Metrics of whole translations of pairs."""
        from homl_models import metrics

        sources, references = zip(*pairs)
        greedy = translated(model, sources, 1)
        if self.tokenizer == "characters":
            return {"exact": sum(a == b for a, b in zip(greedy, references)) / len(pairs)}
        if self.tokenizer == "words":
            references = model.normalize(references)
        scores = metrics.translation(greedy, references)
        beam = metrics.translation(translated(model, sources, 4), references)
        return scores | {f"{name}_beam4": value for name, value in beam.items()}

    def show(self, model, folder):
        """A table of translations (source, reference, greedy, beam 4) and attention.png."""
        from homl_models.training import reports

        pairs = [(s, "") for s in BOOK_SENTENCES] if self.data == "spa-eng" and not self.pairs_file else []
        pairs += self.splits[2][:8]
        sources, references = map(list, zip(*pairs))
        columns = {"source": sources, "reference": references, "greedy": model.translate(sources)}
        columns["beam 4"] = model.translate(sources, beam_width=4)
        if model.has_attention:
            reports.attention(*model.attention_weights(sources[min(1, len(sources) - 1)]), folder / "attention.png")
        return reports.blocks(columns)


def translated(model, sources, beam_width, batch=250):
    """Translations of many sentences, batch by batch in order of length, with a progress bar."""
    import tqdm

    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    done = {}
    for first in tqdm.trange(0, len(order), batch, desc=f"beam {beam_width}", leave=False):
        some = order[first : first + batch]
        done |= zip(some, model.translate([sources[i] for i in some], beam_width=beam_width))
    return [done[i] for i in range(len(sources))]


@dataclasses.dataclass(frozen=True)
class Seq2Seq(_Translation):
    """The book's recurrent encoder-decoder (Embedding 128, LSTM 512) on its English-Spanish pairs.

    Measured: `python -m homl_models.train RECIPE`, 4 epochs, 2 cores of an Intel Xeon; the book's after 10 epochs.
        recipe                 minutes  validation accuracy  BLEU greedy, beam 4   the book
        seq2seq                7.3      0.6880               48.3, 49.6            0.6829, 673 to 698 s an epoch
        seq2seq_bidirectional  9.9      0.7185*              48.8, 50.0            0.7025, 564 to 574 s
        seq2seq_attention      14.6     0.7656*              55.9, 56.8            0.7111, 581 to 597 s
        seq2seq_bahdanau       21.4     0.7601*              55.9, 56.7            – (beside other work)
    Accuracy is the share of tokens; *: measured as a mean over batches, which is about 0.02 to 0.03 higher.
    BLEU is of 2,000 test pairs, against references in the same 1,000 words, where `[UNK]` stands for every other
    word on both sides.
    """

    kind = "scheduled_sampling"
    epochs: int = 4
    learning_rate: float = 3e-3
    num_buckets: int = 8
    embed_dim: int = 128
    """Size of a token's embedding."""
    units: int = 512
    """Units of each recurrent layer; a bidirectional encoder has half of them each way."""
    num_layers: int = 1
    """Recurrent layers of encoder and decoder."""
    cell: Literal["lstm", "gru"] = "lstm"
    """Kind of the recurrent layers."""
    bidirectional: bool = False
    """Encode both ways."""
    attention: Literal["none", "dot", "general", "concat", "additive", "book"] = "none"
    """Luong's dot, general or concat; Bahdanau's additive; or the book's shortcut."""
    dropout: float = 0.2
    """Dropout rate on embeddings and recurrent outputs."""
    scheduled_sampling: Literal["none", "linear", "exponential", "inverse_sigmoid"] = "none"
    """Feed the decoder its own predictions, more and more, by that schedule."""
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
        return self.compiled(model)


@dataclasses.dataclass(frozen=True)
class Dates(Seq2Seq):
    """Written dates to ISO dates, character by character (exercise 9 of chapter 16); generated, needs no data.

    Measured: `python -m homl_models.train dates`, 2 cores of an Intel Xeon that did other work as well: 0.6 minutes
    for 2 epochs on 20,000 dates; 2,000 of 2,000 unseen dates exact, with seeds 42 and 1. Also a preset.
    """

    kind = "fit"
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


@dataclasses.dataclass(frozen=True)
class TransformerBook(_Translation):
    """The book's Transformer (N = 2, 8 heads, 128) on its English-Spanish pairs.

    Measured: `python -m homl_models.train transformer_book`, 2 cores of an Intel Xeon beside other work: 31.6 minutes
    for 10 epochs, 74.4 % of the validation's tokens right (74.6 % of the test's); the book's 72.8 % after 10 epochs of
    820 to 828 s. On 2,000 test pairs BLEU 55.5 greedy and 56.0 with a beam of 4, in the same 1,000 words (see
    `Seq2Seq`).
    """

    kind = "fit"
    epochs: int = 10
    learning_rate: float = 2e-3
    dim: int = 128
    """Size of embeddings and blocks."""
    num_heads: int = 8
    """Heads of every attention."""
    head_dim: int = 0
    """Size of a head. 0: dim / num_heads."""
    hidden_units: int = 128
    """Hidden units of the feed-forward networks."""
    num_encoder_layers: int = 2
    """Encoder blocks."""
    num_decoder_layers: int = 2
    """Decoder blocks."""
    dropout: float = 0.1
    """Dropout rate on embeddings and on every sub-layer."""
    attention_dropout: float = 0.0
    """Dropout rate on the attention weights."""
    pre_norm: bool = False
    """Normalize the input of sub-layers instead of the sum."""
    activation: Literal["relu", "gelu", "silu"] = "relu"
    """Of the feed-forward networks."""
    positions: Literal["sinusoidal", "trained"] = "sinusoidal"
    """Positional encoding; `trained` limits sentences to --max-length tokens."""
    tie_weights: bool = True
    """Use the target's embedding matrix in the output layer."""
    share_embeddings: bool = False
    """One embedding matrix for source and target (subwords)."""
    label_smoothing: float = 0.0
    """Share of the probability that is spread over all tokens."""
    schedule: Literal["cosine", "inverse_sqrt"] = "cosine"
    """Learning rate after the warm-up: a cosine down to zero, or the paper's inverse square root."""
    warmup_steps: int = 0
    """Steps of warm-up of `inverse_sqrt`. 0: a tenth of the training."""

    def __post_init__(self):
        super().__post_init__()
        positive(dim=self.dim, num_heads=self.num_heads, hidden_units=self.hidden_units)
        positive(num_encoder_layers=self.num_encoder_layers, num_decoder_layers=self.num_decoder_layers)
        rate(dropout=self.dropout, attention_dropout=self.attention_dropout, label_smoothing=self.label_smoothing)
        if self.head_dim < 0 or self.warmup_steps < 0:
            raise UserError("--head-dim and --warmup-steps must be 0 or more")
        if self.warmup_steps and self.schedule == "cosine":
            raise UserError("--warmup-steps is for --schedule inverse_sqrt; of a cosine it is 2 % of the training")
        if not self.head_dim and self.dim % self.num_heads:
            raise UserError(f"--num-heads {self.num_heads} does not divide --dim {self.dim}; or set --head-dim")
        if self.positions == "sinusoidal" and self.dim % 2:
            raise UserError(f"sinusoidal positions need an even --dim, not {self.dim}")
        if self.share_embeddings and self.tokenizer != "subwords":
            raise UserError("--share-embeddings needs one vocabulary: --tokenizer subwords")

    def model(self):
        from homl_models.models.transformer import Transformer

        model = Transformer(
            *self.vocabularies,
            self.tokenizer,
            dim=self.dim,
            num_heads=self.num_heads,
            head_dim=self.head_dim or None,
            hidden_units=self.hidden_units,
            num_encoder_layers=self.num_encoder_layers,
            num_decoder_layers=self.num_decoder_layers,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            pre_norm=self.pre_norm,
            activation=self.activation,
            positions=self.positions,
            max_length=self.max_length if self.positions == "trained" else None,
            tie_weights=self.tie_weights,
            share_embeddings=self.share_embeddings,
            dtype=self.precision,
        )
        return self.compiled(model)

    def optimizer(self, steps):
        from homl_models.optimizers import Adam
        from homl_models.schedules import InverseSquareRoot

        if self.schedule == "cosine":
            return super().optimizer(steps)
        schedule = InverseSquareRoot(self.learning_rate, self.warmup_steps or max(1, steps // 10))
        return Adam(schedule, beta_2=0.98, epsilon=1e-9, clipnorm=1.0)

    def compile_kwargs(self):
        if not self.label_smoothing:
            return super().compile_kwargs()
        from homl_models.losses import SmoothedCrossentropy

        return super().compile_kwargs() | {"loss": SmoothedCrossentropy(self.label_smoothing)}


@dataclasses.dataclass(frozen=True)
class Transformer(TransformerBook):
    """A Transformer on subwords and the honest split, for an hour on two cores; keeps case and punctuation.

    Measured: `python -m homl_models.train transformer`, 2 cores of an Intel Xeon that did a little other work:
    57.6 minutes for 10 epochs; on 2,000 test pairs, of which no sentence was seen, BLEU 42.3 greedy and 44.0 with a
    beam of 4, chrF 62.3 and 63.3 (sacrebleu's defaults); 76.4 % of the tokens right, given those before, and a
    loss of 2.239 with label smoothing (`python -m homl_models.evaluate transformer`). Also a preset.
    """

    kind = "fit"
    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 1e-3
    split: Literal["book", "honest"] = "honest"
    tokenizer: Literal["words", "subwords", "characters"] = "subwords"
    vocab_size: int = 4000
    num_buckets: int = 8
    dim: int = 256
    num_heads: int = 4
    hidden_units: int = 1024
    num_encoder_layers: int = 3
    pre_norm: bool = True
    share_embeddings: bool = True
    label_smoothing: float = 0.1


TINY = {
    "epochs": 2,
    "batch_size": 8,
    "data": "dates",
    "split": "honest",
    "tokenizer": "characters",
    "num_pairs": 80,
    "num_buckets": 1,
}
TINY["num_judged"] = 8  # those that are shown, so that their translation is compiled once
TINY_RNN = TINY | {"units": 12, "embed_dim": 8}
TINY_WORDS = TINY_RNN | {"tokenizer": "words", "vocab_size": 30, "num_buckets": 2}
TINY_TRANSFORMER = TINY | {"dim": 16, "num_heads": 2, "hidden_units": 16, "num_encoder_layers": 1}

RECIPES = {
    "dates": Dates(),
    "seq2seq": Seq2Seq(),
    "seq2seq_bidirectional": Seq2Seq(bidirectional=True),
    "seq2seq_attention": Seq2Seq(bidirectional=True, attention="dot"),
    "seq2seq_bahdanau": Seq2Seq(bidirectional=True, attention="additive"),
    "transformer_book": TransformerBook(),
    "transformer": Transformer(),
    "dates_tiny": Dates(**TINY_RNN),
    "seq2seq_tiny": Seq2Seq(**TINY_RNN | {"num_buckets": 2}, scheduled_sampling="linear"),
    "seq2seq_bahdanau_tiny": Seq2Seq(**TINY_WORDS, bidirectional=True, attention="additive", num_layers=2),
    "transformer_book_tiny": TransformerBook(**TINY_TRANSFORMER, positions="trained", schedule="inverse_sqrt"),
    "transformer_tiny": Transformer(**TINY_TRANSFORMER | {"tokenizer": "subwords", "vocab_size": 100}),
}
