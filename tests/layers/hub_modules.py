"""Modules of TensorFlow Hub for tests, and what they compute, in NumPy."""

import numpy as np
import tensorflow as tf

WORDS = {"good": 0, "bad": 1, "film": 2}
VECTORS = np.array([[1, 0], [-1, 0.5], [0.25, 2], [0, 0]], "float32")  # the last is that of other words
KERNEL = np.arange(3 * 4, dtype="float32").reshape(3, 4) / 10


def embed(texts, vectors=VECTORS):
    """The sum of the vectors of words."""
    return np.stack([sum(vectors[WORDS.get(word, 3)] for word in text.split(" ")) for text in texts])


class TextModule(tf.Module):
    """Plain: it lists no variables; a table of words, two outputs of a signature."""

    def __init__(self):
        super().__init__()
        self.vectors = tf.Variable(VECTORS, name="vectors")
        self.scale = tf.Variable(1.0, trainable=False, name="scale")
        words = tf.lookup.KeyValueTensorInitializer(list(WORDS), list(WORDS.values()), tf.string, tf.int64)
        self.table = tf.lookup.StaticHashTable(words, 3)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts):
        ids = self.table.lookup(tf.strings.split(texts, " ").to_tensor(""))
        return self.scale * tf.reduce_sum(tf.gather(self.vectors, ids), axis=1)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="texts")])
    def several(self, texts):
        return {"vectors": self(texts), "lengths": tf.strings.length(texts)}


class ImageModule(tf.Module):
    """Plain: images (b, h, w, 3) -> vectors (b, 4), their mean by a kernel."""

    def __init__(self):
        super().__init__()
        self.kernel = tf.Variable(KERNEL, name="kernel")

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)])
    def __call__(self, images):
        return tf.reduce_mean(images, axis=(1, 2)) @ self.kernel


def save_text(folder):
    module = TextModule()
    tf.saved_model.save(module, str(folder), {"serving_default": module.several, "vectors": module.__call__})
    return str(folder)


def save_image(folder):
    tf.saved_model.save(ImageModule(), str(folder))
    return str(folder)


def save_reusable(folder):
    """By the interface of reusable SavedModels: twice the input times 3 in training, once the input times 3 else."""
    weight, count = tf.Variable(3.0, name="weight"), tf.Variable(0.0, name="count")  # trainable, but it says not

    def call(x, training=False, factor=1.0):
        return x * weight * factor * (2.0 if training else 1.0) + count

    module, function = tf.train.Checkpoint(), tf.function(call)
    for training in (True, False):
        for factor in (1.0, 10.0):
            function.get_concrete_function(tf.TensorSpec([None, 2]), training=training, factor=factor)
    module.__call__ = function
    module.variables, module.trainable_variables = [weight, count], [weight]
    module.regularization_losses = [tf.function(lambda: 0.5 * weight**2, input_signature=[])]
    tf.saved_model.save(module, str(folder))
    return str(folder)
