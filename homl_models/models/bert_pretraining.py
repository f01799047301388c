"""Pre-training tasks of BERT (Devlin et al., 2018, https://arxiv.org/abs/1810.04805, section 3.1).

Masked language modelling and next sentence prediction, as heads; see `bert_heads.py`.
Shapes: b batch, t tokens, k masked positions, d hidden size, v vocabulary.
"""

import keras
from keras import ops

from homl_models.models.bert_heads import Head
from homl_models.models.bert_layers import embedding_table
from homl_models.models.text_pipelines import FillMask


class MaskedLM(Head):
    """Base of masked language models: a dense layer, the word embeddings as output matrix, and a bias for each word.

    If inputs have "masked_positions" (b, k), logits are of those positions only, which saves most of the work.

    Args:
        backbone: a `Bert` or an `Electra`.
        tie_word_embeddings: False for an output matrix of its own.
    """

    def __init__(self, backbone, tie_word_embeddings=True, **kwargs):
        super().__init__(backbone, **kwargs)
        self.tie_word_embeddings = tie_word_embeddings
        self.transform = self.dense(self.transform_size, name="transform")
        epsilon = backbone.config.layer_norm_eps
        self.norm = keras.layers.LayerNormalization(epsilon=epsilon, name="transform_norm", dtype=self.dtype_policy)

    @property
    def transform_size(self):
        """Size of the hidden layer, which is that of the word embeddings."""
        return self.backbone.config.hidden_size

    def activation(self, x):
        return self.backbone.config.activation(x)

    def head_layers(self):
        return [self.transform]

    def build(self, input_shape=None):
        super().build(input_shape)
        self.norm.build((None, self.transform_size))
        v = self.backbone.config.vocab_size
        self.bias = self.add_weight(shape=(v,), initializer="zeros", autocast=False, name="bias")
        if not self.tie_word_embeddings:
            start = self.backbone.config.initializer
            self.decoder = self.add_weight(shape=(v, self.transform_size), initializer=start, name="decoder")

    def split_inputs(self, inputs):
        if not isinstance(inputs, dict) or "masked_positions" not in inputs:
            return inputs, {}
        own = {"masked_positions": inputs["masked_positions"]}
        return {name: value for name, value in inputs.items() if name not in own}, own

    def token_logits(self, x):
        """Hidden states (..., d) -> logits (..., v)."""
        x = self.norm(self.activation(self.transform(x)))
        table = embedding_table(self.backbone.embeddings.word) if self.tie_word_embeddings else self.decoder
        return ops.cast(ops.matmul(x, ops.transpose(ops.cast(table, x.dtype))), "float32") + self.bias

    def logits(self, outputs, training=None):
        x = outputs["last_hidden_state"]
        if "masked_positions" in outputs:
            x = ops.take_along_axis(x, ops.cast(outputs["masked_positions"], "int32")[..., None], axis=1)
        return self.token_logits(x)


@keras.saving.register_keras_serializable("homl_models")
class BertForMaskedLM(FillMask, MaskedLM):
    """Inputs -> logits of the words at every position (b, t, v), or at "masked_positions" (b, k, v).

    Args:
        backbone: a `Bert`.
        tie_word_embeddings: False for an output matrix of its own instead of the word embeddings.
        vocabulary, ...: see `text_model.TextModel`.
    """


@keras.saving.register_keras_serializable("homl_models")
class BertForPreTraining(FillMask, MaskedLM):
    """Inputs -> prediction_logits (b, t, v), see `BertForMaskedLM`, and seq_relationship_logits (b, 2).

    The latter say whether the second text follows the first: 0 if it does, 1 if it comes from elsewhere.
    Labels: a dictionary of `labels` and `next_sentence_label` (b,).

    Args:
        backbone: a `Bert` with `add_pooling_layer`.
        tie_word_embeddings: see `BertForMaskedLM`.
    """

    metric_names = ("accuracy", "next_sentence_accuracy")
    loss_factors = {"words": 1.0, "next_sentence": 1.0}
    uses_pooler = True

    def __init__(self, backbone, tie_word_embeddings=True, **kwargs):
        super().__init__(backbone, tie_word_embeddings, **kwargs)
        self.next_sentence = self.dense(2, name="next_sentence")

    def head_layers(self):
        return [self.transform, self.next_sentence]

    def logits(self, outputs, training=None):
        next_sentence = ops.cast(self.next_sentence(outputs["pooler_output"]), "float32")
        return {"prediction_logits": super().logits(outputs, training), "seq_relationship_logits": next_sentence}

    def labels_and_logits(self, labels, outputs):
        names = {"labels": "prediction_logits", "next_sentence_label": "seq_relationship_logits"}
        return {label: (output, labels[label], outputs[output]) for label, output in names.items()}


@keras.saving.register_keras_serializable("homl_models")
class BertForNextSentencePrediction(Head):
    """Inputs -> logits (b, 2) of whether the second text follows the first (0) or not (1).

    Args:
        backbone: a `Bert` with `add_pooling_layer`.
    """

    uses_pooler = True
    num_classes = 2

    def __init__(self, backbone, **kwargs):
        super().__init__(backbone, **kwargs)
        self.next_sentence = self.dense(2, name="next_sentence")

    def head_layers(self):
        return [self.next_sentence]

    def logits(self, outputs, training=None):
        return ops.cast(self.next_sentence(outputs["pooler_output"]), "float32")
