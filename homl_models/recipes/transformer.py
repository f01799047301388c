"""Recipes of the Transformer for translation (`models/transformer.py`)."""

import dataclasses
from typing import ClassVar, Literal

from homl_models.errors import UserError
from homl_models.recipes.recipe import positive, rate
from homl_models.recipes.results import Result
from homl_models.recipes.translation import TINY, TranslationRecipe


@dataclasses.dataclass(frozen=True)
class TransformerBook(TranslationRecipe):
    """The book's Transformer (N = 2, 8 heads, 128) on its English-Spanish pairs, its split and 1,000 words a side."""

    kind: ClassVar[str] = "fit"
    epochs: int = 10
    learning_rate: float = 2e-3
    dim: int = 128
    """Size of embeddings and blocks."""
    num_heads: int = 8
    """Attention heads."""
    head_dim: int = 0
    """Size of a head. 0: dim / num_heads."""
    hidden_units: int = 128
    """Hidden units of the feed-forward networks."""
    num_encoder_layers: int = 2
    """Blocks of the encoder."""
    num_decoder_layers: int = 2
    """Blocks of the decoder."""
    dropout: float = 0.1
    """Dropout rate on embeddings and on every sub-layer."""
    attention_dropout: float = 0.0
    """Dropout rate on the attention weights."""
    pre_norm: bool = False
    """Layer normalization before each sub-layer (pre-norm), not after the residual sum (post-norm)."""
    activation: Literal["relu", "gelu", "silu"] = "relu"
    """Activation of the feed-forward networks."""
    positions: Literal["sinusoidal", "trained"] = "sinusoidal"
    """Positional encoding; `trained` limits sentences to --max-length tokens."""
    tie_weights: bool = True
    """Use the target's embedding matrix in the output layer."""
    share_embeddings: bool = False
    """Share an embedding matrix between source and target (subwords)."""
    label_smoothing: float = 0.0
    """Probability mass that label smoothing spreads over all tokens."""
    schedule: Literal["cosine", "inverse_sqrt"] = "cosine"
    """Learning rate after the warm-up: cosine decay to zero, or the paper's inverse square root."""
    warmup_steps: int = 0
    """Warm-up steps of `inverse_sqrt`. 0: a tenth of the training."""

    def __post_init__(self):
        super().__post_init__()
        positive(dim=self.dim, num_heads=self.num_heads, hidden_units=self.hidden_units)
        positive(num_encoder_layers=self.num_encoder_layers, num_decoder_layers=self.num_decoder_layers)
        rate(dropout=self.dropout, attention_dropout=self.attention_dropout, label_smoothing=self.label_smoothing)
        if self.head_dim < 0 or self.warmup_steps < 0:
            raise UserError("--head-dim and --warmup-steps must be 0 or more")
        if self.warmup_steps and self.schedule == "cosine":
            raise UserError(
                "--warmup-steps is for --schedule inverse_sqrt; with cosine the warm-up is 2 % of the training"
            )
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
        return self.compile(model)

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
    """Transformer (N = 3 and 2, 4 heads, 256) on subwords with case and punctuation, for an hour on two cores.

    By the honest split: no sentence of the validation or test pairs is in the training pairs.
    """

    kind: ClassVar[str] = "fit"
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


TINY_TRANSFORMER = TINY | {"dim": 16, "num_heads": 2, "hidden_units": 16, "num_encoder_layers": 1}

RECIPES = {
    "transformer_book": TransformerBook(),
    "transformer": Transformer(),
    "transformer_book_tiny": TransformerBook(**TINY_TRANSFORMER, positions="trained", schedule="inverse_sqrt"),
    "transformer_tiny": Transformer(**TINY_TRANSFORMER | {"tokenizer": "subwords", "vocab_size": 100}),
}

SUMMARIES = {
    "transformer_book": "The book's Transformer, English to Spanish: 2 + 2 blocks of 128, 8 heads, 1,000 words a side",
    "transformer": "Transformer on subwords with case and punctuation: 3 + 2 blocks of 256, honest split",
}

RESULTS = [
    Result(
        "transformer_book",
        machine="2 cores of an Intel Xeon, beside other work",
        minutes=31.6,
        metrics={"epochs": 10, "val_accuracy": 0.7438, "test_accuracy": 0.746, "bleu": 55.5, "bleu_beam4": 56.0},
        reference={"epochs": 10, "val_accuracy": 0.7281, "seconds per epoch": "820 to 828"},
        note=(
            "Accuracy is the fraction of correct tokens, as the book's is. BLEU is of 2,000 test pairs, against "
            "references in the same 1,000 words (see `seq2seq`)."
        ),
    ),
    Result(
        "transformer",
        machine="2 cores of an Intel Xeon, beside a little other work",
        minutes=57.6,
        metrics={
            "epochs": 10,
            "bleu": 42.3,
            "bleu_beam4": 44.0,
            "chrf": 62.3,
            "chrf_beam4": 63.3,
            "test_accuracy": 0.764,
            "test_loss": 2.239,
        },
        note=(
            "BLEU and chrF (sacrebleu's defaults) are of 2,000 test pairs of which no sentence was in training, with "
            "case and punctuation. Accuracy is the fraction of correct tokens given the ones before; the loss has "
            "label smoothing (`python -m homl_models.evaluate transformer`). Also a preset."
        ),
    ),
]
