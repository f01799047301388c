"""Configuration of BERT and its family: one frozen dataclass that model, blocks and embeddings share.

Fields are named as in Hugging Face's `BertConfig` and mean the same.
"""

import dataclasses
import functools

import keras
from keras import ops

from homl_models.errors import UserError
from homl_models.layers.dense import gelu

POSITION_EMBEDDING_TYPES = "absolute", "relative_key", "relative_key_query"
ACTIVATIONS = {
    "gelu": gelu,
    "relu": ops.relu,
    "relu6": ops.relu6,
    "silu": ops.silu,
    "swish": ops.silu,
    "tanh": ops.tanh,
    "sigmoid": ops.sigmoid,
    "linear": lambda x: x,
    "mish": lambda x: x * ops.tanh(ops.softplus(x)),
    "quick_gelu": lambda x: x * ops.sigmoid(1.702 * x),
    "gelu_python": gelu,
}
for name in ("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"):  # all the same
    ACTIVATIONS[name] = functools.partial(ops.gelu, approximate=True)


@keras.saving.register_keras_serializable("homl_models")
@dataclasses.dataclass(frozen=True)
class BertConfig:
    """Configuration of a `Bert`; the defaults are BERT-base's. `UserError` for values that cannot be.

    `dataclasses.replace(config, num_hidden_layers=4)` makes a variant. It is saved with the model.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    """Hidden units of the feed-forward networks."""
    hidden_act: str = "gelu"
    """One of `ACTIVATIONS`."""
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    """Tokens that a text may have."""
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    """Standard deviation of new kernels and embeddings."""
    layer_norm_eps: float = 1e-12
    position_embedding_type: str = "absolute"
    """One of `POSITION_EMBEDDING_TYPES`."""
    is_decoder: bool = False
    """Causal attention."""
    add_cross_attention: bool = False
    """A decoder's attention to `encoder_hidden_states`."""
    chunk_size_feed_forward: int = 0
    """Tokens that go through the feed-forward network at a time, to save memory; 0 for all."""
    gradient_checkpointing: bool = False
    """Compute the blocks' activations again for the gradients, to save memory."""
    pruned_heads: dict = dataclasses.field(default_factory=dict)
    """{layer: pruned heads of its self-attention}; see `bert.prune_heads`."""

    def __post_init__(self):
        if self.hidden_size % self.num_attention_heads:
            raise UserError(f"{self.num_attention_heads} heads do not divide the hidden size {self.hidden_size}")
        for name, known in (("hidden_act", ACTIVATIONS), ("position_embedding_type", POSITION_EMBEDDING_TYPES)):
            if getattr(self, name) not in known:
                raise UserError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        if self.add_cross_attention and not self.is_decoder:
            raise UserError("add_cross_attention is for decoders: give is_decoder as well")
        object.__setattr__(self, "pruned_heads", self._checked_heads(self.pruned_heads or {}))

    def _checked_heads(self, heads):
        """{layer: heads} as sorted whole numbers."""
        heads = {int(i): tuple(sorted({int(head) for head in some})) for i, some in heads.items()}
        for i, some in heads.items():
            if not 0 <= i < self.num_hidden_layers or not all(0 <= head < self.num_attention_heads for head in some):
                raise UserError(
                    f"heads to prune must lie in 0 to {self.num_attention_heads - 1} of layers 0 to "
                    f"{self.num_hidden_layers - 1}, not {list(some)} of {i}"
                )
            if len(some) == self.num_attention_heads:
                raise UserError(f"one head of layer {i} must stay")
        return {i: some for i, some in sorted(heads.items()) if some}

    @property
    def embedding_size(self):
        """Size of the embeddings; ELECTRA's may differ from the hidden size."""
        return self.hidden_size

    @property
    def head_size(self):
        return self.hidden_size // self.num_attention_heads

    @property
    def initializer(self):
        """A new initializer of kernels and embeddings."""
        return keras.initializers.TruncatedNormal(stddev=self.initializer_range)

    @property
    def activation(self):
        return ACTIVATIONS[self.hidden_act]

    @classmethod
    def field_names(cls):
        return [field.name for field in dataclasses.fields(cls)]

    def get_config(self):
        """For Keras, which saves the configuration with the model; the keys of JSON are strings."""
        config = {name: getattr(self, name) for name in self.field_names()}
        return config | {"pruned_heads": {str(i): list(some) for i, some in self.pruned_heads.items()}}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable("homl_models")
@dataclasses.dataclass(frozen=True)
class ElectraConfig(BertConfig):
    """Configuration of an `Electra`; the defaults are those of ELECTRA-small's discriminator."""

    hidden_size: int = 256
    num_attention_heads: int = 4
    intermediate_size: int = 1024
    embedding_size: int = 128
    """Size of the embeddings, which are projected to the hidden size where it differs. None: the hidden size."""

    def __post_init__(self):
        super().__post_init__()
        if self.embedding_size is None:
            object.__setattr__(self, "embedding_size", self.hidden_size)


@keras.saving.register_keras_serializable("homl_models")
@dataclasses.dataclass(frozen=True)
class DistilBertConfig(BertConfig):
    """Configuration of a `DistilBert`; the defaults are DistilBERT-base's, fields have BERT's names.

    In config.json they are dim, n_layers, n_heads, hidden_dim, dropout, attention_dropout and activation.
    """

    num_hidden_layers: int = 6
    type_vocab_size: int = 0
    """There are no token types."""
    qa_dropout: float = 0.1
    """Dropout rate before the layer that answers questions."""
    seq_classif_dropout: float = 0.2
    """Dropout rate before the last layer of classifiers of texts."""

    def __post_init__(self):
        super().__post_init__()
        fixed = {"type_vocab_size": 0, "layer_norm_eps": 1e-12, "position_embedding_type": "absolute"}
        fixed |= {"is_decoder": False}
        for name, value in fixed.items():
            if getattr(self, name) != value:
                raise UserError(f"{name} of a DistilBERT is {value!r}, not {getattr(self, name)!r}")


BERT_BASE, ELECTRA_SMALL, DISTILBERT_BASE = BertConfig(), ElectraConfig(), DistilBertConfig()
