"""ELECTRA (Clark et al., 2020, https://arxiv.org/abs/2003.10555): learning to tell replaced tokens from original ones.

A small generator fills in masked tokens; the discriminator, which is what one keeps, says of every token of the
result whether it was replaced. Both are BERT's encoder with embeddings smaller than what follows, and no pooler.
Names are those of Hugging Face. Shapes: b batch, t tokens, k masked places, d hidden size, e embedding size,
v vocabulary.

Beyond the paper's model, its ablations (section 3.4) are options of `ElectraPretrainer`.
"""

import keras
import numpy as np
from keras import ops

from homl_models.errors import UserError
from homl_models.layers.dense import gelu
from homl_models.layers.dropout import random_bits
from homl_models.models.bert import ACTIVATIONS, Bert
from homl_models.models.bert_heads import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    Head,
)
from homl_models.models.scoring import IGNORED, Scored, binary_cross_entropy, cross_entropy, largest
from homl_models.models.text_pipelines import Detects
from homl_models.tokenizers.wordpiece import SETTINGS, SPECIAL


@keras.saving.register_keras_serializable("homl_models")
class Electra(Bert):
    """As `Bert`, with embeddings of another size and without a pooler; by default ELECTRA-small's discriminator."""

    def __init__(
        self,
        vocab_size=30522,
        hidden_size=256,
        num_hidden_layers=12,
        num_attention_heads=4,
        intermediate_size=1024,
        embedding_size=128,
        add_pooling_layer=False,
        **kwargs,
    ):
        super().__init__(
            vocab_size,
            hidden_size,
            num_hidden_layers,
            num_attention_heads,
            intermediate_size,
            embedding_size=embedding_size,
            add_pooling_layer=add_pooling_layer,
            **kwargs,
        )


@keras.saving.register_keras_serializable("homl_models")
class ElectraForPreTraining(Detects, Head):
    """The discriminator: inputs -> logits (b, t) that a token was replaced. Labels (b, t): 1 for replaced.

    Padding must have the label -100.
    """

    def __init__(self, backbone, **kwargs):
        super().__init__(backbone, **kwargs)
        self.hidden = self.dense(backbone.hidden_size, name="hidden")
        self.last = self.dense(1, name="last")

    def layers_of_head(self):
        return [self.hidden, self.last]

    def logits(self, found, training=None):
        x = ACTIVATIONS[self.backbone.hidden_act](self.hidden(found["last_hidden_state"]))
        return ops.cast(self.last(x), "float32")[..., 0]

    def score(self, labels, logits, weights=None):
        return binary_cross_entropy(labels, logits, weights)

    def pairs(self, labels, outputs):
        output, labels, logits = super().pairs(labels, outputs)["labels"]
        return {"labels": (output, ops.where(labels < 0, IGNORED, labels), logits)}


@keras.saving.register_keras_serializable("homl_models")
class ElectraForMaskedLM(BertForMaskedLM):
    """The generator: see `BertForMaskedLM`; what is compared with the words' embeddings has their size."""

    def word_size(self):
        return self.backbone.embedding_size or self.backbone.hidden_size

    def activation(self, x):
        return gelu(x)


@keras.saving.register_keras_serializable("homl_models")
class ElectraForSequenceClassification(BertForSequenceClassification):
    """See `BertForSequenceClassification`; reads the first token through a dense layer of its own."""

    pooled = False

    def __init__(self, backbone, num_labels=2, classifier_dropout=None, problem_type=None, **kwargs):
        super().__init__(backbone, num_labels, classifier_dropout, problem_type, **kwargs)
        self.hidden = self.dense(backbone.hidden_size, name="hidden")

    def layers_of_head(self):
        return [self.hidden, self.classifier]

    def logits(self, found, training=None):
        x = self.dropout_layer(found["last_hidden_state"][:, 0], training=training)
        return self.classified(gelu(self.hidden(x)), training)


@keras.saving.register_keras_serializable("homl_models")
class ElectraForTokenClassification(BertForTokenClassification):
    """See `BertForTokenClassification`."""


@keras.saving.register_keras_serializable("homl_models")
class ElectraForQuestionAnswering(BertForQuestionAnswering):
    """See `BertForQuestionAnswering`."""


OBJECTIVES = "electra", "electra_15", "replace_mlm", "all_tokens_mlm"


@keras.saving.register_keras_serializable("homl_models")
class ElectraPretrainer(Scored):
    """A generator that fills in masked texts, and a discriminator that learns of the result.

    Inputs: a dictionary of input_ids (b, t) with masked places, masked_positions (b, k), masked_labels (b, k), the
    tokens that were there, -100 where a row has fewer; and what else `Bert` takes. Gives a dictionary with
        generator_logits (b, k, v); replaced (b, t), what the generator made of the text, and original (b, t);
        discriminator_logits (b, t) that a token was replaced, and for the other objectives word_logits.

    discriminator: an `Electra`, what one keeps. generator: {argument: value}, where another `Electra` differs from it;
    the paper's has a quarter to a half of hidden_size, num_attention_heads and intermediate_size.
    objective: what the discriminator learns (section 3.4).
        "electra": of every token, whether it was replaced; "electra_15": of those alone that were masked.
        "replace_mlm": the tokens that were masked, given what the generator made of them instead of masks.
        "all_tokens_mlm": every token, with a chance to copy what stands there.
    weight: lambda, of the discriminator's loss (equation 3); 1 for the two last objectives.
    share_embeddings: both have the same embeddings, which must be of one size (section 3.2).
    freeze_generator: for the second of two stages; the generator was trained before. Needs embeddings of its own.
    seed: of the tokens that the generator draws. vocabulary and what follows it: see `bert_text.TextModel`.
    """

    metric_names = "generator_loss", "generator_accuracy", "discriminator_loss", "discriminator_accuracy"

    def __init__(
        self,
        discriminator,
        generator,
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
            raise UserError("a generator that rests needs embeddings of its own: share_embeddings=False")
        names = {
            "vocab_size",
            "embedding_size",
            "max_position_embeddings",
            "type_vocab_size",
            "position_embedding_type",
        }
        if share_embeddings and names & set(generator):
            raise UserError(f"embeddings that are shared have one {', '.join(sorted(names & set(generator)))}")
        self.discriminator, self.generator = discriminator, generator
        self.objective, self.weight, self.seed = objective, weight, seed
        self.share_embeddings, self.freeze_generator = share_embeddings, freeze_generator
        self.vocabulary, self.lowercase, self.strip_accents = tuple(vocabulary), lowercase, strip_accents
        self.tokenize_chinese_chars, self.special_names = tokenize_chinese_chars, tuple(special_names)
        own = {name: getattr(self, name) for name in ("vocabulary", *SETTINGS)} | {"dtype": self.dtype_policy}
        settings = {name: getattr(discriminator, name) for name in discriminator.argument_names()} | generator
        shared = {"shared_embeddings": discriminator.embeddings} if share_embeddings else {}
        self.filler_backbone = Electra(**settings, **shared, name="generator", dtype=discriminator.dtype_policy)
        self.filler = ElectraForMaskedLM(self.filler_backbone, name="filler", **own)
        detects = objective != "replace_mlm"
        self.detector = ElectraForPreTraining(discriminator, name="detector", **own) if detects else None
        self.namer = ElectraForMaskedLM(discriminator, name="namer", **own) if "mlm" in objective else None
        self.seed_generator = keras.random.SeedGenerator(seed)

    @property
    def loss_factors(self):
        """Of the two losses (equation 3)."""
        weight = self.weight if self.objective.startswith("electra") else 1.0
        return {"generator": 0.0 if self.freeze_generator else 1.0, "discriminator": weight}

    def build(self, input_shape=None):
        for head in (self.filler, self.detector, self.namer):
            if head:
                head.build()
        self.filler.trainable = not self.freeze_generator
        self.built = True

    def call(self, inputs, training=None):
        given = dict(inputs)
        labels, places = given.pop("masked_labels"), given["masked_positions"]
        logits = self.filler(given, training=training)
        masked, places = given["input_ids"], given.pop("masked_positions")
        drawn = largest(ops.stop_gradient(logits) + self.gumbel(ops.shape(logits)))
        original, replaced = (put(masked, places, tokens, labels >= 0) for tokens in (labels, drawn))
        found = self.discriminator(given | {"input_ids": replaced}, training=training)
        outputs = {"generator_logits": logits, "original": original, "replaced": replaced}
        if self.detector:
            outputs["discriminator_logits"] = self.detector.logits(found)
        if self.namer:
            here = {"masked_positions": places} if self.objective == "replace_mlm" else {}
            outputs["word_logits"] = self.namer.logits(found | here)
        return outputs

    def endpoints(self):
        """Those of the discriminator's heads; the generator fills masks where it has none that does."""
        found = self.detector.endpoints() if self.detector else {}
        return found | (self.namer or self.filler).endpoints()

    def gumbel(self, shape):
        """New Gumbel noise: the largest of logits plus it is a draw from their distribution."""
        bits = ops.bitwise_right_shift(random_bits(shape, self.seed_generator.next()), np.uint32(8))
        return -ops.log(-ops.log((ops.cast(bits, "float32") + 0.5) * 2.0**-24))

    def judge(self, x, labels, outputs, weights=None):
        """See `Scored`; all that is learnt is in the inputs `x`."""
        filled, right = cross_entropy(x["masked_labels"], outputs["generator_logits"])
        loss, accuracy = self.judge_discriminator(x, outputs, x["masked_labels"])
        losses = {"generator": filled, "discriminator": loss}
        return losses, dict(zip(self.metric_names, (filled, right, loss, accuracy)))

    def judge_discriminator(self, inputs, outputs, labels):
        """Pairs (sum, total) of its loss, and of what it has right."""
        original, replaced = outputs["original"], outputs["replaced"]
        seen = inputs.get("attention_mask")
        seen = ops.ones_like(original, "bool") if seen is None else ops.cast(seen, "bool")
        if self.objective == "replace_mlm":
            return cross_entropy(labels, outputs["word_logits"])
        if self.objective == "all_tokens_mlm":
            return copying(outputs["word_logits"], outputs["discriminator_logits"], original, replaced, seen)
        if self.objective == "electra_15":
            chosen = ops.zeros_like(original)
            seen = put(chosen, inputs["masked_positions"], ops.ones_like(labels), labels >= 0) > 0
        wanted = ops.where(seen, ops.cast(original != replaced, "int32"), IGNORED)
        return binary_cross_entropy(wanted, outputs["discriminator_logits"])


def copying(word_logits, replaced_logits, original, replaced, seen):
    """Pairs (sum, total) of -log p(original), where p is a copy of what stands there, or a word, and of what is right.

    The chance to copy is that of not being replaced. Shapes: logits (b, t, v) and (b, t), the others (b, t).
    """
    log_p = ops.log_softmax(word_logits, axis=-1)
    word = ops.take_along_axis(log_p, ops.cast(original, "int32")[..., None], axis=-1)[..., 0]
    word = word - ops.softplus(-replaced_logits)  # log of (1 - chance to copy) times that of the word
    copied = ops.where(original == replaced, -ops.softplus(replaced_logits), -1e9)
    counts = ops.cast(seen, "float32")
    total = ops.sum(counts)
    guess = ops.where(replaced_logits < 0, ops.cast(replaced, "int32"), largest(log_p))
    right = ops.cast(guess == ops.cast(original, "int32"), "float32")
    return (-ops.sum(counts * ops.logaddexp(word, copied)), total), (ops.sum(counts * right), total)


def put(ids, places, tokens, mask):
    """Ids (b, t) with tokens (b, k) at places (b, k), where the mask (b, k) is True."""
    length = ops.shape(ids)[1]
    rows = ops.arange(ops.shape(ids)[0], dtype="int32")[:, None]
    flat = ops.reshape(ops.cast(places, "int32") + length * rows, (-1,))
    flat = ops.where(ops.reshape(mask, (-1,)), flat, length * ops.shape(ids)[0])  # one place more, for what is not put
    longer = ops.pad(ops.reshape(ids, (-1,)), [(0, 1)])
    new = ops.scatter_update(longer, flat[:, None], ops.reshape(ops.cast(tokens, ids.dtype), (-1,)))
    return ops.reshape(new[:-1], ops.shape(ids))
