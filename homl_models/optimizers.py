"""Optimizers: clipping over replicas, a pair for GANs, AdamW with layer-wise learning-rate decay."""

import re

import keras

from homl_models import devices
from homl_models.errors import UserError


class ReplicaClipping:
    """Mixin of optimizers: gradients are clipped after they are summed over replicas.

    Keras' optimizers clip the gradient of each replica by itself, so that a run depends on the number of devices. It
    may go when Keras clips after the sum.
    """

    def _clip_gradients(self, grads):
        if devices.num_replicas() == 1 or not (self.clipnorm or self.global_clipnorm or self.clipvalue):
            return super()._clip_gradients(grads)
        clipped = super()._clip_gradients(devices.all_reduce_sum(grads))
        return [_divided(grad, devices.num_replicas()) for grad in clipped]  # Keras adds them up once more


def _divided(gradient, number):
    """A gradient over a number, also a sparse one of an embedding (`tf.IndexedSlices`)."""
    if hasattr(gradient, "indices"):
        return type(gradient)(gradient.values / number, gradient.indices, gradient.dense_shape)
    return gradient / number


@keras.saving.register_keras_serializable("homl_models")
class Adam(ReplicaClipping, keras.optimizers.Adam):
    """`keras.optimizers.Adam` with clipping over replicas; see `ReplicaClipping`."""


@keras.saving.register_keras_serializable("homl_models")
class GANOptimizer(keras.optimizers.Optimizer):
    """Two optimizers as one, for a `models.gan.GAN`, which applies each of them by itself.

    Args:
        generator: optimizer of the weights below the layer of that name.
        discriminator: optimizer of all others.
    """

    def __init__(self, generator, discriminator, name="gan_optimizer", **kwargs):
        super().__init__(learning_rate=lambda: 0.0, name=name, **kwargs)
        self.generator, self.discriminator = generator, discriminator

    @property
    def variables(self):
        return [*self._variables, *self.generator.variables, *self.discriminator.variables]

    def build(self, variables):
        """`variables`: the trainable ones of the whole model."""
        of_generator = ["generator" in variable.path.split("/") for variable in variables]
        self.generator.build([variable for variable, own in zip(variables, of_generator) if own])
        self.discriminator.build([variable for variable, own in zip(variables, of_generator) if not own])
        self.built = True

    def apply(self, grads, trainable_variables=None):
        raise TypeError("the model applies each of the two optimizers by itself")

    def save_own_variables(self, store):
        store["0"] = self.iterations.numpy()  # Keras saves the two optimizers by themselves

    def load_own_variables(self, store):
        self.iterations.assign(store["0"])

    def get_config(self):
        both = {
            name: keras.saving.serialize_keras_object(getattr(self, name)) for name in ("generator", "discriminator")
        }
        return {"name": self.name, **both}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        both = {name: keras.saving.deserialize_keras_object(config[name]) for name in ("generator", "discriminator")}
        return cls(**config | both)


UNDECAYED = "bias", "gamma", "beta", "cls_token", "distillation_token", "position_embeddings"  # ends of names


@keras.saving.register_keras_serializable("homl_models")
class LayerwiseAdamW(ReplicaClipping, keras.optimizers.Adam):
    """AdamW with layer-wise learning-rate decay; biases, normalizations and class tokens have no weight decay.

    Args:
        learning_rate: of the last layers.
        decay: weight decay, decoupled from the gradient (Loshchilov & Hutter, 2017, https://arxiv.org/abs/1711.05101).
        num_layers: N, number of blocks; they are the layers named block_0, block_1, ...
        layer_decay: d in (0, 1]; the learning rate is multiplied by d^(N + h) for embeddings, by d^(N - 1 - i + h) for
            block i, from 0, and by 1 for all else (Clark et al., 2020, https://arxiv.org/abs/2003.10555, appendix B). 1
            is plain AdamW.
        epsilon: of Adam.
        head_distance: h, powers of d between the head and the last block. The papers do not say it: it is 2 in the code
            of ELECTRA's authors, and 1 in that of BEiT's.
    """

    def __init__(
        self,
        learning_rate=1e-4,
        decay=0.01,
        num_layers=0,
        layer_decay=1.0,
        epsilon=1e-6,
        head_distance=2,
        name="adamw",
        **kwargs,
    ):
        if not 0 < layer_decay <= 1:
            raise UserError(f"the layer decay must lie in (0, 1], not {layer_decay}")
        super().__init__(learning_rate, epsilon=epsilon, name=name, **kwargs)
        self.decay, self.num_layers, self.layer_decay = decay, num_layers, layer_decay
        self.head_distance = head_distance

    def lr_multiplier(self, path):
        """Factor of the learning rate of the variable with that path."""
        block = re.search(r"/block_(\d+)/", f"/{path}")
        if not block and not re.search("/(embeddings|project)/", f"/{path}"):
            return 1.0
        depth = 1 + int(block[1]) if block else 0
        return self.layer_decay ** (self.num_layers + self.head_distance - depth)

    def build(self, variables):
        self.lr_multipliers = [self.lr_multiplier(variable.path) for variable in variables]
        self.decays = [not variable.name.endswith(UNDECAYED) for variable in variables]
        super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        i = self._get_variable_index(variable)
        rate = keras.ops.cast(learning_rate, variable.dtype) * self.lr_multipliers[i]
        if self.decays[i]:
            self.assign_sub(variable, variable * (rate * self.decay))
        super().update_step(gradient, variable, rate)

    def get_config(self):
        own = {name: getattr(self, name) for name in ("decay", "num_layers", "layer_decay", "head_distance")}
        config = super().get_config() | own
        config.pop("weight_decay", None)
        return config
