"""GRU and LSTM layers with only the recurrent matrix product in the time loop.

They replace `keras.layers.GRU` (reset_after) and `keras.layers.LSTM`, with the same
weights, configuration, masks and results. Why: on TensorFlow Keras 3.15 projects the
inputs of each step inside the loop, and its backward pass adds up the gradients of the
weights step by step. Here everything that does not depend on the previous state is
hoisted out of the loop: the input projection, and in the backward pass the derivatives
of the gates and the gradients of the weights, each one large product over all time
steps (as in cuDNN; Appleyard et al., 2016, https://arxiv.org/abs/1604.01946).
Gain: under XLA on 2 cores a training step takes 44 ms instead of 77 ms with a GRU of 128
units, 277 ms instead of 450 ms with a GRU of 512, and 397 ms instead of 586 ms with an
LSTM of 512 (`benchmarks/recurrent.py`). They may be removed when Keras' layers hoist
these products under XLA on a CPU as well: replace them by Keras' in `CELLS` and wherever
they are imported; weights and configuration stay.

Settings that cuDNN does not support either (other activations, no bias, recurrent
dropout, `reset_after=False`) run Keras' own loop.
Deviation from Keras: as long as all steps were masked, the output is the initial
state, not zero.
Shapes: t time, b batch, u units.
"""

import keras
from keras import ops


def _scan(step, start, inputs, reverse=False):
    """`ops.scan`, over indices where the length is unknown: Keras 3.15 on TensorFlow fails on several tensors then."""
    if inputs[0].shape[0] is not None:
        return ops.scan(step, start, inputs, reverse=reverse)

    def indexed(carry, i):
        return step(carry, [x[i] for x in inputs])

    return ops.scan(indexed, start, ops.arange(ops.shape(inputs[0])[0]), reverse=reverse)


class _Cell(keras.layers.Layer):
    """Cell of `keras.layers.RNN` made of a function."""

    def __init__(self, step, state_size, **kwargs):
        super().__init__(**kwargs)
        self.step, self.state_size = step, state_size

    def call(self, x, state):
        return self.step(x, state)


def scan(step, inputs, state, dtype):
    """Scan over the time axis: inputs (b, t, n), initial state -> outputs (b, t, m).

    It replaces `keras.ops.scan`, whose gradient XLA cannot compile on TensorFlow (Keras 3.15 leaves the number of
    iterations open there), and may be removed when it can.

    Args:
        step: (x (b, n), state) -> (output (b, m), state), the state any nest of (b, k).
        dtype: of the state, a policy.
    """

    def flat_step(x, flat_state):
        output, new_state = step(x, keras.tree.pack_sequence_as(state, flat_state))
        return output, keras.tree.flatten(new_state)

    initial_state = keras.tree.flatten(state)
    cell = _Cell(flat_step, [x.shape[-1] for x in initial_state], dtype=dtype)
    return keras.layers.RNN(cell, return_sequences=True, dtype=dtype)(inputs, initial_state=initial_state)


def _flat(x):
    """(t, b, n) -> (t * b, n)"""
    return ops.reshape(x, (-1, x.shape[-1]))


def _recurrent_gradients(previous, d_inner):
    """Gradients of kernel (u, n) and bias (n,) from states (t, b, u) and gradients of `h @ kernel + bias` (t, b, n)."""
    return ops.matmul(ops.transpose(_flat(previous)), _flat(d_inner)), ops.sum(_flat(d_inner), axis=0)


def _upstream(args, upstream):
    """Upstream gradients of a custom gradient: arguments on TensorFlow, one nest on JAX, `upstream` on PyTorch."""
    if upstream is None:
        return args[0] if isinstance(args[0], (tuple, list)) else args
    return upstream if isinstance(upstream, (tuple, list)) else (upstream,)


@ops.custom_gradient
def gru_scan(x, h, kernel, bias, step_mask):
    """GRU over time (Cho et al., 2014, in the `reset_after` form of cuDNN).

    Args:
        x: (t, b, 3u) projected inputs, gates in the order update, reset, candidate.
        h: (b, u) initial state.
        kernel, bias: (u, 3u), (3u,) of the recurrent product.
        step_mask: (t, b, 1), 0 where a step is masked and the state stays, otherwise 1.
    Returns the states after each step (t, b, u).
    """
    u = h.shape[-1]

    def forward(carry, inputs):
        h, _ = carry
        x, step_mask = inputs
        inner = ops.matmul(h, kernel) + bias
        gates = ops.sigmoid(x[:, : 2 * u] + inner[:, : 2 * u])
        candidate = ops.tanh(x[:, 2 * u :] + gates[:, u:] * inner[:, 2 * u :])
        h = h + step_mask * (1 - gates[:, :u]) * (candidate - h)
        return (h, inner), (h, inner)

    _, (states, inner) = _scan(forward, (h, ops.zeros_like(x[0])), (x, step_mask))

    def gradient(*args, upstream=None):
        (d_states,) = _upstream(args, upstream)
        previous = ops.concatenate([h[None], states[:-1]])
        gates = ops.sigmoid(x[..., : 2 * u] + inner[..., : 2 * u])
        update, reset, n = gates[..., :u], gates[..., u:], inner[..., 2 * u :]
        candidate = ops.tanh(x[..., 2 * u :] + reset * n)
        through = 1 - step_mask * (1 - update)  # d h[t] / d h[t-1], without the gates
        d_update = step_mask * (previous - candidate) * update * (1 - update)
        d_candidate = step_mask * (1 - update) * (1 - candidate * candidate)
        d_reset = d_candidate * n * reset * (1 - reset)
        d_inner = ops.concatenate([d_update, d_reset, d_candidate * reset], axis=-1)
        transposed = ops.transpose(kernel)

        def backward(carry, inputs):
            d, _ = carry
            d_state, through, d_inner = inputs
            d = d + d_state
            d_gates = ops.concatenate([d, d, d], axis=-1) * d_inner
            return (d * through + ops.matmul(d_gates, transposed), d), (d, d)

        zeros = ops.zeros_like(h)
        (d_h, _), (d, _) = _scan(backward, (zeros, zeros), (d_states, through, d_inner), reverse=True)
        d_inner = ops.concatenate([d, d, d], axis=-1) * d_inner
        d_x = ops.concatenate([d_inner[..., : 2 * u], d * d_candidate], axis=-1)
        return d_x, d_h, *_recurrent_gradients(previous, d_inner), ops.zeros_like(step_mask)

    return states, gradient


@ops.custom_gradient
def lstm_scan(x, h, c, kernel, step_mask):
    """LSTM over time (Hochreiter & Schmidhuber, 1997, with the forget gate of Gers et al., 2000).

    Args:
        x: (t, b, 4u) projected inputs, bias included, gates in the order input, forget, candidate, output.
        h, c: (b, u) initial output and cell state.
        kernel: (u, 4u) of the recurrent product.
        step_mask: as in `gru_scan`.
    Returns outputs (t, b, u) and cell states (t, b, u) after each step.
    """
    u = h.shape[-1]

    def split(gates):
        i, f, g, o = (gates[..., k * u : (k + 1) * u] for k in range(4))
        return ops.sigmoid(i), ops.sigmoid(f), ops.tanh(g), ops.sigmoid(o)

    def forward(carry, inputs):
        h, c, _ = carry
        x, step_mask = inputs
        gates = x + ops.matmul(h, kernel)
        i, f, g, o = split(gates)
        c = c + step_mask * (f * c + i * g - c)
        h = h + step_mask * (o * ops.tanh(c) - h)
        return (h, c, gates), (h, c, gates)

    _, (outputs, cells, gates) = _scan(forward, (h, c, ops.zeros_like(x[0])), (x, step_mask))

    def gradient(*args, upstream=None):
        d_outputs, d_cells = _upstream(args, upstream)
        h_before = ops.concatenate([h[None], outputs[:-1]])
        c_before = ops.concatenate([c[None], cells[:-1]])
        i, f, g, o = split(gates)
        tanh_c = ops.tanh(cells)
        from_c = step_mask * ops.concatenate(  # d c[t] / d gates[t], for input, forget and candidate
            [g * i * (1 - i), c_before * f * (1 - f), i * (1 - g * g)], axis=-1
        )
        from_h = step_mask * tanh_c * o * (1 - o)  # d h[t] / d output gate
        h_to_c = step_mask * o * (1 - tanh_c * tanh_c)
        through = 1 - step_mask * (1 - f)
        transposed = ops.transpose(kernel)

        def d_gates(d_h, d_c, from_c, from_h):
            return ops.concatenate([ops.concatenate([d_c, d_c, d_c], axis=-1) * from_c, d_h * from_h], axis=-1)

        def backward(carry, inputs):
            d_h, d_c, _, _ = carry
            d_output, d_cell, step_mask, h_to_c, through, from_c, from_h = inputs
            d_h = d_h + d_output
            d_c = d_c + d_cell + d_h * h_to_c
            d_previous = ops.matmul(d_gates(d_h, d_c, from_c, from_h), transposed)
            carry = d_h * (1 - step_mask) + d_previous, d_c * through, d_h, d_c
            return carry, carry

        zeros = ops.zeros_like(h)
        (d_h, d_c, _, _), (_, _, d_hs, d_cs) = _scan(
            backward,
            (zeros, zeros, zeros, zeros),
            (d_outputs, d_cells, step_mask, h_to_c, through, from_c, from_h),
            reverse=True,
        )
        d_x = d_gates(d_hs, d_cs, from_c, from_h)
        return d_x, d_h, d_c, _recurrent_gradients(h_before, d_x)[0], ops.zeros_like(step_mask)

    return (outputs, cells), gradient


class _FastLoop:
    """Base class of `GRU` and `LSTM`: Keras' `inner_loop` by `gru_scan` or `lstm_scan` for standard settings."""

    def inner_loop(self, sequences, initial_state, mask, training=False):
        if not self._is_standard():
            return super().inner_loop(sequences, initial_state, mask, training=training)
        if training and self.dropout:
            sequences = sequences * ops.expand_dims(self.cell.get_dropout_mask(sequences[:, 0]), 1)
        if isinstance(mask, (tuple, list)):
            mask = mask[0]
        x = ops.matmul(ops.transpose(sequences, (1, 0, 2)), ops.cast(self.cell.kernel, sequences.dtype))
        return self._loop(x, initial_state, mask)

    def of_embeddings(self, ids, embeddings, mask=None):
        """The layer on rows of a matrix, without dropout: ids (b, t), embeddings (v, n) -> outputs as of `call`.

        It projects the rows of the matrix instead of those of all steps, which is less work where v < b t.
        """
        if not self._is_standard():
            return self(ops.take(embeddings, ids, axis=0), mask=mask)
        table = ops.matmul(ops.cast(embeddings, self.compute_dtype), ops.cast(self.cell.kernel, self.compute_dtype))
        x = ops.take(table, ops.transpose(ids), axis=0)
        last, outputs, states = self._loop(x, self.get_initial_state(ops.shape(ids)[0]), mask)
        outputs = outputs if self.return_sequences else last
        return (outputs, *states) if self.return_state else outputs

    def _loop(self, x, initial_state, mask):
        """Projected inputs (t, b, ku), mask (b, t) or None -> last output, outputs (b, t, u), last states."""
        step_mask = ops.ones_like(x[:, :, :1]) if mask is None else ops.cast(ops.transpose(mask), x.dtype)[:, :, None]
        if self.go_backwards:
            x, step_mask = ops.flip(x, 0), ops.flip(step_mask, 0)
        states = self._scan(x, list(initial_state), step_mask)
        outputs = states[0] * step_mask if self.zero_output_for_mask else states[0]  # set by `Bidirectional`
        return outputs[-1], ops.transpose(outputs, (1, 0, 2)), [s[-1] for s in states]

    def _is_standard(self):
        cell = self.cell
        return (
            cell.activation is keras.activations.tanh
            and cell.recurrent_activation is keras.activations.sigmoid
            and cell.use_bias
            and not cell.recurrent_dropout
            and getattr(cell, "reset_after", True)
        )


@keras.saving.register_keras_serializable("homl_models")
class GRU(_FastLoop, keras.layers.GRU):
    """Gated recurrent unit, inputs (b, t, n) -> (b, u), or (b, t, u) with `return_sequences`.

    Replaces `keras.layers.GRU`, whose arguments, weights and results it has; why and until when, see the module.
    """

    def _scan(self, x, states, step_mask):
        bias, recurrent_bias = (ops.cast(b, x.dtype) for b in (self.cell.bias[0], self.cell.bias[1]))
        return [gru_scan(x + bias, states[0], ops.cast(self.cell.recurrent_kernel, x.dtype), recurrent_bias, step_mask)]


@keras.saving.register_keras_serializable("homl_models")
class LSTM(_FastLoop, keras.layers.LSTM):
    """Long short-term memory, inputs (b, t, n) -> (b, u), or (b, t, u) with `return_sequences`.

    Replaces `keras.layers.LSTM`, whose arguments, weights and results it has; why and until when, see the module.
    """

    def _scan(self, x, states, step_mask):
        kernel, bias = (ops.cast(w, x.dtype) for w in (self.cell.recurrent_kernel, self.cell.bias))
        return list(lstm_scan(x + bias, *states, kernel, step_mask))
