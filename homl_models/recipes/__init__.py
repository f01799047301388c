"""All recipes by name. Importing this loads neither TensorFlow nor Keras."""

import dataclasses
import difflib
from pathlib import Path

from homl_models.errors import UserError
from homl_models.recipes import (
    answering,
    autoencoders,
    beit,
    beit_classification,
    beit_segmentation,
    bert,
    char_rnn,
    classification,
    ddpm,
    distillation,
    dvae,
    electra,
    esrgan,
    feature_net,
    gan,
    sentiment,
    sentiment_hub,
    seq2seq,
    super_resolution,
    tagging,
    transformer,
    vae,
)
from homl_models.recipes.families import FAMILIES
from homl_models.training import files

MODULES = (
    char_rnn, sentiment, seq2seq, transformer, autoencoders, vae, dvae, feature_net, ddpm, gan, bert, electra,
    classification, tagging, answering, distillation, sentiment_hub, super_resolution, esrgan, beit,
    beit_classification,
    beit_segmentation,
)  # fmt: skip
RECIPES = {name: recipe for module in MODULES for name, recipe in module.RECIPES.items()}
SUMMARIES = {name: line for module in MODULES for name, line in module.SUMMARIES.items()}
RESULTS = [result for module in MODULES for result in module.RESULTS]
__all__ = ["FAMILIES", "RECIPES", "RESULTS", "SUMMARIES", "get", "of_run"]


def get(name):
    """The recipe of that name; `UserError` with a suggestion if there is none."""
    if name in RECIPES:
        return RECIPES[name]
    close = difflib.get_close_matches(name, RECIPES, n=1)
    hint = f"did you mean {close[0]}?" if close else "python -m homl_models.train lists them"
    raise UserError(f"there is no recipe {name!r}; {hint}")


def of_run(folder):
    """(name, recipe) of a run folder or preset."""
    saved = files.read_json(Path(folder) / "recipe.json")
    name = saved["recipe"]
    if name not in RECIPES:
        raise UserError(f"{folder} was made by the recipe {name}, which this version of homl_models does not have")
    known = {field.name for field in dataclasses.fields(RECIPES[name])}
    return name, dataclasses.replace(RECIPES[name], **{k: v for k, v in saved["settings"].items() if k in known})
