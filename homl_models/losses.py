"""Losses that Keras does not have, and the mean over a batch that several devices share."""

import keras
from keras import ops

from homl_models import devices


def mean(values, weights=None):
    """The mean of `values`, each with its weight, over the batch of all devices: this device's share of it.

    What every `compute_loss` returns, since gradients of devices are added up. values: any shape; weights: one that
    broadcasts to it, 1 by default. 0 where all weights are 0. On one device it is the weighted mean.
    """
    values = ops.cast(values, "float32")
    if weights is None:
        return ops.sum(values) / devices.all_reduce_sum(ops.cast(ops.size(values), "float32"))
    weights = ops.broadcast_to(ops.cast(weights, "float32"), ops.shape(values))
    return ops.divide_no_nan(ops.sum(values * weights), devices.all_reduce_sum(ops.sum(weights)))


@keras.saving.register_keras_serializable("homl_models")
class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy of logits (..., v) with label smoothing: targets ids (...), masked ones left out of the mean.

    The target distribution has 1 - smoothing + smoothing / v at the target and smoothing / v elsewhere
    (Szegedy et al., 2015, section 7, https://arxiv.org/abs/1512.00567). smoothing 0 is plain cross-entropy.
    """

    def __init__(self, smoothing=0.1, name="smoothed_crossentropy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.smoothing = smoothing

    def call(self, y_true, y_pred):
        y_pred = ops.cast(y_pred, "float32")
        norm = ops.logsumexp(y_pred, axis=-1)
        wanted = ops.take_along_axis(y_pred, ops.cast(y_true, "int32")[..., None], axis=-1)[..., 0]
        loss = norm - wanted
        if self.smoothing:
            loss = (1 - self.smoothing) * loss + self.smoothing * (norm - ops.mean(y_pred, axis=-1))
        return loss

    def get_config(self):
        return {**super().get_config(), "smoothing": self.smoothing}
