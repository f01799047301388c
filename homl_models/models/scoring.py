"""Losses and metrics of the heads of BERT and ELECTRA: sums over what counts, divided by its number.

A batch gives pairs (sum, total): of losses or right answers, each times its weight, and of the weights. The loss that
a step minimizes is the mean over its batch; what is reported is the mean over all batches, the same for every batch
size, whatever rows of padding there are. Labels of -100 do not count. Shapes: b batch, v vocabulary or labels.
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

IGNORED = -100  # label of what does not count


def largest(x):
    """Where along the last axis of x (..., v) the largest number is: (...), int32.

    As `ops.argmax`, which on a CPU XLA computes number by number, what leads to x with it: for 544
    places and 8,192 words 28 ms instead of 8, with Gumbel noise added to the logits 190 instead of 22.
    """
    return ops.cast(ops.top_k(x, 1)[1][..., 0], "int32")


def mean(pair):
    """(sum, total) -> sum / total, 0 where nothing counts."""
    return pair[0] / ops.where(pair[1] > 0, pair[1], 1.0)


def counted(labels, weights=None):
    """How much each of the labels (b, ...) counts, float32: `weights` (b,) or (b, ...), by default 1; 0 for -100."""
    counts = ops.cast(labels != IGNORED, "float32")
    if weights is None:
        return counts
    weights = ops.cast(weights, "float32")
    if len(weights.shape) > len(counts.shape):  # (b, 1), as Keras may have it
        weights = ops.reshape(weights, ops.shape(counts))
    more = len(counts.shape) - len(weights.shape)
    return counts * ops.reshape(weights, (*ops.shape(weights), *(1,) * more))


def cross_entropy(labels, logits, weights=None):
    """Labels (...), logits (..., v) -> pairs (sum, total) of cross-entropies, and of what is right."""
    counts = counted(labels, weights)
    labels, logits = ops.cast(ops.where(labels == IGNORED, 0, labels), "int32"), ops.cast(logits, "float32")
    wanted = ops.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    right = ops.cast(largest(logits) == labels, "float32")
    total = ops.sum(counts)
    return (ops.sum(counts * (ops.logsumexp(logits, axis=-1) - wanted)), total), (ops.sum(counts * right), total)


def binary_cross_entropy(labels, logits, weights=None):
    """Labels (...), 1 or 0, and logits (...) -> pairs (sum, total) of cross-entropies, and of what is right."""
    counts, wanted = counted(labels, weights), ops.cast(labels == 1, "float32")
    right = ops.cast((logits > 0) == (wanted > 0), "float32")
    total = ops.sum(counts)
    return (ops.sum(counts * (ops.softplus(logits) - wanted * logits)), total), (ops.sum(counts * right), total)


class LossTracker(keras.metrics.Metric):
    """The mean of each loss over all batches, times its factor, added up.

    Keras' own, which it stands for, takes the mean of the batches' losses by their rows: padding and all.
    """

    def __init__(self, factors, name="loss", **kwargs):
        super().__init__(name=name, **kwargs)
        self.factors, self.means = factors, {key: keras.metrics.Mean(key) for key in factors}

    def update_state(self, values, sample_weight=None):
        """Called by Keras with the loss of a batch; what counts comes by `add`."""

    def add(self, pairs):
        for key, pair in pairs.items():
            self.means[key].update_state(mean(pair), pair[1])

    def result(self):
        return sum(factor * self.means[key].result() for key, factor in self.factors.items())


class Scored(Model):
    """A model with losses of its own, whose sum it learns.

    A subclass has `loss_factors` {loss: factor}, `metric_names`, and `judge(x, labels, outputs, weights)`, which gives
    {loss: pair} and {metric: pair}.
    """

    metric_names = ("accuracy",)
    loss_factors = {"labels": 1.0}

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.trackers = {name: keras.metrics.Mean(name) for name in self.metric_names}

    def compile(self, *args, **kwargs):
        super().compile(*args, **kwargs)
        self.track_loss(LossTracker(dict(self.loss_factors)))

    @no_automatic_dependency_tracking
    def track_loss(self, tracker):
        """Take a tracker in place of Keras' own."""
        self._loss_tracker = tracker

    def compile_from_config(self, config):
        """Keras', which leaves this out where `compile` is not its own."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def judge(self, x, labels, outputs, weights=None):
        raise TypeError(f"{type(self).__name__} must say what its losses are")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The mean over the batch of all devices: this device's share of it, see `losses.mean`."""
        losses, _ = self.judge(x, y, y_pred, sample_weight)
        return sum(
            factor * mean((losses[key][0], devices.all_reduce_sum(losses[key][1])))
            for key, factor in self.loss_factors.items()
        )

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        losses, metrics = self.judge(x, y, y_pred, sample_weight)
        if self._loss_tracker is not None:
            self._loss_tracker.add(losses)
        return self.update_metrics(metrics)

    def update_metrics(self, metrics):
        for name, pair in metrics.items():
            self.trackers[name].update_state(mean(pair), pair[1])
        return self.get_metrics_result()


class ScoredByLabels(Scored):
    """A model that learns labels, by losses of its own or that of `compile`; takes weights of samples and of classes.

    Outputs are logits, or a dictionary of them; labels an array, or a dictionary. A weight of 2 is the example twice:
    sample_weight is (b,), or of the labels' shape, or a dictionary of such like that of the labels.

    A subclass has `pairs(labels, outputs)`, {label: (output, labels, logits)}, `score(labels, logits, weights)`, the
    pairs (sum, total) of the loss and of the metric, and `num_classes`, where class_weight makes sense.
    """

    num_classes = None

    def pairs(self, labels, outputs):
        return {"labels": ("logits", labels, outputs["logits"] if isinstance(outputs, dict) else outputs)}

    def placed(self, x, labels, outputs):
        """Labels and outputs, where what counts depends on the inputs `x`."""
        return labels, outputs

    def score(self, labels, logits, weights=None):
        return cross_entropy(labels, logits, weights)

    def metrics_of(self, pairs):
        """The second pair of `score` of each label -> {metric: pair}."""
        return dict(zip(self.metric_names, pairs))

    def judge(self, x, labels, outputs, weights=None):
        found = [
            self.score(wanted, logits, weights.get(name) if isinstance(weights, dict) else weights)
            for name, (_, wanted, logits) in self.pairs(labels, outputs).items()
        ]
        return dict(zip(self.loss_factors, (loss for loss, _ in found))), self.metrics_of([pair for _, pair in found])

    def compile(self, optimizer="rmsprop", loss=None, loss_weights=None, metrics=None, weighted_metrics=None, **kwargs):
        """Keras'. loss: instead of the model's own. All metrics are weighted, so that what does not count does not."""
        both = [some for some in (metrics, weighted_metrics) if some is not None]
        if len(both) == 2:
            if not all(isinstance(some, (list, tuple)) for some in both):
                raise UserError("give metrics and weighted_metrics as lists, or one of them")
            both = [[*both[0], *both[1]]]
        self.loss = None
        super().compile(optimizer, loss, loss_weights, None, both[0] if both else None, **kwargs)
        if loss is not None:
            self.track_loss(LossTracker({"given": 1.0}))

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        y, y_pred = self.placed(x, y, y_pred)
        if getattr(self, "loss", None) is None:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        return self.given_loss(x, *self.for_keras(y, y_pred, sample_weight), training)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        y, y_pred = self.placed(x, y, y_pred)
        given = self.for_keras(y, y_pred, sample_weight)
        if self._compile_metrics is not None:
            self._compile_metrics.update_state(*given)
        if getattr(self, "loss", None) is None:
            return super().compute_metrics(x, y, y_pred, sample_weight)
        total = sum(map(ops.sum, keras.tree.flatten(given[2])))
        self._loss_tracker.add({"given": (self.given_loss(x, *given) * total, total)})
        return self.update_metrics(self.judge(x, y, y_pred, sample_weight)[1])

    def for_keras(self, labels, outputs, weights=None):
        """Labels, logits and weights for losses and metrics of Keras: an array each, or dictionaries by output.

        Logits that are one number a label have a last axis for it. What does not count has the weight 0.
        """
        found = {}
        for name, (output, wanted, logits) in self.pairs(labels, outputs).items():
            counts = counted(wanted, weights.get(name) if isinstance(weights, dict) else weights)
            wanted = ops.where(wanted == IGNORED, ops.zeros_like(wanted), wanted)
            if len(wanted.shape) == len(logits.shape):
                wanted, logits = wanted[..., None], logits[..., None]
            found[output] = wanted, logits, counts
        if len(found) == 1:
            return found.popitem()[1]
        return tuple({output: part[i] for output, part in found.items()} for i in range(3))

    def given_loss(self, x, labels, logits, counts, training=False):
        """The loss of `compile`: a mean over what counts, unless it is to be a sum."""
        if not any(getattr(loss, "reduction", "") == "sum" for loss in keras.tree.flatten(self.loss)):
            counts = keras.tree.map_structure(
                lambda c: mean((c * ops.cast(ops.size(c), "float32"), ops.sum(c))), counts
            )
        return keras.Model.compute_loss(self, x, labels, logits, counts, training)

    def fit(self, *args, **kwargs):
        """Keras'. class_weight: {class: weight} of a classifier; labels of -100 have none."""
        given = inspect.signature(keras.Model.fit).bind(self, *args, **kwargs).arguments
        given.pop("self")
        weights = given.pop("class_weight", None)
        return super().fit(**given if weights is None else self.weighted(given, weights))

    def weighted(self, given, class_weight):
        """Arguments of `fit`, with the weights of classes as those of samples."""
        n = self.num_classes
        if n is None:
            raise UserError(f"class_weight is for classifiers with one label a text or word, not {type(self).__name__}")
        if not all(i in range(n) and 0 <= weight < math.inf for i, weight in class_weight.items()):
            raise UserError(f"class_weight must give a weight, 0 or more, to classes of 0 to {n - 1}: {class_weight}")
        if given.get("validation_split"):
            raise UserError("class_weight does not go with validation_split; give validation_data")
        table = np.array([class_weight.get(i, 1.0) for i in range(n)], np.float32)
        x, y, weights = (given.get(name) for name in ("x", "y", "sample_weight"))

        def of(labels, weights=None):
            weights = counted(labels, weights)
            return weights * ops.take(table, ops.clip(ops.cast(labels, "int32"), 0, n - 1))

        if y is not None:
            return given | {"sample_weight": ops.convert_to_numpy(of(np.asarray(y), weights))}
        if hasattr(x, "map"):
            return given | {"x": x.map(lambda x, y, weights=None: (x, y, of(y, weights)))}
        raise UserError("class_weight needs labels as an array, or a tf.data.Dataset")
