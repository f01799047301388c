"""The book's diffusion model of chapter 17 in Keras' layers, and its sampling loop, to compare ours with."""

import keras
import numpy as np
import tensorflow as tf
from keras import layers


class TimeEncoding(layers.Layer):
    """Sinusoidal encoding of timesteps (b,) -> (b, size), looked up in a table for 0 to `steps`."""

    def __init__(self, steps, size, **kwargs):
        super().__init__(**kwargs)
        angles = np.arange(steps + 1)[:, None] / 10_000 ** (np.arange(0, size, 2) / size)
        self.table = tf.constant(np.stack([np.sin(angles), np.cos(angles)], -1).reshape(steps + 1, size), tf.float32)

    def call(self, timesteps):
        return tf.gather(self.table, timesteps)


def network(steps=4000, filters=(16, 32, 64, 128), time_dim=64):
    """[noisy images (b, 28, 28, 1), timesteps (b,)] -> predicted noise (b, 28, 28, 1)."""
    images, timesteps = keras.Input((28, 28, 1)), keras.Input((), dtype="int32")
    encoding = TimeEncoding(steps, time_dim)(timesteps)

    def add_condition(x):
        return x + layers.Reshape((1, 1, x.shape[-1]))(layers.Dense(x.shape[-1])(encoding))

    def pair(x, kind, n):
        for _ in range(2):
            x = layers.BatchNormalization()(kind(n, 3, padding="same")(layers.ReLU()(x)))
        return x

    x = layers.Conv2D(filters[0], 3)(layers.ZeroPadding2D(3)(images))
    x, skip_connections = add_condition(layers.ReLU()(layers.BatchNormalization()(x))), []
    for n in filters[1:]:
        before, x = x, pair(x, layers.SeparableConv2D, n)
        skip_connections.append(x)
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
        x = add_condition(x + layers.Conv2D(n, 1, strides=2, padding="same")(before))
    for n in filters[-2::-1]:
        before, x = x, pair(x, layers.Conv2DTranspose, n)
        shortcut = layers.Conv2D(n, 1, padding="same")(layers.UpSampling2D(2)(before))
        x = layers.concatenate([add_condition(layers.UpSampling2D(2)(x) + shortcut), skip_connections.pop()])
    outputs = layers.Conv2D(1, 3, padding="same")(x)[:, 2:-2, 2:-2]
    return keras.Model([images, timesteps], outputs)


def tables(steps=4000):
    """Variance schedule alpha, alpha_bar and beta (steps + 1,) (equation 17-7)."""
    f = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    alpha = np.append(1, np.clip(f[1:] / f[:-1], 1e-3, 1)).astype(np.float32)
    return alpha, np.cumprod(alpha), 1 - alpha


def generate(model, count=32, steps=4000, calls=None):
    """The book's sampling loop (equation 17-8), eager: `steps` calls of the network, or only the first `calls`."""
    alpha, alpha_bar, beta = tables(steps)
    x = tf.random.normal((count, 28, 28, 1))
    for t in range(steps, steps - (calls or steps), -1):
        noise = tf.random.normal(x.shape) if t > 1 else tf.zeros(x.shape)
        predicted = model([x, tf.constant([t] * count)])
        x = (x - beta[t] / (1 - alpha_bar[t]) ** 0.5 * predicted) / alpha[t] ** 0.5 + beta[t] ** 0.5 * noise
    return x
