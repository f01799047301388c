"""Experience replay for GANs: earlier generated images in the discriminator's batches (chapter 17 of the book)."""

from keras import ops

from homl_models.base import Layer


class ReplayBuffer(Layer):
    """A ring buffer of the last generated images and their labels.

    Args:
        size: number of images that it holds, at least a batch.
        image_shape: (h, w, c).
    """

    def __init__(self, size, image_shape, **kwargs):
        super().__init__(**kwargs)
        self.size, self.image_shape = size, tuple(image_shape)
        state = {"initializer": "zeros", "trainable": False}
        self.images = self.add_weight(shape=(size, *self.image_shape), dtype="float32", name="images", **state)
        self.labels = self.add_weight(shape=(size,), dtype="int32", name="labels", **state)
        self.count = self.add_weight(shape=(), dtype="int32", name="count", **state)  # all images so far
        self.built = True

    def call(self, images, labels, uniform):
        """Store images (b, h, w, c) and labels (b,); replace the second half of the batch by stored images.

        uniform: numbers (b - b // 2,) in [0, 1) that choose them. Returns images and labels of the same shapes.
        """
        batch = ops.shape(images)[0]
        positions = ((self.count + ops.arange(batch)) % self.size)[:, None]
        self.images.assign(ops.scatter_update(ops.convert_to_tensor(self.images), positions, images))
        self.labels.assign(ops.scatter_update(ops.convert_to_tensor(self.labels), positions, labels))
        self.count.assign_add(batch)
        stored = ops.cast(ops.minimum(self.count, self.size), "float32")
        chosen = ops.cast(uniform * stored, "int32")
        half = batch // 2
        images = ops.concatenate([images[:half], ops.take(self.images, chosen, axis=0)])
        return images, ops.concatenate([labels[:half], ops.take(self.labels, chosen, axis=0)])
