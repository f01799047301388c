"""Training batches of character models: shuffled windows of a text, or contiguous streams.

Both give pairs (inputs, targets) of shape (b, t), the targets one character ahead,
as functions of a seed and the step. Windows are gathered from the encoded text by
index in a seeded order (`random_access.permuted`, another one in each pass), without
a shuffle buffer: `benchmarks/windows.py` compares it with the book's `window().flat_map()`.
"""

from pathlib import Path

from homl_models.errors import UserError
from homl_models.pipelines import lines
from homl_models.pipelines.download import download
from homl_models.pipelines.random_access import RandomAccessDataset, permuted

SHAKESPEARE_URL = "https://homl.info/shakespeare"


def shakespeare():
    """The book's text (Karpathy's tiny Shakespeare, 1,115,394 characters), from Keras' cache or the network."""
    otherwise = "pass --text-file PATH, or train char_rnn_reber, which needs no data"
    return read_text(download("shakespeare.txt", SHAKESPEARE_URL, otherwise))


def sonnets():
    """Four of Shakespeare's sonnets (18, 29, 73 and 116), which come with the package."""
    return read_text(Path(__file__).with_name("sonnets.txt"))


def read_text(path):
    """Text of a UTF-8 file, or of all .txt files below a folder, in the order of their paths; also gzipped."""
    text = "\n".join(map(lines.read, lines.files(path)))
    if not text:
        raise UserError(f"{path} is empty; give a text file with some text")
    return text


def split(ids, sizes=(1_000_000, 60_000), length=100):
    """Consecutive training, validation and test split of ids (n,).

    `UserError` unless each split has a window of `length` + 1.

    Args:
        sizes: of training and validation, as in the book; a text that is not longer than these is
            split in the same proportions (1,000,000 : 60,000 : 55,394).
        length: of a window.
    """
    n = len(ids)
    if n <= sum(sizes) + length:
        sizes = int(n * 0.8966), int(n * 0.0538)
    train, valid = sizes
    splits = ids[:train], ids[train : train + valid], ids[train + valid :]
    if min(map(len, splits)) <= length:
        raise UserError(
            f"the text is too short: {n:,} characters leave a split of {min(map(len, splits)):,}, "
            f"less than a window of {length} + 1; give a longer text or a smaller --length"
        )
    return splits


def windows(ids, length, batch_size, seed=None, steps=None, stride=1):
    """Sliding windows of `length` + 1 characters, as a `RandomAccessDataset`.

    Args:
        seed: of the order of the windows, another permutation in each pass over the text; None takes
            them in order, and the last batch is smaller.
        steps: batches per epoch; None is one pass over the windows (rounded up when seed is None).
        stride: characters between the starts of two windows.
    """
    import tensorflow as tf

    count = (len(ids) - length - 1) // stride + 1
    ids = tf.constant(ids, tf.int32)
    offsets = tf.range(length + 1)

    def pair(index):
        window = tf.gather(ids, tf.cast(index * stride, tf.int32)[:, None] + offsets)
        return window[:, :-1], window[:, 1:]

    def ordered(step):
        first = step % steps * batch_size
        return pair(tf.range(first, tf.minimum(first + batch_size, count)))

    def shuffled(step):
        example = step * batch_size + tf.range(batch_size, dtype=tf.int64)
        return pair(permuted(example % count, count, seed, example // count, 0))

    if seed is None:
        steps = -(-count // batch_size)
        return RandomAccessDataset(ordered, steps)
    return RandomAccessDataset(shuffled, steps or max(1, count // batch_size))


def streams(ids, length, batch_size):
    """Contiguous streams: row i of batch t + 1 continues row i of batch t, as a `RandomAccessDataset`.

    The text is divided into `batch_size` streams of equal length, which an epoch reads from the start in
    windows of `length`. The remainder of a stream after the last whole window is dropped.
    """
    import tensorflow as tf

    steps = (len(ids) // batch_size - 1) // length
    if steps < 1:
        raise UserError(
            f"{len(ids):,} characters are too few for {batch_size} streams with windows of {length}; "
            "use a smaller --batch-size or --length, or a longer text"
        )
    stream_length = len(ids) // batch_size
    rows = tf.constant(ids[: stream_length * batch_size].reshape(batch_size, stream_length), tf.int32)

    def batch(step):
        first = tf.cast(step % steps, tf.int32) * length
        pair = rows[:, first : first + length], rows[:, first + 1 : first + length + 1]
        return tuple(tf.ensure_shape(x, (batch_size, length)) for x in pair)

    return RandomAccessDataset(batch, steps)
