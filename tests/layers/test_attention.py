"""Attention against double precision, Keras and PyTorch."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from homl_models.errors import UserError
from homl_models.layers.attention import Attention, DecoderBlock, EncoderBlock, MultiHeadAttention
from tests import checks

pytestmark = pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
B, T, S, D, H, F = 3, 5, 6, 8, 2, 12
SCORES = pytest.mark.parametrize("score", ["dot", "general", "concat"])
NORMS = pytest.mark.parametrize("pre_norm", [False, True], ids=["post-norm", "pre-norm"])


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


X, MEMORY = normal(B, T, D), normal(B, S, D, seed=1)
MASK = np.arange(T) < np.array([[5], [2], [4]])
MEMORY_MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [0, 1, 0, 1, 1, 0]], bool)


def randomized(layer, *inputs):
    """The layer, built on the inputs, with random weights, biases and scales included."""
    layer(*inputs)
    rng = np.random.default_rng(7)
    layer.set_weights([rng.normal(0, 0.5, w.shape) for w in layer.get_weights()])
    return layer


def softmax(scores):
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


# One query after the other: Luong's and Bahdanau's scores.


def attention(score, u=D, m=D, **settings):
    layer = Attention(score, **settings)
    return randomized(layer, normal(B, T, u), normal(B, S, m))


def reference(layer, query, memory, mask=None):
    """Equation 16-1 of the book, pair by pair, in double precision -> contexts, weights."""
    weight = {w.path.split("/")[-2 if "kernel" in w.path else -1]: w.numpy().astype("float64") for w in layer.weights}
    scores = np.zeros((len(query), query.shape[1], memory.shape[1]))
    for b, t, s in np.ndindex(scores.shape):
        q, k = query[b, t].astype("float64"), memory[b, s].astype("float64")
        scores[b, t, s] = {
            "dot": lambda q, k: q @ k,
            "general": lambda q, k: q @ (k @ weight["key"]),
            "concat": lambda q, k: (
                weight["v"] @ np.tanh(np.concatenate([q, k]) @ np.concatenate([weight["query"], weight["key"]]))
            ),
        }[layer.score](q, k)
    if mask is not None:
        scores = np.where(mask[:, None], scores, -np.inf)
    weights = softmax(scores)
    return weights @ memory, weights


@SCORES
@pytest.mark.parametrize("mask", [None, MEMORY_MASK], ids=["no mask", "mask"])
def test_attention_equals_equation_16_1(score, mask):
    layer = attention(score)
    checks.close(layer(X, MEMORY, memory_mask=mask), reference(layer, X, MEMORY, mask))


@pytest.mark.parametrize(("score", "units"), [("general", None), ("concat", None), ("concat", 3)])
def test_queries_and_memory_can_differ_in_size(score, units):
    query, memory = normal(B, T, 4), normal(B, S, 9)
    layer = attention(score, 4, 9, units=units)
    assert layer.weights[-1].shape[-1] == (units or 4)
    checks.close(layer(query, memory, memory_mask=MEMORY_MASK), reference(layer, query, memory, MEMORY_MASK))


@SCORES
def test_keys_can_be_computed_once_for_many_queries(score):
    layer = attention(score)
    keys = layer.keys(ops.convert_to_tensor(MEMORY))
    parts = [layer.attend(layer.queries(X[:, t : t + 1]), keys, MEMORY, MEMORY_MASK) for t in range(T)]
    together = [ops.concatenate(part, axis=1) for part in zip(*parts)]
    checks.close(together, layer(X, MEMORY, memory_mask=MEMORY_MASK))


@SCORES
def test_masked_positions_of_the_memory_have_no_weight(score):
    layer = attention(score)
    other = np.where(MEMORY_MASK[..., None], MEMORY, 100 * MEMORY[::-1])
    before, after = (layer(X, memory, memory_mask=MEMORY_MASK) for memory in (MEMORY, other))
    checks.close(after, before, 0)
    weights = ops.convert_to_numpy(before[1])
    assert (weights[np.broadcast_to(~MEMORY_MASK[:, None], weights.shape)] == 0).all()
    assert (weights[np.broadcast_to(MEMORY_MASK[:, None], weights.shape)] > 0).all()


@SCORES
def test_the_keras_mask_of_the_memory_is_used(score):
    ids = np.where(MEMORY_MASK, 1 + np.arange(S), 0)
    embedding, layer = keras.layers.Embedding(S + 1, D, mask_zero=True), attention(score)
    memory = embedding(ids)
    plain = ops.convert_to_numpy(memory)
    checks.close(layer(X, memory), layer(X, plain, memory_mask=MEMORY_MASK))
    assert abs(ops.convert_to_numpy(layer(X, memory)[0]) - ops.convert_to_numpy(layer(X, plain)[0])).max() > 1e-4


@SCORES
def test_a_fully_masked_memory_gives_finite_numbers(score):
    layer, mask = attention(score), MEMORY_MASK.copy()
    mask[1] = False
    query = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(query)
        outputs = layer(query, MEMORY, memory_mask=mask)
    assert all(np.isfinite(out).all() for out in checks.arrays([*outputs, tape.gradient(outputs, query)]))
    checks.close([out[::2] for out in outputs], [out[::2] for out in layer(X, MEMORY, memory_mask=MEMORY_MASK)])


@SCORES
def test_gradients_reach_all_weights_of_an_attention(score):
    layer = attention(score)
    assert len(layer.trainable_weights) == {"dot": 0, "general": 1, "concat": 3}[score]
    checks.gradients_reach(lambda x: layer(*x)[0], layer.trainable_weights, (X, MEMORY))
    with tf.GradientTape() as tape:
        inputs = tf.constant(X), tf.constant(MEMORY)
        tape.watch(inputs)
        context = layer(*inputs)[0]
    assert all(np.abs(g).max() > 0 for g in checks.arrays(tape.gradient(context, inputs)))


@SCORES
def test_an_attention_works_in_mixed_precision_with_weights_in_single(score):
    assert attention(score, dtype="mixed_bfloat16")(X, MEMORY)[1].dtype == "float32"
    make = Attention if score != "dot" else None
    if make:
        checks.mixed_precision(lambda **s: Seeded(score, **s), (X, MEMORY))


class Seeded(Attention):
    """Starts with small weights, so that scores do not amplify rounding errors."""

    def call(self, inputs):
        return super().call(*inputs)[0]

    def build(self, shapes):
        super().build(*shapes)


@SCORES
def test_batch_and_lengths_of_an_attention_can_be_unknown(score):
    layer = attention(score)
    inputs = {"query": X, "memory": MEMORY, "mask": MEMORY_MASK}

    def function(x):
        return layer(x["query"], x["memory"], memory_mask=x["mask"])

    checks.symbolic_agrees(function, inputs)
    checks.any_batch_and_length(function, inputs)


def test_invalid_settings_of_attention_are_refused():
    with pytest.raises(UserError, match="dot, general or concat, not 'cosine'"):
        Attention("cosine")
    with pytest.raises(UserError, match="not 4 and 9; take general"):
        attention("dot", 4, 9)


# Several heads.


def keras_twin(ours, dim, heads, size, bias=True):
    """Keras' layer with our weights."""
    theirs = keras.layers.MultiHeadAttention(heads, size, output_shape=dim, use_bias=bias)
    theirs.build((B, T, D), (B, S, D))
    pairs = zip(theirs.weights, ours.weights, strict=True)
    theirs.set_weights([a.numpy().reshape(w.shape) for w, a in pairs])
    names = [w.path.split("/")[-2] for w in theirs.weights]
    assert names == [n for n in ("query", "key", "value", "attention_output") for _ in range(1 + bias)]
    return theirs


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize(("dim", "size", "bias"), [(D, None, True), (D, 3, True), (10, 7, True), (D, None, False)])
def test_multi_head_attention_equals_keras(dim, size, bias, mask):
    ours = randomized(MultiHeadAttention(dim, H, size, use_bias=bias), X, MEMORY)
    theirs = keras_twin(ours, dim, H, size or dim // H, bias)
    allowed = np.random.default_rng(3).random((B, T, S)) < 0.6 if mask else np.ones((B, T, S), bool)
    allowed[..., 2] = True
    outputs, weights = theirs(X, MEMORY, attention_mask=allowed, return_attention_scores=True)
    assert outputs.shape == (B, T, dim)
    keys, values = ours.keys_values(MEMORY)
    checks.close(ours.attend(X, keys, values, allowed[:, None]), (outputs, weights))
    checks.close(ours(X, MEMORY, attention_mask=allowed[:, None]), outputs)


def test_self_attention_equals_keras():
    ours = randomized(MultiHeadAttention(D, H), X)
    checks.close(ours(X), keras_twin(ours, D, H, D // H)(X, X))


def test_heads_can_have_masks_of_their_own():
    layer = randomized(MultiHeadAttention(D, H), X)
    allowed = np.random.default_rng(0).random((B, H, T, T)) < 0.5
    allowed[..., 0] = True
    _, weights = layer.attend(X, *layer.keys_values(X), allowed)
    np.testing.assert_array_equal(ops.convert_to_numpy(weights) > 0, allowed)


def test_attention_weights_are_dropped_out_in_training_only():
    layer = randomized(MultiHeadAttention(D, H, dropout=0.5), X)
    plain = MultiHeadAttention(D, H)
    plain(X)
    plain.set_weights(layer.get_weights())
    checks.close(layer(X), plain(X), 0)
    outputs = np.stack([ops.convert_to_numpy(layer(X, training=True)) for _ in range(40)])
    assert (outputs[0] != outputs[1]).any()
    spread = outputs.std(0) / 40**0.5
    assert (abs(outputs.mean(0) - ops.convert_to_numpy(plain(X))) < 5 * spread).all()


def test_heads_that_do_not_divide_the_dimension_are_refused():
    with pytest.raises(UserError, match="3 heads do not divide the dimension 8"):
        MultiHeadAttention(8, 3)
    assert MultiHeadAttention(8, 3, head_dim=4)(X).shape == X.shape


# Blocks.


def block(kind, seed=7, **settings):
    """A block with random weights, without dropout."""
    layer = kind(D, H, F, **{"dropout": 0.0, "pre_norm": False, **settings})
    return randomized(layer, *((X, MEMORY) if kind is DecoderBlock else (X,)))


def torch_twin(torch, ours, activation):
    """PyTorch's layer of the same kind, with our weights, in evaluation."""
    decoder = isinstance(ours, DecoderBlock)
    kind = torch.nn.TransformerDecoderLayer if decoder else torch.nn.TransformerEncoderLayer
    theirs = kind(D, H, F, 0.3, activation, batch_first=True, norm_first=ours.pre_norm).eval()

    def copy(parameter, array):
        assert parameter.shape == array.shape
        with torch.no_grad():
            parameter.copy_(torch.tensor(array))

    def dense(theirs, ours):
        copy(theirs.weight, ours.kernel.numpy().T)
        copy(theirs.bias, ours.bias.numpy())

    attentions = {"self_attn": ours.self_attention} | ({"multihead_attn": ours.cross_attention} if decoder else {})
    for name, layer in attentions.items():
        parts = layer.query_dense, layer.key_dense, layer.value_dense
        copy(getattr(theirs, name).in_proj_weight, np.concatenate([part.kernel.numpy().T for part in parts]))
        copy(getattr(theirs, name).in_proj_bias, np.concatenate([part.bias.numpy() for part in parts]))
        dense(getattr(theirs, name).out_proj, layer.output_dense)
    dense(theirs.linear1, ours.hidden)
    dense(theirs.linear2, ours.output_dense)
    for i, norm in enumerate(ours.norms, 1):
        copy(getattr(theirs, f"norm{i}").weight, norm.gamma.numpy())
        copy(getattr(theirs, f"norm{i}").bias, norm.beta.numpy())
    return theirs


def outputs_and_gradients(function, *inputs):
    """Of our function: outputs, and the gradients of a sum of them, weighted by `waves`, at the inputs."""
    inputs = [tf.constant(x) for x in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = function(*inputs)
        loss = tf.reduce_sum(outputs * waves(outputs.shape))
    return outputs, tape.gradient(loss, inputs)


def torch_outputs_and_gradients(torch, function, *inputs):
    inputs = [torch.tensor(x, requires_grad=True) for x in inputs]
    outputs = function(*inputs)
    (outputs * torch.tensor(waves(tuple(outputs.shape)))).sum().backward()
    return outputs.detach().numpy(), [x.grad.numpy() for x in inputs]


def waves(shape):
    return np.cos(np.arange(np.prod(shape))).reshape(shape).astype("float32")


@pytest.mark.parity
@NORMS
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_the_encoder_block_equals_torch(pre_norm, activation, padded):
    import torch

    ours = block(EncoderBlock, pre_norm=pre_norm, activation=activation)
    theirs = torch_twin(torch, ours, activation)
    mask = MASK if padded else None
    hidden = torch.tensor(~MASK) if padded else None
    checks.close(
        outputs_and_gradients(lambda x: ours(x, mask=mask), X),
        torch_outputs_and_gradients(torch, lambda x: theirs(x, src_key_padding_mask=hidden), X),
    )


@pytest.mark.parity
@NORMS
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_the_decoder_block_equals_torch(pre_norm, activation, padded):
    import torch

    ours = block(DecoderBlock, pre_norm=pre_norm, activation=activation)
    theirs = torch_twin(torch, ours, activation)
    masks = {"memory_mask": MEMORY_MASK, "x_mask": MASK} if padded else {}
    hidden = {"tgt_mask": torch.ones(T, T, dtype=torch.bool).triu(1)}
    if padded:
        hidden |= {"memory_key_padding_mask": torch.tensor(~MEMORY_MASK), "tgt_key_padding_mask": torch.tensor(~MASK)}
    checks.close(
        outputs_and_gradients(lambda x, memory: ours(x, memory, **masks), X, MEMORY),
        torch_outputs_and_gradients(torch, lambda x, memory: theirs(x, memory, **hidden), X, MEMORY),
    )


@pytest.mark.parity
@NORMS
def test_cross_attention_weights_equal_torch(pre_norm):
    import torch

    ours = block(DecoderBlock, pre_norm=pre_norm)
    theirs, caught = torch_twin(torch, ours, "relu"), []
    look = theirs.multihead_attn.forward

    def forward(*inputs, **settings):
        settings |= {"need_weights": True, "average_attn_weights": False}
        out, weights = look(*inputs, **settings)
        caught.append(weights.detach().numpy())
        return out, weights

    theirs.multihead_attn.forward = forward
    hidden = torch.ones(T, T, dtype=torch.bool).triu(1), torch.tensor(~MEMORY_MASK)
    expected = theirs(torch.tensor(X), torch.tensor(MEMORY), tgt_mask=hidden[0], memory_key_padding_mask=hidden[1])
    checks.close(ours.call_with_weights(X, MEMORY, MEMORY_MASK), (expected.detach().numpy(), caught[0]))


@NORMS
def test_the_decoder_block_is_causal_and_the_encoder_block_is_not(pre_norm):
    decoder, encoder = block(DecoderBlock, pre_norm=pre_norm), block(EncoderBlock, pre_norm=pre_norm)
    checks.causal(lambda x: decoder(x, MEMORY, memory_mask=MEMORY_MASK), X)
    changed = X.copy()
    changed[:, -1] *= -1
    assert (checks.arrays(encoder(changed))[0][:, 0] != checks.arrays(encoder(X))[0][:, 0]).all()


@NORMS
def test_padding_does_not_matter_to_the_blocks(pre_norm):
    encoder, decoder = block(EncoderBlock, pre_norm=pre_norm), block(DecoderBlock, pre_norm=pre_norm)
    checks.padding_does_not_matter(lambda x, mask: encoder(x, mask=mask), X, MASK.sum(1))
    memory = np.repeat(MEMORY[:1], B, axis=0)
    checks.padding_does_not_matter(lambda x, mask: decoder(x, memory[: len(x)], x_mask=mask), X, MASK.sum(1))


@NORMS
def test_masked_positions_of_the_memory_do_not_matter_to_the_decoder_block(pre_norm):
    layer = block(DecoderBlock, pre_norm=pre_norm)
    other = np.where(MEMORY_MASK[..., None], MEMORY, 100 * MEMORY[::-1])
    checks.close(layer(X, other, memory_mask=MEMORY_MASK), layer(X, MEMORY, memory_mask=MEMORY_MASK), 0)
    assert (checks.arrays(layer(X, other))[0] != checks.arrays(layer(X, MEMORY))[0])[1:].any()


def test_keras_masks_of_inputs_are_used():
    embedding = keras.layers.Embedding(9, D, mask_zero=True, embeddings_initializer="random_normal")
    memory = embedding(np.where(MEMORY_MASK, 1 + np.arange(S), 0))
    plain_memory = ops.convert_to_numpy(memory)
    encoder, decoder = block(EncoderBlock), block(DecoderBlock)
    checks.close(encoder(memory), encoder(plain_memory, mask=MEMORY_MASK))
    checks.close(decoder(X, memory), decoder(X, plain_memory, memory_mask=MEMORY_MASK))
    assert abs(checks.arrays(encoder(memory))[0] - checks.arrays(encoder(plain_memory))[0]).max() > 1e-3


def test_a_row_without_any_key_gives_finite_numbers():
    mask, memory_mask = MASK.copy(), MEMORY_MASK.copy()
    mask[1] = memory_mask[1] = False
    encoder, decoder = block(EncoderBlock), block(DecoderBlock)
    for function in (lambda x: encoder(x, mask=mask), lambda x: decoder(x, MEMORY, memory_mask, mask)):
        found = checks.arrays(outputs_and_gradients(function, X))
        assert all(np.isfinite(array).all() for array in found)
    checks.close(encoder(X, mask=mask)[::2], encoder(X, mask=MASK)[::2])
    checks.close(decoder(X, MEMORY, memory_mask, mask)[::2], decoder(X, MEMORY, MEMORY_MASK, MASK)[::2])


# One token at a time.


def stepped(layer, x, memory, memory_mask, length, jit_compile=False):
    """`step`, token by token: rows (r, t, d) -> as `call_with_weights`, with weights grouped (b, h, k, s)."""
    step = tf.function(layer.step, jit_compile=True) if jit_compile else layer.step
    cache = layer.empty_cache(len(x), length)
    keys_values = layer.cross_attention.keys_values(memory)
    outputs, looks = [], []
    for t in range(x.shape[1]):
        out, weights, cache = step(tf.constant(x[:, t : t + 1]), cache, tf.constant(t), keys_values, memory_mask)
        outputs.append(out)
        looks.append(weights)
    return ops.concatenate(outputs, axis=1), ops.stack(looks, axis=3)  # (b, h, k, t, s)


@NORMS
@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize(("length", "head_dim"), [(T, None), (T + 4, 3)])
def test_cached_steps_equal_the_full_sequence_at_every_position(pre_norm, beams, length, head_dim):
    layer = block(DecoderBlock, pre_norm=pre_norm, head_dim=head_dim)
    x = normal(B * beams, T, D, seed=2)  # all rows differ, so that beams of one sentence do
    memory, mask = np.repeat(MEMORY, beams, axis=0), np.repeat(MEMORY_MASK, beams, axis=0)
    expected, weights = layer.call_with_weights(x, memory, mask)
    weights = np.swapaxes(ops.convert_to_numpy(weights).reshape(B, beams, H, T, S), 1, 2)
    checks.close(stepped(layer, x, MEMORY, MEMORY_MASK, length), (expected, weights))


@pytest.mark.xla
def test_a_compiled_step_equals_the_full_sequence():
    layer = block(DecoderBlock)
    expected, weights = layer.call_with_weights(X, MEMORY, MEMORY_MASK)
    checks.close(stepped(layer, X, MEMORY, MEMORY_MASK, T, True), (expected, weights[:, :, None]))


def test_a_step_leaves_the_cache_of_other_positions_unchanged():
    layer = block(DecoderBlock)
    cache = [normal(B, H, T, D // H, seed=seed) for seed in (3, 4)]
    _, _, after = layer.step(X[:, :1], cache, 2, layer.cross_attention.keys_values(MEMORY), MEMORY_MASK)
    new = layer.self_attention.keys_values(X[:, :1])  # post-norm: keys of the input itself
    for old, now, key in zip(cache, after, new, strict=True):
        expected = old.copy()
        expected[:, :, 2] = ops.convert_to_numpy(key)[:, :, 0]
        checks.close(now, expected, 1e-6)


# Checks of every layer.


def test_blocks_drop_out_sublayers_and_attention_weights_in_training_only():
    for settings in ({"dropout": 0.5}, {"attention_dropout": 0.5}):
        for kind, others in ((EncoderBlock, ()), (DecoderBlock, (MEMORY,))):
            plain, dropping = block(kind), block(kind, **settings)
            checks.close(dropping(X, *others), plain(X, *others), 0)
            checks.close(dropping(X, *others, training=False), plain(X, *others), 0)
            first, second = (checks.arrays(dropping(X, *others, training=True))[0] for _ in range(2))
            assert (first != second).any()


def test_config_round_trips():
    checks.config_round_trip(Attention, score="concat", units=5)
    checks.config_round_trip(MultiHeadAttention, dim=6, num_heads=4, head_dim=3, dropout=0.25, use_bias=False)
    settings = {"dim": 6, "num_heads": 4, "hidden_units": 9, "dropout": 0.2, "attention_dropout": 0.3}
    settings |= {"pre_norm": True, "activation": "gelu", "head_dim": 3, "epsilon": 1e-3}
    for kind in (EncoderBlock, DecoderBlock):
        checks.config_round_trip(kind, **settings)


def test_keras_file_round_trip_of_all_layers(tmp_path):
    x, memory = keras.Input((None, D)), keras.Input((None, D))
    encoded = EncoderBlock(D, H, F, pre_norm=True, name="encoder")(memory)
    decoded = DecoderBlock(D, H, F, activation="gelu", name="decoder")(x, encoded)
    context, _ = Attention("concat", 3, name="attention")(decoded, encoded)
    model = keras.Model([x, memory], MultiHeadAttention(D, H, 3, name="heads")(context, encoded))
    randomized(model, [X, MEMORY])
    model.save(tmp_path / "model.keras")
    checks.close(keras.models.load_model(tmp_path / "model.keras")([X, MEMORY]), model([X, MEMORY]), 0)


FUNCTIONS = {
    "heads": (lambda **s: MultiHeadAttention(D, H, 3, **s), lambda f, x: f(x["x"], x["memory"])),
    "encoder": (lambda **s: EncoderBlock(D, H, F, **s), lambda f, x: f(x["x"], mask=x["mask"])),
    "decoder": (
        lambda **s: DecoderBlock(D, H, F, **s),
        lambda f, x: f(x["x"], x["memory"], memory_mask=x["memory_mask"], x_mask=x["mask"]),
    ),
}
INPUTS = {"x": X, "memory": MEMORY, "mask": MASK, "memory_mask": MEMORY_MASK}
NAMES = {"heads": ("x", "memory"), "encoder": ("x", "mask"), "decoder": tuple(INPUTS)}
KINDS = pytest.mark.parametrize("kind", FUNCTIONS)


def function(kind, **settings):
    """A layer with random weights, as a function of one nest of inputs, and these."""
    make, call = FUNCTIONS[kind]
    layer, inputs = make(**settings), {name: INPUTS[name] for name in NAMES[kind]}
    call(layer, inputs)
    layer.set_weights([np.random.default_rng(i).normal(0, 0.3, w.shape) for i, w in enumerate(layer.get_weights())])
    return layer, lambda x: call(layer, x), inputs


@KINDS
def test_batch_and_lengths_can_be_unknown(kind):
    _, called, inputs = function(kind)
    checks.symbolic_agrees(called, inputs)
    checks.any_batch_and_length(called, inputs)


@KINDS
def test_gradients_reach_all_weights(kind):
    layer, called, inputs = function(kind)
    count = {"heads": 8, "encoder": 8 + 4 + 4, "decoder": 16 + 4 + 6}[kind]
    assert len(layer.trainable_weights) == len(layer.weights) - len(layer.non_trainable_weights) == count
    checks.gradients_reach(called, layer.trainable_weights, inputs)


class OfDictionary(keras.layers.Layer):
    """A layer of one nest of inputs, for checks that call it so."""

    def __init__(self, kind, dtype):
        super().__init__(dtype=dtype)
        self.kind, self.layer = kind, FUNCTIONS[kind][0](dtype=dtype)

    def call(self, inputs):
        return FUNCTIONS[self.kind][1](self.layer, inputs)


@KINDS
def test_layers_work_in_mixed_precision(kind):
    checks.mixed_precision(lambda dtype: OfDictionary(kind, dtype), {name: INPUTS[name] for name in NAMES[kind]})
