"""Process-wide settings: Keras' backend, image data format and float type, and matplotlib's backend.

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
    """Raise `UserError` unless Keras' backend is supported and installed.

    Keras takes the environment variable KERAS_BACKEND, or else `backend` in keras.json of KERAS_HOME, or TensorFlow.
    """
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    backend, source = os.environ.get("KERAS_BACKEND"), "KERAS_BACKEND"
    if not backend:
        source = f"backend in {home}/keras.json"
        backend = _configured(home / "keras.json").get("backend") or "tensorflow"
    if backend not in BACKENDS:
        raise UserError(
            f"{source} is {backend!r}; set KERAS_BACKEND to {' or '.join(BACKENDS)}, the backends that work here"
        )
    if importlib.util.find_spec(backend) is None:
        raise UserError(
            f"{source} is {backend!r}, which is not installed; install it, or set KERAS_BACKEND to tensorflow"
        )


def use_agg_backend():
    """Make matplotlib use its backend for files (Agg), whatever the environment says.

    A notebook hands its own backend on in MPLBACKEND; where that is not installed, importing matplotlib, as Keras does,
    fails.
    """
    os.environ["MPLBACKEND"] = "agg"


def _configured(path):
    """Settings of keras.json; {} where it cannot be read, as for Keras."""
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def set_keras_defaults(keras):
    """Set channels-last images and float32, with a warning if keras.json says otherwise.

    Outputs of a model must not depend on that file.
    """
    if keras.config.image_data_format() != "channels_last":
        keras.config.set_image_data_format("channels_last")
        warnings.warn("keras.json sets image_data_format to channels_first; it is channels_last here", stacklevel=2)
    if keras.config.floatx() != "float32":
        warnings.warn(f"keras.json sets floatx to {keras.config.floatx()}; it is float32 here", stacklevel=2)
        keras.config.set_floatx("float32")
