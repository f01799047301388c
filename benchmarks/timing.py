"""Shared parts of the benchmarks: two sides timed in turn, the matrix-product peak, one JSON line per claim."""

import json
import statistics
import time

PEAK_SIZE = 2048
PEAK_FLOPS = 2 * PEAK_SIZE**3


def seconds(function, calls=1):
    """Seconds that one call takes, the mean of `calls` in a row."""
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def interleaved(sides, rounds, calls=None):
    """Time {name: function} in turn, `rounds` times over -> {name: median seconds of one call}.

    Whatever else the machine does then falls on all sides alike; every other round
    goes through them backwards. A function returns only when its work is done (on a
    GPU: it fetches a result), and has been called before, if a first call is slower.
    calls: {name: calls in a row within a round}, 1 where nothing is said.
    """
    calls = calls or {}
    taken = {name: [] for name in sides}
    for i in range(rounds):
        for name in list(sides)[:: -1 if i % 2 else 1]:
            taken[name].append(seconds(sides[name], calls.get(name, 1)))
    return {name: statistics.median(times) for name, times in taken.items()}


def matrix_product():
    """A function to time as one of the sides: a 2048x2048 float32 matrix product, `PEAK_FLOPS` operations."""
    import tensorflow as tf

    a, b = tf.random.normal((PEAK_SIZE, PEAK_SIZE)), tf.random.normal((PEAK_SIZE, PEAK_SIZE))

    def product():
        return tf.matmul(a, b)[0, 0].numpy()

    product()
    return product


def report(claim, ours_s, peer_s, **more):
    """Print the JSON line of a claim; a time is rounded to four digits."""
    values = {"ours_s": ours_s, "peer_s": peer_s, "ratio": peer_s / ours_s, **more}
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in values.items()}
    print(json.dumps({"claim": claim, **rounded}), flush=True)
