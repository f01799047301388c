"""Vision Transformer (Dosovitskiy et al., 2020, https://arxiv.org/abs/2010.11929), and DeiT.

An image is cut into patches; their linear embeddings, with a class token before them and learned positions, go through
a Transformer encoder with normalization first (equations 1 to 4). DeiT (Touvron et al., 2020,
https://arxiv.org/abs/2012.12877) has a second class token, which is trained on a teacher's labels.
The configuration is in `vit_config.py`, the backbone in `vision_transformer.py`, the layers in `vit_layers.py`.
Shapes: b batch, t tokens, n labels, d hidden size.
"""

import keras
from keras import ops

from homl_models.models.bert_config import ACTIVATIONS
from homl_models.models.vision_heads import ImageClassifier
from homl_models.models.vision_transformer import VisionTransformer
from homl_models.models.vit_config import DEIT_BASE, VIT_BASE


@keras.saving.register_keras_serializable("homl_models")
class ViT(VisionTransformer):
    """Vision Transformer, of images in [0, 1]; see `VisionTransformer`. The pooler is a dense layer on [CLS].

    Args:
        config: a `ViTConfig`.
        add_pooling_layer: whether there is `pooler_output`.
    """

    def __init__(self, config=VIT_BASE, add_pooling_layer=True, **kwargs):
        super().__init__(config, add_pooling_layer, **kwargs)

    def add_norm_and_pooler(self):
        self.norm = self.layer_norm("norm")
        if self.add_pooling_layer:
            units, activation = self.config.pooler_output_size, ACTIVATIONS[self.config.pooler_act]
            start = {"kernel_initializer": self.config.initializer, "dtype": self.dtype_policy}
            self.pooler = keras.layers.Dense(units or self.config.hidden_size, activation, name="pooler", **start)


@keras.saving.register_keras_serializable("homl_models")
class ViTForImageClassification(ImageClassifier):
    """Images -> logits (b, n) of labels, from the hidden state of [CLS]; see `ImageClassifier`.

    Args:
        backbone: a `ViT`.
        num_labels, labels: see `ImageClassifier`.
    """


@keras.saving.register_keras_serializable("homl_models")
class DeiT(ViT):
    """A `ViT` with a distillation token behind [CLS].

    Args:
        config: a `DeiTConfig`.
        add_pooling_layer: whether there is `pooler_output`.
    """

    def __init__(self, config=DEIT_BASE, add_pooling_layer=True, **kwargs):
        super().__init__(config, add_pooling_layer, **kwargs)


@keras.saving.register_keras_serializable("homl_models")
class DeiTForImageClassification(ImageClassifier):
    """Images -> logits (b, n) of labels, from the hidden state of [CLS] alone; see `ImageClassifier`.

    Args:
        backbone: a `DeiT`.
        num_labels, labels: see `ImageClassifier`.
    """


@keras.saving.register_keras_serializable("homl_models")
class DeiTForImageClassificationWithTeacher(ImageClassifier):
    """Images -> logits (b, n), the mean of cls_logits and distillation_logits, those of the two class tokens.

    Labels of training: a dictionary of `labels` (b,), and `teacher_labels` (b,), the most probable ones by a teacher;
    the loss is the mean of both cross-entropies (hard-label distillation, equation 3).

    Args:
        backbone: a `DeiT`.
        num_labels, labels: see `ImageClassifier`.
    """

    metric_names = ("accuracy", "teacher_accuracy")
    loss_factors = {"labels": 0.5, "teacher_labels": 0.5}

    def __init__(self, backbone, num_labels=2, labels=(), **kwargs):
        super().__init__(backbone, num_labels, labels, **kwargs)
        self.distillation_classifier = self.dense(num_labels, name="distillation_classifier")

    def head_layers(self):
        return [self.classifier, self.distillation_classifier]

    def logits(self, outputs, training=None):
        x = outputs["last_hidden_state"]
        both = [self.classifier(x[:, 0]), self.distillation_classifier(x[:, 1])]
        first, second = (ops.cast(logits, "float32") for logits in both)
        return {"logits": (first + second) / 2, "cls_logits": first, "distillation_logits": second}

    def labels_and_logits(self, labels, outputs):
        names = {"labels": "cls_logits", "teacher_labels": "distillation_logits"}
        return {label: (output, labels[label], outputs[output]) for label, output in names.items()}
