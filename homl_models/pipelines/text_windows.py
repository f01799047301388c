"""Texts as training batches for character models: shuffled windows, or streams that go on.

Both give pairs (inputs, targets) of shape (b, t), the targets one character ahead,
as functions of a seed and the step. Windows are gathered from the encoded text by
index in a seeded order (`random_access.permuted`, another one for each pass), so that nothing is
shuffled in memory: `benchmarks/windows.py` compares it with the book's
`window().flat_map()`.
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
    """The text of a UTF-8 file, or of all .txt files below a folder, in the order of their paths; also gzipped."""
    text = "\n".join(map(lines.read, lines.files(path)))
    if not text:
        raise UserError(f"{path} is empty; give a text file with some text")
    return text


def split(ids, parts=(1_000_000, 60_000), length=100):
    """Ids (n,) -> training, validation and test part, consecutive.

    parts: sizes of the first two, as in the book; fractions of n (1,000,000 : 60,000 : 55,394)
    for a text that is not longer than these. Each part must hold a window of `length` + 1.
    """
    n = len(ids)
    if n <= sum(parts) + length:
        parts = int(n * 0.8966), int(n * 0.0538)
    train, valid = parts
    pieces = ids[:train], ids[train : train + valid], ids[train + valid :]
    if min(map(len, pieces)) <= length:
        raise UserError(
            f"the text is too short: {n:,} characters leave a part of {min(map(len, pieces)):,}, "
            f"less than a window of {length} + 1; give a longer text or a smaller --length"
        )
    return pieces


def windows(ids, length, batch_size, seed=None, steps=None, stride=1):
    """Windows of `length` + 1 characters that start at every `stride`-th character, as a `RandomAccessDataset`.

    seed: draws the windows without replacement in an order of its own for each pass over the
        text; None takes them as they come, and the last batch is smaller.
    steps: batches per epoch; None is one pass over the windows (rounded up when seed is None).
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
    """`batch_size` contiguous streams: row i of batch t + 1 continues row i of batch t, as a `RandomAccessDataset`.

    The text is cut into `batch_size` parts of the same length; an epoch reads each from its start.
    What is left of a part after the last whole window of `length` is not read.
    """
    import tensorflow as tf

    steps = (len(ids) // batch_size - 1) // length
    if steps < 1:
        raise UserError(
            f"{len(ids):,} characters are too few for {batch_size} streams with windows of {length}; "
            "use a smaller --batch-size or --length, or a longer text"
        )
    part = len(ids) // batch_size
    rows = tf.constant(ids[: part * batch_size].reshape(batch_size, part), tf.int32)

    def batch(step):
        first = tf.cast(step % steps, tf.int32) * length
        return rows[:, first : first + length], rows[:, first + 1 : first + length + 1]

    def static(step):
        return tuple(tf.ensure_shape(x, (batch_size, length)) for x in batch(step))

    return RandomAccessDataset(static, steps)
