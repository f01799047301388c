"""BERT (Devlin et al., 2018, https://arxiv.org/abs/1810.04805): a bidirectional Transformer encoder.

Embeddings of words, positions and token types go through blocks of self-attention and a feed-forward network, each
sub-layer followed by layer normalization; the hidden state of the first token, [CLS], represents the text. As a decoder
(`is_decoder`) its attention is causal, with cross-attention if `add_cross_attention`.
The configuration is in `bert_config.py`, the layers in `bert_layers.py`, the heads in `bert_heads.py`, ELECTRA in
`electra.py`. Names are those of Hugging Face, whose weights `checkpoints/huggingface.py` reads and writes.
Shapes: b batch, t tokens, s keys (tokens that are attended to), d hidden size, h heads.
"""

import dataclasses
import functools

import keras
import numpy as np
from keras import ops

from homl_models.base import Model
from homl_models.errors import UserError
from homl_models.models.bert_config import BERT_BASE
from homl_models.models.bert_layers import BertBlock, BertEmbeddings

INPUTS = (
    "input_ids", "attention_mask", "token_type_ids", "position_ids", "head_mask", "inputs_embeds",
    "encoder_hidden_states", "encoder_attention_mask",
)  # fmt: skip


@keras.saving.register_keras_serializable("homl_models")
class Bert(Model):
    """Ids (b, t), or a dictionary of inputs, -> a dictionary of outputs.

    Inputs, all but the ids optional: input_ids (b, t) or inputs_embeds (b, t, embedding size); token_type_ids and
    position_ids (b, t); attention_mask (b, t) or (b, t, s), 1 for tokens to attend to; head_mask (h,) or (layers, h),
    factors of the heads; for `add_cross_attention` encoder_hidden_states (b, s, d) and encoder_attention_mask (b, s).

    Outputs: last_hidden_state (b, t, d); pooler_output (b, d), if there is a pooler; with `output_hidden_states`
    hidden_states, those of the embeddings and of each block; with `output_attentions` attentions and
    cross_attentions, the weights (b, h, t, s) of each block.

    Args:
        config: a `BertConfig`.
        add_pooling_layer: whether a dense layer of the first token gives `pooler_output`.
        shared_embeddings: a `BertEmbeddings` of another model instead of its own; it is not saved with the model.
    """

    def __init__(self, config=BERT_BASE, add_pooling_layer=True, **kwargs):
        shared_embeddings = kwargs.pop("shared_embeddings", None)
        super().__init__(**kwargs)
        self.config, self.add_pooling_layer = config, add_pooling_layer
        dtype, start = self.dtype_policy, config.initializer
        dense = functools.partial(keras.layers.Dense, config.hidden_size, kernel_initializer=start, dtype=dtype)
        self.embeddings = shared_embeddings or BertEmbeddings(config, name="embeddings", dtype=dtype)
        self.project = dense(name="project") if config.embedding_size != config.hidden_size else None
        self.blocks = [
            BertBlock(config, config.pruned_heads.get(i, ()), name=f"block_{i}", dtype=dtype)
            for i in range(config.num_hidden_layers)
        ]
        self.pooler = dense(activation="tanh", name="pooler") if add_pooling_layer else None

    def build(self, input_shape=None):
        if not self.embeddings.built:  # they may be shared
            self.embeddings.build()
        if self.project:
            self.project.build((None, None, self.config.embedding_size))
        for block in self.blocks:
            block.build((None, None, self.config.hidden_size))
        if self.pooler:
            self.pooler.build((None, self.config.hidden_size))
        self.built = True

    def call(self, inputs, training=None, output_hidden_states=False, output_attentions=False):
        inputs = named_inputs(inputs)
        memory, memory_mask = inputs["encoder_hidden_states"], inputs["encoder_attention_mask"]
        if memory is not None and not self.config.add_cross_attention:
            raise UserError("encoder_hidden_states are for models with add_cross_attention")
        x = self.embed(inputs, training)
        mask = self.extended_attention_mask(inputs["attention_mask"], ops.shape(x)[1])
        memory_mask = None if memory_mask is None else ops.cast(memory_mask, "bool")[:, None, None]
        head_mask = inputs["head_mask"]
        hidden_states, attentions, cross_attentions = [x], [], []
        for i, block in enumerate(self.blocks):
            factors = head_mask if head_mask is None or len(head_mask.shape) == 1 else head_mask[i]
            x, weights, *cross = block(x, mask, factors, memory, memory_mask, training=training)
            hidden_states.append(x)
            attentions.append(weights)
            cross_attentions.extend(cross)
        outputs = {"last_hidden_state": x}
        if self.pooler:
            outputs["pooler_output"] = self.pooler(x[:, 0])
        if output_hidden_states:
            outputs["hidden_states"] = tuple(hidden_states)
        if output_attentions:
            outputs["attentions"] = tuple(attentions)
            if memory is not None:
                outputs["cross_attentions"] = tuple(cross_attentions)
        return outputs

    def embed(self, inputs, training=None):
        """Named inputs -> what goes into the first block (b, t, d)."""
        names = "input_ids", "token_type_ids", "position_ids", "inputs_embeds"
        x = self.embeddings(*(inputs[name] for name in names), training=training)
        return self.project(x) if self.project else x

    def extended_attention_mask(self, attention_mask, length):
        """The keys that each query attends to, (b or 1, 1, t or 1, s), or None for all."""
        mask = None
        if attention_mask is not None:
            mask = ops.cast(attention_mask, "bool")
            mask = mask[:, None, None] if len(mask.shape) == 2 else mask[:, None]
        if self.config.is_decoder:
            order = ops.arange(length)
            causal = (order[:, None] >= order)[None, None]
            mask = causal if mask is None else ops.logical_and(mask, causal)
        return mask


def named_inputs(inputs):
    """Ids, or a dictionary of inputs -> a dictionary with all `INPUTS`, None for those that are missing."""
    inputs = inputs if isinstance(inputs, dict) else {"input_ids": inputs}
    unknown = set(inputs) - set(INPUTS)
    if unknown:
        raise UserError(f"there are no inputs {', '.join(sorted(unknown))}; there are {', '.join(INPUTS)}")
    inputs = dict.fromkeys(INPUTS) | inputs
    if (inputs["input_ids"] is None) == (inputs["inputs_embeds"] is None):
        raise UserError("give either input_ids or inputs_embeds")
    return inputs


def prune_heads(model, heads):
    """A copy of `model`, a `Bert` or a head around one, without some heads of self-attention.

    heads: {layer: heads}, counted as in the model before any pruning. All other weights are kept.
    """
    old = getattr(model, "backbone", model)
    before = old.config.pruned_heads
    pruned = {i: {*before.get(i, ()), *heads.get(i, ())} for i in {*before, *heads}}
    config = model.get_config()
    inner = config if old is model else config["backbone"]["config"]
    inner["config"] = keras.saving.serialize_keras_object(dataclasses.replace(old.config, pruned_heads=pruned))
    new = type(model).from_config(config)
    new.build()
    for weight, whole in zip(new.weights, model.weights, strict=True):
        if weight.shape == whole.shape:
            weight.assign(whole)
    for block, whole in zip(getattr(new, "backbone", new).blocks, old.blocks):
        _copy_attention(block, whole, old.config.head_size)
    return new


def _copy_attention(block, whole, size):
    """Give a block's self-attention the weights of the heads that it has left."""
    kept = [whole.heads.index(head) for head in block.heads]
    units = np.concatenate([np.arange(size) + size * head for head in kept])
    for weight, array in zip(block.attention.weights, whole.attention.weights, strict=True):
        for axis, (n, m) in enumerate(zip(weight.shape, array.shape)):
            if n != m:
                weight.assign(np.take(ops.convert_to_numpy(array), units, axis=axis))
