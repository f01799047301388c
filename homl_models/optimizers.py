"""Optimizers that Keras does not have."""

import keras


@keras.saving.register_keras_serializable("homl_models")
class Alternating(keras.optimizers.Optimizer):
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
