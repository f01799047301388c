"""What BERT is for: its heads (Devlin et al., 2018, https://arxiv.org/abs/1810.04805, sections 3.1 and 4).

Each is a model around a `Bert`, the backbone, and named as in Hugging Face's `transformers`; ELECTRA's, which share
most of it, are in `electra.py`. Inputs are those of the backbone. Logits are float32; labels of -100 do not count.
Shapes: b batch, t tokens, n choices or labels, k places, d hidden size, v vocabulary, r rows = b times the beam.
"""

import functools

import keras
import numpy as np
from keras import ops

from homl_models import decoding
from homl_models.base import compiled
from homl_models.errors import UserError
from homl_models.layers.dense import Dense
from homl_models.layers.dropout import Dropout
from homl_models.models.bert import ACTIVATIONS, initializer, unpacked
from homl_models.models.bert_text import Answers, Classifies, Embeds, Fills, Tags, TextModel

IGNORED = -100  # label of what does not count


def largest(x):
    """Where along the last axis of x (..., v) the largest number is: (...), int32.

    As `ops.argmax`, which on a CPU XLA computes number by number, what leads to x with it: for 544
    places and 8,192 words 28 ms instead of 8, with Gumbel noise added to the logits 190 instead of 22.
    """
    return ops.cast(ops.top_k(x, 1)[1][..., 0], "int32")


def cross_entropy(labels, logits):
    """Mean cross-entropy of logits (..., v) where labels (...) are not `IGNORED`, and the share that is right."""
    counts = ops.cast(labels != IGNORED, "float32")
    labels, logits = ops.cast(ops.where(labels == IGNORED, 0, labels), "int32"), ops.cast(logits, "float32")
    wanted = ops.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    total = ops.maximum(ops.sum(counts), 1.0)
    right = ops.cast(largest(logits) == labels, "float32")
    return ops.sum(counts * (ops.logsumexp(logits, axis=-1) - wanted)) / total, ops.sum(counts * right) / total


class Head(TextModel):
    """A backbone, `Bert` or `Electra`, and what is made of its output: inputs -> logits, or a dictionary of them.

    With `output_hidden_states` or `output_attentions` always a dictionary, which has those as well.
    A subclass has `logits(found, training)`, of what the backbone found, and `judge(labels, logits)` ->
    the loss and {name: metric}, means over a batch.
    """

    metric_names = ("accuracy",)
    pooled = False  # whether it reads the pooler's output

    def __init__(self, backbone, **kwargs):
        super().__init__(**kwargs)
        if self.pooled and not backbone.pooler:
            raise UserError(f"{type(self).__name__} needs a backbone with add_pooling_layer")
        self.backbone = backbone
        self.check_vocabulary()
        self.trackers = {name: keras.metrics.Mean(name) for name in self.metric_names}

    def dense(self, units, **settings):
        """A dense layer that begins as those of the backbone do."""
        start = initializer(self.backbone.initializer_range)
        return Dense(units, kernel_initializer=start, dtype=self.dtype_policy, **settings)

    def build(self, input_shape=None):
        if not self.backbone.built:
            self.backbone.build()
        for layer in self.layers_of_head():
            layer.build((None, self.backbone.hidden_size))
        self.built = True

    def layers_of_head(self):
        """The layers to build, all of which take what the backbone gives."""
        return []

    def call(self, inputs, training=None, output_hidden_states=False, output_attentions=False):
        inputs, own = self.taken(inputs)
        asked = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        found = self.backbone(inputs, training=training, **asked)
        logits = self.logits(found | own, training)
        if not any(asked.values()):
            return logits
        more = {name: found[name] for name in ("hidden_states", "attentions", "cross_attentions") if name in found}
        return (logits if isinstance(logits, dict) else {"logits": logits}) | more

    def taken(self, inputs):
        """Inputs without, and of only, those that are for the head."""
        return inputs, {}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if sample_weight is not None:
            raise UserError("heads take no sample weights; give labels of -100 to what is not to count")
        return self.judge(y, y_pred)[0]

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        for name, value in self.judge(y, y_pred)[1].items():
            self.trackers[name].update_state(value)
        return self.get_metrics_result()


class MaskedLM(Head):
    """What heads share that name tokens: a dense layer, the word embeddings again, and a bias for each word.

    tie_word_embeddings: or else the output has a matrix of its own.
    If inputs have "masked_positions" (b, k), logits are of those places only, which saves most of the work.
    """

    def __init__(self, backbone, tie_word_embeddings=True, **kwargs):
        super().__init__(backbone, **kwargs)
        self.tie_word_embeddings = tie_word_embeddings
        self.transform = self.dense(self.word_size(), name="transform")
        epsilon = backbone.layer_norm_eps
        self.norm = keras.layers.LayerNormalization(epsilon=epsilon, name="transform_norm", dtype=self.dtype_policy)

    def word_size(self):
        """Size of what is compared with the words' embeddings."""
        return self.backbone.hidden_size

    def activation(self, x):
        return ACTIVATIONS[self.backbone.hidden_act](x)

    def layers_of_head(self):
        return [self.transform]

    def build(self, input_shape=None):
        super().build(input_shape)
        self.norm.build((None, self.word_size()))
        v = self.backbone.vocab_size
        self.bias = self.add_weight(shape=(v,), initializer="zeros", autocast=False, name="bias")
        if not self.tie_word_embeddings:
            start = initializer(self.backbone.initializer_range)
            self.decoder = self.add_weight(shape=(v, self.word_size()), initializer=start, name="decoder")

    def taken(self, inputs):
        if not isinstance(inputs, dict) or "masked_positions" not in inputs:
            return inputs, {}
        own = {"masked_positions": inputs["masked_positions"]}
        return {name: value for name, value in inputs.items() if name not in own}, own

    def words(self, x):
        """What the backbone gives (..., d) -> logits (..., v)."""
        x = self.norm(self.activation(self.transform(x)))
        table = self.backbone.embeddings.word.embeddings if self.tie_word_embeddings else self.decoder
        return ops.cast(ops.matmul(x, ops.transpose(ops.cast(table, x.dtype))), "float32") + self.bias

    def logits(self, found, training=None):
        x = found["last_hidden_state"]
        if "masked_positions" in found:
            x = ops.take_along_axis(x, ops.cast(found["masked_positions"], "int32")[..., None], axis=1)
        return self.words(x)

    def judge(self, labels, logits):
        loss, accuracy = cross_entropy(labels, logits)
        return loss, {"accuracy": accuracy}


@keras.saving.register_keras_serializable("homl_models")
class BertForMaskedLM(Fills, MaskedLM):
    """Inputs -> logits of the words at every place (b, t, v), or at "masked_positions" (b, k, v)."""

    __doc__ += "\n" + MaskedLM.__doc__.split("\n", 1)[1]


@keras.saving.register_keras_serializable("homl_models")
class BertForPreTraining(Fills, MaskedLM):
    """Inputs -> prediction_logits (b, t, v), see `BertForMaskedLM`, and seq_relationship_logits (b, 2).

    The latter say whether the second text follows the first: 0 if it does, 1 if it comes from elsewhere.
    Labels: a dictionary of `labels` and `next_sentence_label` (b,).
    """

    metric_names = ("accuracy", "next_sentence_accuracy")
    pooled = True

    def __init__(self, backbone, tie_word_embeddings=True, **kwargs):
        super().__init__(backbone, tie_word_embeddings, **kwargs)
        self.next_sentence = self.dense(2, name="next_sentence")

    def layers_of_head(self):
        return [self.transform, self.next_sentence]

    def logits(self, found, training=None):
        pooled = ops.cast(self.next_sentence(found["pooler_output"]), "float32")
        return {"prediction_logits": super().logits(found, training), "seq_relationship_logits": pooled}

    def judge(self, labels, logits):
        words, accuracy = cross_entropy(labels["labels"], logits["prediction_logits"])
        follows, right = cross_entropy(labels["next_sentence_label"], logits["seq_relationship_logits"])
        return words + follows, {"accuracy": accuracy, "next_sentence_accuracy": right}


@keras.saving.register_keras_serializable("homl_models")
class BertForNextSentencePrediction(Head):
    """Inputs -> logits (b, 2) of whether the second text follows the first (0) or not (1)."""

    pooled = True

    def __init__(self, backbone, **kwargs):
        super().__init__(backbone, **kwargs)
        self.next_sentence = self.dense(2, name="next_sentence")

    def layers_of_head(self):
        return [self.next_sentence]

    def logits(self, found, training=None):
        return ops.cast(self.next_sentence(found["pooler_output"]), "float32")

    judge = MaskedLM.judge


class Classifier(Head):
    """A dense layer with dropout before it.

    classifier_dropout: its rate; None for that of the backbone. labels: their names; by default LABEL_0, LABEL_1, ...
    """

    num_labels = 1
    judge = MaskedLM.judge

    def __init__(self, backbone, classifier_dropout=None, labels=(), **kwargs):
        super().__init__(backbone, **kwargs)
        if labels and len(labels) != self.num_labels:
            raise UserError(f"{len(labels)} names are given for {self.num_labels} labels")
        self.classifier_dropout, self.labels = classifier_dropout, tuple(labels)
        self.label_names = self.labels or tuple(f"LABEL_{i}" for i in range(self.num_labels))
        rate = backbone.hidden_dropout_prob if classifier_dropout is None else classifier_dropout
        self.dropout_layer = Dropout(rate, dtype=self.dtype_policy)
        self.classifier = self.dense(self.num_labels, name="classifier")

    def layers_of_head(self):
        return [self.classifier]

    def classified(self, x, training=None):
        return ops.cast(self.classifier(self.dropout_layer(x, training=training)), "float32")


PROBLEMS = "regression", "single_label_classification", "multi_label_classification"


@keras.saving.register_keras_serializable("homl_models")
class BertForSequenceClassification(Classifies, Classifier):
    """Inputs -> logits (b, n) of labels.

    problem_type: "single_label_classification", labels (b,); "multi_label_classification", labels (b, n) in [0, 1];
    "regression", targets (b, n), or (b,) for one. None for the first, or for the last if n is 1.
    """

    pooled = True

    def __init__(self, backbone, num_labels=2, classifier_dropout=None, problem_type=None, **kwargs):
        if problem_type not in (None, *PROBLEMS):
            raise UserError(f"problem_type must be one of {', '.join(PROBLEMS)}, not {problem_type!r}")
        self.problem = problem_type or PROBLEMS[num_labels > 1]
        self.metric_names = ("mean_squared_error",) if self.problem == "regression" else ("accuracy",)
        self.num_labels = num_labels
        super().__init__(backbone, classifier_dropout, **kwargs)
        self.problem_type = problem_type

    def logits(self, found, training=None):
        return self.classified(found["pooler_output"], training)

    def judge(self, labels, logits):
        if self.problem == "single_label_classification":
            return super().judge(labels, logits)
        labels = ops.reshape(ops.cast(labels, "float32"), ops.shape(logits))
        if self.problem == "regression":
            loss = ops.mean(ops.square(logits - labels))
            return loss, {"mean_squared_error": loss}
        loss = ops.mean(ops.softplus(logits) - labels * logits)
        return loss, {"accuracy": ops.mean(ops.cast((logits > 0) == (labels > 0.5), "float32"))}


@keras.saving.register_keras_serializable("homl_models")
class BertForMultipleChoice(Classifier):
    """Inputs with an axis of choices, ids (b, n, t) -> logits (b, n) of the choices. Labels (b,)."""

    pooled = True

    def call(self, inputs, training=None, **asked):
        inputs = inputs if isinstance(inputs, dict) else {"input_ids": inputs}
        shape = ops.shape(inputs["input_ids" if "input_ids" in inputs else "inputs_embeds"])
        flat = {
            name: value if name == "head_mask" else ops.reshape(value, (-1, *ops.shape(value)[2:]))
            for name, value in inputs.items()
        }
        found = super().call(flat, training, **asked)
        if not isinstance(found, dict):
            return ops.reshape(found, shape[:2])
        return found | {"logits": ops.reshape(found["logits"], shape[:2])}

    def logits(self, found, training=None):
        return self.classified(found["pooler_output"], training)


@keras.saving.register_keras_serializable("homl_models")
class BertForTokenClassification(Tags, Classifier):
    """Inputs -> logits (b, t, n) of a label for each token. Labels (b, t)."""

    def __init__(self, backbone, num_labels=2, classifier_dropout=None, **kwargs):
        self.num_labels = num_labels
        super().__init__(backbone, classifier_dropout, **kwargs)

    def logits(self, found, training=None):
        return self.classified(found["last_hidden_state"], training)


@keras.saving.register_keras_serializable("homl_models")
class BertForQuestionAnswering(Answers, Head):
    """Inputs -> start_logits and end_logits (b, t) of the answer's first and last token.

    Labels: a dictionary of `start_positions` and `end_positions` (b,); those outside of the text do not count.
    """

    def __init__(self, backbone, **kwargs):
        super().__init__(backbone, **kwargs)
        self.span = self.dense(2, name="span")

    def layers_of_head(self):
        return [self.span]

    def logits(self, found, training=None):
        span = ops.cast(self.span(found["last_hidden_state"]), "float32")
        return {"start_logits": span[..., 0], "end_logits": span[..., 1]}

    def judge(self, labels, logits):
        sums = []
        for name in ("start", "end"):
            scores, places = logits[f"{name}_logits"], ops.cast(labels[f"{name}_positions"], "int32")
            length = ops.shape(scores)[1]
            places = ops.maximum(places, 0)  # as the reference does
            sums.append(cross_entropy(ops.where(places < length, places, IGNORED), scores))
        loss, accuracy = (sum(pair) / 2 for pair in zip(*sums))
        return loss, {"accuracy": accuracy}


@keras.saving.register_keras_serializable("homl_models")
class TextEmbedder(Embeds, Head):
    """Inputs -> vectors of texts (b, d), the mean of what their tokens became. It has nothing to train."""

    metric_names = ()

    def logits(self, found, training=None):
        x, mask = ops.cast(found["last_hidden_state"], "float32"), found["attention_mask"]
        if mask is None:
            return ops.mean(x, axis=1)
        mask = ops.cast(mask, "float32")[..., None]
        return ops.sum(x * mask, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1.0)

    def taken(self, inputs):
        return inputs, {"attention_mask": unpacked(inputs)["attention_mask"]}


@keras.saving.register_keras_serializable("homl_models")
class BertLMHeadModel(MaskedLM):
    """A decoder: inputs -> logits (b, t, v) of the word that follows each. Labels (b, t) are the ids themselves.

    The backbone is a `Bert` with `is_decoder`.
    """

    def __init__(self, backbone, tie_word_embeddings=True, **kwargs):
        if not backbone.is_decoder:
            raise UserError("a language model reads from left to right: make the backbone with is_decoder=True")
        super().__init__(backbone, tie_word_embeddings, **kwargs)

    def judge(self, labels, logits):
        return super().judge(labels[:, 1:], logits[:, :-1])

    # Writing.

    def start(self, ids, length, attention_mask=None, memory=None, memory_mask=None):
        """Read prompts (b, t), with padding at the right, before up to `length` tokens are written.

        Returns what is looked at, and the state before the last token of each prompt; see `step`.
        """
        bert = self.backbone
        mask = ops.ones_like(ids) if attention_mask is None else ops.cast(attention_mask, "int32")
        x, looked_at, caches = bert.embed(unpacked(ids)), [], []
        seen = bert.seen(mask, ops.shape(ids)[1])
        memory_mask = None if memory_mask is None else ops.cast(memory_mask, "bool")[:, None, None]
        for block in bert.blocks:
            own = block.attention.keys_values(x)
            looked_at.append(memory is not None and block.cross_attention.keys_values(memory))
            x = block.run(x, own, seen, None, looked_at[-1], memory_mask)[0]
            caches.append([ops.pad(part, [(0, 0), (0, 0), (0, length), (0, 0)]) for part in own])
        return (looked_at, memory_mask), (ops.sum(mask, axis=1) - 1, caches)

    def step(self, memory, tokens, state):
        """Tokens (r,), the state -> logits (r, v) of what follows, the state: places, and keys and values before."""
        (looked_at, memory_mask), (positions, caches), after = memory, state, []
        bert = self.backbone
        x = bert.embed(unpacked({"input_ids": tokens[:, None], "position_ids": positions[:, None]}))
        places = ops.arange(ops.shape(caches[0][0])[2])
        here = (places == positions[:, None])[:, None, :, None]
        seen = (places <= positions[:, None])[:, None, None]
        for block, cache, other in zip(bert.blocks, caches, looked_at):
            cache = [ops.where(here, new, old) for new, old in zip(block.attention.keys_values(x), cache)]
            x = block.run(x, cache, seen, None, other, memory_mask, first=positions)[0]
            after.append(cache)
        return self.words(x[:, 0]), (positions + 1, after)

    def write(self, ids, mask, memory, memory_mask, noise, limits, how):
        """Ids of prompts (b, t) -> new ids (b, length); see `generate`."""
        length, beams, end = how["length"], how["num_beams"], how["end"]
        memory, state = self.start(ids, length, mask, memory, memory_mask)
        last = ops.take_along_axis(ids, state[0][:, None], axis=1)[:, 0]
        if beams == 1:
            step = functools.partial(self.step, memory)
            logits, state = step(last, state)
            choice = {name: how[name] for name in ("temperature", "top_k", "top_p")}
            return decoding.sample(step, logits, state, noise, stop=None if end is None else [end], **choice)
        memory = keras.tree.map_structure(lambda x: ops.repeat(x, beams, axis=0) if ops.is_tensor(x) else x, memory)
        search = {"length_penalty": how["length_penalty"], "limits": limits, "length": length, "end": end}
        start = ops.repeat(last, beams, axis=0)
        rows = ops.shape(ids)[0]
        return decoding.beam_search(functools.partial(self.step, memory), state, rows, beams, start=start, **search)[0][
            :, 0
        ]

    def generate(
        self,
        ids,
        length=20,
        attention_mask=None,
        encoder_hidden_states=None,
        encoder_attention_mask=None,
        num_beams=1,
        end=None,
        length_penalty=1.0,
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        seed=0,
    ):
        """What follows prompts (b, t), padded at the right where attention_mask (b, t) is 0: ids (b, length).

        end: the token that ends a text; after it stands -1. num_beams: above 1 for beam search, which needs `end`
        and `length_penalty`, see `decoding.beam_search`; or else tokens are drawn, see `decoding.filter_logits`;
        temperature 0 takes the most probable one.
        """
        ids, most = np.asarray(ids, np.int32), self.backbone.max_position_embeddings
        if ids.shape[1] + length > most:
            raise UserError(f"prompt and text have {ids.shape[1]} + {length} tokens; this model takes {most} at most")
        if num_beams > 1 and end is None:
            raise UserError("beam search needs `end`, the token that ends a text")
        how = {"length": length, "num_beams": num_beams, "end": end, "length_penalty": length_penalty}
        how |= {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        noise = decoding.draw(seed, length, len(ids)) if num_beams == 1 else None
        key = "write", *how.values()
        if key not in self._compiled:
            self._compiled[key] = compiled(functools.partial(self.write, how=how))
        given = ids, attention_mask, encoder_hidden_states, encoder_attention_mask, noise
        given = [None if x is None else ops.convert_to_tensor(x) for x in given]
        return ops.convert_to_numpy(self._compiled[key](*given, ops.full((len(ids),), length, "int32")))
