"""Layers that Keras lacks or that are faster here, imported lazily."""

import importlib

_PUBLIC = {
    "Attention": "attention",
    "MultiHeadAttention": "attention",
    "EncoderBlock": "attention",
    "DecoderBlock": "attention",
    "Dense": "dense",
    "Dropout": "dropout",
    "DropPath": "dropout",
    "LayerScale": "transformer_block",
    "TransformerBlock": "transformer_block",
    "GaussianNoise": "gaussian",
    "Sampling": "gaussian",
    "GumbelSoftmax": "gumbel",
    "HubLayer": "hub",
    "MinibatchStddev": "minibatch",
    "GroupNormalization": "normalization",
    "PositionalEncoding": "positional",
    "LearnedPositionalEmbedding": "positional",
    "MaskedConv1D": "masking",
    "AttentionPooling": "masking",
    "PReLU": "prelu",
    "SpectralNormConv2D": "spectral",
    "GRU": "recurrent",
    "LSTM": "recurrent",
    "DenseTranspose": "tied",
}
__all__ = list(_PUBLIC)


def __getattr__(name):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__():
    return sorted({*globals(), *_PUBLIC})
