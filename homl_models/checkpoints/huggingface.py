"""Models from and to the folders of Hugging Face's `transformers`, for every family in `FAMILIES`.

A folder has config.json, the weights (model.safetensors, or pytorch_model.bin, in one file or in shards), and the files
of a tokenizer (`tokenizer_files.py`) or of an image processor (`image_processor_files.py`); one of
`sentence-transformers` names the pooling as well. A `Family` has the table of tensors of its models, by which both
directions go.
"""

import os
import warnings

import safetensors.numpy

from homl_models.checkpoints import beit, bert, distilbert, electra, sentence_transformers, tokenizer_files, vit
from homl_models.checkpoints.configuration import check_config
from homl_models.checkpoints.hub import CONFIGS, read_json, resolve_folder, weights_of
from homl_models.checkpoints.weights import load_weights
from homl_models.errors import UserError
from homl_models.models.bert_heads import TextEmbedder
from homl_models.training import files

ALL = bert.FAMILY, electra.FAMILY, distilbert.FAMILY, beit.FAMILY, vit.FAMILY, vit.DEIT
FAMILIES = {family.model_type: family for family in ALL}
HEADS = {name: head for family in FAMILIES.values() for name, head in family.heads.items()}
# Arguments of heads that are not in config.json, or under another name.
NOT_IN_CONFIG = {"backbone", "labels", "pooling", "normalize"}
NOT_IN_CONFIG |= {name for family in FAMILIES.values() for name in family.preprocessing.ARGUMENTS}


def family_of(model):
    """The `Family` of a model, a backbone or a head; None if there is none."""
    backbone = getattr(model, "backbone", model)
    families = {family.backbone: family for family in FAMILIES.values()}
    return next((families[kind] for kind in type(backbone).__mro__ if kind in families), None)


def state_dict(model):
    """{name: float32 array} of all weights, named and laid out as in a folder (and in PyTorch)."""
    return {name: tensor.to_file() for name, tensor in family_of(model).tensors(model).items()}


def from_pretrained(path, head=None, **settings):
    """Load a model, with its weights, from a folder or by its name on the Hugging Face Hub.

    Args:
        path: the folder or the name.
        head: a class of `HEADS`, by default the one that config.json names; layers of the head that are missing, or
            have other shapes, are newly initialized, with a warning that names them. Also the class of the backbone;
            one of texts then has the attribute `tokenizer_settings`.
        settings: fields of the configuration, arguments of the head, or `dtype`, instead of those of the folder.

    Raises:
        UserError: for a folder that is none, unknown families, and weights that are broken, missing, unexpected or of
            other shapes.
    """
    folder = resolve_folder(path)
    config_name = next((name for name in CONFIGS if os.path.exists(os.path.join(folder, name))), CONFIGS[0])
    config, weights = read_json(os.path.join(folder, config_name)), weights_of(folder)
    architectures = config.get("architectures") or [None]
    architecture = architectures[0] if isinstance(architectures, list) else architectures
    family = _find_family(config.get("model_type"), architecture, weights, path, config_name)
    if head is None:
        head = HEADS.get(str(architecture), family.backbone)
        if architecture not in (None, head.__name__, f"{head.__name__}Model"):
            message = f"{path} is a {architecture}, which is not known here: its {head.__name__} is read"
            warnings.warn(message, stacklevel=2)
    _check_settings(family, head, settings, path)
    inputs = family.preprocessing.read(folder, config, settings)
    if head is TextEmbedder:
        inputs |= sentence_transformers.read(folder, inputs.get("model_max_length"))
    config = family.from_json({name: value for name, value in config.items() if name not in NOT_IN_CONFIG}) | inputs
    check_config(config | settings, family, weights, path)
    config.pop("dtype", None)  # of the weights
    model = from_config(family, head, config | settings)
    model.build()
    load_weights(model, family, weights, path)
    if head is family.backbone and family.preprocessing is tokenizer_files:
        model.tokenizer_settings = inputs
    return model


def replace_head(model, head, **settings):
    """A new model of the class `head` with another model's weights, as `from_pretrained` would load it of its folder.

    Args:
        model: a backbone, a head of one, or an `ElectraPretrainer`, whose discriminator is taken.
        head: the class. Arguments that both heads have, such as the labels, are kept.
        settings: see `from_pretrained`.
    """
    model = getattr(model, "pretrained_head", model)
    name, family = f"the {type(model).__name__}", family_of(model)
    _check_settings(family, head, settings, name)
    backbone = getattr(model, "backbone", model)
    config = _fields(backbone.config) | tokenizer_settings(model)
    if model is not backbone:
        arguments = {name: getattr(model, name) for name in model.argument_names() if name != "backbone"}
        if settings.get("num_labels", arguments.get("num_labels")) != arguments.get("num_labels"):
            arguments.pop("labels", None)
        config |= arguments
    new = from_config(family, head, config | settings)
    new.build()
    load_weights(new, family, state_dict(model), name)
    return new


def tokenizer_settings(model):
    """{argument of `TextModel`: value} of a model's tokenizer, also of a bare backbone; {} for a model of ids alone."""
    names = [name for name in tokenizer_files.ARGUMENTS if hasattr(model, name)]
    return dict(getattr(model, "tokenizer_settings", {})) or {name: getattr(model, name) for name in names}


def _find_family(model_type, architecture, weights, path, config_name):
    """The family of config.json's model_type; or else of its architecture or of the names of tensors."""
    kind = str(architecture or "").lower()
    if not model_type:
        found = [
            family
            for family in FAMILIES.values()
            if kind.startswith(family.model_type) or any(f".{family.prefix}" in f".{name}" for name in weights)
        ]
        if not found:
            known = " or ".join(f'"{name}"' for name in FAMILIES)
            raise UserError(f'{path} does not say what it is; add "model_type": {known} to its {config_name}')
        return found[0]
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        *others, last = FAMILIES
        known = f"{', '.join(others)} and {last}"
        raise UserError(f"{path} is a model of type {model_type!r}; those of type {known} can be read")
    return FAMILIES[model_type]


def _check_settings(family, head, settings, path):
    """Raise `UserError` unless the family has that head, and the head those settings."""
    if head not in (family.backbone, *family.heads.values()):
        known = ", ".join((family.backbone.__name__, *family.heads))
        raise UserError(f"{path} is a model of type {family.model_type}, which has no {head.__name__}; it has {known}")
    unknown = set(settings) - {*family.config.field_names(), *_arguments(family, head), "dtype"}
    if unknown:
        raise UserError(f"{head.__name__} has no setting {', '.join(sorted(unknown))}")


def _arguments(family, head):
    """Names of the arguments of a head, but for the backbone."""
    return [] if is_backbone(family, head) else [name for name in head.argument_names() if name != "backbone"]


def is_backbone(family, head):
    """Whether a class is that of the backbone or of it, `head(config)`."""
    return issubclass(head, family.backbone)


def _fields(config):
    return {name: getattr(config, name) for name in config.field_names()}


def from_config(family, head, config):
    """A new model of the class `head` from {name: value} of a config.json; other names are ignored."""
    config = _with_labels(config, "num_labels" in _arguments(family, head))
    dtype = {"dtype": config["dtype"]} if "dtype" in config else {}
    bare = is_backbone(family, head)
    fields = config | ({} if bare else head.required_config)
    fields = {name: fields[name] for name in family.config.field_names() if name in fields}
    if bare:
        return head(family.config(**fields), **dtype)
    backbone = family.backbone(family.config(**fields), **family.backbone_arguments(head), **dtype)
    arguments = {name: config[name] for name in _arguments(family, head) if name in config}
    return head(backbone, **arguments, **dtype)


def _with_labels(config, has_labels):
    """A config with `num_labels` and `labels` from its `id2label`, where their number agrees."""
    labels = config.get("id2label")
    if not labels or config.get("num_labels", len(labels)) != len(labels):
        return config
    names = tuple(str(label) for _, label in sorted(labels.items(), key=lambda item: int(item[0])))
    return ({"labels": names} if has_labels else {}) | config | {"num_labels": len(labels)}


def save_pretrained(model, path):
    """Write a folder that `from_pretrained`, and that of `transformers`, reads: config.json, model.safetensors.

    `UserError` for models of no family.
    """
    family = family_of(model)
    if family is None:
        kinds = ", ".join(kind.backbone.__name__ for kind in FAMILIES.values())
        hint = f"save its `discriminator`, or a model of {kinds}"
        raise UserError(f"a {type(model).__name__} has no such folder; {hint}")
    os.makedirs(path, exist_ok=True)
    with files.atomic_write(os.path.join(path, "model.safetensors")) as aside:
        safetensors.numpy.save_file(state_dict(model), aside, {"format": "pt"})
    files.write_json(os.path.join(path, "config.json"), _config_json(model, family))
    family.preprocessing.write(path, model)
    if isinstance(model, TextEmbedder):
        sentence_transformers.write(path, model)


def _config_json(model, family):
    backbone = getattr(model, "backbone", model)
    bare = model is backbone or isinstance(model, TextEmbedder)
    name = type(backbone if bare else model).__name__
    architecture = f"{name}Model" if bare and name not in HEADS else name
    names = [] if model is backbone else [name for name in model.argument_names() if name not in NOT_IN_CONFIG]
    config = _fields(backbone.config) | {name: getattr(model, name) for name in names}
    own = family.preprocessing.ARGUMENTS
    config = {name: value for name, value in config.items() if value is not None and name not in own}
    if config.pop("num_labels", None):
        labels = dict(enumerate(model.label_names))
        config |= {"id2label": labels, "label2id": {label: i for i, label in labels.items()}}
    config = family.to_json(config) | family.preprocessing.CONFIG | {"torch_dtype": "float32"}
    return {"model_type": family.model_type, "architectures": [architecture]} | config
