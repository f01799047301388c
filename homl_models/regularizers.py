"""Regularizers of activations, for sparse codings (b, c).

Both are means over the batch, so that the batch size does not change their strength. As a layer's
`activity_regularizer` they are divided by the batch size once more, by Keras; `models.autoencoders`
adds them as they are. Of several devices each regularizes its own part of the batch: the mean of their
divergences is a little larger than the divergence of the whole.
"""

import keras
from keras import ops


@keras.saving.register_keras_serializable("homl_models")
class L1ActivityRegularizer(keras.regularizers.Regularizer):
    """weight * the sum over the units of their mean size."""

    def __init__(self, weight=1e-4):
        self.weight = weight

    def __call__(self, codings):
        return self.weight * ops.sum(ops.mean(ops.abs(ops.cast(codings, "float32")), axis=0))

    def get_config(self):
        return {"weight": self.weight}


@keras.saving.register_keras_serializable("homl_models")
class KLDivergenceRegularizer(keras.regularizers.Regularizer):
    """weight * the sum over the units of KL(target || mean activity), both as Bernoulli distributions (equation 17-2).

    codings in [0, 1]; target in (0, 1), the share of the time that a unit should be active. A mean
    activity of 0 or 1 is taken as 1e-7 from it, so that loss and gradient stay finite.
    """

    def __init__(self, weight=5e-3, target=0.1):
        if not 0 < target < 1:
            raise ValueError(f"target must lie in (0, 1), not {target}")
        self.weight, self.target = weight, target

    def __call__(self, codings):
        p, q = self.target, ops.clip(ops.mean(ops.cast(codings, "float32"), axis=0), 1e-7, 1 - 1e-7)
        return self.weight * ops.sum(p * ops.log(p / q) + (1 - p) * ops.log((1 - p) / (1 - q)))

    def get_config(self):
        return {"weight": self.weight, "target": self.target}
