"""Distillation of BERT (Sanh et al., 2019, https://arxiv.org/abs/1910.01108): a small student imitates a teacher.

Both read the same masked texts. The student, of fewer blocks, learns the masked words, the teacher's distribution over
words (soft targets, Hinton et al., 2015, https://arxiv.org/abs/1503.02531) and the direction of its hidden states.
Recipe: `bert_distill`. Shapes: b batch, t tokens, k masked positions, v vocabulary, d hidden size.
Deviations: soft targets are of masked positions alone, which saves most of the work; the teacher's embedding of token
type 0 is added to the student's positions, so that its embeddings begin equal.
"""

import keras
import numpy as np
from keras import ops

from homl_models.base import freeze
from homl_models.errors import UserError
from homl_models.models.scoring import WeightedLossModel, cross_entropy, label_weights


@keras.saving.register_keras_serializable("homl_models")
class Distiller(WeightedLossModel):
    """Training of a student by its teacher. Inputs: those of a masked language model; labels (b, k).

    Outputs: a dictionary of student_logits, teacher_logits (b, k, v), student_hidden, teacher_hidden (b, t, d).

    Args:
        student: a masked language model, such as `DistilBertForMaskedLM`, the model that is kept.
        teacher: one of the same hidden size and vocabulary, such as `BertForMaskedLM`; it stays as it is.
        temperature: T, of both distributions in the soft loss.
        soft_weight, mlm_weight, cosine_weight: factors of the three losses; by default those of the authors' code.
    """

    metric_names = "soft_loss", "mlm_loss", "cosine_loss", "accuracy", "teacher_accuracy"

    def __init__(self, student, teacher, temperature=2.0, soft_weight=5.0, mlm_weight=2.0, cosine_weight=1.0, **kwargs):
        super().__init__(**kwargs)
        sizes = [(head.backbone.config.hidden_size, head.backbone.config.vocab_size) for head in (student, teacher)]
        if sizes[0] != sizes[1]:
            raise UserError(f"student and teacher differ in (hidden size, vocabulary): {sizes[0]} and {sizes[1]}")
        self.student, self.teacher, self.temperature = student, teacher, temperature
        self.soft_weight, self.mlm_weight, self.cosine_weight = soft_weight, mlm_weight, cosine_weight

    @property
    def loss_factors(self):
        return {"soft": self.soft_weight, "mlm": self.mlm_weight, "cosine": self.cosine_weight}

    @property
    def pretrained_head(self):
        """The student, which fine-tuning starts from."""
        return self.student

    def build(self, input_shape=None):
        for head in (self.student, self.teacher):
            if not head.built:
                head.build()
        freeze(self.teacher)
        self.built = True

    def call(self, inputs, training=None):
        outputs = {}
        for name, head, mode in (("student", self.student, training), ("teacher", self.teacher, False)):
            found = head(inputs, training=mode, output_hidden_states=True)
            outputs[f"{name}_logits"] = found["logits"] if "logits" in found else found["prediction_logits"]
            outputs[f"{name}_hidden"] = found["hidden_states"][-1]
        return outputs | {key: ops.stop_gradient(outputs[key]) for key in ("teacher_logits", "teacher_hidden")}

    def endpoints(self):
        """Endpoints of the student."""
        return self.student.endpoints()

    def loss_and_metrics(self, x, labels, outputs, sample_weight=None):
        """See `WeightedLossModel`."""
        student, teacher = outputs["student_logits"], outputs["teacher_logits"]
        mlm, accuracy = cross_entropy(labels, student, sample_weight)
        soft = soft_target_loss(labels, student, teacher, self.temperature)
        cosine = cosine_loss(outputs["student_hidden"], outputs["teacher_hidden"], x["attention_mask"])
        _, teacher_accuracy = cross_entropy(labels, teacher, sample_weight)
        metrics = soft, mlm, cosine, accuracy, teacher_accuracy
        return {"soft": soft, "mlm": mlm, "cosine": cosine}, dict(zip(self.metric_names, metrics))


def soft_target_loss(labels, student_logits, teacher_logits, temperature):
    """T^2 KL(softmax(t / T) || softmax(s / T)) of logits t, s (b, k, v): a pair (sum, total).

    It is over labels (b, k) that are not -100. T^2 makes up for the gradients, which shrink as 1 / T^2 (Hinton et al.,
    2015, section 2.1).
    """
    log_q = ops.log_softmax(ops.cast(student_logits, "float32") / temperature, axis=-1)
    log_p = ops.log_softmax(ops.cast(teacher_logits, "float32") / temperature, axis=-1)
    divergence = ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)
    weights = label_weights(labels)
    return temperature**2 * ops.sum(weights * divergence), ops.sum(weights)


def cosine_loss(student_hidden, teacher_hidden, attention_mask):
    """1 - cos(h_student, h_teacher) of hidden states (b, t, d): a pair (sum, total) over tokens that are no padding."""
    s, t = (ops.cast(x, "float32") for x in (student_hidden, teacher_hidden))
    norms = ops.sqrt(ops.maximum(ops.sum(s * s, -1) * ops.sum(t * t, -1), 1e-12))
    weights = ops.cast(attention_mask, "float32")
    return ops.sum(weights * (1 - ops.sum(s * t, -1) / norms)), ops.sum(weights)


def take_layers(student, teacher):
    """Give a student its teacher's embeddings, blocks at equal distances, and head (Sanh et al., 2019, section 3).

    Of 12 blocks 6 are the first, third, fifth, eighth, tenth and last, as in the authors' code.
    """
    ours, theirs = student.backbone, teacher.backbone
    taken = np.linspace(0, len(theirs.blocks) - 1, len(ours.blocks)).round().astype(int)
    pairs = [(ours.embeddings.word, theirs.embeddings.word), (ours.embeddings.norm, theirs.embeddings.norm)]
    pairs += [(block, theirs.blocks[i]) for block, i in zip(ours.blocks, taken)]
    pairs += [(student.transform, teacher.transform), (student.norm, teacher.norm)]
    for layer, source in pairs:
        for weight, array in zip(layer.weights, source.weights, strict=True):
            weight.assign(array)
    student.bias.assign(teacher.bias)
    types = theirs.embeddings.token_type
    first = types.embeddings[:1] if types is not None else 0.0
    ours.embeddings.position.embeddings.assign(theirs.embeddings.position.embeddings + first)
