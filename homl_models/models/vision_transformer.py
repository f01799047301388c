"""Vision Transformer backbone, of ViT, DeiT and BEiT: embeddings of patches, blocks, normalization, pooler.

Images are (b, h, w, c) in [0, 1], or bytes; the model normalizes them by its `image_mean` and `image_std`. Sizes are
the configuration's `image_size` or others of whole patches, for which positions are interpolated; where a graph does
not know the size it is taken for `image_size`.
Names are those of Hugging Face, whose weights `checkpoints/huggingface.py` reads and writes.
Shapes: b batch, (h, w) pixels, c channels, (rows, columns) of patches, n patches, t tokens, d hidden size.
"""

import keras
from keras import ops

from homl_models.errors import UserError
from homl_models.models.image_endpoints import ImageEmbedding
from homl_models.models.vit_layers import RelativePositionBias, ViTBlock, ViTEmbeddings

INPUTS = "images", "bool_masked_pos", "head_mask"


class VisionTransformer(ImageEmbedding):
    """Images (b, h, w, c), or a dictionary of inputs, -> a dictionary of outputs.

    Inputs, all but the images optional: images; bool_masked_pos (b, n) or (b, rows, columns), True for patches that the
    mask token replaces; head_mask (heads,) or (layers, heads), factors of the heads.

    Outputs: last_hidden_state (b, t, d), class tokens first; pooler_output (b, d), if there is a pooler; with
    `output_hidden_states` hidden_states, those of the embeddings and of each block; with `output_attentions`
    attentions, the weights (b, heads, t, t) of each block.

    Base class: a subclass defines `add_norm_and_pooler`, which sets `norm` and `pooler`.

    Args:
        config: of `vit_config.py`.
        add_pooling_layer: whether there is `pooler_output`.
    """

    def __init__(self, config, add_pooling_layer=True, **kwargs):
        super().__init__(**kwargs)
        self.config, self.add_pooling_layer = config, add_pooling_layer
        dtype = self.dtype_policy
        self.embeddings = ViTEmbeddings(config, name="embeddings", dtype=dtype)
        self.relative_position_bias = None
        if config.use_shared_relative_position_bias:
            self.relative_position_bias = RelativePositionBias(config, name="relative_position_bias", dtype=dtype)
        self.blocks = [ViTBlock(config, i, name=f"block_{i}", dtype=dtype) for i in range(config.num_hidden_layers)]
        self.norm = self.pooler = None
        self.add_norm_and_pooler()

    def layer_norm(self, name):
        epsilon = self.config.layer_norm_eps
        return keras.layers.LayerNormalization(epsilon=epsilon, name=name, dtype=self.dtype_policy)

    def add_norm_and_pooler(self):
        """Set the final normalization and the pooler, None for none."""
        raise NotImplementedError

    def pooled_tokens(self, x):
        """Last hidden states (b, t, d) -> what represents an image (b, d), before the pooler: that of [CLS]."""
        return x[:, 0]

    def build(self, input_shape=None):
        for layer in (self.embeddings, self.relative_position_bias):
            if layer:
                layer.build()
        for layer in (*self.blocks, self.norm, self.pooler):
            if layer:
                layer.build((None, None, self.config.hidden_size))
        self.built = True

    def call(self, inputs, training=None, output_hidden_states=False, output_attentions=False):
        inputs = named_inputs(inputs)
        images, head_mask = self.sized_images(inputs["images"]), inputs["head_mask"]
        window = self.config.grid(*images.shape[1:3])
        x = self.embeddings(images, inputs["bool_masked_pos"], training=training)
        bias = self.relative_position_bias(window=window) if self.relative_position_bias else None
        hidden_states, attentions = [x], []
        for i, block in enumerate(self.blocks):
            factors = head_mask if head_mask is None or len(head_mask.shape) == 1 else head_mask[i]
            x, weights = block(x, bias, factors, window=window, training=training)
            hidden_states.append(x)
            attentions.append(weights)
        x = self.norm(x) if self.norm else x
        outputs = {"last_hidden_state": x}
        if self.pooler:
            outputs["pooler_output"] = self.pooler(self.pooled_tokens(x))
        if output_hidden_states:
            outputs["hidden_states"] = tuple(hidden_states)
        if output_attentions:
            outputs["attentions"] = tuple(attentions)
        return outputs

    def sized_images(self, images):
        """Images of a static size; `UserError` for other than (b, h, w, c), or channels that the model has not."""
        shape, c = tuple(images.shape), self.config.num_channels
        if len(shape) != 4:
            raise UserError(f"images must have the shape (n, height, width, {c}), not {shape}")
        if shape[-1] not in (None, c):
            raise UserError(f"images have {shape[-1]} channels; this model takes {c}")
        if None not in shape[1:]:
            return images
        height, width = (size or usual for size, usual in zip(shape[1:3], self.config.image_shape))
        return ops.reshape(images, (-1, height, width, c))

    def feature_maps(self, inputs, indices=None, training=None):
        """Hidden states as maps, a tuple of (b, rows, columns, d), as dense prediction takes them.

        indices: 0 for the embeddings, i for the output of the i-th block; None for the configuration's `out_indices`.
        """
        indices = self.config.out_indices if indices is None else indices
        states = self(inputs, training=training, output_hidden_states=True)["hidden_states"]
        return self.as_maps(inputs, [states[i] for i in indices])

    def as_maps(self, inputs, states):
        """Hidden states (b, t, d) of these inputs -> a tuple of maps (b, rows, columns, d)."""
        images = self.sized_images(named_inputs(inputs)["images"])
        shape = -1, *self.config.grid(*images.shape[1:3]), self.config.hidden_size
        return tuple(ops.reshape(self.patch_tokens(x), shape) for x in states)

    def patch_tokens(self, x):
        """Hidden states (b, t, d) -> those of the patches (b, n, d)."""
        return x[:, len(self.config.class_tokens) :]

    def vectors(self, images):
        """Images -> a vector of each (b, d): the pooler's output, or else what it would get."""
        outputs = self(images, training=False)
        x = outputs["pooler_output"] if self.pooler else self.pooled_tokens(outputs["last_hidden_state"])
        return ops.cast(x, "float32")


def named_inputs(inputs):
    """Images, or a dictionary of inputs -> a dictionary with all `INPUTS`, None for those that are missing."""
    inputs = inputs if isinstance(inputs, dict) else {"images": inputs}
    unknown = set(inputs) - set(INPUTS)
    if unknown:
        raise UserError(f"there are no inputs {', '.join(sorted(unknown))}; there are {', '.join(INPUTS)}")
    if inputs.get("images") is None:
        raise UserError("give images")
    return dict.fromkeys(INPUTS) | inputs
