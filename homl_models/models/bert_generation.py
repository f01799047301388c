"""Causal language model of BERT: a decoder that generates text with a key/value cache.

Shapes: b batch, t tokens of the prompts, s encoder states, v vocabulary, r rows = b times the number of beams.
"""

import functools

import keras
import numpy as np
from keras import ops

from homl_models import decoding
from homl_models.base import compiled
from homl_models.errors import UserError
from homl_models.models.bert import named_inputs
from homl_models.models.bert_pretraining import MaskedLM


@keras.saving.register_keras_serializable("homl_models")
class BertLMHeadModel(MaskedLM):
    """A decoder: inputs -> logits (b, t, v) of the next word. Labels (b, t) are the ids themselves.

    Args:
        backbone: a `Bert` with `is_decoder`.
        tie_word_embeddings: see `bert_pretraining.BertForMaskedLM`.
    """

    required_config = {"is_decoder": True}

    def labels_and_logits(self, labels, outputs):
        output, labels, logits = super().labels_and_logits(labels, outputs)["labels"]
        return {"labels": (output, labels[:, 1:], logits[:, :-1])}

    def prefill(self, ids, length, attention_mask=None, memory=None, memory_mask=None):
        """Read prompts (b, t), padded at the right, before up to `length` new tokens.

        Returns keys and values of the encoder states with their mask, and the state before the last token of each
        prompt; see `step`.
        """
        bert = self.backbone
        mask = ops.ones_like(ids) if attention_mask is None else ops.cast(attention_mask, "int32")
        x, cross_keys_values, caches = bert.embed(named_inputs(ids)), [], []
        causal = bert.extended_attention_mask(mask, ops.shape(ids)[1])
        memory_mask = None if memory_mask is None else ops.cast(memory_mask, "bool")[:, None, None]
        for block in bert.blocks:
            own = block.attention.keys_values(x)
            cross_keys_values.append(memory is not None and block.cross_attention.keys_values(memory))
            x = block.attend(x, own, causal, None, cross_keys_values[-1], memory_mask)[0]
            caches.append([ops.pad(part, [(0, 0), (0, 0), (0, length), (0, 0)]) for part in own])
        return (cross_keys_values, memory_mask), (ops.sum(mask, axis=1) - 1, caches)

    def step(self, memory, tokens, state):
        """Tokens (r,) -> logits (r, v) of the next token. The state: positions, and cached keys and values."""
        (cross_keys_values, memory_mask), (positions, caches), new_caches = memory, state, []
        bert = self.backbone
        x = bert.embed(named_inputs({"input_ids": tokens[:, None], "position_ids": positions[:, None]}))
        slots = ops.arange(ops.shape(caches[0][0])[2])
        current = (slots == positions[:, None])[:, None, :, None]
        causal = (slots <= positions[:, None])[:, None, None]
        for block, cache, cross in zip(bert.blocks, caches, cross_keys_values):
            cache = [ops.where(current, new, old) for new, old in zip(block.attention.keys_values(x), cache)]
            x = block.attend(x, cache, causal, None, cross, memory_mask, query_offset=positions)[0]
            new_caches.append(cache)
        return self.token_logits(x[:, 0]), (positions + 1, new_caches)

    def search(self, ids, mask, memory, memory_mask, noise, max_new_tokens, choice, length, num_beams, end):
        """Ids of prompts (b, t) -> new ids (b, length); see `generate`."""
        memory, state = self.prefill(ids, length, mask, memory, memory_mask)
        last = ops.take_along_axis(ids, state[0][:, None], axis=1)[:, 0]
        if num_beams == 1:
            step = functools.partial(self.step, memory)
            logits, state = step(last, state)
            return decoding.sample(step, logits, state, noise, stop=None if end is None else [end], **choice)
        memory = keras.tree.map_structure(lambda x: ops.repeat(x, num_beams, axis=0) if ops.is_tensor(x) else x, memory)
        start = ops.repeat(last, num_beams, axis=0)
        options = {"start": start, "max_new_tokens": max_new_tokens, "length": length, "end": end}
        step, rows = functools.partial(self.step, memory), ops.shape(ids)[0]
        return decoding.beam_search(step, state, rows, num_beams, **options, **choice)[0][:, 0]

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
        """Continue prompts (b, t): new ids (b, length). Padding, at the left or right, changes nothing of them.

        Args:
            ids: prompts. attention_mask: (b, t), 0 for their padding; positions count from the first token after it.
            length: new tokens.
            encoder_hidden_states: (b, s, d) of another model, with encoder_attention_mask (b, s).
            num_beams: above 1 for beam search, with `end` and `length_penalty`, see `decoding.beam_search`; or else
                tokens are sampled.
            end: the token that ends a text; after it stands -1.
            temperature, top_k, top_p, seed: see `decoding.filter_logits`; temperature 0 is greedy search.

        Raises:
            UserError: for values out of these ranges.
        """
        ids = np.asarray(ids, np.int32)
        options = {"num_beams": num_beams, "end": end, "length_penalty": length_penalty}
        options |= {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        _check_generation(self.backbone.config, ids, length, **options)
        if attention_mask is not None:
            ids, attention_mask = _pad_right(ids, attention_mask)
        if not len(ids):
            return np.zeros((0, length), np.int32)
        if num_beams > 1:
            choice = {"length_penalty": np.float32(length_penalty)}
        else:
            choice = {"temperature": np.float32(temperature)}
            if temperature and (top_k or top_p < 1):  # or else there is nothing to sort for
                choice |= {"top_k": np.int32(top_k), "top_p": np.float32(top_p)}
        noise = decoding.sampling_noise(seed, length, len(ids)) if num_beams == 1 else None
        max_new_tokens = np.full(len(ids), length, "int32")
        tensors = ids, attention_mask, encoder_hidden_states, encoder_attention_mask, noise, max_new_tokens
        tensors = [None if x is None else ops.convert_to_tensor(x) for x in tensors]
        static = {"length": length, "num_beams": num_beams, "end": end}
        key = "search", *static.values(), *choice
        if key not in self._compiled:
            self._compiled[key] = compiled(functools.partial(self.search, **static))
        choice = {name: ops.convert_to_tensor(value) for name, value in choice.items()}
        return ops.convert_to_numpy(self._compiled[key](*tensors, choice))


def _check_generation(config, ids, length, num_beams, end, length_penalty, temperature, top_k, top_p):
    """Raise `UserError` for arguments of `generate` that are out of range."""
    size, longest = config.vocab_size, config.max_position_embeddings
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
    if ids.shape[1] + length > longest:
        raise UserError(f"prompt and text have {ids.shape[1]} + {length} tokens; this model takes {longest} at most")
    if num_beams > 1 and end is None:
        raise UserError("beam search needs `end`, the token that ends a text")


def _pad_right(ids, attention_mask):
    """Prompts (b, t) with padding at the left or right -> ids and mask (b, t) with all padding at the right."""
    mask = np.asarray(attention_mask, np.int32)
    if mask.shape != ids.shape or not np.isin(mask, (0, 1)).all():
        raise UserError(f"attention_mask holds a 1 or 0 for each id, {ids.shape}; it has the shape {mask.shape}")
    if not mask.any(1).all() or (np.count_nonzero(np.diff(mask, prepend=0, append=0), axis=1) != 2).any():
        raise UserError("attention_mask must have the tokens of a prompt, one or more, side by side in each row")
    order = np.argsort(mask == 0, axis=1, kind="stable")
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(mask, order, axis=1)
