"""Activity regularizers for sparse codings (b, k).

Both are means over the batch, so that their strength does not depend on its size; Keras' `L1` is a sum. As a layer's
`activity_regularizer` Keras divides them by the batch size once more; `models.autoencoders` adds them as they are. With
several replicas each regularizes its part of the batch: the mean of their divergences is a little larger than the
divergence of the whole batch.
"""

import keras
from keras import ops


@keras.saving.register_keras_serializable("homl_models")
class L1ActivityRegularizer(keras.regularizers.Regularizer):
    """L1 activity regularization: weight * sum over units of mean |activation|.

    Args:
        weight: factor of the penalty.
    """

    def __init__(self, weight=1e-4):
        self.weight = weight

    def __call__(self, codings):
        return self.weight * ops.sum(ops.mean(ops.abs(ops.cast(codings, "float32")), axis=0))

    def get_config(self):
        return {"weight": self.weight}


@keras.saving.register_keras_serializable("homl_models")
class KLDivergenceRegularizer(keras.regularizers.Regularizer):
    """KL-divergence sparsity: weight * sum over units of KL(p || q) of Bernoulli distributions (equation 17-2).

    p is the target and q a unit's mean activation over the batch, clipped to [1e-7, 1 - 1e-7] so that loss and gradient
    stay finite. Codings lie in [0, 1].

    Args:
        weight: factor of the penalty.
        target: p, in (0, 1), the fraction of images on which a unit should be active; `ValueError` outside.
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
