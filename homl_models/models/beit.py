"""BEiT: BERT pre-training of image Transformers (Bao et al., 2021, https://arxiv.org/abs/2106.08254).

An image has two views: patches, which a vision Transformer reads, and visual tokens, which a discrete VAE gives. About
40 % of the patches are masked in blocks, and the model predicts the visual tokens of those (section 2.3, equation 3).
Fine-tuned it takes the mean over patches.
The configuration is in `vit_config.py`, the backbone in `vision_transformer.py`, the layers in `vit_layers.py`.
Shapes: b batch, n patches, t = n + 1 tokens, k masked patches, v visual tokens, d hidden size.

Beyond the paper, as in its authors' code: relative positions instead of absolute ones, layer scale, stochastic depth,
no bias of keys.
"""

import keras
import numpy as np
from keras import ops

from homl_models.errors import UserError
from homl_models.models.backbone_head import BackboneHead
from homl_models.models.image_endpoints import ImageEmbedding
from homl_models.models.vision_heads import ImageClassifier
from homl_models.models.vision_transformer import VisionTransformer
from homl_models.models.vit_config import BEIT_BASE


@keras.saving.register_keras_serializable("homl_models")
class Beit(VisionTransformer):
    """BEiT's backbone, of images in [0, 1]; see `VisionTransformer`.

    With `use_mean_pooling` the last hidden state is not normalized, and the pooler is the normalized mean over patches;
    or else it is normalized, and the pooler takes [CLS].

    Args:
        config: a `BeitConfig`.
        add_pooling_layer: whether there is `pooler_output`.
    """

    def __init__(self, config=BEIT_BASE, add_pooling_layer=True, **kwargs):
        super().__init__(config, add_pooling_layer, **kwargs)

    def add_norm_and_pooler(self):
        mean = self.config.use_mean_pooling
        self.norm = None if mean else self.layer_norm("norm")
        if self.add_pooling_layer:
            self.pooler = self.layer_norm("pooler") if mean else keras.layers.Identity(name="pooler")

    def pooled_tokens(self, x):
        return ops.mean(self.patch_tokens(x), axis=1) if self.config.use_mean_pooling else x[:, 0]


@keras.saving.register_keras_serializable("homl_models")
class BeitForImageClassification(ImageClassifier):
    """Images -> logits (b, n) of labels, from the pooler's output; see `ImageClassifier`.

    Args:
        backbone: a `Beit` with `add_pooling_layer`.
        num_labels, labels: see `ImageClassifier`.
    """

    uses_pooler = True

    def features(self, outputs):
        return outputs["pooler_output"]


@keras.saving.register_keras_serializable("homl_models")
class BeitForMaskedImageModeling(ImageEmbedding, BackboneHead):
    """Images with masked patches -> logits of the visual tokens of all patches (b, n, v).

    Inputs are those of the backbone, of which `bool_masked_pos` says the masked patches. If they have
    "masked_positions" as well, numbers (b, k) of patches, logits are of those only (b, k, v), which saves the most of
    the head's work. Labels (b, n), or (b, k): visual tokens, -100 for those without loss.

    Args:
        backbone: a `Beit` with `use_mask_token`.
    """

    required_config = {"use_mask_token": True}

    def __init__(self, backbone, **kwargs):
        super().__init__(backbone, **kwargs)
        self.norm = backbone.layer_norm("norm")
        self.lm_head = self.dense(backbone.config.vocab_size, name="lm_head")

    def head_layers(self):
        return [self.norm, self.lm_head]

    def check_arrays(self, x, y):
        check_positions(x, self.backbone.config)

    def split_inputs(self, inputs):
        if not isinstance(inputs, dict) or "masked_positions" not in inputs:
            return inputs, {}
        own = {"masked_positions": inputs["masked_positions"]}
        return {name: value for name, value in inputs.items() if name not in own}, own

    def logits(self, outputs, training=None):
        x = self.backbone.patch_tokens(outputs["last_hidden_state"])
        if "masked_positions" in outputs:
            x = ops.take_along_axis(x, ops.cast(outputs["masked_positions"], "int32")[..., None], axis=1)
        return ops.cast(self.lm_head(self.norm(x)), "float32")


def check_positions(inputs, config):
    """`UserError` for masked_positions of a dictionary of arrays that are no numbers of patches."""
    if not isinstance(inputs, dict) or not {"images", "masked_positions"} <= set(inputs):
        return
    images, positions = inputs["images"], np.asarray(inputs["masked_positions"])
    rows, columns = config.grid(*images.shape[1:3])
    if positions.ndim != 2 or positions.dtype.kind not in "iu":
        raise UserError(f"masked_positions must be whole numbers (n, k), not {positions.dtype} {positions.shape}")
    if positions.size and not 0 <= positions.min() <= positions.max() < rows * columns:
        found = f"{positions.min()} to {positions.max()}"
        raise UserError(f"masked_positions are {found}; the patches of the images are 0 to {rows * columns - 1}")
