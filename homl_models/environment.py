"""The process that the package runs in: which backend Keras takes, and how images and numbers lie in memory.

Importing this module loads neither TensorFlow nor Keras.
"""

import importlib.util
import json
import os
import warnings
from pathlib import Path

from homl_models.errors import UserError

BACKENDS = "tensorflow", "jax"


def check_backend():
    """`UserError` unless Keras' backend is one that the package trains on, and is installed.

    Keras takes KERAS_BACKEND of the environment, or else `backend` in keras.json of KERAS_HOME, or else TensorFlow.
    """
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    named, where = os.environ.get("KERAS_BACKEND"), "KERAS_BACKEND"
    if not named:
        named, where = _configured(home / "keras.json").get("backend") or "tensorflow", f"backend in {home}/keras.json"
    if named not in BACKENDS:
        raise UserError(
            f"{where} is {named!r}; set KERAS_BACKEND to {' or '.join(BACKENDS)}, the backends that work here"
        )
    if importlib.util.find_spec(named) is None:
        raise UserError(f"{where} is {named!r}, which is not installed; install it, or set KERAS_BACKEND to tensorflow")


def use_agg_backend():
    """Let a command draw its images to files, whatever matplotlib's backend of the surroundings is.

    A notebook passes its own on in MPLBACKEND; where that is not installed, importing matplotlib, as Keras does, fails.
    """
    os.environ["MPLBACKEND"] = "agg"


def _configured(path):
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # Keras goes on without it, too
        return {}
    return found if isinstance(found, dict) else {}


def set_keras_defaults(keras):
    """Images (h, w, c) and float32, whatever keras.json says: what a model computes must not depend on it."""
    if keras.config.image_data_format() != "channels_last":
        keras.config.set_image_data_format("channels_last")
        warnings.warn("keras.json sets image_data_format to channels_first; it is channels_last here", stacklevel=2)
    if keras.config.floatx() != "float32":
        warnings.warn(f"keras.json sets floatx to {keras.config.floatx()}; it is float32 here", stacklevel=2)
        keras.config.set_floatx("float32")
