"""Optimizers that Keras does not have."""

import re

import keras

from homl_models import devices
from homl_models.errors import UserError


class ClipsWhole:
    """An optimizer that clips a gradient as all devices make it together; Keras' clip each device's part of it."""

    def _clip_gradients(self, grads):
        if devices.num_replicas() == 1 or not (self.clipnorm or self.global_clipnorm or self.clipvalue):
            return super()._clip_gradients(grads)
        clipped = super()._clip_gradients(devices.all_reduce_sum(grads))
        return [_divided(grad, devices.num_replicas()) for grad in clipped]  # Keras adds them up once more


def _divided(gradient, number):
    """A gradient, also one of some rows of an embedding (`tf.IndexedSlices`), over a number."""
    if hasattr(gradient, "indices"):
        return type(gradient)(gradient.values / number, gradient.indices, gradient.dense_shape)
    return gradient / number


@keras.saving.register_keras_serializable("homl_models")
class Adam(ClipsWhole, keras.optimizers.Adam):
    """Keras' Adam, whose clipping does not depend on how many devices share a batch."""


@keras.saving.register_keras_serializable("homl_models")
class GANOptimizer(keras.optimizers.Optimizer):
    """The two optimizers of a `models.gan.GAN`, each with its own learning rate and state, as one.

    generator: of the weights below a layer of that name; discriminator: of all others.
    """

    def __init__(self, generator, discriminator, name="alternating", **kwargs):
        super().__init__(learning_rate=lambda: 0.0, name=name, **kwargs)
        self.generator, self.discriminator = generator, discriminator

    @property
    def variables(self):
        return [*self._variables, *self.generator.variables, *self.discriminator.variables]

    def build(self, variables):
        """`variables`: those of the whole model."""
        own = [variable for variable in variables if "generator" in variable.path.split("/")]
        names = {variable.path for variable in own}
        self.generator.build(own)
        self.discriminator.build([variable for variable in variables if variable.path not in names])
        self.built = True

    def apply(self, grads, trainable_variables=None):
        raise TypeError("the model applies each of the two by itself")

    def save_own_variables(self, store):
        store["0"] = self.iterations.numpy()  # the others save themselves

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


@keras.saving.register_keras_serializable("homl_models")
class LayerwiseAdamW(ClipsWhole, keras.optimizers.Adam):
    """AdamW for a model of blocks: neither biases nor normalizations decay, and lower layers may learn more slowly.

    decay: of weights, decoupled from the gradient (Loshchilov & Hutter, 2017, https://arxiv.org/abs/1711.05101).
    num_layers: N, blocks of the model, the layers named block_0, block_1, ...
    layer_decay: d in (0, 1]; the learning rate is d^(N + 2) of the whole for embeddings, d^(N + 1 - i) for block i,
        and the whole for all else (Clark et al., 2020, https://arxiv.org/abs/2003.10555, appendix B). 1 is plain AdamW.
    """

    def __init__(
        self, learning_rate=1e-4, decay=0.01, num_layers=0, layer_decay=1.0, epsilon=1e-6, name="adamw", **kwargs
    ):
        if not 0 < layer_decay <= 1:
            raise UserError(f"the layer decay must lie in (0, 1], not {layer_decay}")
        super().__init__(learning_rate, epsilon=epsilon, name=name, **kwargs)
        self.decay, self.num_layers, self.layer_decay = decay, num_layers, layer_decay

    def share(self, path):
        """Which part of the learning rate is that of the variable of that path."""
        block = re.search(r"/block_(\d+)/", f"/{path}")
        if block:
            return self.layer_decay ** (self.num_layers + 1 - int(block[1]))
        return self.layer_decay ** (self.num_layers + 2) if re.search("/(embeddings|project)/", f"/{path}") else 1.0

    def build(self, variables):
        self.shares = [self.share(variable.path) for variable in variables]
        self.decays = [not variable.name.endswith(("bias", "gamma", "beta")) for variable in variables]
        super().build(variables)

    def update_step(self, gradient, variable, learning_rate):
        i = self._get_variable_index(variable)
        rate = keras.ops.cast(learning_rate, variable.dtype) * self.shares[i]
        if self.decays[i]:
            self.assign_sub(variable, variable * (rate * self.decay))
        super().update_step(gradient, variable, rate)

    def get_config(self):
        own = {name: getattr(self, name) for name in ("decay", "num_layers", "layer_decay")}
        config = super().get_config() | own
        config.pop("weight_decay", None)
        return config
