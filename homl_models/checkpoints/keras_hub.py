"""Models from and to keras-hub (https://keras.io/keras_hub), once keras-nlp and keras-cv: BERT, ELECTRA, ViT.

Its layers are matched with the names of tensors in Hugging Face's folders (`family.Family`), so one table for each of
its backbones serves both directions. Kernels of attention are (d, heads, head size) there and (d, d) here.
What differs: keras-hub's BERT and ELECTRA compute GELU by its approximation with tanh, Hugging Face's exactly. The name
`hidden_act` says which one a model has ("gelu_new", "gelu"), and both directions keep it; presets of keras-hub cannot.
"""

import os

from keras import ops

from homl_models.checkpoints import bert, electra, keras_hub_config, keras_hub_presets, vit
from homl_models.checkpoints.huggingface import from_config
from homl_models.errors import UserError
from homl_models.models.bert_heads import BertForSequenceClassification, TextEmbedder
from homl_models.models.bert_pretraining import BertForMaskedLM
from homl_models.models.vit import ViTForImageClassification

BACKBONES = {"BertBackbone": bert.FAMILY, "ElectraBackbone": electra.FAMILY, "ViTBackbone": vit.FAMILY}
TASKS = {
    "BertTextClassifier": BertForSequenceClassification,
    "BertMaskedLM": BertForMaskedLM,
    "BertTextEmbedder": TextEmbedder,
    "ViTImageClassifier": ViTForImageClassification,
}


def from_keras_hub(model, **settings):
    """A model of keras-hub, a backbone or a task, or the folder of a preset -> the same model of this package, float32.

    Tasks are text classifiers, masked language models, text embedders and image classifiers (`TASKS`). A ViT here takes
    images in [0, 1]; one without a converter of images takes them as they are there.

    Args:
        settings: fields of the configuration and arguments of the head, such as `labels`, instead of the model's own.

    Raises:
        UserError: for other models, and folders that are no preset.
    """
    vocabulary = {}
    if isinstance(model, (str, os.PathLike)):
        model, vocabulary = keras_hub_presets.load(os.fspath(model))
    kind, backbone = type(model).__name__, getattr(model, "backbone", model)
    family = BACKBONES.get(type(backbone).__name__)
    if family is None or (backbone is not model and kind not in TASKS):
        raise UserError(f"a {kind} of keras-hub is not known here; known are {', '.join((*BACKBONES, *TASKS))}")
    tokenizer = getattr(getattr(model, "preprocessor", None), "tokenizer", None)
    vocabulary = vocabulary or keras_hub_presets.tokenizer_settings(tokenizer)
    config = keras_hub_config.config_of(model, backbone) | keras_hub_config.head_arguments(model)
    if backbone is model:
        fields = config | settings
        bare = {"add_pooling_layer": False} if family is vit.FAMILY else {}
        ours = family.backbone(
            family.config(**{n: fields[n] for n in family.config.field_names() if n in fields}), **bare
        )
        ours.tokenizer_settings = vocabulary
    else:
        ours = from_config(family, TASKS[kind], config | vocabulary | settings)
    ours.build()
    table = dict(_tensors(model, family))
    for name, tensor in family.tensors(ours).items():
        variable, layout = table[name.removeprefix(family.prefix)]
        tensor.assign(_to_file(ops.convert_to_numpy(variable), layout, tensor.file_shape))
    return ours


def to_keras_hub(model, folder=None):
    """The same model of keras-hub, with its preprocessor if the model has a vocabulary; also as a preset in `folder`.

    `keras_hub.models.BertTextClassifier.from_preset(folder)` loads it. Weights that only keras-hub has, the pooler of
    some models, stay newly initialized; names of labels are lost.

    Raises:
        UserError: for models that keras-hub does not have.
    """
    keras_hub = keras_hub_presets.import_keras_hub()

    backbone = getattr(model, "backbone", model)
    name = next((name for name, family in BACKBONES.items() if type(backbone) is family.backbone), None)
    task = next((task for task, head in TASKS.items() if type(model) is head), None)
    if name is None or (backbone is not model and (task is None or not task.startswith(name.removesuffix("Backbone")))):
        raise UserError(f"keras-hub has no {type(model).__name__} of a {type(backbone).__name__}")
    family = BACKBONES[name]
    theirs = getattr(keras_hub.models, name)(**keras_hub_config.arguments_of(backbone.config))
    preprocessor = keras_hub_presets.preprocessor(model, task, name)
    if task:
        arguments = keras_hub_config.task_arguments(model)
        theirs = getattr(keras_hub.models, task)(theirs, **arguments, preprocessor=preprocessor)
    table = dict(_tensors(theirs, family))
    for key, tensor in family.tensors(model).items():
        variable, layout = table[key.removeprefix(family.prefix)]
        variable.assign(_from_file(tensor.to_file(), layout, variable.shape))
    differs = keras_hub_config.set_activations(theirs, backbone.config)
    if folder is not None:
        keras_hub_presets.save(theirs, preprocessor, os.fspath(folder), differs)
    return theirs


# Tables: names of tensors in Hugging Face's folders, variables of keras-hub, layouts.


def _dense(name, layer):
    yield f"{name}.weight", (layer.kernel, "dense")
    yield f"{name}.bias", (layer.bias, "plain")


def _norm(name, layer):
    yield f"{name}.weight", (layer.gamma, "plain")
    yield f"{name}.bias", (layer.beta, "plain")


def _attention(names, layer):
    for name, part in zip(names, ("query", "key", "value", "output")):
        yield from _dense(name, getattr(layer, f"{part}_dense"))


def _tensors(model, family):
    """(name, (variable, layout)) of a backbone or a task of keras-hub."""
    backbone = getattr(model, "backbone", model)
    yield from _vit_tensors(backbone) if family is vit.FAMILY else _text_tensors(backbone)
    if type(model).__name__ in ("BertTextClassifier", "ViTImageClassifier"):
        yield from _dense("classifier", model.output_dense)
    elif type(model).__name__ == "BertMaskedLM":
        head = model.masked_lm_head
        yield from _dense("cls.predictions.transform.dense", head._intermediate_dense)
        yield from _norm("cls.predictions.transform.LayerNorm", head._intermediate_layer_norm)
        yield "cls.predictions.bias", (head._bias, "plain")


def _text_tensors(backbone):
    yield "embeddings.word_embeddings.weight", (backbone.token_embedding.embeddings, "plain")
    yield "embeddings.position_embeddings.weight", (backbone.position_embedding.position_embeddings, "plain")
    yield "embeddings.token_type_embeddings.weight", (backbone.segment_embedding.embeddings, "plain")
    yield from _norm("embeddings.LayerNorm", backbone.embeddings_layer_norm)
    if hasattr(backbone, "embeddings_projection"):
        yield from _dense("embeddings_project", backbone.embeddings_projection)
    for i, block in enumerate(backbone.transformer_layers):
        prefix = f"encoder.layer.{i}"
        names = [f"{prefix}.attention.{name}" for name in ("self.query", "self.key", "self.value", "output.dense")]
        yield from _attention(names, block._self_attention_layer)
        yield from _norm(f"{prefix}.attention.output.LayerNorm", block._self_attention_layer_norm)
        yield from _dense(f"{prefix}.intermediate.dense", block._feedforward_intermediate_dense)
        yield from _dense(f"{prefix}.output.dense", block._feedforward_output_dense)
        yield from _norm(f"{prefix}.output.LayerNorm", block._feedforward_layer_norm)
    yield from _dense("pooler.dense", backbone.pooled_dense)


def _vit_tensors(backbone):
    embeddings, encoder = backbone.get_layer("vit_patching_and_embedding"), backbone.get_layer("vit_encoder")
    yield "embeddings.cls_token", (embeddings.class_token, "plain")
    yield "embeddings.patch_embeddings.projection.weight", (embeddings.patch_embedding.kernel, "convolution")
    yield "embeddings.patch_embeddings.projection.bias", (embeddings.patch_embedding.bias, "plain")
    yield "embeddings.position_embeddings", (embeddings.position_embedding.embeddings, "plain")
    for i, block in enumerate(encoder.encoder_layers):
        prefix = f"encoder.layer.{i}"
        inner = [f"{prefix}.attention.attention.{part}" for part in ("query", "key", "value")]
        names = [*inner, f"{prefix}.attention.output.dense"]
        yield from _attention(names, block.mha)
        yield from _norm(f"{prefix}.layernorm_before", block.layer_norm_1)
        yield from _norm(f"{prefix}.layernorm_after", block.layer_norm_2)
        yield from _dense(f"{prefix}.intermediate.dense", block.mlp.dense_1)
        yield from _dense(f"{prefix}.output.dense", block.mlp.dense_2)
    yield from _norm("layernorm", encoder.layer_norm)


def _to_file(array, layout, shape):
    """An array of keras-hub in the layout and shape of Hugging Face's file."""
    if layout == "dense":
        return array.reshape(shape[::-1]).T  # heads joined
    return array.transpose(3, 2, 0, 1) if layout == "convolution" else array.reshape(tuple(shape))


def _from_file(array, layout, shape):
    """The inverse of `_to_file`."""
    if layout == "dense":
        return array.T.reshape(tuple(shape))
    return array.transpose(2, 3, 1, 0) if layout == "convolution" else array.reshape(tuple(shape))
