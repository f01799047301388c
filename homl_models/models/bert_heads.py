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
from homl_models.models.bert import ACTIVATIONS, embeddings_of, initializer, unpacked
from homl_models.models.scoring import IGNORED, ScoredByLabels, counted
from homl_models.models.text_pipelines import Answers, Classifies, Embeds, Fills, Tags, TextModel

PADDING = -1e9  # logit of what is no place for an answer


class Head(ScoredByLabels, TextModel):
    """A backbone, `Bert` or `Electra`, and what is made of its output: inputs -> logits, or a dictionary of them.

    With `output_hidden_states` or `output_attentions` always a dictionary, which has those as well.
    A subclass has `logits(found, training)`, of what the backbone found, and what `ScoredByLabels` asks for.
    """

    pooled = False  # whether it reads the pooler's output

    def __init__(self, backbone, **kwargs):
        super().__init__(**kwargs)
        if self.pooled and not backbone.pooler:
            raise UserError(f"{type(self).__name__} needs a backbone with add_pooling_layer")
        self.backbone = backbone
        self.check_vocabulary()

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
        table = embeddings_of(self.backbone.embeddings.word) if self.tie_word_embeddings else self.decoder
        return ops.cast(ops.matmul(x, ops.transpose(ops.cast(table, x.dtype))), "float32") + self.bias

    def logits(self, found, training=None):
        x = found["last_hidden_state"]
        if "masked_positions" in found:
            x = ops.take_along_axis(x, ops.cast(found["masked_positions"], "int32")[..., None], axis=1)
        return self.words(x)


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
    loss_factors = {"words": 1.0, "next_sentence": 1.0}
    pooled = True

    def __init__(self, backbone, tie_word_embeddings=True, **kwargs):
        super().__init__(backbone, tie_word_embeddings, **kwargs)
        self.next_sentence = self.dense(2, name="next_sentence")

    def layers_of_head(self):
        return [self.transform, self.next_sentence]

    def logits(self, found, training=None):
        pooled = ops.cast(self.next_sentence(found["pooler_output"]), "float32")
        return {"prediction_logits": super().logits(found, training), "seq_relationship_logits": pooled}

    def pairs(self, labels, outputs):
        names = {"labels": "prediction_logits", "next_sentence_label": "seq_relationship_logits"}
        return {label: (output, labels[label], outputs[output]) for label, output in names.items()}


@keras.saving.register_keras_serializable("homl_models")
class BertForNextSentencePrediction(Head):
    """Inputs -> logits (b, 2) of whether the second text follows the first (0) or not (1)."""

    pooled = True
    num_classes = 2

    def __init__(self, backbone, **kwargs):
        super().__init__(backbone, **kwargs)
        self.next_sentence = self.dense(2, name="next_sentence")

    def layers_of_head(self):
        return [self.next_sentence]

    def logits(self, found, training=None):
        return ops.cast(self.next_sentence(found["pooler_output"]), "float32")


class Classifier(Head):
    """A dense layer with dropout before it.

    classifier_dropout: its rate; None for that of the backbone. labels: their names; by default LABEL_0, LABEL_1, ...
    """

    num_labels = 1

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

    @property
    def num_classes(self):
        return self.num_labels if self.problem == "single_label_classification" else None

    def pairs(self, labels, outputs):
        found = super().pairs(labels, outputs)
        if self.num_classes:
            return found
        output, labels, logits = found["labels"]
        return {"labels": (output, ops.reshape(ops.cast(labels, "float32"), ops.shape(logits)), logits)}

    def score(self, labels, logits, weights=None):
        if self.problem == "single_label_classification":
            return super().score(labels, logits, weights)
        if self.problem == "regression":
            counts = counted(labels, weights)
            pair = ops.sum(counts * ops.square(logits - labels)), ops.sum(counts)
            return pair, pair
        counts = counted(labels, weights)
        total = ops.sum(counts)
        right = ops.cast((logits > 0) == (labels > 0.5), "float32")
        return (ops.sum(counts * (ops.softplus(logits) - labels * logits)), total), (ops.sum(counts * right), total)


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
        self.num_labels = self.num_classes = num_labels
        super().__init__(backbone, classifier_dropout, **kwargs)

    def logits(self, found, training=None):
        return self.classified(found["last_hidden_state"], training)


@keras.saving.register_keras_serializable("homl_models")
class BertForQuestionAnswering(Answers, Head):
    """Inputs -> start_logits and end_logits (b, t) of the answer's first and last token.

    Labels: a dictionary of `start_positions` and `end_positions` (b,); those outside of the text do not count. To
    losses and metrics padding is no place for an answer, so that they do not depend on it; the reference leaves it in.
    unanswerable: whether a context may hold no answer, for which [CLS] stands (Rajpurkar et al., 2018,
    https://arxiv.org/abs/1806.03822); by default the best of the context is the answer, however improbable.
    """

    loss_factors = {"start": 0.5, "end": 0.5}

    def __init__(self, backbone, unanswerable=False, **kwargs):
        super().__init__(backbone, **kwargs)
        self.unanswerable = unanswerable
        self.span = self.dense(2, name="span")

    def layers_of_head(self):
        return [self.span]

    def logits(self, found, training=None):
        span = ops.cast(self.span(found["last_hidden_state"]), "float32")
        return {"start_logits": span[..., 0], "end_logits": span[..., 1]}

    def placed(self, x, labels, outputs):
        mask = None if x is None else unpacked(x)["attention_mask"]
        if mask is None or len(mask.shape) != 2:
            return labels, outputs
        mask, length = ops.cast(mask, "bool"), ops.shape(mask)[1]

        def inside(places):
            places = ops.cast(places, "int32")
            seen = ops.take_along_axis(mask, ops.clip(places, 0, length - 1)[:, None], axis=1)[:, 0]
            return ops.where(seen, places, length)

        outputs = {name: ops.where(mask, logits, PADDING) for name, logits in outputs.items()}
        return {name: inside(places) for name, places in labels.items()}, outputs

    def pairs(self, labels, outputs):
        found = {}
        for name in ("start", "end"):
            logits, places = outputs[f"{name}_logits"], ops.cast(labels[f"{name}_positions"], "int32")
            places = ops.maximum(places, 0)  # as the reference does
            places = ops.where(places < ops.shape(logits)[1], places, IGNORED)
            found[f"{name}_positions"] = f"{name}_logits", places, logits
        return found

    def metrics_of(self, pairs):
        return {"accuracy": tuple(map(sum, zip(*pairs)))}


POOLINGS = "mean", "cls", "max", "mean_sqrt_len"


@keras.saving.register_keras_serializable("homl_models")
class TextEmbedder(Embeds, Head):
    """Inputs -> vectors of texts (b, d), of what their tokens became. It has nothing to train.

    pooling: one of `POOLINGS`: the mean of the tokens, their sum by the square root of their number, the largest in
    each place, or what became of [CLS]. normalize: whether vectors have length 1.
    """

    metric_names = ()
    loss_factors = {}

    def __init__(self, backbone, pooling="mean", normalize=False, **kwargs):
        if pooling not in POOLINGS:
            raise UserError(f"pooling must be one of {', '.join(POOLINGS)}, not {pooling!r}")
        super().__init__(backbone, **kwargs)
        self.pooling, self.normalize = pooling, normalize

    def logits(self, found, training=None):
        x, mask = ops.cast(found["last_hidden_state"], "float32"), found["attention_mask"]
        mask = ops.ones(ops.shape(x)[:2]) if mask is None else ops.cast(mask, "float32")
        vectors = self.pooled_vectors(x, mask[..., None])
        return vectors / ops.maximum(ops.norm(vectors, axis=-1, keepdims=True), 1e-12) if self.normalize else vectors

    def pooled_vectors(self, x, mask):
        if self.pooling == "cls":
            return x[:, 0]
        if self.pooling == "max":
            return ops.max(ops.where(mask > 0, x, -1e9), axis=1)
        count = ops.maximum(ops.sum(mask, axis=1), 1.0)
        return ops.sum(x * mask, axis=1) / (count if self.pooling == "mean" else ops.sqrt(count))

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

    def pairs(self, labels, outputs):
        output, labels, logits = super().pairs(labels, outputs)["labels"]
        return {"labels": (output, labels[:, 1:], logits[:, :-1])}

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

    def write(self, ids, mask, memory, memory_mask, noise, limits, choice, how):
        """Ids of prompts (b, t) -> new ids (b, length); see `generate`."""
        length, beams, end = how["length"], how["num_beams"], how["end"]
        memory, state = self.start(ids, length, mask, memory, memory_mask)
        last = ops.take_along_axis(ids, state[0][:, None], axis=1)[:, 0]
        if beams == 1:
            step = functools.partial(self.step, memory)
            logits, state = step(last, state)
            return decoding.sample(step, logits, state, noise, stop=None if end is None else [end], **choice)
        memory = keras.tree.map_structure(lambda x: ops.repeat(x, beams, axis=0) if ops.is_tensor(x) else x, memory)
        search = {"max_new_tokens": limits, "length": length, "end": end, **choice}
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
        """What follows prompts (b, t), padded where attention_mask (b, t) is 0, at the left or right: ids (b, length).

        end: the token that ends a text; after it stands -1. num_beams: above 1 for beam search, which needs `end`
        and `length_penalty`, see `decoding.beam_search`; or else tokens are sampled, see `decoding.filter_logits`;
        temperature 0 takes the most probable one. Padding changes nothing of what follows: positions count from the
        first token that is not. `UserError` for values out of these ranges.
        """
        ids = np.asarray(ids, np.int32)
        _check_writing(self.backbone, ids, length, num_beams, end, length_penalty, temperature, top_k, top_p)
        if attention_mask is not None:
            ids, attention_mask = _padded_right(ids, attention_mask)
        if not len(ids):
            return np.zeros((0, length), np.int32)
        how = {"length": length, "num_beams": num_beams, "end": end}
        if num_beams > 1:
            choice = {"length_penalty": np.float32(length_penalty)}
        else:
            choice = {"temperature": np.float32(temperature)}
            if temperature and (top_k or top_p < 1):  # or else there is nothing to sort for
                choice |= {"top_k": np.int32(top_k), "top_p": np.float32(top_p)}
        noise = decoding.sampling_noise(seed, length, len(ids)) if num_beams == 1 else None
        key = "write", *how.values(), *choice
        if key not in self._compiled:
            self._compiled[key] = compiled(functools.partial(self.write, how=how))
        given = (
            ids,
            attention_mask,
            encoder_hidden_states,
            encoder_attention_mask,
            noise,
            np.full(len(ids), length, "int32"),
        )
        given = [None if x is None else ops.convert_to_tensor(x) for x in given]
        choice = {name: ops.convert_to_tensor(value) for name, value in choice.items()}
        return ops.convert_to_numpy(self._compiled[key](*given, choice))


def _check_writing(backbone, ids, length, num_beams, end, length_penalty, temperature, top_k, top_p):
    """Raise `UserError` for what `generate` does not take."""
    size, most = backbone.vocab_size, backbone.max_position_embeddings
    if ids.ndim != 2 or (len(ids) and not ids.shape[1]):
        raise UserError(f"prompts are ids (rows, tokens) with at least a token each, not of the shape {ids.shape}")
    if ids.size and not 0 <= ids.min() <= ids.max() < size:
        raise UserError(f"ids must lie in 0 to {size - 1}, the vocabulary, not {ids.min()} to {ids.max()}")
    for name, value, fits, words in (
        ("length", length, length >= 1, "1 or more"),
        ("num_beams", num_beams, 1 <= num_beams <= size, f"1 to {size}, the vocabulary"),
        ("end", end, end is None or 0 <= end < size, f"None, or 0 to {size - 1}, the vocabulary"),
        ("length_penalty", length_penalty, 0 <= length_penalty < np.inf, "0 or more"),
        ("temperature", temperature, 0 <= temperature < np.inf, "0 (the most probable token) or more"),
        ("top_k", top_k, top_k >= 0, "0 (all tokens) or more"),
        ("top_p", top_p, 0 <= top_p <= 1, "0 to 1"),
    ):
        if not fits:
            raise UserError(f"{name} must be {words}, not {value}")
    if ids.shape[1] + length > most:
        raise UserError(f"prompt and text have {ids.shape[1]} + {length} tokens; this model takes {most} at most")
    if num_beams > 1 and end is None:
        raise UserError("beam search needs `end`, the token that ends a text")


def _padded_right(ids, attention_mask):
    """Prompts (b, t) with padding at the left or right -> ids and mask (b, t) with all padding at the right."""
    mask = np.asarray(attention_mask, np.int32)
    if mask.shape != ids.shape or not np.isin(mask, (0, 1)).all():
        raise UserError(f"attention_mask holds a 1 or 0 for each id, {ids.shape}; it has the shape {mask.shape}")
    if not mask.any(1).all() or (np.count_nonzero(np.diff(mask, prepend=0, append=0), axis=1) != 2).any():
        raise UserError("attention_mask must have the tokens of a prompt, one or more, side by side in each row")
    order = np.argsort(mask == 0, axis=1, kind="stable")
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(mask, order, axis=1)
