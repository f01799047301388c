"""BEiT in folders of Hugging Face: a ViT with relative positions, layer scale and heads of its own."""

import dataclasses

from homl_models.checkpoints import vit
from homl_models.checkpoints.family import dense, norm, table
from homl_models.models import beit
from homl_models.models.vit_config import BeitConfig

TABLE = "relative_position_bias.relative_position_bias_table"


def backbone_tensors(model):
    yield from vit.embedding_tensors(model.embeddings)
    if model.relative_position_bias:
        yield from table(f"encoder.{TABLE}", model.relative_position_bias.table, model.relative_position_bias.resized)
    for i, block in enumerate(model.blocks):
        yield from block_tensors(f"encoder.layer.{i}", block)
    if model.norm:
        yield from norm("layernorm", model.norm)
    elif model.pooler:
        yield from norm("pooler.layernorm", model.pooler)


def block_tensors(name, block):
    yield from vit.block_tensors(name, block)
    for i, layer in enumerate(block.layer_scales, 1):
        yield from table(f"{name}.lambda_{i}", layer.gamma)
    if bias := block.relative_position_bias:
        yield from table(f"{name}.attention.attention.{TABLE}", bias.table, bias.resized)


def masked_image_modeling(head):
    yield from norm("layernorm", head.norm)
    yield from dense("lm_head", head.lm_head)


FAMILY = dataclasses.replace(
    vit.FAMILY,
    model_type="beit",
    backbone=beit.Beit,
    config=BeitConfig,
    backbone_tensors=backbone_tensors,
    head_tensors={
        beit.BeitForMaskedImageModeling: masked_image_modeling,
        beit.BeitForImageClassification: vit.classifier,
    },
    # a model whose blocks have tables of their own takes them from the shared one of pre-training
    aliases={rf"(beit\.)?encoder\.layer\.\d+\.attention\.attention\.{TABLE}": f"encoder.{TABLE}"},
    ignored=(
        *vit.FAMILY.ignored, f"encoder.{TABLE}", "lm_head.", "layernorm.", "decode_head.", "auxiliary_head.", "fpn1.",
        "fpn2.",
    ),
    buffers=("relative_position_index",),
    optional=("pooler.", "embeddings.mask_token"),
    sizes=(*vit.FAMILY.sizes, ("lm_head.weight", 0, "vocab_size")),
)  # fmt: skip
