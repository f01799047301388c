"""Keras 3 reference implementations of the language and generative models of *Hands-On Machine Learning*."""

__version__ = "0.1.0"


def load(run_or_preset):
    """The trained Keras model of a run folder, or of a preset by name, e.g. `load("char_rnn_large")`.

    Raises `homl_models.errors.UserError` if there is no such run or preset.
    """
    from homl_models import runs

    return runs.load(run_or_preset)
