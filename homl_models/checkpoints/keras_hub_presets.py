"""Presets of keras-hub, folders of config.json, model.weights.h5 and assets, and what makes inputs of its models."""

import os
import warnings

import numpy as np

from homl_models.checkpoints import huggingface
from homl_models.checkpoints.hub import read_json
from homl_models.errors import UserError
from homl_models.tokenizers.wordpiece import SPECIAL


def load(folder):
    """The task or backbone in a folder, and the settings of its tokenizer (see `tokenizer_settings`)."""
    keras_hub = import_keras_hub()
    if not os.path.isfile(os.path.join(folder, "config.json")):
        raise UserError(f"{folder} is no preset of keras-hub: it has no config.json")
    task = read_json(os.path.join(folder, "task.json"), {}).get("class_name", "Backbone")
    try:
        model = getattr(keras_hub.models, task).from_preset(folder)
        has_words = any(os.path.isfile(os.path.join(folder, name)) for name in ("tokenizer.json", "vocab.txt"))
        tokenizer = keras_hub.models.Tokenizer.from_preset(folder) if has_words else None
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder} is no preset of keras-hub that can be read: {reason}") from error
    return model, tokenizer_settings(tokenizer)


def save(theirs, preprocessor, folder, differs):
    """Write a model of keras-hub as a preset. differs: whether it has other activations than its class."""
    if differs:
        warnings.warn(
            f"{folder}: models of keras-hub's presets have their class's activations (BERT and ELECTRA: GELU by tanh), "
            "this one has others: loaded there, its outputs will differ by about 1e-3",
            stacklevel=3,
        )
    theirs.save_to_preset(folder)
    if preprocessor is not None and getattr(theirs, "preprocessor", None) is None:
        preprocessor.save_to_preset(folder)


def import_keras_hub():
    """The package of that name; `UserError` where it is not installed."""
    try:
        import keras_hub
    except ImportError:
        raise UserError('keras-hub is not installed: pip install "homl_models[keras-hub]"') from None
    return keras_hub


# Preprocessors.


def tokenizer_settings(tokenizer):
    """Arguments of a `TextModel` from a tokenizer of keras-hub; {} for None."""
    if getattr(tokenizer, "vocabulary", None) is None:
        return {}
    return {
        "vocabulary": tuple(tokenizer.get_vocabulary()),
        "lowercase": tokenizer.lowercase,
        "strip_accents": tokenizer.strip_accents,
        "tokenize_chinese_chars": tokenizer.split_on_cjk,
    }


def preprocessor(model, task, backbone):
    """The preprocessor in keras-hub of a model of ours; for a backbone its tokenizer; None without a vocabulary.

    task, backbone: names of keras-hub's classes; the first is None for a bare backbone.
    """
    keras_hub = import_keras_hub()
    if backbone == "ViTBackbone":
        return image_preprocessor(model.backbone.config) if task else None
    tokenizer = wordpiece(model, f"{backbone.removesuffix('Backbone')}Tokenizer")
    if tokenizer is None or task is None:
        return tokenizer
    return getattr(keras_hub.models, f"{task}Preprocessor")(tokenizer, sequence_length=model.max_length)


def wordpiece(model, name):
    """The tokenizer of a model of ours as keras-hub's class of that name; None without a vocabulary.

    keras-hub folds the case of letters (ß becomes ss) and treats control characters in another way than BERT does, so
    ids of such texts differ.
    """
    settings = huggingface.tokenizer_settings(model)
    if not settings.get("vocabulary"):
        return None
    if settings.get("special_names", SPECIAL) != SPECIAL:
        raise UserError(f"keras-hub has the special tokens {', '.join(SPECIAL)} alone")
    accents = settings.get("strip_accents")
    return getattr(import_keras_hub().models, name)(
        list(settings["vocabulary"]),
        lowercase=settings["lowercase"],
        strip_accents=settings["lowercase"] if accents is None else accents,
        split_on_cjk=settings.get("tokenize_chinese_chars", True),
    )


def image_preprocessor(config):
    """The preprocessor of an image classifier: images of bytes are resized and normalized."""
    keras_hub = import_keras_hub()
    mean, std = (np.broadcast_to(np.float64(x), config.num_channels) for x in (config.image_mean, config.image_std))
    scale, offset = (1 / 255 / std).tolist(), (-mean / std).tolist()
    converter = keras_hub.layers.ViTImageConverter(image_size=config.image_shape, scale=scale, offset=offset)
    return keras_hub.models.ViTImageClassifierPreprocessor(converter)
