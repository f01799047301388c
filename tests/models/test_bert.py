"""BERT and its heads: parity with `transformers`; pruning, gradient checkpointing, inputs."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from homl_models import models
from homl_models.checkpoints import huggingface
from homl_models.errors import UserError
from homl_models.layers.dense import Dense
from homl_models.models.bert import Bert, prune_heads
from homl_models.models.bert_config import ACTIVATIONS, BertConfig
from homl_models.models.bert_layers import BertBlock, BertEmbeddings, RelativeAttention
from tests import checks

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
}
LENGTHS = 11, 7, 4
POSITIONS = pytest.mark.parametrize("positions", ["absolute", "relative_key", "relative_key_query"])
IDS = np.random.default_rng(0).integers(5, 60, (3, 11))
MASK = np.int32(np.arange(11) < np.array(LENGTHS)[:, None])
TYPES = np.random.default_rng(1).integers(0, 2, (3, 11))
SOME = np.where(np.random.default_rng(2).random((3, 11)) < 0.4, IDS, -100)
INPUTS = {"input_ids": IDS, "attention_mask": MASK, "token_type_ids": TYPES}
HEADS = {  # labels of each
    "BertForMaskedLM": {"labels": SOME},
    "BertForPreTraining": {"labels": SOME, "next_sentence_label": np.array([0, 1, 1])},
    "BertLMHeadModel": {"labels": IDS},
    "BertForNextSentencePrediction": {"labels": np.array([0, 1, 1])},
    "BertForSequenceClassification": {"labels": np.array([0, 2, 1])},
    "BertForMultipleChoice": {"labels": np.array([1])},
    "BertForTokenClassification": {"labels": np.where(MASK > 0, IDS % 3, -100)},
    "BertForQuestionAnswering": {"start_positions": np.array([1, 3, 40]), "end_positions": np.array([2, 30, 3])},
    "ElectraForMaskedLM": {"labels": SOME},
    "ElectraForPreTraining": {"labels": np.where(MASK > 0, IDS % 2, -100)},
    "ElectraForSequenceClassification": {"labels": np.array([0, 2, 1])},
    "ElectraForTokenClassification": {"labels": np.where(MASK > 0, IDS % 3, -100)},
    "ElectraForQuestionAnswering": {"start_positions": np.array([1, 3, 40]), "end_positions": np.array([2, 30, 3])},
}


def reference(name, folder, **settings):
    """A model of `transformers` (before 5, which has no relative positions) with random weights, and its folder."""
    import torch
    import transformers

    family = transformers.ElectraConfig if name.startswith("Electra") else transformers.BertConfig
    settings = SIZES | {"num_labels": 2 if "Question" in name else 3} | settings
    settings |= {"embedding_size": 16} if name.startswith("Electra") else {}
    settings |= {"is_decoder": True, "use_cache": False} if name == "BertLMHeadModel" else {}
    torch.manual_seed(0)
    model = getattr(transformers, name)(family(attn_implementation="eager", **settings)).eval()
    for weight in model.parameters():
        weight.data.add_(0.1 * torch.randn_like(weight))
    model.tie_weights()
    model.save_pretrained(folder)
    return model


def tensors(nest):
    import torch

    return {name: torch.tensor(value) for name, value in nest.items()}


def inputs_of(name):
    return {key: value[None] for key, value in INPUTS.items()} if name == "BertForMultipleChoice" else INPUTS


def labels_of(name):
    labels = HEADS[name]
    return labels["labels"] if list(labels) == ["labels"] else labels


def make(kind=Bert, seed=0, config=None, backbone=None, **settings):
    """A `Bert` or a head; config: fields of its configuration, backbone: other arguments of the backbone."""
    keras.utils.set_random_seed(seed)
    model = Bert(BertConfig(**SIZES | (config or {})), **(backbone or {}))
    model = model if kind is Bert else kind(model, **settings)
    model.build()
    for i, weight in enumerate(model.trainable_weights):
        weight.assign(weight + keras.random.normal(weight.shape, stddev=0.1, seed=i))
    return model


@pytest.mark.parity
@POSITIONS
@pytest.mark.parametrize("decoder", [False, True], ids=["encoder", "decoder"])
def test_all_outputs_of_bert_equal_the_reference(positions, decoder, tmp_path):
    theirs = reference("BertModel", tmp_path, position_embedding_type=positions, is_decoder=decoder,
                       add_cross_attention=decoder, use_cache=False)  # fmt: skip
    inputs, rng = (
        INPUTS | {"head_mask": np.float32(np.random.default_rng(3).random((2, 4)) > 0.3)},
        np.random.default_rng(4),
    )
    if decoder:
        inputs |= {"encoder_hidden_states": np.float32(rng.normal(size=(3, 7, 32)))}
        inputs |= {"encoder_attention_mask": np.int32(np.arange(7) < np.array([[7], [5], [1]]))}
    asked = {"output_hidden_states": True, "output_attentions": True}
    wanted = theirs(**tensors(inputs), **asked)
    for chunk in (0, 4):
        found = huggingface.from_pretrained(tmp_path, chunk_size_feed_forward=chunk)(inputs, **asked)
        names = {"last_hidden_state", "pooler_output", "hidden_states", "attentions"}
        assert set(found) == names | ({"cross_attentions"} if decoder else set())
        for name, value in found.items():
            checks.close(
                value, tuple(x.detach() for x in wanted[name]) if isinstance(value, tuple) else wanted[name].detach()
            )


@pytest.mark.parity
def test_embeddings_positions_and_masks_may_be_given(tmp_path):
    theirs = reference("BertModel", tmp_path)
    model, rng = huggingface.from_pretrained(tmp_path), np.random.default_rng(5)
    given = {"inputs_embeds": np.float32(rng.normal(size=(3, 11, 32))), "position_ids": rng.integers(0, 24, (3, 11))}
    given |= {"attention_mask": np.int32(rng.random((3, 11, 11)) < 0.7) | np.eye(11, dtype="int32")}
    checks.close(model(given)["last_hidden_state"], theirs(**tensors(given))[0].detach())
    one = {"head_mask": np.float32([1, 0, 0.5, 1])}
    checks.close(model(INPUTS | one)["last_hidden_state"], theirs(**tensors(INPUTS | one))[0].detach())
    checks.close(model(IDS)["last_hidden_state"], theirs(**tensors({"input_ids": IDS}))[0].detach())


@pytest.mark.parity
def test_at_the_size_of_bert_base_twelve_layers_agree():
    """To 1e-4 in float32; in bfloat16 about as far from it as PyTorch, as processors differ in how they add up."""
    import torch
    import transformers

    keras.utils.set_random_seed(0)
    exact, half = Bert(), Bert(dtype="mixed_bfloat16")
    for model in (exact, half):
        model.build()
    half.set_weights(exact.get_weights())
    theirs = transformers.BertModel(transformers.BertConfig(attn_implementation="eager")).eval()
    theirs.load_state_dict({name: torch.tensor(array) for name, array in huggingface.state_dict(exact).items()})
    ids = np.random.default_rng(0).integers(5, 30522, (2, 20))
    inputs = {"input_ids": ids, "attention_mask": np.int32(np.arange(20) < np.array([[20], [9]]))}
    with torch.inference_mode():
        wanted = theirs(**tensors(inputs))[0].numpy()
        rounded = theirs.to(torch.bfloat16)(**tensors(inputs))[0].float().numpy()
    checks.close(exact(inputs)["last_hidden_state"], wanted, 1e-4)
    found = np.float32(ops.cast(half(inputs)["last_hidden_state"], "float32"))
    assert 0 < np.abs(found - wanted).mean() <= 1.5 * np.abs(rounded - wanted).mean()


@pytest.mark.parity
@pytest.mark.parametrize("name", HEADS)
def test_logits_losses_and_gradients_of_every_head_equal_the_reference(name, tmp_path):
    import torch

    theirs = reference(name, tmp_path)
    model = huggingface.from_pretrained(tmp_path)
    assert type(model).__name__ == name
    labels = tensors(HEADS[name])
    if name == "ElectraForPreTraining":
        labels["labels"] = labels["labels"].clamp(min=0)  # there padding is left out by the attention mask
    wanted = theirs(**tensors(inputs_of(name)), **labels)
    wanted.loss.backward()
    table = huggingface.family_of(model).tensors(model)
    given = [tensor.variable.value for tensor in table.values()]
    with tf.GradientTape() as tape:
        tape.watch(given)
        found = model(inputs_of(name))
        loss = model.compute_loss(y=keras.tree.map_structure(ops.convert_to_tensor, labels_of(name)), y_pred=found)
    for key, value in (found if isinstance(found, dict) else {"logits": found}).items():
        checks.close(value, wanted[key].detach())
    checks.close(loss, wanted.loss.detach())
    gradients = dict(theirs.named_parameters())
    for (key, tensor), gradient in zip(table.items(), tape.gradient(loss, given)):
        if gradient is None:
            assert gradients[key].grad is None
            continue
        gradient = np.array(tf.convert_to_tensor(gradient))
        gradient = gradient if tensor.axes is None else gradient.transpose(tensor.axes)
        checks.close(gradient, gradients[key].grad.to(torch.float32))


@pytest.mark.parity
@pytest.mark.parametrize("problem", ["regression", "multi_label_classification"])
def test_other_problems_have_the_losses_of_the_reference(problem, tmp_path):
    theirs = reference("BertForSequenceClassification", tmp_path, problem_type=problem)
    labels = np.float32(np.random.default_rng(0).random((3, 3)) > 0.5)
    model = huggingface.from_pretrained(tmp_path)
    measured = model.loss_and_metrics(None, labels, model(INPUTS))[1]
    checks.close(
        model.compute_loss(y=labels, y_pred=model(INPUTS)), theirs(**tensors(INPUTS | {"labels": labels})).loss.detach()
    )
    assert list(measured) == (["mean_squared_error"] if problem == "regression" else ["accuracy"])


def test_a_decoder_looks_back_only_and_padding_does_not_matter():
    decoder = make(config={"is_decoder": True})
    checks.causal(lambda ids: decoder(ids)["last_hidden_state"], IDS)
    model = make()

    def encode(ids, mask):
        return model({"input_ids": ids, "attention_mask": mask})["last_hidden_state"]

    checks.padding_does_not_matter(encode, IDS, LENGTHS)


def test_pruned_heads_are_as_masked_ones_and_stay_pruned(tmp_path):
    for kind in (Bert, models.BertForTokenClassification):
        model = make(kind)
        first = prune_heads(model, {0: [1]})
        small = prune_heads(first, {0: [3], 1: [0, 2, 3]})
        mask = np.float32([[1, 0, 1, 0], [0, 1, 0, 0]])

        def output(model, **more):
            found = model(INPUTS | more)
            return found["last_hidden_state"] if isinstance(found, dict) else found

        checks.close(output(small), output(model, head_mask=mask))
        inside = getattr(small, "backbone", small)
        assert [block.attention.query_dense.kernel.shape for block in inside.blocks] == [(32, 16), (32, 8)]
        assert inside.blocks[0].attention.output_dense.kernel.shape == (16, 32)
        small.save(tmp_path / "small.keras")
        checks.close(output(keras.models.load_model(tmp_path / "small.keras")), output(small))
        huggingface.save_pretrained(small, tmp_path / kind.__name__)
        checks.close(output(huggingface.from_pretrained(tmp_path / kind.__name__, kind)), output(small))
        half = {"head_mask": np.float32([0.5, 1, 1, 1])}  # counted as before
        checks.close(output(small, **half), output(model, head_mask=mask * half["head_mask"]))


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.xla])])
def test_gradient_checkpointing_gives_the_same_gradients(jit_compile):
    """Dropout is on: it must drop the same units both times."""
    taken = []
    for again in (False, True):
        sizes = {"gradient_checkpointing": again, "is_decoder": True, "add_cross_attention": True}
        sizes |= {"num_hidden_layers": 1}
        model = make(models.BertLMHeadModel, config=sizes, backbone={"add_pooling_layer": False})
        keras.utils.set_random_seed(7)
        memory = np.float32(np.random.default_rng(0).normal(size=(3, 5, 32)))
        model.compile(keras.optimizers.SGD(0.5), jit_compile=jit_compile)
        for dropout in (layer for layer in model._flatten_layers() if hasattr(layer, "seed_generator")):
            dropout.seed_generator.state.assign([3, 4])
        model.train_on_batch(INPUTS | {"encoder_hidden_states": memory}, IDS)
        taken.append([np.array(weight) for weight in model.trainable_weights])
    checks.close(taken[1], taken[0])


def counted(monkeypatch, cls, name):
    """Calls of a method from now on: [(layer, shape of what it is given), ...]."""
    calls, method = [], getattr(cls, name)

    def call(layer, x, *args, **kwargs):
        calls.append((layer, tuple(x.shape)))
        return method(layer, x, *args, **kwargs)

    monkeypatch.setattr(cls, name, call)
    return calls


@pytest.mark.parametrize(
    "sizes", [{}, {"is_decoder": True, "add_cross_attention": True}], ids=["encoder", "cross-attention"]
)
def test_blocks_run_again_for_the_gradients_with_gradient_checkpointing_alone(sizes, monkeypatch):
    inputs = INPUTS | ({"encoder_hidden_states": np.ones((3, 5, 32), "float32")} if sizes else {})
    for again in (False, True):
        model = make(config={"gradient_checkpointing": again} | sizes)
        with monkeypatch.context() as patch, tf.GradientTape() as tape:
            calls = counted(patch, BertBlock, "attend")
            loss = ops.sum(model(inputs, training=True)["last_hidden_state"])
            assert [layer for layer, _ in calls] == model.blocks
            tape.gradient(loss, [weight.value for weight in model.trainable_weights])
            assert [layer for layer, _ in calls] == model.blocks + (model.blocks[::-1] if again else [])


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_logits_of_words_are_float32_in_and_out_of_a_graph(precision):
    model = make(models.BertForMaskedLM, backbone={"dtype": precision}, dtype=precision)
    eager, traced = model(INPUTS), tf.function(model)(INPUTS)
    assert eager.dtype == traced.dtype == "float32"
    checks.close(eager, traced, 5e-2)


@pytest.mark.parametrize(("size", "times"), [(4, 3), (11, 1), (20, 1)])
def test_the_feed_forward_network_runs_on_chunks_with_the_same_result(size, times, monkeypatch):
    plain, chunked = make(), make(config={"chunk_size_feed_forward": size})
    taken = []
    for model in (plain, chunked):
        with monkeypatch.context() as patch, tf.GradientTape() as tape:
            calls = counted(patch, Dense, "call")
            found = model(INPUTS)["last_hidden_state"]
            shapes = [shape for layer, shape in calls if layer is model.blocks[0].hidden]
            loss = ops.sum(found * np.float32(np.random.default_rng(0).normal(size=found.shape)))
        weights = [weight.value for weight in model.trainable_weights]
        taken.append([found, tape.gradient(loss, weights, unconnected_gradients="zero")])
    assert shapes == [(3, size, 32)] * (1 + times)  # Keras' `map` runs the first once more, to know what it gives
    checks.close(taken[1], taken[0])


def test_masked_positions_alone_have_the_same_logits():
    positions = np.array([[1, 4], [0, 6], [2, 2]])
    for kind in (models.BertForMaskedLM, models.BertForPreTraining):
        model = make(kind)
        both = [model(INPUTS | more) for more in ({}, {"masked_positions": positions})]
        all_of_them, some = (x if kind is models.BertForMaskedLM else x["prediction_logits"] for x in both)
        checks.close(some, np.take_along_axis(np.array(all_of_them), positions[..., None], axis=1))


def test_tied_words_are_one_matrix_and_untied_ones_two(tmp_path):
    tied = make(models.BertForMaskedLM)
    free = make(models.BertForMaskedLM, tie_word_embeddings=False)
    assert len(free.weights) == len(tied.weights) + 1
    huggingface.save_pretrained(free, tmp_path)
    checks.close(huggingface.from_pretrained(tmp_path)(INPUTS), free(INPUTS))


@pytest.mark.parametrize(
    "name",
    [
        "BertForPreTraining",
        pytest.param("BertForQuestionAnswering", marks=pytest.mark.slow),
        pytest.param("ElectraForPreTraining", marks=pytest.mark.slow),
        pytest.param("BertForMultipleChoice", marks=pytest.mark.slow),
        pytest.param("ElectraForSequenceClassification", marks=pytest.mark.slow),
    ],
)
def test_heads_train_and_come_back(name, tmp_path):
    kind = huggingface.HEADS[name]
    keras.utils.set_random_seed(0)
    family = huggingface.FAMILIES["electra" if name.startswith("Electra") else "bert"]
    sizes = SIZES | {"num_hidden_layers": 1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    more = {}
    backbone = family.backbone(family.config(**sizes), **family.backbone_arguments(kind))
    if "num_labels" in kind.argument_names():
        more["num_labels"] = 3
    model = kind(backbone, **more)
    model.compile(keras.optimizers.Adam(1e-2), run_eagerly=True)
    x, y = inputs_of(name), keras.tree.map_structure(np.asarray, labels_of(name))
    checks.keras_file_round_trip(model, x, y, tmp_path)
    checks.overfits(model, x, y, steps=25, share=0.6)
    result = model.evaluate(x, y, return_dict=True, verbose=0)
    assert set(result) == {"loss", *kind.metric_names}


def test_configurations_come_back():
    config = BertConfig(hidden_size=8, num_attention_heads=2, intermediate_size=4, pruned_heads={0: [1]})
    checks.config_round_trip(BertEmbeddings, config=config)
    checks.config_round_trip(BertBlock, config=config, pruned_heads=(1,))
    checks.config_round_trip(
        RelativeAttention, dim=8, num_heads=2, position_embedding_type="relative_key", max_distance=4
    )


def test_a_configuration_is_shared_frozen_and_saved_with_the_model(tmp_path):
    config = BertConfig(**SIZES, pruned_heads={"0": [2, 1]}, hidden_act="relu")
    model = Bert(config)
    assert all(layer.config is config for layer in (model.embeddings, *model.blocks))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.hidden_size = 16
    model.build()
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras").config
    assert again == config
    assert again.pruned_heads == {0: (1, 2)}
    assert dataclasses.replace(config, num_hidden_layers=1).pruned_heads == again.pruned_heads


@POSITIONS
def test_any_batch_length_and_precision(positions):
    def gives(model):
        return lambda ids: model(ids)["last_hidden_state"]

    config = {"position_embedding_type": positions}
    checks.any_batch_and_length(gives(make(config=config)), IDS)
    checks.any_batch_and_length(gives(make(config=config | {"chunk_size_feed_forward": 4})), IDS)

    def half(dtype):
        model = Bert(BertConfig(**SIZES, position_embedding_type=positions), dtype=dtype)
        model.build()
        return model

    checks.mixed_precision(half, IDS)


@pytest.mark.xla
@pytest.mark.parametrize("positions", ["absolute", pytest.param("relative_key_query", marks=pytest.mark.slow)])
def test_any_batch_and_length_by_xla(positions):
    model = make(config={"position_embedding_type": positions})
    checks.any_batch_and_length(lambda ids: model(ids)["last_hidden_state"], IDS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: BertConfig(hidden_size=10, num_attention_heads=3), "3 heads do not divide the hidden size 10"),
        (lambda: BertConfig(hidden_act="elu"), "hidden_act must be one of gelu, .*, not 'elu'"),
        (lambda: BertConfig(position_embedding_type="rotary"), "position_embedding_type must be one of absolute, "),
        (lambda: BertConfig(add_cross_attention=True), "give is_decoder as well"),
        (lambda: make()({"ids": IDS}), "there are no inputs ids; there are input_ids, "),
        (lambda: make()({"attention_mask": MASK}), "give either input_ids or inputs_embeds"),
        (lambda: make()(np.ones((1, 25), int)), "25 tokens; this model takes 24"),
        (lambda: make(config={"position_embedding_type": "relative_key"})(np.ones((1, 25), int)), "25 tokens; this"),
        (
            lambda: make()(INPUTS | {"encoder_hidden_states": np.ones((3, 2, 32))}),
            "for models with add_cross_attention",
        ),
        (lambda: prune_heads(make(), {2: [0]}), "of layers 0 to 1, not .0. of 2"),
        (lambda: prune_heads(make(), {0: [0, 1, 2, 3]}), "one head of layer 0 must stay"),
        (lambda: make(models.BertLMHeadModel), "is_decoder=True"),
        (
            lambda: make(models.BertForSequenceClassification, backbone={"add_pooling_layer": False}),
            "needs a backbone with add_pooling_layer",
        ),
        (lambda: make(models.BertForSequenceClassification, problem_type="x"), "problem_type must be one of"),
        (
            lambda: make(models.BertLMHeadModel, config={"is_decoder": True}).generate(IDS, 14),
            r"prompt and text have 11 \+ 14 tokens",
        ),
        (
            lambda: make(models.BertLMHeadModel, config={"is_decoder": True}).generate(IDS, 2, num_beams=2),
            "beam search needs `end`",
        ),
    ],
)
def test_invalid_configurations_and_inputs_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        wrong()


# Quantized weights, blocks.


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@pytest.mark.parametrize(
    "kind", [models.BertForMaskedLM, pytest.param(models.BertForSequenceClassification, marks=pytest.mark.slow)]
)
def test_quantized_kernels_are_whole_numbers_of_8_bits_and_outputs_near(kind, tmp_path):
    model = make(kind, config={"num_hidden_layers": 1})
    before = np.array(model(INPUTS))
    model.quantize("int8")
    kernels = [w for w in model.weights if w.path.endswith(("/kernel", "/embeddings"))]
    assert len(kernels) >= 6 + 3 + 1  # of a block, of the embeddings, and of the head
    assert {w.dtype for w in kernels} == {"int8"}
    after = np.array(model(INPUTS))
    assert 0 < np.abs(after - before).max() < 0.1 * before.std()
    model.save(tmp_path / "model.keras")
    checks.close(keras.models.load_model(tmp_path / "model.keras")(INPUTS), after)


def test_the_kernels_of_a_new_block_differ():
    block = BertBlock(BertConfig(hidden_size=8, num_attention_heads=2, intermediate_size=8))
    block.build((None, None, 8))
    kernels = [np.array(weight) for weight in block.weights if weight.name == "kernel"]
    assert len(kernels) == 6
    assert all((a != b).all() for i, a in enumerate(kernels) for b in kernels[:i])


@pytest.mark.parametrize("memory", [False, True])
def test_a_block_is_called_on_symbols_with_and_without_cross_attention(memory):
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 16}
    block = BertBlock(BertConfig(**sizes, is_decoder=memory, add_cross_attention=memory))
    x, other = keras.Input((5, 8)), keras.Input((3, 8))
    outputs = block(x, encoder_hidden_states=other) if memory else block(x)
    model = keras.Model([x, other], outputs)
    found = model([np.ones((2, 5, 8), "float32"), np.ones((2, 3, 8), "float32")])
    assert [tuple(y.shape) for y in found] == [(2, 5, 8), (2, 2, 5, 5), *([(2, 2, 5, 3)] if memory else [])]


@pytest.mark.parity
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_are_those_of_the_reference(name):
    torch_activations = pytest.importorskip("transformers.activations", reason="compares with transformers")
    import torch

    if name not in torch_activations.ACT2FN:
        pytest.skip(f"this version of transformers has no {name}")
    x = np.linspace(-7, 7, 101, dtype="float32")
    checks.close(ACTIVATIONS[name](x), torch_activations.ACT2FN[name](torch.tensor(x)).numpy(), 1e-5)
