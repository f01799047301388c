"""Configurations of keras-hub's BERT, ELECTRA and ViT, and ours."""

import warnings

import numpy as np

from homl_models.errors import UserError
from homl_models.models.bert_config import ElectraConfig
from homl_models.models.bert_heads import TextEmbedder
from homl_models.models.vit_config import ViTConfig

EXACT, APPROXIMATE = "gelu", "gelu_new"  # names of GELU here, exact and by tanh
ACTIVATIONS = {"gelu_approximate": APPROXIMATE, "gelu": EXACT}  # keras-hub's names
SAME = {"gelu_python": EXACT} | dict.fromkeys(
    ("gelu_pytorch_tanh", "gelu_python_tanh", "gelu_fast", "gelu_accurate"), APPROXIMATE
)
EPSILON = 1e-12  # of the normalizations of BERT and ELECTRA in keras-hub


def config_of(model, backbone):
    """A model of keras-hub and its backbone -> {field: value} of the configuration here."""
    return _vit_config(model, backbone) if type(backbone).__name__ == "ViTBackbone" else _text_config(backbone)


def arguments_of(config):
    """The inverse: arguments of a backbone of keras-hub. `UserError` for what keras-hub does not have."""
    return _vit_arguments(config) if isinstance(config, ViTConfig) else _text_arguments(config)


def _text_config(backbone):
    activation = hidden_layers(backbone)[0].activation.__name__
    return {
        "vocab_size": backbone.token_embedding.input_dim,
        "num_hidden_layers": backbone.num_layers,
        "num_attention_heads": backbone.num_heads,
        "hidden_size": backbone.hidden_dim,
        "embedding_size": backbone.token_embedding.output_dim,
        "intermediate_size": backbone.intermediate_dim,
        "max_position_embeddings": backbone.max_sequence_length,
        "type_vocab_size": backbone.segment_embedding.input_dim,
        "hidden_dropout_prob": backbone.dropout,
        "attention_probs_dropout_prob": backbone.dropout,
        "layer_norm_eps": backbone.embeddings_layer_norm.epsilon,
        "hidden_act": ACTIVATIONS.get(activation, activation),
    }


def _text_arguments(config):
    usual = {"position_embedding_type": "absolute", "is_decoder": False, "pruned_heads": {}, "layer_norm_eps": EPSILON}
    if wrong := [name for name, value in usual.items() if getattr(config, name) != value]:
        raise UserError(f"keras-hub has no such model with {', '.join(f'{n}={getattr(config, n)!r}' for n in wrong)}")
    own = {"vocabulary_size": config.vocab_size}
    if isinstance(config, ElectraConfig):
        own = {"vocab_size": config.vocab_size, "embedding_dim": config.embedding_size}
    return own | {
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "hidden_dim": config.hidden_size,
        "intermediate_dim": config.intermediate_size,
        "dropout": config.hidden_dropout_prob,
        "max_sequence_length": config.max_position_embeddings,
        "num_segments": config.type_vocab_size,
    }


def _vit_config(model, backbone):
    for name in ("use_mha_bias", "use_mlp_bias", "use_class_token", "use_patch_bias"):
        if not getattr(backbone, name):
            raise UserError(f"a ViT with {name}=False is not known here")
    converter = getattr(getattr(model, "preprocessor", None), "image_converter", None)
    mean, std = 0.0, 1.0
    if converter is not None and converter.scale is not None:
        std = 1 / (255 * np.float64(converter.scale))
        mean = -np.float64(0.0 if converter.offset is None else converter.offset) * std
    return {
        "image_size": tuple(backbone.image_shape[:2]),
        "num_channels": backbone.image_shape[2],
        "patch_size": backbone.patch_size,
        "num_hidden_layers": backbone.num_layers,
        "num_attention_heads": backbone.num_heads,
        "hidden_size": backbone.hidden_dim,
        "intermediate_size": backbone.mlp_dim,
        "hidden_dropout_prob": backbone.dropout_rate,
        "attention_probs_dropout_prob": backbone.attention_dropout,
        "layer_norm_eps": backbone.layer_norm_epsilon,
        "image_mean": np.asarray(mean).tolist(),
        "image_std": np.asarray(std).tolist(),
    }


def _vit_arguments(config):
    if not config.qkv_bias:
        raise UserError("keras-hub has no ViT with qkv_bias=False")
    return {
        "image_shape": (*config.image_shape, config.num_channels),
        "patch_size": config.patch_shape,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "hidden_dim": config.hidden_size,
        "mlp_dim": config.intermediate_size,
        "dropout_rate": config.hidden_dropout_prob,
        "attention_dropout": config.attention_probs_dropout_prob,
        "layer_norm_epsilon": config.layer_norm_eps,
    }


# Heads.


def head_arguments(model):
    """Arguments of the head here for a task of keras-hub; `UserError` for tasks with layers that ours lacks."""
    kind = type(model).__name__
    if kind == "BertTextEmbedder":
        return {"pooling": model.pooling_mode, "normalize": model.normalize}
    if kind == "ViTImageClassifier" and (model.pooling != "token" or model.intermediate_dim):
        raise UserError(
            "image classifiers with another pooling than token, or with intermediate_dim, are not known here"
        )
    if kind == "BertMaskedLM" and model.masked_lm_head._intermediate_layer_norm.epsilon != EPSILON:
        warnings.warn(
            "keras-hub's head of masked words has the exact GELU and an epsilon of 1e-5, the one here those of the "
            "encoder: its logits will differ",
            stacklevel=3,
        )
    return {"num_labels": model.num_classes} if hasattr(model, "num_classes") else {}


def task_arguments(model):
    """The inverse: arguments of a task of keras-hub."""
    if isinstance(model, TextEmbedder):
        if model.pooling == "mean_sqrt_len":
            raise UserError("keras-hub has no pooling mean_sqrt_len")
        return {"pooling_mode": model.pooling, "normalize": model.normalize}
    if not getattr(model, "tie_word_embeddings", True):
        raise UserError("keras-hub has no head of masked words with an output matrix of its own")
    return {"num_classes": model.num_labels} if hasattr(model, "num_labels") else {}


# Activations.


def hidden_layers(backbone):
    """The dense layers of a backbone of keras-hub that have its activation."""
    if type(backbone).__name__ == "ViTBackbone":
        return [block.mlp.dense_1 for block in backbone.get_layer("vit_encoder").encoder_layers]
    return [block._feedforward_intermediate_dense for block in backbone.transformer_layers]


def set_activations(theirs, config):
    """Give a model of keras-hub the activation of ours -> whether its class has another, which its presets then have.

    So has the head of masked words always: the exact GELU, and an epsilon of 1e-5.
    """
    usual = EXACT if isinstance(config, ViTConfig) else APPROXIMATE
    differs = SAME.get(config.hidden_act, config.hidden_act) != usual
    if differs:
        for layer in hidden_layers(getattr(theirs, "backbone", theirs)):
            layer.activation = config.activation
    if not hasattr(theirs, "masked_lm_head"):
        return differs
    theirs.masked_lm_head._intermediate_dense.activation = config.activation
    theirs.masked_lm_head._intermediate_layer_norm.epsilon = config.layer_norm_eps
    return True
