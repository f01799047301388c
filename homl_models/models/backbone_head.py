"""Base class of heads: a backbone, of texts or images, with layers on top of it."""

from homl_models.errors import UserError
from homl_models.layers.dense import Dense
from homl_models.models.scoring import SupervisedModel


class BackboneHead(SupervisedModel):
    """A backbone with layers on top of it: inputs -> logits, or a dictionary of them.

    With `output_hidden_states` or `output_attentions` always a dictionary, which has those as well.
    A subclass has `logits(outputs, training)`, of the backbone's outputs, and what `SupervisedModel` asks for.

    Args:
        backbone: a model with a `config`.
    """

    uses_pooler = False  # whether it takes the pooler's output
    required_config = {}  # of the backbone, {field: value}

    def __init__(self, backbone, **kwargs):
        super().__init__(**kwargs)
        if self.uses_pooler and not backbone.pooler:
            raise UserError(f"{type(self).__name__} needs a backbone with add_pooling_layer")
        for name, value in self.required_config.items():
            if getattr(backbone.config, name) != value:
                raise UserError(f"{type(self).__name__} needs a backbone with {name}={value}")
        self.backbone = backbone

    def dense(self, units, **settings):
        """A dense layer that is initialized as the backbone's."""
        start = self.backbone.config.initializer
        return Dense(units, kernel_initializer=start, dtype=self.dtype_policy, **settings)

    def build(self, input_shape=None):
        if not self.backbone.built:
            self.backbone.build()
        for layer in self.head_layers():
            layer.build((None, self.backbone.config.hidden_size))
        self.built = True

    def head_layers(self):
        """The layers to build, whose inputs have the hidden size."""
        return []

    def call(self, inputs, training=None, output_hidden_states=False, output_attentions=False):
        inputs, head_inputs = self.split_inputs(inputs)
        options = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        outputs = self.backbone(inputs, training=training, **options)
        logits = self.logits(outputs | head_inputs, training)
        if not any(options.values()):
            return logits
        names = "hidden_states", "attentions", "cross_attentions"
        more = {name: outputs[name] for name in names if name in outputs}
        return (logits if isinstance(logits, dict) else {"logits": logits}) | more

    def split_inputs(self, inputs):
        """Inputs -> those of the backbone, and a dictionary of those of the head."""
        return inputs, {}


def checked_label_names(labels, num_labels):
    """The names of labels, by default LABEL_0, LABEL_1, ...; `UserError` for another number of them."""
    if labels and len(labels) != num_labels:
        raise UserError(f"{len(labels)} names are given for {num_labels} labels")
    return tuple(labels) or tuple(f"LABEL_{i}" for i in range(num_labels))
