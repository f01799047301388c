"""Embedding and classification of images of any size, in Python and in a graph, by classifiers and backbones.

An image is resized as a whole to the model's size, whatever its shape, with antialiasing, as Hugging Face's processors
of ViT and BEiT do; with a `crop_fraction` below 1 it is made larger by that, and its middle is taken.
Shapes: n images, d hidden size.
"""

import functools

import numpy as np
from keras import ops

from homl_models.base import Model, compiled
from homl_models.endpoints import Endpoint, Image
from homl_models.errors import UserError

BATCH_SIZE = 32  # images in a forward pass


class ImageEmbedding(Model):
    """A model of images with a `config` of `vit_config.py`, which defines `vectors(images)`, or a head around one."""

    @property
    def vision_config(self):
        return getattr(self, "backbone", self).config

    def fitted(self, images):
        """Images (n, h, w, c) in [0, 1] of any one size -> of the model's size."""
        config = self.vision_config
        shape = config.image_shape
        if tuple(images.shape[1:3]) == shape and config.crop_fraction == 1:
            return images
        height, width = (round(size / config.crop_fraction) for size in shape)
        antialias = config.resample != "nearest"
        images = ops.image.resize(
            images, (height, width), config.resample, antialias=antialias, data_format="channels_last"
        )
        top, left = (height - shape[0]) // 2, (width - shape[1]) // 2
        return ops.clip(images[:, top : top + shape[0], left : left + shape[1]], 0, 1)

    def checked_image(self, image):
        """An image (h, w, c), or (h, w) for one channel, of bytes or in [0, 1] -> (1, *image_shape, c), float32."""
        image, c = np.asarray(image), self.vision_config.num_channels
        image = np.float32(image / 255) if image.dtype == np.uint8 else np.float32(image)
        image = image[..., None] if image.ndim == 2 and c == 1 else image
        if image.ndim != 3 or image.shape[-1] != c or not image.size:
            raise UserError(f"an image must have the shape (height, width, {c}), not {image.shape}")
        if not (image.min() >= 0 and image.max() <= 1):
            raise UserError(f"images must lie in [0, 1], not between {image.min():g} and {image.max():g}")
        return ops.convert_to_numpy(self.fitted(image[None]))

    @functools.cached_property
    def _compiled(self):
        return {}

    def call_in_batches(self, name, images, size):
        """The method `name` on a list or an array of images of any sizes -> (n, size), float32.

        size: of the rows that no images give.
        """
        if name not in self._compiled:
            shape = (None, *self.vision_config.image_shape, self.vision_config.num_channels)
            self._compiled[name] = compiled(getattr(self, name), False, [(shape, "float32")])
        rows = [] if len(images) else [np.zeros((0, size), "float32")]
        for i in range(0, len(images), BATCH_SIZE):
            batch = np.concatenate([self.checked_image(image) for image in images[i : i + BATCH_SIZE]])
            rows.append(ops.convert_to_numpy(self._compiled[name](ops.convert_to_tensor(batch))))
        return np.concatenate(rows)

    def vectors(self, images):
        """Images of the model's size -> a vector of each (n, d)."""
        return self.backbone.vectors(images)

    def embed(self, images):
        """A list or an array of images, of any sizes, bytes or in [0, 1] -> a vector of each (n, d)."""
        return self.call_in_batches("vectors", images, self.vision_config.hidden_size)

    def endpoints(self):
        def embed(images):
            """A vector for each image in [0, 1], of any size."""
            return {"embeddings": self.vectors(self.fitted(images))}

        return {"embed": Endpoint(embed, [self.image_input])}

    @property
    def image_input(self):
        return Image("images", (None, None, self.vision_config.num_channels))


class ImageClassification(ImageEmbedding):
    """A head that gives logits, with `label_names`."""

    def probabilities(self, images):
        """Images of the model's size -> p of each label (n, labels)."""
        logits = self(images, training=False)
        return ops.softmax(logits["logits"] if isinstance(logits, dict) else logits)

    def classify(self, images):
        """A list or an array of images, of any sizes, bytes or in [0, 1] -> labels, probabilities (n, labels)."""
        p = self.call_in_batches("probabilities", images, len(self.label_names))
        return [self.label_names[i] for i in p.argmax(1)], p

    def endpoints(self):
        def classify(images):
            """The label of each image in [0, 1], of any size, and the probability of every label."""
            import tensorflow as tf

            p = self.probabilities(self.fitted(images))
            return {"labels": tf.gather(tf.constant(self.label_names), tf.argmax(p, 1)), "probabilities": p}

        doc = f"{classify.__doc__} The labels: {', '.join(self.label_names[:20])}"
        doc += ", ..." if len(self.label_names) > 20 else "."
        return {"classify": Endpoint(classify, [self.image_input], doc=doc), **super().endpoints()}
