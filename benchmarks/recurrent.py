"""Training step of `CharRNN` with the time loop of `layers/recurrent.py` under XLA.

Claims, each for 64 windows of 100 characters and a GRU of 128 units, a GRU of 512 and
an LSTM of 512: the step is faster than
  - the same model with `keras.layers.GRU` (or LSTM) in it, also under XLA,
  - that model without XLA, which is what `compile` chooses on a CPU (on a GPU: cuDNN),
  - our own model without XLA.
Checked first: all four start from the same weights and have the same losses over three
steps, so the gradients agree too.
A step is the `train_function` of `fit` (forward, backward, Adam with clipping, the
accuracy) on the same batch each time, without callbacks and without reading data.
`peak_fraction`: the step's 6 x (kernel + recurrent kernel + head) x characters
operations per second, over the peak of the matrix product in `timing.py`. What is not a
matrix product (gates, softmax, Adam) counts as time and not as work.

    python benchmarks/recurrent.py [--rounds 7] [--cells gru-128 gru-512 lstm-512]
"""

import argparse
import string
import unittest.mock

import keras
import numpy as np
import timing

BATCH, LENGTH = 64, 100
VOCABULARY = "\n !$&',-.3:;?" + string.ascii_lowercase  # the book's 39 characters


def char_rnn(cell, units, layer=None, jit_compile=True):
    """A compiled `CharRNN` with the same weights at every call; `layer` replaces our recurrent layer."""
    from homl_models.models import char_rnn

    keras.utils.set_random_seed(42)
    with unittest.mock.patch.dict(char_rnn.CELLS, {cell: layer or char_rnn.CELLS[cell]}):
        model = char_rnn.CharRNN(VOCABULARY, units=units, cell=cell)
    model.build()
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3, clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=jit_compile,
    )
    return model


def training_step(model):
    """A function that trains on the next batch, always the same, and returns the mean loss so far."""
    import tensorflow as tf

    ids = np.random.default_rng(42).integers(0, len(VOCABULARY), (BATCH, LENGTH + 1)).astype(np.int32)
    batches = iter(tf.data.Dataset.from_tensors((ids[:, :-1], ids[:, 1:])).repeat())
    model._symbolic_build(data_batch=next(batches))
    model.make_train_function()
    return lambda: float(model.train_function(batches)["loss"])


def step_flops(model):
    """Operations of the matrix products of one step: forward, and twice that for both gradients."""
    cell = model.recurrent[0].cell
    weights = (cell.kernel, cell.recurrent_kernel, model.head.kernel)
    return 6 * sum(int(np.prod(w.shape)) for w in weights) * BATCH * LENGTH


def compare(cell, units, rounds, calls):
    """Check, time and report one layer at one size."""
    theirs = {"gru": keras.layers.GRU, "lstm": keras.layers.LSTM}[cell]
    name = f"keras.layers.{theirs.__name__}"
    peers = {
        f"against {name} under XLA": char_rnn(cell, units, theirs),
        f"against {name} without XLA": char_rnn(cell, units, theirs, jit_compile=False),
        "against ours without XLA": char_rnn(cell, units, jit_compile=False),
    }
    ours = char_rnn(cell, units)
    for peer in peers.values():
        peer.set_weights(ours.get_weights())
    sides = {name: training_step(model) for name, model in {"ours": ours, **peers}.items()}
    losses = np.array([[step() for _ in range(3)] for step in sides.values()])
    np.testing.assert_allclose(losses, np.broadcast_to(losses[0], losses.shape), rtol=1e-4)
    medians = timing.interleaved(sides | {"peak": timing.matrix_product()}, rounds, dict.fromkeys(sides, calls))
    share = step_flops(ours) / medians["ours"] / (timing.PEAK_FLOPS / medians["peak"])
    step = f"a training step of {cell.upper()} {units} on {BATCH} x {LENGTH} characters"
    for peer in peers:
        timing.report(f"{step}, {peer}", medians["ours"], medians[peer], peak_fraction=share)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="times that each side is measured")
    parser.add_argument("--calls", type=int, default=5, help="steps each time")
    parser.add_argument("--cells", nargs="+", default=["gru-128", "gru-512", "lstm-512"], help="kind and units")
    args = parser.parse_args()
    for named in args.cells:
        cell, units = named.split("-")
        compare(cell, int(units), args.rounds, args.calls)


if __name__ == "__main__":
    main()
