"""ELECTRA in folders of Hugging Face: a BERT with heads of its own."""

import dataclasses

from homl_models.checkpoints import bert
from homl_models.checkpoints.family import dense, norm, table
from homl_models.models import bert_heads, electra
from homl_models.models.bert_config import ElectraConfig


def masked_lm(head):
    yield from dense("generator_predictions.dense", head.transform)
    yield from norm("generator_predictions.LayerNorm", head.norm)
    yield from table("generator_lm_head.bias", head.bias)
    if not head.tie_word_embeddings:
        yield from table("generator_lm_head.weight", head.decoder)


def pre_training(head):
    yield from dense("discriminator_predictions.dense", head.hidden)
    yield from dense("discriminator_predictions.dense_prediction", head.last)


def sequence_classification(head):
    yield from dense("classifier.dense", head.hidden)
    yield from dense("classifier.out_proj", head.classifier)


FAMILY = dataclasses.replace(
    bert.FAMILY,
    model_type="electra",
    backbone=electra.Electra,
    config=ElectraConfig,
    head_tensors={
        electra.ElectraForPreTraining: pre_training,
        electra.ElectraForMaskedLM: masked_lm,
        electra.ElectraForSequenceClassification: sequence_classification,
        electra.ElectraForTokenClassification: bert.classifier,
        electra.ElectraForQuestionAnswering: bert.question_answering,
        bert_heads.TextEmbedder: bert.no_tensors,
    },
    backbone_arguments=lambda head: {},
    aliases={"electra.embeddings.word_embeddings.weight": "generator_lm_head.weight"},
    ignored=(
        *bert.FAMILY.ignored, "discriminator_predictions.", "generator_predictions.", "generator_lm_head.",
    ),
)  # fmt: skip
