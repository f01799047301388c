"""Losses and metrics of heads, of BERT, ELECTRA and vision Transformers, as weighted means over labels.

A batch gives pairs (weighted sum, total weight) of losses and of correct predictions. The loss that a step minimizes is
the mean over its batch; the reported loss is the mean over all batches, the same for every batch size and any rows of
padding. Labels of -100 are ignored. Shapes: b batch, v vocabulary or labels.
"""

import inspect
import math

import keras
import numpy as np
from keras import ops
from keras.src.utils.tracking import no_automatic_dependency_tracking  # Keras has no public name for it

from homl_models import devices
from homl_models.base import Model
from homl_models.errors import UserError

IGNORE_INDEX = -100  # label without loss, as in PyTorch


def fast_argmax(x):
    """`ops.argmax` along the last axis by `top_k`: x (..., v) -> int32 (...).

    On a CPU XLA computes `argmax`, and the operations that it fuses into it, number by number: for 544 positions and
    8,192 words 28 ms instead of 8, with Gumbel noise added to the logits 190 instead of 22.
    """
    return ops.cast(ops.top_k(x, 1)[1][..., 0], "int32")


def weighted_mean(pair):
    """(sum, total) -> sum / total, 0 where the total weight is 0."""
    return pair[0] / ops.where(pair[1] > 0, pair[1], 1.0)


def label_weights(labels, sample_weight=None):
    """Weights of the labels (b, ...), float32: `sample_weight` (b,) or (b, ...), by default 1; 0 for -100."""
    weights = ops.cast(labels != IGNORE_INDEX, "float32")
    if sample_weight is None:
        return weights
    sample_weight = ops.cast(sample_weight, "float32")
    if len(sample_weight.shape) > len(weights.shape):  # (b, 1), as Keras may have it
        sample_weight = ops.reshape(sample_weight, ops.shape(weights))
    more = len(weights.shape) - len(sample_weight.shape)
    return weights * ops.reshape(sample_weight, (*ops.shape(sample_weight), *(1,) * more))


def cross_entropy(labels, logits, sample_weight=None):
    """Labels (...), logits (..., v) -> pairs (sum, total) of cross-entropies and of correct predictions."""
    weights = label_weights(labels, sample_weight)
    labels, logits = ops.cast(ops.where(labels == IGNORE_INDEX, 0, labels), "int32"), ops.cast(logits, "float32")
    chosen = ops.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    correct = ops.cast(fast_argmax(logits) == labels, "float32")
    total = ops.sum(weights)
    return (ops.sum(weights * (ops.logsumexp(logits, axis=-1) - chosen)), total), (ops.sum(weights * correct), total)


def soft_cross_entropy(labels, logits, sample_weight=None):
    """Distributions (b, v), logits (b, v) -> pairs (sum, total) of cross-entropies and of correct predictions."""
    labels, logits = ops.cast(labels, "float32"), ops.cast(logits, "float32")
    weights = label_weights(fast_argmax(labels), sample_weight)
    correct = ops.cast(fast_argmax(logits) == fast_argmax(labels), "float32")
    loss, total = -ops.sum(labels * ops.log_softmax(logits), axis=-1), ops.sum(weights)
    return (ops.sum(weights * loss), total), (ops.sum(weights * correct), total)


def binary_cross_entropy(labels, logits, sample_weight=None):
    """Labels (...), 1 or 0, and logits (...) -> pairs (sum, total) of cross-entropies and of correct predictions."""
    weights, targets = label_weights(labels, sample_weight), ops.cast(labels == 1, "float32")
    correct = ops.cast((logits > 0) == (targets > 0), "float32")
    total = ops.sum(weights)
    return (ops.sum(weights * (ops.softplus(logits) - targets * logits)), total), (ops.sum(weights * correct), total)


class LossTracker(keras.metrics.Metric):
    """Weighted mean of each loss over all batches, times its factor, summed.

    It replaces Keras' own loss tracker, which weights the batches' losses by their rows, padding included.
    """

    def __init__(self, factors, name="loss", **kwargs):
        super().__init__(name=name, **kwargs)
        self.factors, self.means = factors, {key: keras.metrics.Mean(key) for key in factors}

    def update_state(self, values, sample_weight=None):
        """Called by Keras with the loss of a batch; ignored, since `add` has its weight as well."""

    def add(self, pairs):
        """Add {loss: pair (sum, total)} of a batch."""
        for key, pair in pairs.items():
            self.means[key].update_state(weighted_mean(pair), pair[1])

    def result(self):
        return sum(factor * self.means[key].result() for key, factor in self.factors.items())


class WeightedLossModel(Model):
    """A model with losses of its own, whose weighted sum it minimizes.

    A subclass has `loss_factors` {loss: factor}, `metric_names`, and `loss_and_metrics(x, labels, outputs,
    sample_weight)`, which gives {loss: pair} and {metric: pair}.
    """

    metric_names = ("accuracy",)
    loss_factors = {"labels": 1.0}

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.trackers = {name: keras.metrics.Mean(name) for name in self.metric_names}

    def compile(self, *args, **kwargs):
        super().compile(*args, **kwargs)
        self.set_loss_tracker(LossTracker(dict(self.loss_factors)))

    @no_automatic_dependency_tracking
    def set_loss_tracker(self, tracker):
        """Replace Keras' loss tracker."""
        self._loss_tracker = tracker

    def compile_from_config(self, config):
        """Keras' method, which does nothing for classes that override `compile`."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def check_arrays(self, x, y):
        """`UserError` for inputs and labels, arrays that `fit` and `evaluate` are given, of values that cannot be.

        Here all can. A dataset comes as x, unchecked.
        """

    def fit(self, x=None, y=None, *args, **kwargs):
        """Keras' method, after `check_arrays`."""
        self.check_arrays(x, y)
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        """Keras' method, after `check_arrays`."""
        self.check_arrays(x, y)
        return super().evaluate(x, y, *args, **kwargs)

    def loss_and_metrics(self, x, labels, outputs, sample_weight=None):
        raise NotImplementedError(f"{type(self).__name__} must define loss_and_metrics")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """Mean over the batch of all devices: this device's share of it, see `losses.mean`."""
        losses, _ = self.loss_and_metrics(x, y, y_pred, sample_weight)
        return sum(
            factor * weighted_mean((losses[key][0], devices.all_reduce_sum(losses[key][1])))
            for key, factor in self.loss_factors.items()
        )

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        losses, metrics = self.loss_and_metrics(x, y, y_pred, sample_weight)
        if self._loss_tracker is not None:
            self._loss_tracker.add(losses)
        return self.update_metrics(metrics)

    def update_metrics(self, metrics):
        for name, pair in metrics.items():
            self.trackers[name].update_state(weighted_mean(pair), pair[1])
        return self.get_metrics_result()


class SupervisedModel(WeightedLossModel):
    """A model that is trained on labels, by its own losses or that of `compile`; takes sample and class weights.

    Outputs are logits, or a dictionary of them; labels an array, or a dictionary. A weight of 2 is the example twice:
    sample_weight is (b,), or of the labels' shape, or a dictionary of such with the labels' keys.

    A subclass has `labels_and_logits(labels, outputs)`, {label: (output, labels, logits)}; `loss_and_metric(labels,
    logits, sample_weight)`, a pair (sum, total) of each; and `num_classes`, where class_weight makes sense.
    """

    num_classes = None
    takes_distributions = False  # whether labels of the shape of the logits are distributions over classes

    def labels_and_logits(self, labels, outputs):
        return {"labels": ("logits", labels, outputs["logits"] if isinstance(outputs, dict) else outputs)}

    def mask_padding(self, x, labels, outputs):
        """Labels and outputs, masked where the inputs `x` are padding."""
        return labels, outputs

    def loss_and_metric(self, labels, logits, sample_weight=None):
        return cross_entropy(labels, logits, sample_weight)

    def named_metrics(self, pairs):
        """The metric's pair of each label -> {metric: pair}."""
        return dict(zip(self.metric_names, pairs))

    def loss_and_metrics(self, x, labels, outputs, sample_weight=None):
        both = [
            self.loss_and_metric(own, logits, _of_label(sample_weight, name))
            for name, (_, own, logits) in self.labels_and_logits(labels, outputs).items()
        ]
        losses, metrics = [loss for loss, _ in both], [metric for _, metric in both]
        return dict(zip(self.loss_factors, losses)), self.named_metrics(metrics)

    def compile(self, optimizer="rmsprop", loss=None, loss_weights=None, metrics=None, weighted_metrics=None, **kwargs):
        """Keras' method. loss: instead of the model's own. All metrics are weighted, to ignore labels of -100."""
        both = [some for some in (metrics, weighted_metrics) if some is not None]
        if len(both) == 2:
            if not all(isinstance(some, (list, tuple)) for some in both):
                raise UserError("give metrics and weighted_metrics as lists, or one of them")
            both = [[*both[0], *both[1]]]
        self.loss = None
        super().compile(optimizer, loss, loss_weights, None, both[0] if both else None, **kwargs)
        if loss is not None:
            self.set_loss_tracker(LossTracker({"compiled": 1.0}))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        y, y_pred = self.mask_padding(x, y, y_pred)
        if getattr(self, "loss", None) is None:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        return self.compiled_loss(x, *self.keras_arguments(y, y_pred, sample_weight), training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        y, y_pred = self.mask_padding(x, y, y_pred)
        arguments = self.keras_arguments(y, y_pred, sample_weight)
        if self._compile_metrics is not None:
            self._compile_metrics.update_state(*arguments)
        if getattr(self, "loss", None) is None:
            return super().compute_metrics(x, y, y_pred, sample_weight)
        total = sum(map(ops.sum, keras.tree.flatten(arguments[2])))
        self._loss_tracker.add({"compiled": (self.compiled_loss(x, *arguments) * total, total)})
        return self.update_metrics(self.loss_and_metrics(x, y, y_pred, sample_weight)[1])

    def keras_arguments(self, labels, outputs, sample_weight=None):
        """Labels, logits and weights for Keras' losses and metrics: an array each, or dictionaries by output.

        Logits without an axis of classes get one. Labels of -100 have the weight 0.
        """
        arguments = {}
        for name, (output, own, logits) in self.labels_and_logits(labels, outputs).items():
            soft = self.takes_distributions and len(own.shape) == len(logits.shape)
            weights = label_weights(own[..., 0] if soft else own, _of_label(sample_weight, name))
            own = ops.where(own == IGNORE_INDEX, ops.zeros_like(own), own)
            if len(own.shape) == len(logits.shape) and not soft:
                own, logits = own[..., None], logits[..., None]
            arguments[output] = own, logits, weights
        if len(arguments) == 1:
            return arguments.popitem()[1]
        return tuple({output: part[i] for output, part in arguments.items()} for i in range(3))

    def compiled_loss(self, x, labels, logits, weights, training=False):
        """The loss of `compile`: a mean over the labels that are not ignored, unless its reduction is a sum."""
        if not any(getattr(loss, "reduction", "") == "sum" for loss in keras.tree.flatten(self.loss)):
            weights = keras.tree.map_structure(
                lambda w: weighted_mean((w * ops.cast(ops.size(w), "float32"), ops.sum(w))), weights
            )
        return keras.Model.compute_loss(self, x, labels, logits, weights, training)

    def fit(self, *args, **kwargs):
        """Keras' method. class_weight: {class: weight} of a classifier; labels of -100 have none."""
        arguments = inspect.signature(keras.Model.fit).bind(self, *args, **kwargs).arguments
        arguments.pop("self")
        class_weight = arguments.pop("class_weight", None)
        if class_weight is not None:
            arguments = self.with_class_weight(arguments, class_weight)
        return super().fit(**arguments)

    def with_class_weight(self, arguments, class_weight):
        """Arguments of `fit`, with the class weights as sample weights."""
        n = self.num_classes
        if n is None:
            raise UserError(f"class_weight is for classifiers with one label a text or word, not {type(self).__name__}")
        if not all(i in range(n) and 0 <= weight < math.inf for i, weight in class_weight.items()):
            raise UserError(f"class_weight must give a weight, 0 or more, to classes of 0 to {n - 1}: {class_weight}")
        if arguments.get("validation_split"):
            raise UserError("class_weight does not go with validation_split; give validation_data")
        table = np.array([class_weight.get(i, 1.0) for i in range(n)], np.float32)
        x, y, sample_weight = (arguments.get(name) for name in ("x", "y", "sample_weight"))

        def weights_of(labels, sample_weight=None):
            weights = label_weights(labels, sample_weight)
            return weights * ops.take(table, ops.clip(ops.cast(labels, "int32"), 0, n - 1))

        if y is not None:
            return arguments | {"sample_weight": ops.convert_to_numpy(weights_of(np.asarray(y), sample_weight))}
        if hasattr(x, "map"):
            return arguments | {"x": x.map(lambda x, y, weights=None: (x, y, weights_of(y, weights)))}
        raise UserError("class_weight needs labels as an array, or a tf.data.Dataset")


def _of_label(sample_weight, name):
    """The weights of one label, where there is a dictionary of them."""
    return sample_weight.get(name) if isinstance(sample_weight, dict) else sample_weight
