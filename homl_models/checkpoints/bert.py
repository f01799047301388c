"""BERT in folders of Hugging Face: names of its tensors, rules of its configuration."""

from homl_models.checkpoints.family import Family, dense, norm, table
from homl_models.models import bert_generation, bert_heads, bert_pretraining
from homl_models.models.bert import Bert
from homl_models.models.bert_config import BertConfig


def embedding_tensors(embeddings):
    yield from table("embeddings.word_embeddings.weight", embeddings.word.embeddings)
    if embeddings.position:
        yield from table("embeddings.position_embeddings.weight", embeddings.position.embeddings)
    yield from table("embeddings.token_type_embeddings.weight", embeddings.token_type.embeddings)
    yield from norm("embeddings.LayerNorm", embeddings.norm)


def block_tensors(name, block):
    for part, attention, layer_norm in zip(("attention", "crossattention"), block.attentions, block.norms):
        for layer, kernel in zip(("self.query", "self.key", "self.value", "output.dense"), attention.projections):
            yield from dense(f"{name}.{part}.{layer}", kernel)
        yield from norm(f"{name}.{part}.output.LayerNorm", layer_norm)
    if block.config.position_embedding_type != "absolute":
        yield from table(f"{name}.attention.self.distance_embedding.weight", block.attention.distance_embedding)
    yield from dense(f"{name}.intermediate.dense", block.hidden)
    yield from dense(f"{name}.output.dense", block.output_dense)
    yield from norm(f"{name}.output.LayerNorm", block.norms[-1])


def backbone_tensors(bert):
    yield from embedding_tensors(bert.embeddings)
    if bert.project:
        yield from dense("embeddings_project", bert.project)
    for i, block in enumerate(bert.blocks):
        yield from block_tensors(f"encoder.layer.{i}", block)
    if bert.pooler:
        yield from dense("pooler.dense", bert.pooler)


def masked_lm(head):
    yield from dense("cls.predictions.transform.dense", head.transform)
    yield from norm("cls.predictions.transform.LayerNorm", head.norm)
    yield from table("cls.predictions.bias", head.bias)
    if not head.tie_word_embeddings:
        yield from table("cls.predictions.decoder.weight", head.decoder)


def next_sentence(head):
    yield from dense("cls.seq_relationship", head.next_sentence)


def pre_training(head):
    yield from masked_lm(head)
    yield from next_sentence(head)


def classifier(head):
    yield from dense("classifier", head.classifier)


def question_answering(head):
    yield from dense("qa_outputs", head.span)


def no_tensors(head):
    return ()


RULES = {
    "a whole number above 0": (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
        "max_position_embeddings", "type_vocab_size", "embedding_size", "num_labels",
    ),
    "in [0, 1)": ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"),
    "a number, 0 or more": ("layer_norm_eps", "initializer_range", "chunk_size_feed_forward"),
    "true or false": ("is_decoder", "add_cross_attention", "tie_word_embeddings", "gradient_checkpointing"),
    "a text": ("hidden_act", "position_embedding_type", "problem_type"),
    "{layer: [heads]}": ("pruned_heads",),
    "{number: label}, counted from 0": ("id2label",),
}  # fmt: skip

FAMILY = Family(
    model_type="bert",
    backbone=Bert,
    config=BertConfig,
    backbone_tensors=backbone_tensors,
    head_tensors={
        bert_pretraining.BertForPreTraining: pre_training,
        bert_pretraining.BertForMaskedLM: masked_lm,
        bert_generation.BertLMHeadModel: masked_lm,
        bert_pretraining.BertForNextSentencePrediction: next_sentence,
        bert_heads.BertForSequenceClassification: classifier,
        bert_heads.BertForMultipleChoice: classifier,
        bert_heads.BertForTokenClassification: classifier,
        bert_heads.BertForQuestionAnswering: question_answering,
        bert_heads.TextEmbedder: no_tensors,
    },
    backbone_arguments=lambda head: {} if head is None else {"add_pooling_layer": head.uses_pooler},
    aliases={
        "cls.predictions.bias": "cls.predictions.decoder.bias",
        "bert.embeddings.word_embeddings.weight": "cls.predictions.decoder.weight",
    },
    ignored=(
        "cls.", "classifier.", "qa_outputs.", "pooler.", "embeddings.position_ids", "embeddings.token_type_ids",
        "embeddings.position_embeddings.",  # unused where positions are relative
    ),
    optional=("pooler.", "crossattention"),
    rules=RULES,
    nullable=("embedding_size", "classifier_dropout", "problem_type", "pruned_heads", "id2label"),
    sizes=(
        ("embeddings.word_embeddings.weight", 0, "vocab_size"),
        ("embeddings.position_embeddings.weight", 0, "max_position_embeddings"),
        ("encoder.layer.0.intermediate.dense.weight", 0, "intermediate_size"),
        ("encoder.layer.0.intermediate.dense.weight", 1, "hidden_size"),
    ),
)  # fmt: skip
