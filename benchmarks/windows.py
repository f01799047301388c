"""Shuffled training windows per second: gathered by index against the book's window().flat_map().

Claim: `pipelines.text_windows.windows` delivers batches (32 windows of 100 characters of
Shakespeare, inputs and targets) many times faster than the pipeline of the book's
chapter 16, and the first batch at once.
Peer: that pipeline: a data set of single characters, a nested data set per window,
flattened by `flat_map`, a shuffle buffer of 100,000 windows, batch(32), prefetch(1).
It shuffles within the buffer only; ours permutes all windows of the text.
Checked first: without shuffling both give the same batches; with it, both give windows
of the text whose targets are one character ahead.
The seconds of the claim are of one batch, iterated in Python once the buffer is full;
`*_first_batch_s` is the time until the first batch.

    python benchmarks/windows.py [--rounds 5] [--seconds 1]
"""

import argparse
import statistics
import time

import numpy as np
import timing

BATCH, LENGTH = 32, 100


def book_windows(ids, seed=None):
    """The book's pipeline: every window of the text, shuffled in a buffer if there is a seed."""
    import tensorflow as tf

    size = LENGTH + 1
    dataset = tf.data.Dataset.from_tensor_slices(ids).window(size, shift=1, drop_remainder=True)
    dataset = dataset.flat_map(lambda window: window.batch(size))
    if seed is not None:
        dataset = dataset.shuffle(100_000, seed=seed)
    dataset = dataset.batch(BATCH)
    return dataset.map(lambda windows: (windows[:, :-1], windows[:, 1:])).prefetch(1)


def check(ids, ours, peer):
    """Both give the same batches without shuffling, and true windows of the text with it."""
    from homl_models.pipelines import text_windows

    ordered = text_windows.windows(ids, LENGTH, BATCH).dataset()
    for a, b in zip(ordered.take(20), book_windows(ids[:5_000]).take(20), strict=True):
        np.testing.assert_array_equal(a, b)
    text = ids.astype(np.uint8).tobytes()
    for dataset in (ours, peer):
        inputs, targets = (x.numpy() for x in next(iter(dataset)))
        assert inputs.shape == targets.shape == (BATCH, LENGTH)
        np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
        assert all(bytes([row[0], *y]) in text for row, y in zip(inputs.astype(np.uint8), targets.astype(np.uint8)))


def batch_seconds(iterator, budget):
    """Seconds per batch, over as many batches as fit into `budget` seconds."""
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < budget:
        next(iterator)
        count += 1
    return passed / count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="times that each side is measured")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds of batches each time")
    args = parser.parse_args()

    from homl_models.pipelines import text_windows
    from homl_models.tokenizers import characters

    corpus = text_windows.shakespeare().lower()
    ids = characters.encode(corpus, "".join(sorted(set(corpus))))[:1_000_000]
    datasets = {"ours": text_windows.windows(ids, LENGTH, BATCH, seed=42), "peer": book_windows(ids, seed=42).repeat()}
    datasets["ours"] = datasets["ours"].dataset(0, 10**9)
    check(ids, *datasets.values())

    iterators, first = {}, {}
    for name, dataset in datasets.items():
        start = time.perf_counter()
        iterators[name] = iter(dataset)
        next(iterators[name])
        first[f"{name}_first_batch_s"] = time.perf_counter() - start
    for iterator in iterators.values():
        batch_seconds(iterator, args.seconds)
    taken = {name: [] for name in iterators}
    for _ in range(args.rounds):
        for name, iterator in iterators.items():
            taken[name].append(batch_seconds(iterator, args.seconds))
    ours, peer = (statistics.median(times) for times in taken.values())
    rates = {"ours_windows_per_s": round(BATCH / ours), "peer_windows_per_s": round(BATCH / peer)}
    claim = f"a batch of {BATCH} shuffled windows of {LENGTH} characters, against the book's window().flat_map()"
    timing.report(claim, ours, peer, **rates, **first)


if __name__ == "__main__":
    main()
