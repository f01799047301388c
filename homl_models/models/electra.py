"""ELECTRA (Clark et al., 2020, https://arxiv.org/abs/2003.10555): pre-training by replaced token detection.

A small generator fills in masked tokens; the discriminator, the model that is kept, predicts for every token of the
result whether it was replaced. Both are BERT's encoder with embeddings smaller than the hidden size, and no pooler.
Names are those of Hugging Face. Shapes: b batch, t tokens, k masked positions, v vocabulary.

Beyond the paper's model, its ablations (section 3.4) are options of `ElectraPretrainer`.
"""

import keras
import numpy as np
from keras import ops

from homl_models.base import freeze
from homl_models.errors import UserError
from homl_models.layers.dense import gelu
from homl_models.layers.dropout import random_bits
from homl_models.models.bert import Bert
from homl_models.models.bert_config import ELECTRA_SMALL
from homl_models.models.bert_heads import (
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    Head,
)
from homl_models.models.bert_pretraining import BertForMaskedLM
from homl_models.models.scoring import (
    IGNORE_INDEX,
    WeightedLossModel,
    binary_cross_entropy,
    cross_entropy,
    fast_argmax,
)
from homl_models.models.text_pipelines import ReplacedTokenDetection
from homl_models.tokenizers.wordpiece import SETTINGS, SPECIAL


@keras.saving.register_keras_serializable("homl_models")
class Electra(Bert):
    """ELECTRA's encoder: inputs and outputs of `Bert`, projected embeddings, no pooler.

    Args:
        config: an `ElectraConfig`; by default that of ELECTRA-small's discriminator.
    """

    def __init__(self, config=ELECTRA_SMALL, add_pooling_layer=False, **kwargs):
        super().__init__(config, add_pooling_layer, **kwargs)


@keras.saving.register_keras_serializable("homl_models")
class ElectraForPreTraining(ReplacedTokenDetection, Head):
    """Discriminator: inputs -> logits (b, t) that a token was replaced.

    Labels (b, t): 1 for replaced, 0 for original, -100 for padding.

    Args:
        backbone: an `Electra`.
        vocabulary, ...: see `text_model.TextModel`.
    """

    def __init__(self, backbone, **kwargs):
        super().__init__(backbone, **kwargs)
        self.hidden = self.dense(backbone.config.hidden_size, name="hidden")
        self.last = self.dense(1, name="last")

    def head_layers(self):
        return [self.hidden, self.last]

    def logits(self, outputs, training=None):
        x = self.backbone.config.activation(self.hidden(outputs["last_hidden_state"]))
        return ops.cast(self.last(x), "float32")[..., 0]

    def loss_and_metric(self, labels, logits, sample_weight=None):
        return binary_cross_entropy(labels, logits, sample_weight)

    def labels_and_logits(self, labels, outputs):
        output, labels, logits = super().labels_and_logits(labels, outputs)["labels"]
        return {"labels": (output, ops.where(labels < 0, IGNORE_INDEX, labels), logits)}


@keras.saving.register_keras_serializable("homl_models")
class ElectraForMaskedLM(BertForMaskedLM):
    """Generator: a `BertForMaskedLM` whose hidden layer has the size of the embeddings.

    Args:
        backbone: an `Electra`.
        tie_word_embeddings: see `BertForMaskedLM`.
    """

    @property
    def transform_size(self):
        return self.backbone.config.embedding_size

    def activation(self, x):
        return gelu(x)


@keras.saving.register_keras_serializable("homl_models")
class ElectraForSequenceClassification(BertForSequenceClassification):
    """A `BertForSequenceClassification` with a dense layer of the first token instead of the pooler.

    Args:
        backbone: an `Electra`.
        num_labels, classifier_dropout, problem_type, labels: see `BertForSequenceClassification`.
    """

    uses_pooler = False

    def __init__(self, backbone, num_labels=2, classifier_dropout=None, problem_type=None, **kwargs):
        super().__init__(backbone, num_labels, classifier_dropout, problem_type, **kwargs)
        self.hidden = self.dense(backbone.config.hidden_size, name="hidden")

    def head_layers(self):
        return [self.hidden, self.classifier]

    def logits(self, outputs, training=None):
        x = self.dropout_layer(outputs["last_hidden_state"][:, 0], training=training)
        return self.label_logits(gelu(self.hidden(x)), training)


@keras.saving.register_keras_serializable("homl_models")
class ElectraForTokenClassification(BertForTokenClassification):
    """A `BertForTokenClassification` on an `Electra`."""


@keras.saving.register_keras_serializable("homl_models")
class ElectraForQuestionAnswering(BertForQuestionAnswering):
    """A `BertForQuestionAnswering` on an `Electra`."""


OBJECTIVES = "electra", "electra_15", "replace_mlm", "all_tokens_mlm"
EMBEDDING_FIELDS = (  # of the configuration, on which shared embeddings depend
    "vocab_size", "embedding_size", "max_position_embeddings", "type_vocab_size", "position_embedding_type",
)  # fmt: skip


@keras.saving.register_keras_serializable("homl_models")
class ElectraPretrainer(WeightedLossModel):
    """Joint training of a generator, on masked texts, and of a discriminator, on the generator's samples.

    Inputs: a dictionary of input_ids (b, t) with masked positions, masked_positions (b, k), masked_labels (b, k), the
    original tokens, -100 where a row has fewer; and other inputs of `Bert`. Outputs: a dictionary of
        generator_logits (b, k, v); original (b, t); replaced (b, t), the text with the generator's samples;
        discriminator_logits (b, t) that a token was replaced, and for the "mlm" objectives mlm_logits.

    Args:
        discriminator: an `Electra`, the model that is kept.
        generator_config: `ElectraConfig` of the generator; the paper's has a quarter to a half of the discriminator's
            hidden_size, num_attention_heads and intermediate_size.
        objective: of the discriminator (section 3.4).
            "electra": replaced token detection on all tokens; "electra_15": on the masked ones alone.
            "replace_mlm": masked language modelling with the generator's samples instead of [MASK].
            "all_tokens_mlm": masked language modelling of all tokens, with a copy mechanism.
        weight: lambda, of the discriminator's loss (equation 3); 1 for the two last objectives.
        share_embeddings: whether generator and discriminator have the same embeddings (section 3.2), for which their
            sizes must be equal.
        freeze_generator: for the second of two stages, with a generator that is trained before and has embeddings of
            its own.
        seed: of the generator's samples.
        vocabulary, ...: see `text_model.TextModel`.
    """

    metric_names = "generator_loss", "generator_accuracy", "discriminator_loss", "discriminator_accuracy"

    def __init__(
        self,
        discriminator,
        generator_config,
        objective="electra",
        weight=50.0,
        share_embeddings=True,
        freeze_generator=False,
        seed=None,
        vocabulary=(),
        lowercase=True,
        strip_accents=None,
        tokenize_chinese_chars=True,
        special_names=SPECIAL,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if objective not in OBJECTIVES:
            raise UserError(f"objective must be one of {', '.join(OBJECTIVES)}, not {objective!r}")
        if freeze_generator and share_embeddings:
            raise UserError("a frozen generator needs embeddings of its own: share_embeddings=False")
        config = discriminator.config
        differing = [name for name in EMBEDDING_FIELDS if getattr(config, name) != getattr(generator_config, name)]
        if share_embeddings and differing:
            raise UserError(f"generator and discriminator share embeddings, but differ in {', '.join(differing)}")
        self.discriminator, self.generator_config = discriminator, generator_config
        self.objective, self.weight, self.seed = objective, weight, seed
        self.share_embeddings, self.freeze_generator = share_embeddings, freeze_generator
        self.vocabulary, self.lowercase, self.strip_accents = tuple(vocabulary), lowercase, strip_accents
        self.tokenize_chinese_chars, self.special_names = tokenize_chinese_chars, tuple(special_names)
        shared = {"shared_embeddings": discriminator.embeddings} if share_embeddings else {}
        dtype = discriminator.dtype_policy
        self.generator_backbone = Electra(generator_config, **shared, name="generator_backbone", dtype=dtype)
        texts = {name: getattr(self, name) for name in ("vocabulary", *SETTINGS)} | {"dtype": self.dtype_policy}
        self.generator = ElectraForMaskedLM(self.generator_backbone, name="generator", **texts)
        self.discriminator_head = self.mlm_head = None
        if objective != "replace_mlm":
            self.discriminator_head = ElectraForPreTraining(discriminator, name="discriminator_head", **texts)
        if "mlm" in objective:
            self.mlm_head = ElectraForMaskedLM(discriminator, name="mlm_head", **texts)
        self.seed_generator = keras.random.SeedGenerator(seed)

    @property
    def loss_factors(self):
        """Factors of the two losses (equation 3)."""
        weight = self.weight if self.objective.startswith("electra") else 1.0
        return {"generator": 0.0 if self.freeze_generator else 1.0, "discriminator": weight}

    @property
    def pretrained_head(self):
        """The discriminator with its head, which fine-tuning starts from."""
        return self.discriminator_head or self.mlm_head

    def build(self, input_shape=None):
        for head in (self.generator, self.discriminator_head, self.mlm_head):
            if head:
                head.build()
        if self.freeze_generator:
            freeze(self.generator)
        self.built = True

    def call(self, inputs, training=None):
        inputs = dict(inputs)
        masked_labels, m = inputs.pop("masked_labels"), inputs["masked_positions"]
        x_masked, is_masked = inputs["input_ids"], masked_labels >= 0
        logits = self.generator(inputs, training=training)
        samples = self.sample(ops.stop_gradient(logits))  # x^hat ~ p_G(x | x_masked), equation 1
        x = scatter(x_masked, m, masked_labels, is_masked)
        x_corrupt = scatter(x_masked, m, samples, is_masked)
        del inputs["masked_positions"]
        hidden = self.discriminator(inputs | {"input_ids": x_corrupt}, training=training)
        outputs = {"generator_logits": logits, "original": x, "replaced": x_corrupt}
        if self.discriminator_head:
            outputs["discriminator_logits"] = self.discriminator_head.logits(hidden)
        if self.mlm_head:
            positions = {"masked_positions": m} if self.objective == "replace_mlm" else {}
            outputs["mlm_logits"] = self.mlm_head.logits(hidden | positions)
        return outputs

    def endpoints(self):
        """Endpoints of the discriminator's heads; the generator fills masks where they do not."""
        heads = [head for head in (self.discriminator_head, self.mlm_head or self.generator) if head]
        return {name: endpoint for head in heads for name, endpoint in head.endpoints().items()}

    def sample(self, logits):
        """Tokens (b, k) from the distribution of logits (b, k, v), by the Gumbel-max trick."""
        return fast_argmax(logits + self.gumbel(ops.shape(logits)))

    def gumbel(self, shape):
        """New Gumbel noise, float32."""
        bits = ops.bitwise_right_shift(random_bits(shape, self.seed_generator.next()), np.uint32(8))
        return -ops.log(-ops.log((ops.cast(bits, "float32") + 0.5) * 2.0**-24))

    def loss_and_metrics(self, x, labels, outputs, sample_weight=None):
        """See `WeightedLossModel`; the labels are among the inputs `x`."""
        generator = cross_entropy(x["masked_labels"], outputs["generator_logits"])
        discriminator = self.discriminator_loss(x, outputs, x["masked_labels"])
        losses = {"generator": generator[0], "discriminator": discriminator[0]}
        return losses, dict(zip(self.metric_names, (*generator, *discriminator)))

    def discriminator_loss(self, inputs, outputs, masked_labels):
        """Pairs (sum, total) of the discriminator's loss and accuracy."""
        original, replaced = outputs["original"], outputs["replaced"]
        mask = inputs.get("attention_mask")
        mask = ops.ones_like(original, "bool") if mask is None else ops.cast(mask, "bool")
        if self.objective == "replace_mlm":
            return cross_entropy(masked_labels, outputs["mlm_logits"])
        if self.objective == "all_tokens_mlm":
            return copy_loss(outputs["mlm_logits"], outputs["discriminator_logits"], original, replaced, mask)
        if self.objective == "electra_15":
            none, ones = ops.zeros_like(original), ops.ones_like(masked_labels)
            mask = scatter(none, inputs["masked_positions"], ones, masked_labels >= 0) > 0
        labels = ops.where(mask, ops.cast(original != replaced, "int32"), IGNORE_INDEX)
        return binary_cross_entropy(labels, outputs["discriminator_logits"])


def copy_loss(mlm_logits, discriminator_logits, original, replaced, mask):
    """Loss of all-tokens MLM with a copy mechanism (section 3.4): pairs (sum, total) of -log p(original) and accuracy.

    p(x) = D [x is the input] + (1 - D) p_MLM(x), where D is the probability that the token was not replaced.
    Shapes: logits (b, t, v) and (b, t), the others (b, t).
    """
    log_p = ops.log_softmax(mlm_logits, axis=-1)
    predicted = ops.take_along_axis(log_p, ops.cast(original, "int32")[..., None], axis=-1)[..., 0]
    predicted = predicted - ops.softplus(-discriminator_logits)  # log (1 - D) p_MLM
    copied = ops.where(original == replaced, -ops.softplus(discriminator_logits), -1e9)  # log D
    weights = ops.cast(mask, "float32")
    total = ops.sum(weights)
    guess = ops.where(discriminator_logits < 0, ops.cast(replaced, "int32"), fast_argmax(log_p))
    correct = ops.cast(guess == ops.cast(original, "int32"), "float32")
    loss = -ops.sum(weights * ops.logaddexp(predicted, copied))
    return (loss, total), (ops.sum(weights * correct), total)


def scatter(ids, positions, updates, mask):
    """Ids (b, t) with updates (b, k) at positions (b, k), where the mask (b, k) is True."""
    length = ops.shape(ids)[1]
    rows = ops.arange(ops.shape(ids)[0], dtype="int32")[:, None]
    flat = ops.reshape(ops.cast(positions, "int32") + length * rows, (-1,))
    extra = length * ops.shape(ids)[0]  # one element more, for updates that are masked
    flat = ops.where(ops.reshape(mask, (-1,)), flat, extra)
    longer = ops.pad(ops.reshape(ids, (-1,)), [(0, 1)])
    new = ops.scatter_update(longer, flat[:, None], ops.reshape(ops.cast(updates, ids.dtype), (-1,)))
    return ops.reshape(new[:-1], ops.shape(ids))
