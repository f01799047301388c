"""Heads of BERT for fine-tuning (Devlin et al., 2018, https://arxiv.org/abs/1810.04805, section 4).

Each is a model around a `Bert`, its backbone, and named as in Hugging Face's `transformers`. Inputs are those of the
backbone. Logits are float32; labels of -100 are ignored. Other heads: `bert_pretraining.py`, `bert_generation.py` and
`electra.py`.
Shapes: b batch, t tokens, n choices or labels, d hidden size.
"""

import keras
from keras import ops

from homl_models.errors import UserError
from homl_models.layers.attention import MASK_VALUE
from homl_models.layers.dropout import Dropout
from homl_models.models.backbone_head import BackboneHead, checked_label_names
from homl_models.models.bert import named_inputs
from homl_models.models.scoring import IGNORE_INDEX, label_weights
from homl_models.models.text_model import TextModel
from homl_models.models.text_pipelines import Embedding, QuestionAnswering, TextClassification, TokenClassification


class Head(BackboneHead, TextModel):
    """A backbone of texts with layers on top of it; see `BackboneHead`.

    Args:
        backbone: a `Bert` or an `Electra`.
        vocabulary, ...: see `text_model.TextModel`.
    """

    def __init__(self, backbone, **kwargs):
        super().__init__(backbone, **kwargs)
        self.check_vocabulary()


class Classifier(Head):
    """Base of classifiers: dropout and a dense layer.

    Args:
        backbone: a `Bert` or an `Electra`.
        classifier_dropout: rate; None for that of the configuration's field `dropout_field`.
        labels: their names; by default LABEL_0, LABEL_1, ...
    """

    num_labels = 1
    dropout_field = "hidden_dropout_prob"

    def __init__(self, backbone, classifier_dropout=None, labels=(), **kwargs):
        super().__init__(backbone, **kwargs)
        self.classifier_dropout, self.labels = classifier_dropout, tuple(labels)
        self.label_names = checked_label_names(self.labels, self.num_labels)
        own = getattr(backbone.config, self.dropout_field)
        rate = own if classifier_dropout is None else classifier_dropout
        self.dropout_layer = Dropout(rate, dtype=self.dtype_policy)
        self.classifier = self.dense(self.num_labels, name="classifier")

    def head_layers(self):
        return [self.classifier]

    def label_logits(self, x, training=None):
        """Features (..., d) -> logits (..., n)."""
        return ops.cast(self.classifier(self.dropout_layer(x, training=training)), "float32")


PROBLEM_TYPES = "regression", "single_label_classification", "multi_label_classification"


@keras.saving.register_keras_serializable("homl_models")
class BertForSequenceClassification(TextClassification, Classifier):
    """Inputs -> logits (b, n) of labels.

    Args:
        backbone: a `Bert` with `add_pooling_layer`.
        num_labels: n.
        classifier_dropout, labels: see `Classifier`.
        problem_type: "single_label_classification", labels (b,); "multi_label_classification", labels (b, n) in [0, 1];
            "regression", targets (b, n), or (b,) for one. None for the first, or for the last if n is 1.
    """

    uses_pooler = True

    def __init__(self, backbone, num_labels=2, classifier_dropout=None, problem_type=None, **kwargs):
        if problem_type not in (None, *PROBLEM_TYPES):
            raise UserError(f"problem_type must be one of {', '.join(PROBLEM_TYPES)}, not {problem_type!r}")
        self.problem = problem_type or PROBLEM_TYPES[num_labels > 1]
        self.metric_names = ("mean_squared_error",) if self.problem == "regression" else ("accuracy",)
        self.num_labels = num_labels
        super().__init__(backbone, classifier_dropout, **kwargs)
        self.problem_type = problem_type

    def logits(self, outputs, training=None):
        return self.label_logits(outputs["pooler_output"], training)

    @property
    def num_classes(self):
        return self.num_labels if self.problem == "single_label_classification" else None

    def labels_and_logits(self, labels, outputs):
        single = super().labels_and_logits(labels, outputs)
        if self.num_classes:
            return single
        output, labels, logits = single["labels"]
        return {"labels": (output, ops.reshape(ops.cast(labels, "float32"), ops.shape(logits)), logits)}

    def loss_and_metric(self, labels, logits, sample_weight=None):
        if self.problem == "single_label_classification":
            return super().loss_and_metric(labels, logits, sample_weight)
        weights = label_weights(labels, sample_weight)
        total = ops.sum(weights)
        if self.problem == "regression":
            squared_error = ops.sum(weights * ops.square(logits - labels)), total
            return squared_error, squared_error
        correct = ops.cast((logits > 0) == (labels > 0.5), "float32")
        loss = ops.softplus(logits) - labels * logits
        return (ops.sum(weights * loss), total), (ops.sum(weights * correct), total)


@keras.saving.register_keras_serializable("homl_models")
class BertForMultipleChoice(Classifier):
    """Inputs with an axis of choices, ids (b, n, t) -> logits (b, n) of the choices. Labels (b,).

    Args:
        backbone: a `Bert` with `add_pooling_layer`.
        classifier_dropout: see `Classifier`.
    """

    uses_pooler = True

    def call(self, inputs, training=None, **options):
        inputs = inputs if isinstance(inputs, dict) else {"input_ids": inputs}
        shape = ops.shape(inputs["input_ids" if "input_ids" in inputs else "inputs_embeds"])
        flat = {
            name: value if name == "head_mask" else ops.reshape(value, (-1, *ops.shape(value)[2:]))
            for name, value in inputs.items()
        }
        outputs = super().call(flat, training, **options)
        if not isinstance(outputs, dict):
            return ops.reshape(outputs, shape[:2])
        return outputs | {"logits": ops.reshape(outputs["logits"], shape[:2])}

    def logits(self, outputs, training=None):
        return self.label_logits(outputs["pooler_output"], training)


@keras.saving.register_keras_serializable("homl_models")
class BertForTokenClassification(TokenClassification, Classifier):
    """Inputs -> logits (b, t, n) of a label for each token. Labels (b, t).

    Args:
        backbone: a `Bert`.
        num_labels: n.
        classifier_dropout, labels: see `Classifier`.
    """

    def __init__(self, backbone, num_labels=2, classifier_dropout=None, **kwargs):
        self.num_labels = self.num_classes = num_labels
        super().__init__(backbone, classifier_dropout, **kwargs)

    def logits(self, outputs, training=None):
        return self.label_logits(outputs["last_hidden_state"], training)


@keras.saving.register_keras_serializable("homl_models")
class BertForQuestionAnswering(QuestionAnswering, Head):
    """Inputs -> start_logits and end_logits (b, t) of the answer's first and last token.

    Labels: a dictionary of `start_positions` and `end_positions` (b,); those outside of the text are ignored. Losses
    and metrics mask the padding's logits, so that they do not depend on its length; the reference does not.

    Args:
        backbone: a `Bert`.
        unanswerable: whether a context may hold no answer, whose span is [CLS] (Rajpurkar et al., 2018,
            https://arxiv.org/abs/1806.03822); by default the best span of the context is taken, however improbable.
        null_threshold: null score in nats from which on there is no answer; see `QuestionAnswering.best_answers`.
    """

    loss_factors = {"start": 0.5, "end": 0.5}

    def __init__(self, backbone, unanswerable=False, null_threshold=0.0, **kwargs):
        super().__init__(backbone, **kwargs)
        self.unanswerable, self.null_threshold = unanswerable, null_threshold
        self.span = self.dense(2, name="span")

    def head_layers(self):
        return [self.span]

    def logits(self, outputs, training=None):
        span = ops.cast(self.span(outputs["last_hidden_state"]), "float32")
        return {"start_logits": span[..., 0], "end_logits": span[..., 1]}

    def mask_padding(self, x, labels, outputs):
        mask = None if x is None else named_inputs(x)["attention_mask"]
        if mask is None or len(mask.shape) != 2:
            return labels, outputs
        mask, length = ops.cast(mask, "bool"), ops.shape(mask)[1]

        def ignore_padding(positions):
            positions = ops.cast(positions, "int32")
            in_text = ops.take_along_axis(mask, ops.clip(positions, 0, length - 1)[:, None], axis=1)[:, 0]
            return ops.where(in_text, positions, length)

        outputs = {name: ops.where(mask, logits, MASK_VALUE) for name, logits in outputs.items()}
        return {name: ignore_padding(positions) for name, positions in labels.items()}, outputs

    def labels_and_logits(self, labels, outputs):
        both = {}
        for name in ("start", "end"):
            logits, positions = outputs[f"{name}_logits"], ops.cast(labels[f"{name}_positions"], "int32")
            positions = ops.maximum(positions, 0)  # as the reference does
            positions = ops.where(positions < ops.shape(logits)[1], positions, IGNORE_INDEX)
            both[f"{name}_positions"] = f"{name}_logits", positions, logits
        return both

    def named_metrics(self, pairs):
        return {"accuracy": tuple(map(sum, zip(*pairs)))}


POOLINGS = "mean", "cls", "max", "mean_sqrt_len"


@keras.saving.register_keras_serializable("homl_models")
class TextEmbedder(Embedding, Head):
    """Inputs -> vectors of texts (b, d), pooled from the hidden states of their tokens. It has no weights of its own.

    Args:
        backbone: a `Bert` or an `Electra`.
        pooling: "mean" of the tokens; "mean_sqrt_len", their sum by the square root of their number; "max" of each
            feature; "cls", the first token.
        normalize: whether vectors have length 1.
    """

    metric_names = ()
    loss_factors = {}

    def __init__(self, backbone, pooling="mean", normalize=False, **kwargs):
        if pooling not in POOLINGS:
            raise UserError(f"pooling must be one of {', '.join(POOLINGS)}, not {pooling!r}")
        super().__init__(backbone, **kwargs)
        self.pooling, self.normalize = pooling, normalize

    def logits(self, outputs, training=None):
        x, mask = ops.cast(outputs["last_hidden_state"], "float32"), outputs["attention_mask"]
        mask = ops.ones(ops.shape(x)[:2]) if mask is None else ops.cast(mask, "float32")
        vectors = self.pool(x, mask[..., None])
        return vectors / ops.maximum(ops.norm(vectors, axis=-1, keepdims=True), 1e-12) if self.normalize else vectors

    def pool(self, x, mask):
        """Hidden states (b, t, d), mask (b, t, 1) -> (b, d)."""
        if self.pooling == "cls":
            return x[:, 0]
        if self.pooling == "max":
            return ops.max(ops.where(mask > 0, x, MASK_VALUE), axis=1)
        count = ops.maximum(ops.sum(mask, axis=1), 1.0)
        return ops.sum(x * mask, axis=1) / (count if self.pooling == "mean" else ops.sqrt(count))

    def split_inputs(self, inputs):
        return inputs, {"attention_mask": named_inputs(inputs)["attention_mask"]}
