"""BEiT in folders of Hugging Face: a ViT with relative positions, layer scale and heads of its own."""

import dataclasses

import numpy as np

from homl_models.checkpoints import vit
from homl_models.checkpoints.family import Tensor, dense, norm, table
from homl_models.models import beit, beit_segmentation
from homl_models.models.vit_config import BeitConfig

TABLE = "relative_position_bias.relative_position_bias_table"


class Counter:
    """The number of batches that a batch normalization of PyTorch has counted, which has no use here; written as 0."""

    resize, file_shape = None, ()

    def to_file(self):
        return np.zeros((), np.int64)

    def assign(self, array):
        """There is nothing to assign."""


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


def convolution(name, layer):
    yield f"{name}.weight", Tensor(layer.kernel, (2, 3, 1, 0))
    if layer.use_bias:
        yield f"{name}.bias", Tensor(layer.bias)


def batch_norm(name, layer):
    yield from norm(name, layer)
    yield from table(f"{name}.running_mean", layer.moving_mean)
    yield from table(f"{name}.running_var", layer.moving_variance)
    yield f"{name}.num_batches_tracked", Counter()


def conv_norm(name, layer):
    yield from convolution(f"{name}.conv", layer.conv)
    yield from batch_norm(f"{name}.bn", layer.norm)


def pyramid(model):
    """Entries of a feature pyramid; the kernel of a transposed convolution is (in, out, h, w) in PyTorch."""
    if model.pyramid:
        yield from convolution("fpn1.0", model.pyramid.four_times[0])
        yield from batch_norm("fpn1.1", model.pyramid.norm)
        yield from convolution("fpn1.3", model.pyramid.four_times[1])
        yield from convolution("fpn2.0", model.pyramid.twice)


def segmentation(head):
    yield from pyramid(head)
    decoder, auxiliary = head.decode_head, head.auxiliary_head
    yield from convolution("decode_head.classifier", decoder.classifier)
    parts = ("psp_modules.{}.1", decoder.pooled_convs), ("lateral_convs.{}", decoder.lateral_convs)
    for name, layers in (*parts, ("fpn_convs.{}", decoder.fpn_convs)):
        for i, layer in enumerate(layers):
            yield from conv_norm(f"decode_head.{name.format(i)}", layer)
    yield from conv_norm("decode_head.bottleneck", decoder.bottleneck)
    yield from conv_norm("decode_head.fpn_bottleneck", decoder.fpn_bottleneck)
    if auxiliary:
        for i, layer in enumerate(auxiliary.convs):
            yield from conv_norm(f"auxiliary_head.convs.{i}", layer)
        if auxiliary.concat_conv:
            yield from conv_norm("auxiliary_head.conv_cat", auxiliary.concat_conv)
        yield from convolution("auxiliary_head.classifier", auxiliary.classifier)


FAMILY = dataclasses.replace(
    vit.FAMILY,
    model_type="beit",
    backbone=beit.Beit,
    config=BeitConfig,
    backbone_tensors=backbone_tensors,
    head_tensors={
        beit.BeitForMaskedImageModeling: masked_image_modeling,
        beit.BeitForImageClassification: vit.classifier,
        beit_segmentation.BeitForSemanticSegmentation: segmentation,
        beit_segmentation.BeitBackbone: pyramid,
    },
    # a model whose blocks have tables of their own takes them from the shared one of pre-training
    aliases={rf"(beit\.)?encoder\.layer\.\d+\.attention\.attention\.{TABLE}": f"encoder.{TABLE}"},
    ignored=(
        *vit.FAMILY.ignored, f"encoder.{TABLE}", "lm_head.", "layernorm.", "decode_head.", "auxiliary_head.", "fpn1.",
        "fpn2.",
    ),
    buffers=("relative_position_index", "num_batches_tracked"),
    optional=("pooler.", "embeddings.mask_token"),
    sizes=(*vit.FAMILY.sizes, ("lm_head.weight", 0, "vocab_size")),
)  # fmt: skip
