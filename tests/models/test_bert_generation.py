"""Generation by a BERT that is a decoder: its cache, beam search, sampling, padding, arguments."""

import numpy as np
import pytest
from keras import ops

from homl_models import models
from homl_models.errors import UserError
from tests.models.test_bert import IDS, make


@pytest.fixture(scope="module")
def decoder():
    return make(models.BertLMHeadModel, config={"is_decoder": True})


@pytest.mark.parametrize("name", ["absolute", "relative_key", "relative_key_query", "memory"])
def test_generation_with_a_cache_equals_forward_passes_without(name):
    config = {"is_decoder": True, "add_cross_attention": name == "memory"}
    config |= {} if name == "memory" else {"position_embedding_type": name}
    model, memory = make(models.BertLMHeadModel, config=config), {}
    if name == "memory":
        memory["encoder_hidden_states"] = np.float32(np.random.default_rng(0).normal(size=(3, 5, 32)))
        memory["encoder_attention_mask"] = np.int32(np.arange(5) < np.array([[5], [3], [1]]))
    lengths = np.array([3, 5, 2])
    prompts = IDS[:, :5]
    new = model.generate(prompts, 6, np.arange(5) < lengths[:, None], **memory)
    for i, n in enumerate(lengths):
        ids = prompts[i : i + 1, :n]
        for j in range(6):
            row = {key: value[i : i + 1] for key, value in memory.items()}
            logits = np.array(model({"input_ids": ids} | row))[0, -1]
            assert logits.max() - logits[new[i, j]] < 1e-4
            ids = np.append(ids, new[i : i + 1, j : j + 1], axis=1)


def test_beam_search_finds_no_worse_than_greedy_and_sampling_depends_on_the_seed():
    model = make(models.BertLMHeadModel, config={"is_decoder": True})
    end = 7

    def score(prompts, new):
        ids = np.append(prompts, np.maximum(new, 0), axis=1)
        log_p = np.array(ops.log_softmax(model(ids), axis=-1))
        chosen = np.take_along_axis(log_p[:, prompts.shape[1] - 1 : -1], np.maximum(new, 0)[..., None], axis=2)[..., 0]
        return np.where(new >= 0, chosen, 0).sum(1)

    prompts = IDS[:, :4]
    one, many = (model.generate(prompts, 4, num_beams=n, end=end, length_penalty=0.0) for n in (2, 40))
    assert (score(prompts, many) >= score(prompts, one) - 1e-4).all()
    drawn = [model.generate(prompts, 8, temperature=1.0, seed=seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()


def test_padding_at_the_left_does_not_change_the_generated_text(decoder):
    model, lengths = decoder, np.array([3, 5, 2])
    right = np.arange(5) < lengths[:, None]
    left = right[:, ::-1]
    prompts = np.where(right, IDS[:, :5], 0)
    at_the_left = np.zeros_like(prompts)
    at_the_left[left] = prompts[right]
    for how in ({}, {"temperature": 1.0, "top_k": 5, "top_p": 0.9, "seed": 3}, {"num_beams": 3, "end": 7}):
        expected = model.generate(prompts, 4, right, **how)
        np.testing.assert_array_equal(model.generate(at_the_left, 4, left, **how), expected)
    assert model.generate(np.zeros((0, 5), int), 4).shape == (0, 4)


def test_generation_is_compiled_once_for_all_temperatures_and_choices():
    model = make(models.BertLMHeadModel, config={"is_decoder": True})
    for temperature, top_k, top_p, seed in ((0.5, 3, 0.9, 1), (1.5, 5, 0.5, 2), (0.7, 0, 0.8, 3)):
        model.generate(IDS[:, :4], 3, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    assert [function.experimental_get_tracing_count() for function in model._compiled.values()] == [1]
    for temperature in (0.0, 0.3, 1.0):
        model.generate(IDS[:, :4], 3, temperature=temperature)
    for penalty in (0.0, 1.0):
        model.generate(IDS[:, :4], 3, num_beams=2, end=7, length_penalty=penalty)
    assert [function.experimental_get_tracing_count() for function in model._compiled.values()] == [1, 1, 1]
    greedy = model.generate(IDS[:, :4], 5)
    np.testing.assert_array_equal(model.generate(IDS[:, :4], 5, temperature=1.0, top_k=1), greedy)
    np.testing.assert_array_equal(model.generate(IDS[:, :4], 5, temperature=1.0, top_p=0.0), greedy)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"temperature": -1.0}, "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature must be 0"),
        ({"top_p": 7.0}, "top_p must be 0 to 1, not 7.0"),
        ({"top_p": -0.1}, "top_p must be 0 to 1"),
        ({"top_k": -1}, "top_k must be 0"),
        ({"num_beams": 200, "end": 7}, "num_beams must be 1 to 60, the vocabulary, not 200"),
        ({"num_beams": 0}, "num_beams must be 1 to 60"),
        ({"end": 60}, "end must be None, or 0 to 59"),
        ({"num_beams": 2, "end": 7, "length_penalty": -1.0}, "length_penalty must be 0 or more"),
        ({"length": 0}, "length must be 1 or more"),
        ({"attention_mask": [[1, 0, 1, 1]] * 3}, "side by side in each row"),
        ({"attention_mask": [[0, 0, 0, 0]] * 3}, "one or more, side by side"),
        ({"attention_mask": [[1, 1, 1]] * 3}, r"attention_mask holds a 1 or 0 for each id, \(3, 4\)"),
        ({"ids": IDS[:, :4] + 60}, "ids must lie in 0 to 59, the vocabulary"),
        ({"ids": IDS[0]}, "prompts are ids"),
        ({"ids": IDS[:, :0]}, "prompts are ids"),
    ],
)
def test_generation_refuses_arguments_out_of_range(how, message, decoder):
    with pytest.raises(UserError, match=message):
        decoder.generate(**{"ids": IDS[:, :4], "length": 3} | how)
