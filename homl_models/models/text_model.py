"""Models that tokenize texts, in Python and in the TensorFlow graph; `text_pipelines.py` has what they do with them.

Shapes: b texts, t tokens.
"""

import functools
import operator
import warnings

import keras
import numpy as np
from keras import ops

from homl_models.base import Model, compiled
from homl_models.endpoints import asserted
from homl_models.errors import UserError
from homl_models.tokenizers.wordpiece import SETTINGS, SPECIAL, WordPiece

BATCH_SIZE = 32  # texts in a forward pass
TOKENIZER_CHUNK = 1024  # texts that are tokenized at a time
NO_LIMIT = 1 << 30  # tokens
ANY_LENGTH = (None, None), "int32"  # shape and type of an input
MODEL_INPUTS = "input_ids", "token_type_ids", "attention_mask"


class TextModel(Model):
    """A model with a WordPiece tokenizer. A subclass has `backbone`, and calls `check_vocabulary`.

    Args:
        vocabulary: tokens, each at the index of its id; () for a model of ids alone. There may be more embeddings than
            tokens, where their number was rounded up.
        model_max_length: most tokens of a text, special tokens included; None for all positions of the backbone.
        lowercase, strip_accents, tokenize_chinese_chars, special_names: see `wordpiece.WordPiece`.
    """

    def __init__(
        self,
        vocabulary=(),
        lowercase=True,
        model_max_length=None,
        strip_accents=None,
        tokenize_chinese_chars=True,
        special_names=SPECIAL,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocabulary, self.special_names = tuple(vocabulary), tuple(special_names)
        self.lowercase, self.strip_accents = lowercase, strip_accents
        self.tokenize_chinese_chars, self.model_max_length = tokenize_chinese_chars, model_max_length

    @functools.cached_property
    def tokenizer(self):
        if not self.vocabulary:
            raise UserError("this model has no vocabulary and takes ids alone; give it one, or a folder with vocab.txt")
        return WordPiece(self.vocabulary, **{name: getattr(self, name) for name in SETTINGS})

    def check_vocabulary(self):
        """Raise `UserError` if there are tokens without an embedding."""
        if len(self.vocabulary) > self.backbone.config.vocab_size:
            raise UserError(
                f"the vocabulary has {len(self.vocabulary)} tokens, the model {self.backbone.config.vocab_size}; "
                "take the vocab.txt that it was trained with"
            )

    # Weights that Keras' `quantize` quantized, which the constructor's arguments do not show.

    def get_build_config(self):
        modes = {layer.quantization_mode for layer in self._flatten_layers()} - {None}
        return (super().get_build_config() or {}) | ({"quantized": modes.pop()} if modes else {})

    def build_from_config(self, config):
        self.build()
        if mode := config.get("quantized"):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*does not have a `quantize` method.*")
                self.quantize(mode)

    @property
    def max_length(self):
        """Most tokens of a text, special tokens included."""
        return min(self.model_max_length or NO_LIMIT, self.backbone.config.max_position_embeddings)

    @property
    def doc_stride(self):
        """Tokens that successive windows of a long text share."""
        return self.max_length // 4

    # In Python.

    @functools.cached_property
    def _compiled(self):
        return {}

    def tokenize_and_call(self, name, texts, pairs=None, truncate=False, extra_inputs=lambda tokens: {}):
        """The method `name` of this model on the tokens of texts -> for each text (tokens, outputs).

        Tokens are a dictionary, see `wordpiece.WordPiece.encode`. truncate: cut texts that are too long at the end;
        or else `UserError`. extra_inputs: tokens of a batch (b, t) -> further inputs, (b, k).
        """
        check_lists(texts, pairs)
        results = []
        for i in range(0, len(texts), TOKENIZER_CHUNK):
            chunk = slice(i, i + TOKENIZER_CHUNK)
            longest = self.max_length if truncate else None
            tokens = self.tokenizer.encode(texts[chunk], None if pairs is None else pairs[chunk], longest, offsets=True)
            length = tokens["input_ids"].shape[1]
            if length > self.max_length:
                raise UserError(f"a text has {length} tokens; this model takes {self.max_length} at most")
            results += self.call_in_batches(name, tokens, extra_inputs)
        return results

    def call_in_batches(self, name, tokens, extra_inputs=lambda tokens: {}):
        """The method `name` on tokens (n, t), in batches of similar length -> for each row (tokens, outputs)."""
        lengths = tokens["attention_mask"].sum(axis=1)
        order, results = np.argsort(lengths, kind="stable"), [None] * len(lengths)
        for i in range(0, len(order), BATCH_SIZE):
            indices = order[i : i + BATCH_SIZE]
            batch = {column: x[indices, : lengths[indices[-1]]] for column, x in tokens.items()}
            inputs = model_inputs(batch) | extra_inputs(batch)
            if name not in self._compiled:  # not by XLA: it is slower than oneDNN, and compiles each length anew
                self._compiled[name] = compiled(getattr(self, name), False, [dict.fromkeys(inputs, ANY_LENGTH)])
            outputs = self._compiled[name]({column: ops.convert_to_tensor(x) for column, x in inputs.items()})
            both = batch, keras.tree.map_structure(ops.convert_to_numpy, outputs)
            for row, index in enumerate(indices):
                results[index] = keras.tree.map_structure(operator.itemgetter(row), both)
        return results

    # In a graph.

    def tf_tokenize(self, texts, pairs=None, truncate=False):
        """Texts (b,) -> their tokens, a dictionary of tensors (b, t); see `tokenize_and_call`."""
        import tensorflow as tf

        longest = self.max_length if truncate else None
        tokens = pad_empty(self.tokenizer.tf_encode(texts, pairs, longest, offsets=True))
        fits = tf.shape(tokens["input_ids"])[1] <= self.max_length
        message = f"a text has too many tokens; this model takes {self.max_length} at most"
        tokens = asserted(fits, message, tokens)
        return {column: x[:, : self.max_length] for column, x in tokens.items()}

    def tf_call_in_batches(self, method, tokens, dtypes):
        """`method` of tokens (w, t) in a graph, a batch at a time -> its outputs, (w, ...) of `dtypes`."""
        import tensorflow as tf

        rows, t = tf.unstack(tf.shape(tokens["input_ids"]))
        size = tf.clip_by_value(rows, 1, BATCH_SIZE)
        count = tf.maximum(-(-rows // size), 1)
        batches = {
            column: tf.reshape(tf.pad(x, [[0, count * size - rows], [0, 0]]), [count, size, t])
            for column, x in model_inputs(tokens).items()
        }
        outputs = tf.map_fn(method, batches, parallel_iterations=1, fn_output_signature=dtypes)
        return [tf.reshape(x, tf.concat([[count * size], tf.shape(x)[2:]], 0))[:rows] for x in outputs]


def model_inputs(tokens):
    """The columns of tokens that are inputs of the model."""
    return {column: tokens[column] for column in MODEL_INPUTS}


def check_lists(texts, pairs=None):
    if isinstance(texts, str) or isinstance(pairs, str):
        raise UserError("give a list of texts, not one text")


def pad_empty(tokens):
    """Tokens (b, t, ...), of no texts (0, 1, ...), since layers need a column."""
    import tensorflow as tf

    empty = tf.cast(tf.equal(tf.shape(tokens["input_ids"])[0], 0), tf.int32)
    return {column: tf.pad(x, [[0, 0], [0, empty], [0, 0]][: x.shape.rank]) for column, x in tokens.items()}
