"""A small convolutional classifier whose features judge generated pictures, as Inception's do for larger ones.

Pairs of 3x3 convolutions, each pair followed by pooling, and a dense layer of features below the classes.
Recipe: `fashion_features`, whose weights come with the package as the preset of that name.
Shapes: b batch, d features.
"""

import keras
from keras import ops

from homl_models.errors import UserError
from homl_models.layers.dropout import Dropout
from homl_models.models.pictures import PictureModel


@keras.saving.register_keras_serializable("homl_models")
class FeatureNet(PictureModel):
    """Images (b, *image_shape) in [0, 1] -> logits (b, num_classes).

    filters: of each pair of convolutions, which halves the picture. dim: d. dropout: rate after each pair and
    on the features.
    """

    def __init__(self, num_classes=10, filters=(32, 64), dim=128, dropout=0.3, **kwargs):
        super().__init__(**kwargs)
        if min(self.image_shape[:2]) < 2 ** len(filters):
            raise UserError(f"pictures of {self.image_shape[:2]} cannot be halved {len(filters)} times")
        self.num_classes, self.filters, self.dim, self.dropout = num_classes, tuple(filters), dim, dropout
        dtype = self.dtype_policy
        self.convolutions = [
            keras.layers.Conv2D(n, 3, padding="same", activation="relu", dtype=dtype)
            for n in self.filters
            for _ in range(2)
        ]
        self.pool = keras.layers.MaxPooling2D(2, dtype=dtype)
        self.dropouts = [Dropout(dropout, dtype=dtype) for _ in range(len(self.filters) + 1)]
        self.dense = keras.layers.Dense(dim, activation="relu", dtype=dtype)
        self.head = keras.layers.Dense(num_classes, dtype=dtype)

    def build(self, input_shape=None):
        channels = [self.channels, *(n for n in self.filters for _ in range(2))]
        for layer, n in zip(self.convolutions, channels):
            layer.build((None, None, None, n))
        height, width = (n >> len(self.filters) for n in self.image_shape[:2])
        self.dense.build((None, height * width * channels[-1]))
        self.head.build((None, self.dim))
        self.built = True

    def features(self, images, training=None):
        """Images (b, ...) -> features (b, d), 0 or more."""
        x = ops.reshape(images, (-1, *self.image_shape[:2], self.channels))
        for i in range(len(self.filters)):
            x = self.convolutions[2 * i + 1](self.convolutions[2 * i](x))
            x = self.dropouts[i](self.pool(x), training=training)
        x = ops.reshape(x, (-1, self.dense.kernel.shape[0]))
        return self.dense(x)

    def call(self, images, training=None):
        return self.head(self.dropouts[-1](self.features(images, training), training=training))

    def probabilities(self, images):
        """Images (b, ...) -> p(class) (b, num_classes)."""
        return ops.softmax(ops.cast(self(images, training=False), "float32"))

    def judged(self, images):
        """Images (n, ...) -> features (n, d) and p(class) (n, num_classes), as arrays."""
        images = self.checked(images)
        return self.run("features", images), self.run("probabilities", images)

    def endpoints(self):
        def classify(images):
            """The probability of every class for images in [0, 1]."""
            return {"probabilities": self.probabilities(self.within(images))}

        def features(images):
            """The features of images in [0, 1]."""
            return {"features": ops.cast(self.features(self.within(images), training=False), "float32")}

        signature = [self.spec("images")]
        return {"classify": (classify, signature), "features": (features, signature)}
