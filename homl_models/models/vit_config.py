"""Configurations of ViT, DeiT and BEiT: frozen dataclasses that model, blocks and embeddings share.

Fields are named as in Hugging Face's classes of the same names, and mean the same. Further ones say how images are
prepared (there in preprocessor_config.json) and how positions are interpolated.
"""

import dataclasses
import math

import keras

from homl_models.errors import UserError
from homl_models.models.bert_config import ACTIVATIONS

RESAMPLING = "nearest", "bilinear", "bicubic"
BIAS_INTERPOLATIONS = "geometric", "bilinear"
CHOICES = {
    "hidden_act": ACTIVATIONS, "pooler_act": ACTIVATIONS, "resample": RESAMPLING,
    "position_interpolation": BIAS_INTERPOLATIONS,
}  # fmt: skip
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """Base class: fields of all vision Transformers. `UserError` for values that cannot be.

    `dataclasses.replace(config, num_hidden_layers=4)` makes a variant. It is saved with the model.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    """Hidden units of the feed-forward networks."""
    hidden_act: str = "gelu"
    """One of `bert_config.ACTIVATIONS`."""
    hidden_dropout_prob: float = 0.0
    """Dropout rate of the embeddings and of the output of every sub-layer."""
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    """Standard deviation of new kernels and embeddings."""
    layer_norm_eps: float = 1e-12
    """1e-6 in the models of BEiT's authors."""
    image_size: int | tuple = 224
    """Height and width in pixels: one number for both, or two."""
    patch_size: int | tuple = 16
    """Height and width in pixels: one number for both, or two."""
    num_channels: int = 3
    gradient_checkpointing: bool = False
    """Compute the blocks' activations again for the gradients, to save memory."""
    image_mean: float | tuple = 0.5
    """Mean by which images in [0, 1] are normalized, or one for each channel; 0 for images that are normalized."""
    image_std: float | tuple = 0.5
    """Standard deviation by which they are normalized, or one for each channel; 1 for images that are normalized."""
    resample: str = "bilinear"
    """Interpolation by which endpoints resize images: one of `RESAMPLING`."""
    crop_fraction: float = 1.0
    """Share of the height and width of a resized image that the model sees, in its middle."""

    # What embeddings and blocks ask for; subclasses differ in it.
    class_tokens = ("cls_token",)  # names of the embeddings before those of the patches
    use_absolute_position_embeddings = True
    use_relative_position_bias = False
    use_shared_relative_position_bias = False
    position_interpolation = BIAS_INTERPOLATIONS[0]
    use_mask_token = False
    drop_path_rate = 0.0
    layer_scale = None
    projection_biases = (True, True, True, True)  # of queries, keys, values and attention's output

    def __post_init__(self):
        for name in self.field_names():
            value = getattr(self, name)
            object.__setattr__(self, name, tuple(value) if isinstance(value, (list, tuple)) else value)
            if name in CHOICES and value not in CHOICES[name]:
                raise UserError(f"{name} must be one of {', '.join(CHOICES[name])}, not {value!r}")
        if self.hidden_size % self.num_attention_heads:
            raise UserError(f"{self.num_attention_heads} heads do not divide the hidden size {self.hidden_size}")
        for name in ("image_mean", "image_std"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != self.num_channels:
                raise UserError(f"{name} must be a number, or {self.num_channels}, one a channel, not {value}")
        if not 0 < self.crop_fraction <= 1:
            raise UserError(f"crop_fraction must lie in (0, 1], not {self.crop_fraction}")
        self.grid(*self.image_shape)

    @property
    def image_shape(self):
        """(height, width) in pixels."""
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size,) * 2

    @property
    def patch_shape(self):
        """(height, width) of a patch, in pixels."""
        return self.patch_size if isinstance(self.patch_size, tuple) else (self.patch_size,) * 2

    def grid(self, height, width):
        """(rows, columns) of patches of an image; `UserError` for sizes that do not divide into patches."""
        h, w = self.patch_shape
        if height % h or width % w or min(height, width) < 1:
            raise UserError(f"images of {height}x{width} do not divide into patches of {h}x{w}; resize them")
        return height // h, width // w

    @property
    def window(self):
        """(rows, columns) of patches of an image of `image_size`."""
        return self.grid(*self.image_shape)

    @property
    def num_patches(self):
        return math.prod(self.window)

    @property
    def activation(self):
        return ACTIVATIONS[self.hidden_act]

    @property
    def initializer(self):
        """A new initializer of kernels and embeddings."""
        return keras.initializers.TruncatedNormal(stddev=self.initializer_range)

    def output_initializer(self, index):
        """A new initializer of the last kernel of both sub-layers of block `index`, from 0."""
        return self.initializer

    def drop_path(self, index):
        """Rate of stochastic depth of block `index`: from 0 in the first to `drop_path_rate` in the last."""
        return self.drop_path_rate * index / max(self.num_hidden_layers - 1, 1)

    @classmethod
    def field_names(cls):
        return [field.name for field in dataclasses.fields(cls)]

    def get_config(self):
        """For Keras, which saves the configuration with the model."""
        return {name: getattr(self, name) for name in self.field_names()}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable("homl_models")
@dataclasses.dataclass(frozen=True)
class ViTConfig(VisionConfig):
    """Configuration of a `ViT`; the defaults are ViT-base's. See `VisionConfig`."""

    qkv_bias: bool = True
    """Whether queries, keys and values have a bias."""
    pooler_output_size: int | None = None
    """Units of the pooler; None for the hidden size."""
    pooler_act: str = "tanh"
    encoder_stride: int = 16
    """Of the masked image modelling of `transformers`; it is kept, and not used."""

    @property
    def projection_biases(self):
        return (*(self.qkv_bias,) * 3, True)


@keras.saving.register_keras_serializable("homl_models")
@dataclasses.dataclass(frozen=True)
class DeiTConfig(ViTConfig):
    """Configuration of a `DeiT`; the defaults are DeiT-base's. See `VisionConfig`."""

    image_mean: float | tuple = IMAGENET_MEAN
    image_std: float | tuple = IMAGENET_STD
    resample: str = "bicubic"
    crop_fraction: float = 0.875

    class_tokens = ("cls_token", "distillation_token")


@keras.saving.register_keras_serializable("homl_models")
@dataclasses.dataclass(frozen=True)
class BeitConfig(VisionConfig):
    """Configuration of a `Beit`; the defaults are those of `transformers`. See `VisionConfig`.

    Pre-training by the paper has `use_shared_relative_position_bias` and `use_mask_token`, fine-tuning
    `use_relative_position_bias`.
    """

    vocab_size: int = 8192
    """Number of visual tokens."""
    resample: str = "bicubic"
    use_mask_token: bool = False
    use_absolute_position_embeddings: bool = False
    use_relative_position_bias: bool = False
    """A table in every block."""
    use_shared_relative_position_bias: bool = False
    """One table for all blocks."""
    position_interpolation: str = "geometric"
    """How tables of relative positions get another size: "geometric", by BEiT's authors, or "bilinear", by
    `transformers`; see `layers.interpolation`."""
    layer_scale_init_value: float = 0.1
    """1e-5 for BEiT-large; 0 for no layer scale."""
    drop_path_rate: float = 0.1
    """Rate of stochastic depth of the last block."""
    use_mean_pooling: bool = True
    """The pooler takes the mean over patches, normalized, instead of [CLS]."""
    out_features: tuple | None = None
    out_indices: tuple | None = None
    """Hidden states that segmentation takes; 0 for the embeddings, i for the output of the i-th block."""
    pool_scales: tuple = (1, 2, 3, 6)
    use_auxiliary_head: bool = True
    auxiliary_loss_weight: float = 0.4
    auxiliary_channels: int = 256
    auxiliary_num_convs: int = 1
    auxiliary_concat_input: bool = False
    semantic_loss_ignore_index: int = 255
    add_fpn: bool = False
    batch_norm_eps: float = 1e-5
    """Of the feature pyramid of a `BeitBackbone`."""
    reshape_hidden_states: bool = True

    projection_biases = (True, False, True, True)

    @property
    def layer_scale(self):
        return self.layer_scale_init_value or None

    def output_initializer(self, index):
        """With a standard deviation divided by sqrt(2 l) in the l-th block, from 1 (section 2.4)."""
        return keras.initializers.TruncatedNormal(stddev=self.initializer_range / math.sqrt(2 * (index + 1)))


VIT_BASE, DEIT_BASE, BEIT_BASE = ViTConfig(), DeiTConfig(), BeitConfig()
