"""Image classifiers with features, the input of their last layer.

`FeatureNet`, pairs of 3x3 convolutions, each pair followed by pooling, and a dense layer of features: its features
compare generated with real images, as those of Inception do for larger images. `EncoderClassifier` classifies the
codings of an autoencoder, so that few labels are enough (exercise 10 of chapter 17).
Recipes: `fashion_features`, whose weights come with the package as the preset of that name; `fashion_few_labels`.
Shapes: b batch, n images, d features.
"""

import keras
from keras import ops

from homl_models.endpoints import Endpoint
from homl_models.errors import UserError
from homl_models.layers.dropout import Dropout
from homl_models.models.image_model import ImageModel


class FeatureClassifier(ImageModel):
    """Images (b, *image_shape) in [0, 1] -> logits (b, num_classes), by a dense layer on features.

    Base class: a subclass defines `features(images, training)` -> (b, d).

    Args:
        num_classes: number of classes.
        dropout: rate on the features.
        class_names: in the order of the labels; () for none.
    """

    def __init__(self, num_classes=10, dropout=0.0, class_names=(), **kwargs):
        super().__init__(**kwargs)
        self.num_classes, self.dropout = num_classes, dropout
        self.class_names = self.checked_class_names(class_names)
        self.feature_dropout = Dropout(dropout, dtype=self.dtype_policy)
        self.head = keras.layers.Dense(num_classes, dtype=self.dtype_policy)

    def call(self, images, training=None):
        return self.head(self.feature_dropout(self.features(images, training), training=training))

    def class_probabilities(self, features):
        """Features (b, d) -> p(class) (b, num_classes)."""
        return ops.softmax(ops.cast(self.head(features), "float32"))

    def extract_features(self, images):
        """Images (b, ...) -> features to compare images by (b, e); the last d are `features`."""
        return self.features(images, training=False)

    def features_and_probabilities(self, images):
        """Images (n, ...) -> `extract_features` (n, e) and p(class) (n, num_classes), as arrays."""
        features = self.predict_batched("extract_features", self.checked_images(images))
        return features, self.predict_batched("class_probabilities", features[:, -self.head.kernel.shape[0] :])

    def endpoints(self):
        def classify(images):
            return {"probabilities": self.class_probabilities(self.features(images, training=False))}

        def features(images):
            """The features of images in [0, 1]."""
            return {"features": ops.cast(self.features(images, training=False), "float32")}

        doc = "The probability of every class for images in [0, 1]."
        if self.class_names:
            doc += f" The classes: {', '.join(self.class_names)}."
        images = [self.image_input("images")]
        return {"classify": Endpoint(classify, images, doc=doc), "features": Endpoint(features, images)}


@keras.saving.register_keras_serializable("homl_models")
class FeatureNet(FeatureClassifier):
    """Convolutional classifier; see `FeatureClassifier`.

    Args:
        filters: of each pair of convolutions, followed by 2x2 pooling.
        dim: d, number of features.
        dropout: rate after each pair and on the features.
    """

    def __init__(self, filters=(32, 64), dim=128, dropout=0.3, **kwargs):
        super().__init__(dropout=dropout, **kwargs)
        if min(self.image_shape[:2]) < 2 ** len(filters):
            raise UserError(f"images of {self.image_shape[:2]} cannot be halved {len(filters)} times")
        self.filters, self.dim = tuple(filters), dim
        dtype = self.dtype_policy
        self.convolutions = [
            keras.layers.Conv2D(n, 3, padding="same", activation="relu", dtype=dtype)
            for n in self.filters
            for _ in range(2)
        ]
        self.pool = keras.layers.MaxPooling2D(2, dtype=dtype)
        self.dropouts = [Dropout(dropout, dtype=dtype) for _ in self.filters]
        self.dense = keras.layers.Dense(dim, activation="relu", dtype=dtype)

    def build(self, input_shape=None):
        channels = [self.channels, *(n for n in self.filters for _ in range(2))]
        for layer, n in zip(self.convolutions, channels):
            layer.build((None, None, None, n))
        height, width = (n >> len(self.filters) for n in self.image_shape[:2])
        self.dense.build((None, height * width * channels[-1]))
        self.head.build((None, self.dim))
        self.built = True

    def feature_maps(self, images, training=None):
        """Images (b, ...) -> feature maps of each pair of convolutions, and the input of the dense layer."""
        x, maps = ops.reshape(images, (-1, *self.image_shape[:2], self.channels)), []
        for i in range(len(self.filters)):
            maps.append(self.convolutions[2 * i + 1](self.convolutions[2 * i](x)))
            x = self.dropouts[i](self.pool(maps[-1]), training=training)
        return maps, ops.reshape(x, (-1, self.dense.kernel.shape[0]))

    def features(self, images, training=None):
        """Images (b, ...) -> features (b, d), 0 or more."""
        return self.dense(self.feature_maps(images, training)[1])

    def extract_features(self, images):
        """Images (b, ...) -> the mean of every feature map, and the features (b, sum(filters) + d).

        By the features alone noise passes for a bag: a classifier keeps only what tells its classes apart.
        """
        maps, x = self.feature_maps(images, training=False)
        return ops.concatenate([*(ops.mean(m, axis=(1, 2)) for m in maps), self.dense(x)], axis=-1)


@keras.saving.register_keras_serializable("homl_models")
class EncoderClassifier(FeatureClassifier):
    """Classifier of an autoencoder's codings; see `FeatureClassifier`.

    Args:
        autoencoder: an `Autoencoder` or a `VAE`, trained or not; its decoder is not used.
        frozen: do not train its encoder.
    """

    def __init__(self, autoencoder, frozen=False, **kwargs):
        super().__init__(**kwargs)
        if autoencoder.image_shape != self.image_shape:
            raise UserError(f"the encoder is for images of {autoencoder.image_shape}, not of {self.image_shape}")
        self.autoencoder, self.frozen = autoencoder, frozen

    def build(self, input_shape=None):
        if not self.autoencoder.built:
            self.autoencoder.build()
        trained = [] if self.frozen else self.autoencoder.encoding_layers
        for layer in self.autoencoder.layers:
            layer.trainable = any(layer is one for one in trained)
        self.head.build((None, self.autoencoder.coding_size))
        self.built = True

    def features(self, images, training=None):
        """Images (b, ...) -> codings (b, d)."""
        return self.autoencoder.encode(images, training=training)
