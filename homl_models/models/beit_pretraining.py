"""Pre-training of BEiT: masked image modelling with its tokenizer (Bao et al., 2021, section 2.3; see `beit.py`).

A frozen discrete VAE gives the visual tokens of an image, and the model predicts those of the masked patches,
max sum_(i in M) log p(z_i | x^M) (equation 1). Tokens are computed within the training step: crops are new in each, so
that none can be kept, and there it works on every backend, at 5 % of the step's time for 6 blocks of 192 and the small
tokenizer. The tokenizer is saved with the model, which so can show what it fills in. Recipe: `beit_pretrain`.
Shapes: b batch, (h, w) rows and columns of patches, n = h w patches, k masked patches, v visual tokens, c channels.
"""

import keras
from keras import ops

from homl_models.base import freeze
from homl_models.endpoints import Endpoint, Image, Input
from homl_models.errors import UserError
from homl_models.models.beit import check_positions
from homl_models.models.scoring import WeightedLossModel, cross_entropy, fast_argmax

HEAD_INPUTS = "images", "bool_masked_pos", "masked_positions"


@keras.saving.register_keras_serializable("homl_models")
class BeitPretrainer(WeightedLossModel):
    """Batches of `pipelines.masked_images` -> {"logits": (b, k, v), "tokens": (b, k)} of the masked patches.

    Inputs: a dictionary of images (b, height, width, c) and token_images (b, f h, f w, c), two views of a crop in
    [0, 1], f the stride of the tokenizer; bool_masked_pos (b, h, w) or (b, n); masked_positions (b, k), the numbers of
    the masked patches.

    Args:
        head: a `BeitForMaskedImageModeling`.
        tokenizer: a trained `DVAE` with as many codes as the head has tokens; it is not trained further.
    """

    def __init__(self, head, tokenizer, **kwargs):
        super().__init__(**kwargs)
        config = head.backbone.config
        if tokenizer.vocab_size != config.vocab_size:
            raise UserError(f"the tokenizer has {tokenizer.vocab_size} codes; vocab_size is {config.vocab_size}")
        if tokenizer.channels != config.num_channels:
            raise UserError(f"the tokenizer takes {tokenizer.channels} channels; num_channels is {config.num_channels}")
        self.head, self.tokenizer = head, tokenizer
        self.token_shape = tuple(n * tokenizer.stride for n in config.window)

    @property
    def pretrained_head(self):
        """The head, which fine-tuning starts from."""
        return self.head

    @property
    def config(self):
        return self.head.backbone.config

    def build(self, input_shape=None):
        for model in (self.head, self.tokenizer):
            if not model.built:
                model.build()
        freeze(self.tokenizer)
        self.built = True

    def tokens(self, token_images):
        """Images of the tokenizer's view (b, f h, f w, c) in [0, 1] -> tokens (b, n), row by row."""
        grey = len(self.tokenizer.image_shape) == 2
        tokens = self.tokenizer.token_ids(token_images[..., 0] if grey else token_images)
        return ops.stop_gradient(ops.reshape(tokens, (-1, self.config.num_patches)))

    def call(self, inputs, training=None):
        tokens = self.tokens(inputs["token_images"])
        logits = self.head({name: inputs[name] for name in HEAD_INPUTS}, training=training)
        return {"logits": logits, "tokens": ops.take_along_axis(tokens, inputs["masked_positions"], axis=1)}

    def check_arrays(self, x, y):
        check_positions(x, self.config)

    def loss_and_metrics(self, x, labels, outputs, sample_weight=None):
        """Cross-entropy and accuracy of the masked tokens; see `WeightedLossModel`."""
        loss, accuracy = cross_entropy(outputs["tokens"], outputs["logits"])
        return {"labels": loss}, {"accuracy": accuracy}

    def filled(self, images, token_images, mask):
        """Images of both views, mask (b, h, w) -> tokens (b, h, w), of masked patches the most probable ones."""
        logits = self.head({"images": images, "bool_masked_pos": mask}, training=False)
        own = self.tokens(token_images)
        masked = ops.reshape(ops.cast(mask, "bool"), ops.shape(own))
        tokens = ops.where(masked, fast_argmax(logits), ops.cast(own, "int32"))
        return ops.reshape(tokens, (-1, *self.config.window))

    def endpoints(self):
        def view(images, shape):
            images = ops.image.resize(images, shape, "bicubic", antialias=True, data_format="channels_last")
            return ops.clip(images, 0, 1)

        def tokens(images):
            """Visual tokens of images in [0, 1] of any size, a row of them for a row of patches."""
            found = self.tokens(view(images, self.token_shape))
            return {"tokens": ops.reshape(found, (-1, *self.config.window))}

        def fill_patches(images, mask):
            """Images in [0, 1] of any size, with masked patches -> tokens, those of masked patches predicted, and the
            image that the tokenizer decodes from them.
            """
            found = self.filled(self.head.fitted(images), view(images, self.token_shape), mask > 0)
            return {"tokens": found, "images": self.tokenizer.decode_ids(found)}

        images = Image("images", (None, None, self.config.num_channels))
        mask = Input("mask", "int32", (None, *self.config.window), None, 0, 1, hint="1 masks a patch")
        return {
            "fill_patches": Endpoint(fill_patches, [images, mask]),
            "tokens": Endpoint(tokens, [images]),
            **self.head.endpoints(),
        }
