"""Texts with labels as training batches: one label for a text, one for each word, an answer in a context.

Each of `classified`, `tagged` and `asked` makes `Examples`, tokens of a `WordPiece` and what is to be learnt of them;
`batches` gives them step by step. Shapes: n examples, b batch, t tokens.
"""

import dataclasses

import numpy as np

from homl_models.errors import UserError
from homl_models.pipelines.random_access import IGNORED, batch_indices, bucketed, length_buckets, num_batches

COLUMNS = "input_ids", "token_type_ids", "attention_mask"
OUTSIDE = np.iinfo(np.int32).max  # a position that is none


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """tokens: the `COLUMNS` (n, t) int32, padded at the right. labels: {name: (n,) or (n, t) int32}.

    origins: (n,), which text, sentence or question each is of, or a part of.
    words: (n, t), the number of the word, as it was given, that begins with a token, or -1; None if there are none.
    """

    tokens: dict
    labels: dict
    origins: np.ndarray
    words: np.ndarray | None = None


def classified(texts, labels, wordpiece, max_length):
    """Texts, cut where they are too long, with labels, whole numbers."""
    return Examples(
        wordpiece.encode(texts, max_length=max_length), {"labels": np.array(labels, np.int32)}, np.arange(len(texts))
    )


def tagged(sentences, label_names, wordpiece, max_length):
    """Sentences [(words, labels), ...], longer ones in parts, with the label of each word at its first token.

    Where WordPiece makes several words of one, such as of "3/4", those after the first go on with the label:
    "I-DATE" after "B-DATE", if there is such a label. All other tokens have the label -100.
    """
    ids = {name: i for i, name in enumerate(label_names)}
    unknown = sorted({label for _, labels in sentences for label in labels} - set(ids))
    if unknown:
        raise UserError(f"the labels {', '.join(unknown[:5])} are not among those to learn, {', '.join(label_names)}")
    inner = {name: ids.get(f"I-{name[2:]}", i) if name.startswith("B-") else i for name, i in ids.items()}
    parts = _parts([words for words, _ in sentences], wordpiece, max_length - 2)
    tokens = wordpiece.encode([" ".join(some) for _, _, some in parts], max_length=max_length, offsets=True)
    labels = np.full(tokens["input_ids"].shape, IGNORED, np.int32)
    words = np.full(labels.shape, -1, np.int32)
    for row, (origin, first, some) in enumerate(parts):
        starts = np.cumsum([0, *(len(word) + 1 for word in some)])
        piece = tokens["word_ids"][row]
        begins = np.flatnonzero((piece >= 0) & (piece != np.append(-1, piece[:-1])))
        places = first + np.searchsorted(starts, tokens["offsets"][row, begins, 0], side="right") - 1
        new = places != np.append(-1, places[:-1])
        given = sentences[origin][1]
        labels[row, begins] = [ids[given[i]] if is_new else inner[given[i]] for i, is_new in zip(places, new)]
        words[row, begins[new]] = places[new]
    origins = np.array([origin for origin, _, _ in parts])
    return Examples({name: tokens[name] for name in COLUMNS}, {"labels": labels}, origins, words)


def _parts(sentences, wordpiece, room):
    """Lists of words -> [(which it is of, its first word, words of at most `room` tokens, or a single one), ...]."""
    sizes = wordpiece.encode([" ".join(words) for words in sentences])["attention_mask"].sum(axis=1) - 2
    found = []
    for i, (words, size) in enumerate(zip(sentences, sizes)):
        if size <= room:
            found.append((i, 0, words))
            continue
        ends = np.cumsum(wordpiece.encode(words)["attention_mask"].sum(axis=1) - 2)
        first = 0
        while first < len(words):
            before = ends[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(ends, before + room, side="right")))
            found.append((i, first, words[first:last]))
            first = last
    return found


def asked(questions, wordpiece, max_length, overlap):
    """Questions as of `text_files.read_questions`, each in as many windows as its context takes (`WordPiece.windows`).

    Labels are the first and the last token of the first answer; 0, the place of [CLS], where a window does not hold it.
    """
    tokens = wordpiece.windows([q for q, _, _ in questions], [c for _, c, _ in questions], max_length, overlap)
    inside = (tokens["token_type_ids"] == 1) & (tokens["word_ids"] >= 0)
    spans = [answers[0] if answers else (-1, "") for _, _, answers in questions]
    start = np.array([start for start, _ in spans])[tokens["overflow_to_sample_mapping"], None]
    end = start + np.array([len(text) for _, text in spans])[tokens["overflow_to_sample_mapping"], None]
    first, last = tokens["offsets"][..., 0], tokens["offsets"][..., 1]
    of_answer = inside & (last > start) & (first < end)
    begin, finish = np.where(of_answer, first, OUTSIDE).min(axis=1), np.where(of_answer, last, -1).max(axis=1)
    windows = np.flatnonzero(np.diff(tokens["overflow_to_sample_mapping"], prepend=-1))  # the first of each question
    whole = of_answer.any(axis=1) & (begin == np.minimum.reduceat(begin, windows)[tokens["overflow_to_sample_mapping"]])
    whole &= finish == np.maximum.reduceat(finish, windows)[tokens["overflow_to_sample_mapping"]]
    places = np.arange(of_answer.shape[1])
    labels = {
        "start_positions": np.where(whole, np.where(of_answer, places, OUTSIDE).min(axis=1), 0).astype(np.int32),
        "end_positions": np.where(whole, np.where(of_answer, places, -1).max(axis=1), 0).astype(np.int32),
    }
    return Examples({name: tokens[name] for name in COLUMNS}, labels, tokens["overflow_to_sample_mapping"])


def batches(examples, batch_size, seed=None, buckets=1):
    """`Examples` as a `RandomAccessDataset` of batches (tokens, labels), each once an epoch.

    Labels are a dictionary, or an array if there is one kind. buckets: most lengths of batches; the last batch of a
    length is filled up with empty rows that do not count. seed: draws an order for each epoch; None takes the examples
    of a length as they come.
    """
    parts = length_buckets(examples.tokens["attention_mask"].sum(axis=1), buckets)
    tables = [_table(examples, *part) for part in parts]

    def make_batch(i, epoch, number, step):
        return _batch(tables[i], batch_indices(i, epoch, number, len(parts[i][0]), batch_size, seed))

    return bucketed(make_batch, [num_batches(len(rows), batch_size) for rows, _ in parts], seed)


def _table(examples, rows, length):
    """Tokens and labels of some rows, cut to a length, and an empty row that does not count."""
    import tensorflow as tf

    fill = {name: OUTSIDE if name.endswith("positions") else IGNORED for name in examples.labels}
    both = []
    for arrays in (examples.tokens, examples.labels):
        some = {name: x[rows, :length] if x.ndim == 2 else x[rows] for name, x in arrays.items()}
        both.append({
            name: tf.constant(np.pad(x, [(0, 1), (0, 0)][: x.ndim], constant_values=fill.get(name, 0)))
            for name, x in some.items()
        })  # fmt: skip
    return both


def _batch(table, rows):
    import tensorflow as tf

    x, y = ({name: tf.gather(array, rows) for name, array in arrays.items()} for arrays in table)
    return x, y if len(y) > 1 else y["labels"]
