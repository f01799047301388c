"""DistilBERT in folders of Hugging Face: names of its tensors and of its configuration."""

import dataclasses

from homl_models.checkpoints import bert
from homl_models.checkpoints.family import dense, norm, table
from homl_models.models import bert_heads, distilbert
from homl_models.models.bert_config import DistilBertConfig


def backbone_tensors(encoder):
    yield from table("embeddings.word_embeddings.weight", encoder.embeddings.word.embeddings)
    yield from table("embeddings.position_embeddings.weight", encoder.embeddings.position.embeddings)
    yield from norm("embeddings.LayerNorm", encoder.embeddings.norm)
    for i, block in enumerate(encoder.blocks):
        yield from block_tensors(f"transformer.layer.{i}", block)


def block_tensors(name, block):
    for layer, kernel in zip(("q_lin", "k_lin", "v_lin", "out_lin"), block.attention.projections):
        yield from dense(f"{name}.attention.{layer}", kernel)
    yield from norm(f"{name}.sa_layer_norm", block.norms[0])
    yield from dense(f"{name}.ffn.lin1", block.hidden)
    yield from dense(f"{name}.ffn.lin2", block.output_dense)
    yield from norm(f"{name}.output_layer_norm", block.norms[1])


def masked_lm(head):
    yield from dense("vocab_transform", head.transform)
    yield from norm("vocab_layer_norm", head.norm)
    yield from table("vocab_projector.bias", head.bias)
    if not head.tie_word_embeddings:
        yield from table("vocab_projector.weight", head.decoder)


def pre_classifier(head):
    yield from dense("pre_classifier", head.pre_classifier)
    yield from dense("classifier", head.classifier)


RATES = "in [0, 1)"
FAMILY = dataclasses.replace(
    bert.FAMILY,
    model_type="distilbert",
    backbone=distilbert.DistilBert,
    config=DistilBertConfig,
    config_names={
        "hidden_size": "dim",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "intermediate_size": "hidden_dim",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "hidden_act": "activation",
    },
    fixed=("type_vocab_size", "layer_norm_eps", "position_embedding_type"),
    backbone_tensors=backbone_tensors,
    head_tensors={
        distilbert.DistilBertForMaskedLM: masked_lm,
        distilbert.DistilBertForSequenceClassification: pre_classifier,
        distilbert.DistilBertForMultipleChoice: pre_classifier,
        distilbert.DistilBertForTokenClassification: bert.classifier,
        distilbert.DistilBertForQuestionAnswering: bert.question_answering,
        bert_heads.TextEmbedder: bert.no_tensors,
    },
    backbone_arguments=lambda head: {},
    aliases={"distilbert.embeddings.word_embeddings.weight": "vocab_projector.weight"},
    ignored=("classifier.", "pre_classifier.", "qa_outputs.", "vocab_", "embeddings.position_ids"),
    optional=(),
    rules=bert.RULES | {RATES: (*bert.RULES[RATES], "qa_dropout", "seq_classif_dropout")},
    sizes=(
        ("embeddings.word_embeddings.weight", 0, "vocab_size"),
        ("embeddings.position_embeddings.weight", 0, "max_position_embeddings"),
        ("transformer.layer.0.ffn.lin1.weight", 0, "intermediate_size"),
        ("transformer.layer.0.ffn.lin1.weight", 1, "hidden_size"),
    ),
    layer_pattern=r"transformer\.layer\.(\d+)\.",
)
