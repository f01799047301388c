"""Heads of vision Transformers; each is a model around a backbone, and named as in Hugging Face's `transformers`.

Inputs are those of the backbone. Logits are float32; labels of -100 are ignored.
Shapes: b batch, n labels, d hidden size.
"""

from keras import ops

from homl_models.errors import UserError
from homl_models.models.backbone_head import BackboneHead, checked_label_names
from homl_models.models.image_endpoints import ImageClassification
from homl_models.models.scoring import soft_cross_entropy


class ImageClassifier(ImageClassification, BackboneHead):
    """Base of image classifiers: inputs -> logits (b, n) of labels, by a dense layer on `features(outputs)`.

    Labels of training are whole numbers (b,), or distributions (b, n), as MixUp, CutMix and label smoothing make them;
    a `loss` of `compile` gets them as they are.

    Args:
        backbone: a vision Transformer.
        num_labels: n.
        labels: their names, which endpoints return; by default LABEL_0, LABEL_1, ...
    """

    takes_distributions = True

    def __init__(self, backbone, num_labels=2, labels=(), **kwargs):
        super().__init__(backbone, **kwargs)
        self.num_labels, self.num_classes, self.labels = num_labels, num_labels, tuple(labels)
        self.label_names = checked_label_names(self.labels, num_labels)
        self.classifier = self.dense(num_labels, name="classifier")

    def head_layers(self):
        return [self.classifier]

    def features(self, outputs):
        """The backbone's outputs -> what the dense layer gets (b, d)."""
        return outputs["last_hidden_state"][:, 0]

    def logits(self, outputs, training=None):
        return ops.cast(self.classifier(self.features(outputs)), "float32")

    def labels_and_logits(self, labels, outputs):
        if len(labels.shape) == 2 and labels.shape[-1] == 1 < self.num_labels:
            labels = labels[:, 0]
        return super().labels_and_logits(labels, outputs)

    def loss_and_metric(self, labels, logits, sample_weight=None):
        if len(labels.shape) == len(logits.shape):
            return soft_cross_entropy(labels, logits, sample_weight)
        return super().loss_and_metric(labels, logits, sample_weight)

    def with_class_weight(self, arguments, class_weight):
        y = arguments.get("y")
        if y is not None and len(ops.shape(y)) == 2:
            raise UserError("class_weight goes with whole numbers as labels; give sample_weight for distributions")
        return super().with_class_weight(arguments, class_weight)
