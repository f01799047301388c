"""Classifier of texts on a module of TensorFlow Hub (chapter 16 of the book): module, Dense 64, Dense 1.

The module reads strings and gives a vector for each text; it is fine-tuned, or frozen. Recipe: `sentiment_hub`.
Deviation from the book: more than two labels have a logit each. `call` takes strings, as the module does, so XLA is
off. Shapes: b texts, n labels.
"""

import keras
import numpy as np
from keras import ops

from homl_models.base import Model
from homl_models.endpoints import Endpoint, Text
from homl_models.errors import UserError
from homl_models.layers.hub import HubLayer
from homl_models.models.backbone_head import checked_label_names
from homl_models.models.text_model import check_lists

BATCH_SIZE = 32  # texts in a forward pass


@keras.saving.register_keras_serializable("homl_models")
class HubClassifier(Model):
    """Texts (b,) -> logits: (b, 1) of the second of two labels, or (b, n) of each of more.

    Args:
        handle, signature, output_key: see `HubLayer`.
        labels: their names, two or more.
        trainable_module: whether the module is fine-tuned.
        hidden_units: of the dense layer.
        preprocessor: handle of a module that makes the inputs of the first from texts; "" for none.

    Raises:
        UserError: for a module that does not give a vector for each text.
    """

    def __init__(
        self,
        handle,
        labels=("negative", "positive"),
        trainable_module=True,
        hidden_units=64,
        signature=None,
        output_key=None,
        preprocessor="",
        **kwargs,
    ):
        super().__init__(**kwargs)
        dtype = self.dtype_policy
        self.handle, self.labels = handle, tuple(labels)
        self.trainable_module, self.hidden_units = trainable_module, hidden_units
        self.signature, self.output_key, self.preprocessor = signature, output_key, preprocessor
        self.label_names = checked_label_names(self.labels, max(2, len(self.labels)))
        self.prepare = HubLayer(preprocessor, name="prepare", dtype=dtype) if preprocessor else None
        settings = {"signature": signature, "output_key": output_key, "dtype": dtype}
        self.encoder = HubLayer(handle, trainable_module, **settings, name="encoder")
        self.hidden = keras.layers.Dense(hidden_units, activation="relu", name="hidden", dtype=dtype)
        num_logits = len(self.labels) if len(self.labels) > 2 else 1
        self.classifier = keras.layers.Dense(num_logits, name="classifier", dtype="float32")

    def build(self, input_shape=None):
        try:
            vectors = self.encode(keras.KerasTensor((None,), "string"))
        except (ValueError, TypeError) as error:
            raise UserError(f"{self.handle} does not take texts (n,): {str(error).strip().splitlines()[0]}") from error
        if isinstance(vectors, dict):
            raise UserError(f"{self.handle} has several outputs; choose one by output_key: {', '.join(vectors)}")
        if len(vectors.shape) != 2 or vectors.shape[1] is None:
            raise UserError(f"{self.handle} gives {vectors.shape} for texts (n,), not a vector for each")
        self.hidden.build(vectors.shape)
        self.classifier.build((None, self.hidden_units))
        self.built = True

    def encode(self, texts, training=None):
        """Texts (b,) -> what the module gives."""
        return self.encoder(self.prepare(texts) if self.prepare else texts, training=training)

    def call(self, texts, training=None):
        return self.classifier(self.hidden(self.encode(texts, training)))

    def scores(self, texts):
        """Texts (b,) -> p of each label (b, n)."""
        logits = self(texts, training=False)
        if logits.shape[-1] > 1:
            return ops.softmax(logits)
        return ops.concatenate([ops.sigmoid(-logits), ops.sigmoid(logits)], axis=-1)

    def classify(self, texts):
        """A list of texts -> the most probable label of each, and p of every label (b, n)."""
        check_lists(texts)
        parts = [np.array(texts[i : i + BATCH_SIZE]) for i in range(0, len(texts), BATCH_SIZE)]
        scores = [ops.convert_to_numpy(self.scores(ops.convert_to_tensor(part))) for part in parts]
        scores = np.concatenate([np.zeros((0, len(self.label_names)), "float32"), *scores])
        return [self.label_names[i] for i in scores.argmax(1)], scores

    def endpoints(self):
        def classify(texts):
            """The label of each text, and the score of every label."""
            import tensorflow as tf

            scores = self.scores(texts)
            return {"labels": tf.gather(tf.constant(self.label_names), tf.argmax(scores, 1)), "scores": scores}

        return {"classify": Endpoint(classify, [Text("texts")])}
