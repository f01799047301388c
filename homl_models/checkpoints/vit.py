"""ViT and DeiT in folders of Hugging Face: names of their tensors, rules of their configurations."""

import dataclasses

from homl_models.checkpoints import image_processor_files
from homl_models.checkpoints.family import Family, Tensor, dense, norm, table
from homl_models.models import vit
from homl_models.models.vit_config import DeiTConfig, ViTConfig


def backbone_tensors(model):
    yield from embedding_tensors(model.embeddings)
    for i, block in enumerate(model.blocks):
        yield from block_tensors(f"encoder.layer.{i}", block)
    yield from norm("layernorm", model.norm)
    if model.pooler:
        yield from dense("pooler.dense", model.pooler)


def embedding_tensors(layer):
    for name, token in zip(layer.config.class_tokens, layer.class_tokens):
        yield from table(f"embeddings.{name}", token)
    if layer.mask_token is not None:
        yield from table("embeddings.mask_token", layer.mask_token)
    yield "embeddings.patch_embeddings.projection.weight", Tensor(layer.patches.kernel, (2, 3, 1, 0))
    yield from table("embeddings.patch_embeddings.projection.bias", layer.patches.bias)
    if layer.position_embeddings is not None:
        yield from table("embeddings.position_embeddings", layer.position_embeddings, layer.resized)


def block_tensors(name, block):
    parts = "attention.query", "attention.key", "attention.value", "output.dense"
    for part, layer in zip(parts, block.attention.projections):
        yield from dense(f"{name}.attention.{part}", layer)
    for part, layer in zip(("before", "after"), block.norms):
        yield from norm(f"{name}.layernorm_{part}", layer)
    yield from dense(f"{name}.intermediate.dense", block.hidden)
    yield from dense(f"{name}.output.dense", block.output_dense)


def classifier(head):
    yield from dense("classifier", head.classifier)


def two_classifiers(head):
    yield from dense("cls_classifier", head.classifier)
    yield from dense("distillation_classifier", head.distillation_classifier)


RULES = {
    "a whole number above 0": (
        "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "num_channels", "num_labels",
        "vocab_size", "pooler_output_size", "encoder_stride", "auxiliary_channels",
    ),
    "a whole number above 0, or two": ("image_size", "patch_size"),
    "whole numbers": ("out_indices", "pool_scales"),
    "in [0, 1)": ("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"),
    "a number, 0 or more": (
        "layer_norm_eps", "initializer_range", "layer_scale_init_value", "auxiliary_loss_weight", "batch_norm_eps",
    ),
    "true or false": (
        "qkv_bias", "gradient_checkpointing", "use_mask_token", "use_absolute_position_embeddings", "use_mean_pooling",
        "use_relative_position_bias", "use_shared_relative_position_bias", "use_auxiliary_head", "add_fpn",
        "auxiliary_concat_input", "reshape_hidden_states",
    ),
    "a text": ("hidden_act", "pooler_act", "position_interpolation"),
    "{number: label}, counted from 0": ("id2label",),
}  # fmt: skip

FAMILY = Family(
    model_type="vit",
    backbone=vit.ViT,
    config=ViTConfig,
    backbone_tensors=backbone_tensors,
    head_tensors={vit.ViTForImageClassification: classifier},
    backbone_arguments=lambda head: {} if head is None else {"add_pooling_layer": head.uses_pooler},
    anchor="embeddings.cls_token",
    ignored=(
        "classifier.",
        "cls_classifier.",
        "distillation_classifier.",
        "pooler.",
        "decoder.",
        "embeddings.mask_token",
    ),
    optional=("pooler.",),
    preprocessing=image_processor_files,
    rules=RULES,
    nullable=("pooler_output_size", "out_indices", "id2label"),
    sizes=(
        ("encoder.layer.0.intermediate.dense.weight", 0, "intermediate_size"),
        ("encoder.layer.0.intermediate.dense.weight", 1, "hidden_size"),
    ),
)  # fmt: skip
DEIT = dataclasses.replace(
    FAMILY,
    model_type="deit",
    backbone=vit.DeiT,
    config=DeiTConfig,
    head_tensors={
        vit.DeiTForImageClassification: classifier,
        vit.DeiTForImageClassificationWithTeacher: two_classifiers,
    },
)
