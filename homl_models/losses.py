"""Losses that Keras lacks, and the weighted mean over a batch that is split over replicas."""

import math

import keras
from keras import ops

from homl_models import devices


def mean(values, weights=None):
    """Weighted mean of `values` over the global batch: this replica's sum over the total weight of all replicas.

    Every `compute_loss` returns it, since gradients of replicas are added up; on one device it is the weighted mean.
    values: any shape. weights: broadcast to it, 1 by default. 0 where all weights are 0.
    """
    values = ops.cast(values, "float32")
    if weights is None:
        return ops.sum(values) / devices.all_reduce_sum(ops.cast(ops.size(values), "float32"))
    weights = ops.broadcast_to(ops.cast(weights, "float32"), ops.shape(values))
    return ops.divide_no_nan(ops.sum(values * weights), devices.all_reduce_sum(ops.sum(weights)))


def logit_laplace(x, mu, ln_b):
    """Negative log-density of the logit-Laplace distribution, elementwise: x in (0, 1), mu and ln_b -> ln(1 / f(x)).

    f(x) = exp(-|logit(x) - mu| / b) / (2 b x (1 - x)) (Ramesh et al., 2021, https://arxiv.org/abs/2102.12092,
    equation 2): the distribution of sigmoid(y) for y of a Laplace distribution of location mu and scale b.
    """
    logit = ops.log(x) - ops.log1p(-x)
    return math.log(2.0) + ln_b + ops.log(x) + ops.log1p(-x) + ops.abs(logit - mu) * ops.exp(-ln_b)


@keras.saving.register_keras_serializable("homl_models")
class SmoothedCrossentropy(keras.losses.Loss):
    """Sparse categorical cross-entropy with label smoothing: targets ids (...), logits (..., v); masks are honoured.

    The target distribution is 1 - smoothing + smoothing / v at the target and smoothing / v elsewhere
    (Szegedy et al., 2015, section 7, https://arxiv.org/abs/1512.00567). Replaces
    `keras.losses.SparseCategoricalCrossentropy`, which has no label smoothing.

    Args:
        smoothing: in [0, 1); 0 for plain cross-entropy.
    """

    def __init__(self, smoothing=0.1, name="smoothed_crossentropy", **kwargs):
        super().__init__(name=name, **kwargs)
        self.smoothing = smoothing

    def call(self, y_true, y_pred):
        y_pred = ops.cast(y_pred, "float32")
        norm = ops.logsumexp(y_pred, axis=-1)
        target = ops.take_along_axis(y_pred, ops.cast(y_true, "int32")[..., None], axis=-1)[..., 0]
        loss = norm - target
        if self.smoothing:
            loss = (1 - self.smoothing) * loss + self.smoothing * (norm - ops.mean(y_pred, axis=-1))
        return loss

    def get_config(self):
        return {**super().get_config(), "smoothing": self.smoothing}
