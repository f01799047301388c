"""DistilBERT (Sanh et al., 2019, https://arxiv.org/abs/1910.01108): a BERT of half the blocks, trained to imitate one.

BERT's encoder without token types and pooler; its classifiers have a dense layer of the first token instead. Names are
those of Hugging Face, but for the fields of the configuration, which are BERT's. `distillation.py` trains one.
Deviation: in training the output of attention has dropout, as BERT's has. Inputs, outputs, labels: see `bert.py`,
`bert_heads.py`. Token types, which pipelines give, are ignored.
"""

import keras

from homl_models.layers.dropout import Dropout
from homl_models.models.bert import Bert
from homl_models.models.bert_config import DISTILBERT_BASE
from homl_models.models.bert_heads import (
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
)
from homl_models.models.bert_pretraining import BertForMaskedLM


@keras.saving.register_keras_serializable("homl_models")
class DistilBert(Bert):
    """DistilBERT's encoder: inputs and outputs of `Bert`, without token types and pooler.

    Args:
        config: a `DistilBertConfig`.
    """

    def __init__(self, config=DISTILBERT_BASE, add_pooling_layer=False, **kwargs):
        super().__init__(config, add_pooling_layer, **kwargs)


class FirstTokenDense:
    """Mixin of classifiers: a dense layer with ReLU of the first token's hidden state, in place of the pooler."""

    uses_pooler = False
    dropout_field = "seq_classif_dropout"

    def __init__(self, backbone, *args, **kwargs):
        super().__init__(backbone, *args, **kwargs)
        self.pre_classifier = self.dense(backbone.config.hidden_size, activation="relu", name="pre_classifier")

    def head_layers(self):
        return [self.pre_classifier, *super().head_layers()]

    def logits(self, outputs, training=None):
        return self.label_logits(self.pre_classifier(outputs["last_hidden_state"][:, 0]), training)


@keras.saving.register_keras_serializable("homl_models")
class DistilBertForSequenceClassification(FirstTokenDense, BertForSequenceClassification):
    """A `BertForSequenceClassification` on a `DistilBert`; classifier_dropout None is `seq_classif_dropout`."""


@keras.saving.register_keras_serializable("homl_models")
class DistilBertForMultipleChoice(FirstTokenDense, BertForMultipleChoice):
    """A `BertForMultipleChoice` on a `DistilBert`; classifier_dropout None is `seq_classif_dropout`."""


@keras.saving.register_keras_serializable("homl_models")
class DistilBertForTokenClassification(BertForTokenClassification):
    """A `BertForTokenClassification` on a `DistilBert`."""


@keras.saving.register_keras_serializable("homl_models")
class DistilBertForQuestionAnswering(BertForQuestionAnswering):
    """A `BertForQuestionAnswering` on a `DistilBert`, with dropout of rate `qa_dropout` before the dense layer."""

    def __init__(self, backbone, **kwargs):
        super().__init__(backbone, **kwargs)
        self.qa_dropout = Dropout(backbone.config.qa_dropout, dtype=self.dtype_policy)

    def logits(self, outputs, training=None):
        x = self.qa_dropout(outputs["last_hidden_state"], training=training)
        return super().logits(outputs | {"last_hidden_state": x}, training)


@keras.saving.register_keras_serializable("homl_models")
class DistilBertForMaskedLM(BertForMaskedLM):
    """A `BertForMaskedLM` on a `DistilBert`."""
