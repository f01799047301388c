"""Semantic segmentation with BEiT (Bao et al., 2021, https://arxiv.org/abs/2106.08254, section 3.2), and its backbone.

Hidden states of four blocks become a feature pyramid, UPerNet gives logits of each place of its largest map, a fourth
of a patch wide, and those are interpolated to the size of the mask, or of the image. The layers are in
`segmentation_layers.py`. Recipe: `beit_segment`.
Names are those of Hugging Face, whose weights `checkpoints/huggingface.py` reads and writes.
Shapes: b batch, (h, w) pixels, d hidden size, n labels.

As in `transformers`, `out_indices` of the head count from 1 at the embeddings: i is the output of block i - 1, so the
last block is never used. BEiT's authors count blocks from 0 and mean block i + 1 by i; give i + 2 for their i.
Other than in PyTorch, the moving variance of batch normalization is that of the batch, not of its population: smaller
by 1 part in the number of places.
"""

import keras
import numpy as np
from keras import ops

from homl_models.endpoints import Endpoint
from homl_models.errors import UserError
from homl_models.models.backbone_head import BackboneHead, checked_label_names
from homl_models.models.beit import Beit
from homl_models.models.image_endpoints import ImageEmbedding
from homl_models.models.scoring import IGNORE_INDEX, fast_argmax, label_weights
from homl_models.models.segmentation_layers import FCN, FeaturePyramid, UPerNet, upsampled
from homl_models.models.vit_config import BEIT_BASE

SHOWN = 20  # labels that the documentation of the endpoint names


@keras.saving.register_keras_serializable("homl_models")
class BeitBackbone(Beit):
    """BEiT as the backbone of other systems: the outputs of `Beit`, without pooler and final norm, and feature_maps.

    feature_maps is a tuple of maps (b, rows, columns, d), a row and a column for each patch, of the hidden states that
    `out_features` ("stem" for the embeddings, "stage1" for the first block, ...) or `out_indices` (0, 1, ...) name, by
    default the last; of four in a pyramid with `add_fpn`; hidden states (b, t, d) without `reshape_hidden_states`.

    Args:
        config: a `BeitConfig`.
        add_pooling_layer: must be False.
    """

    def __init__(self, config=BEIT_BASE, add_pooling_layer=False, **kwargs):
        if add_pooling_layer:
            raise UserError("a BeitBackbone has no pooler")
        super().__init__(config, add_pooling_layer, **kwargs)
        self.stages = stages_of(config)
        self.pyramid = None
        if config.add_fpn:
            if len(self.stages) != 4 or not config.reshape_hidden_states:
                raise UserError("add_fpn needs out_indices of four hidden states, and reshape_hidden_states")
            self.pyramid = FeaturePyramid(config, config.batch_norm_eps, name="pyramid", dtype=self.dtype_policy)

    def add_norm_and_pooler(self):
        """There is neither."""

    def build(self, input_shape=None):
        if self.pyramid:
            self.pyramid.build()
        super().build(input_shape)

    def call(self, inputs, training=None, output_hidden_states=False, output_attentions=False):
        outputs = super().call(inputs, training, True, output_attentions)
        states = outputs["hidden_states"] if output_hidden_states else outputs.pop("hidden_states")
        maps = tuple(states[i] for i in self.stages)
        if self.config.reshape_hidden_states:
            maps = self.as_maps(inputs, maps)
        return outputs | {"feature_maps": self.pyramid(maps, training=training) if self.pyramid else maps}


def stages_of(config):
    """Numbers of the hidden states that `out_features` or `out_indices` of a `BeitConfig` name."""
    names = ["stem", *(f"stage{i}" for i in range(1, config.num_hidden_layers + 1))]
    if config.out_features is None:
        found = (config.num_hidden_layers,) if config.out_indices is None else config.out_indices
        found = [i % len(names) if -len(names) <= i < len(names) else -1 for i in found]
    else:
        found = [names.index(name) if name in names else -1 for name in config.out_features]
    if -1 in found or sorted(set(found)) != found:
        wanted = f"{names[0]} to {names[-1]}, or 0 to {len(names) - 1}, in their order"
        raise UserError(f"out_features and out_indices must be of {wanted}")
    return tuple(found)


@keras.saving.register_keras_serializable("homl_models")
class BeitForSemanticSegmentation(ImageEmbedding, BackboneHead):
    """Images -> {"logits": (b, 4 rows, 4 columns, n)}, of rows and columns of patches, and auxiliary_logits.

    auxiliary_logits (b, rows, columns, n) are there with `use_auxiliary_head`. Labels are masks (b, h, w) of any size,
    the class of each pixel, `semantic_loss_ignore_index` (255) or -100 for pixels without loss; sample_weight is (b,)
    or (b, h, w). The loss is the cross-entropy at the mask's size, and `auxiliary_loss_weight` times that of the
    auxiliary head; metrics are the accuracy of pixels, and mean_iou, the intersection over union of a class by all
    pixels, averaged over classes.

    Args:
        backbone: a `Beit` with four `out_indices`, see above, without `crop_fraction`: images are resized as a whole.
        num_labels: n.
        labels: their names, by default LABEL_0, LABEL_1, ...

    `UserError` for out_indices that are not four, from 1 to `num_hidden_layers`, in their order.
    """

    required_config = {"crop_fraction": 1.0}

    def __init__(self, backbone, num_labels=2, labels=(), **kwargs):
        super().__init__(backbone, **kwargs)
        config, dtype = backbone.config, self.dtype_policy
        self.num_labels, self.num_classes, self.labels = num_labels, num_labels, tuple(labels)
        self.label_names = checked_label_names(self.labels, num_labels)
        self.states = states_of(config)
        self.pyramid = FeaturePyramid(config, name="pyramid", dtype=dtype)
        self.decode_head = UPerNet(config, num_labels, name="decode_head", dtype=dtype)
        self.auxiliary_head, self.loss_factors = None, {"labels": 1.0}
        if config.use_auxiliary_head:
            self.auxiliary_head = FCN(config, num_labels, name="auxiliary_head", dtype=dtype)
            self.loss_factors = {"labels": 1.0, "auxiliary": config.auxiliary_loss_weight}
        self.iou = keras.metrics.MeanIoU(num_labels, name="mean_iou", dtype="float32")

    def build(self, input_shape=None):
        for layer in (self.pyramid, self.decode_head, self.auxiliary_head):
            if layer:
                layer.build()
        super().build(input_shape)
        unused = self.backbone.blocks[self.states[-1] :], self.backbone.norm, self.backbone.pooler
        for layer in (*unused[0], *unused[1:]):
            if layer:
                layer.trainable = False

    def call(self, inputs, training=None, output_hidden_states=False, output_attentions=False):
        outputs = self.backbone(
            inputs, training=training, output_hidden_states=True, output_attentions=output_attentions
        )
        states = outputs["hidden_states"]
        maps = self.backbone.as_maps(inputs, [states[i] for i in self.states])
        levels = self.pyramid(maps, training=training)
        heads = {"logits": self.decode_head(levels, training=training)}
        if self.auxiliary_head:
            heads["auxiliary_logits"] = self.auxiliary_head(levels[2], training=training)
        heads = {name: ops.cast(logits, "float32") for name, logits in heads.items()}
        names = ("hidden_states",) * output_hidden_states + ("attentions",) * output_attentions
        return heads | {name: outputs[name] for name in names}

    # Loss and metrics.

    def check_arrays(self, x, y):
        if y is not None:
            ignored = self.backbone.config.semantic_loss_ignore_index, IGNORE_INDEX
            check_masks(y, len(x["images"] if isinstance(x, dict) else x), self.num_labels, ignored)

    def labels_and_logits(self, labels, outputs):
        """Masks, and logits interpolated to their size, of both heads; see `SupervisedModel`."""
        labels = ops.cast(labels, "int32")
        labels = ops.where(labels == self.backbone.config.semantic_loss_ignore_index, IGNORE_INDEX, labels)
        keys = {"labels": "logits", "auxiliary": "auxiliary_logits"}
        shape = labels.shape[1:3]
        return {name: (keys[name], labels, upsampled(outputs[keys[name]], shape)) for name in self.loss_factors}

    def loss_and_metrics(self, x, labels, outputs, sample_weight=None):
        losses, metrics = super().loss_and_metrics(x, labels, outputs, sample_weight)
        _, labels, logits = self.labels_and_logits(labels, outputs)["labels"]
        return losses, metrics | {"mean_iou": (labels, fast_argmax(logits), label_weights(labels, sample_weight))}

    def update_metrics(self, metrics):
        self.iou.update_state(*metrics.pop("mean_iou"))
        return super().update_metrics(metrics)

    def class_iou(self):
        """Intersection over union since the metrics were reset, {label: number} of the classes that there were."""
        counts = np.float64(ops.convert_to_numpy(self.iou.total_cm))
        both = np.diag(counts)
        either = counts.sum(0) + counts.sum(1) - both
        return {name: float(n / of) for name, n, of in zip(self.label_names, both, either) if of}

    # Masks of images of any size.

    def logits_of(self, images):
        """Images of the model's size -> logits (b, 4 rows, 4 columns, n)."""
        return self(images, training=False)["logits"]

    def segment(self, images):
        """A list or an array of images, of any sizes, bytes or in [0, 1] -> a list of masks (h, w) of their sizes."""
        masks = []
        for image in images:
            logits = self.call_in_batches("logits_of", [image], 0)
            masks.append(ops.convert_to_numpy(classes_at(logits, np.shape(image)[:2]))[0])
        return masks

    def endpoints(self):
        def segment(images):
            """The class of each pixel of images in [0, 1], of any size, at their own size; and its colour, as bytes."""
            import tensorflow as tf

            logits = self.logits_of(self.fitted(images))
            logits = tf.image.resize(logits, tf.shape(images)[1:3])  # Keras' takes no size that only the graph knows
            found = tf.argmax(logits, axis=-1, output_type=tf.int32)
            return {"classes": found, "images": tf.gather(tf.constant(class_colors(self.num_labels)), found)}

        names = [f"{i} {name}" for i, name in enumerate(self.label_names[:SHOWN])]
        doc = f"{segment.__doc__} The classes: {', '.join(names)}{', ...' if self.num_labels > SHOWN else '.'}"
        return {"segment": Endpoint(segment, [self.image_input], doc=doc), **super().endpoints()}


def check_masks(masks, count, num_labels, ignored):
    """`UserError` unless masks are (count, h, w) whole numbers, each a label, 0 to num_labels - 1, or one `ignored`."""
    masks = np.asarray(masks)
    if masks.ndim != 3 or len(masks) != count:
        raise UserError(f"masks must have the shape ({count}, h, w), the class of each pixel, not {masks.shape}")
    if masks.dtype.kind not in "iu":
        raise UserError(f"masks must be whole numbers, the classes of pixels, not {masks.dtype}")
    known = (masks >= 0) & (masks < num_labels) | np.isin(masks, ignored)
    if not known.all():
        found, last = f"{masks[~known].min()} to {masks[~known].max()}", num_labels - 1
        raise UserError(f"masks have classes {found}; those of the model are 0 to {last}, or {ignored[0]} for none")


def states_of(config):
    """Numbers of the hidden states that segmentation takes, by `out_indices` of a `BeitConfig`; see the module."""
    indices, last = config.out_indices or (), config.num_hidden_layers
    in_order = list(indices) == sorted(set(indices))
    if len(indices) != 4 or not in_order or min(indices) < 1 or max(indices) > last:
        raise UserError(f"segmentation needs four out_indices, from 1 to {last}, in their order, not {indices}")
    return tuple(i - 1 for i in indices)


def classes_at(logits, shape):
    """Logits (b, h, w, n) -> the class of each pixel at another size (b, *shape), int32, by bilinear interpolation."""
    logits = ops.image.resize(logits, shape, "bilinear", data_format="channels_last")
    return ops.cast(ops.argmax(logits, axis=-1), "int32")


def class_colors(count):
    """Colours (count, 3) of classes, as bytes: those of Pascal VOC, whose background is black and 255 cream.

    Bits 0, 3, 6, ... of the class are red's from the highest on, bits 1, 4, ... green's, and bits 2, 5, ... blue's.
    """
    index = np.arange(count)[:, None]
    colors = sum((index >> (3 * i + np.arange(3)) & 1) << (7 - i) for i in range(8))
    return colors.astype(np.uint8)
