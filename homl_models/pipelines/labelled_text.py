"""Fine-tuning batches of labelled texts (Devlin et al., 2018, https://arxiv.org/abs/1810.04805, section 4).

One label for a text (`text_classification`), one for each word (`token_classification`), an answer in a context
(`question_answering`): each makes `Examples`, tokens of a `WordPiece` with labels; `batches` makes batches of them,
step by step. Shapes: n examples, b batch, t tokens.
"""

import dataclasses

import numpy as np

from homl_models.errors import UserError
from homl_models.pipelines.random_access import IGNORED, batch_indices, bucketed, length_buckets, num_batches

COLUMNS = "input_ids", "token_type_ids", "attention_mask"
OUTSIDE = np.iinfo(np.int32).max  # a position beyond every text, which does not count


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """Tokens with labels.

    tokens: the `COLUMNS` (n, t) int32, padded at the right. labels: {name: (n,) or (n, t) int32}.
    overflow_to_sample_mapping: (n,), the index of the text, sentence or question that each is, or is a part of.
    word_starts: (n, t), at the first token of each word the index of the word in its sentence, else -1; or None.
    """

    tokens: dict
    labels: dict
    overflow_to_sample_mapping: np.ndarray
    word_starts: np.ndarray | None = None


def text_classification(texts, labels, wordpiece, max_length):
    """Texts, truncated to `max_length` tokens, and whole numbers -> `Examples` with "labels" (n,)."""
    tokens = wordpiece.encode(texts, max_length=max_length)
    return Examples(tokens, {"labels": np.array(labels, np.int32)}, np.arange(len(texts)))


# A label for each word.


def token_classification(sentences, label_names, wordpiece, max_length):
    """Sentences [(words, labels), ...] -> `Examples` with "labels" (n, t): each word's at its first token.

    Longer sentences are split. Where WordPiece makes several words of one, such as of "3/4", the rest of them continue
    its label: "I-DATE" after "B-DATE", if there is such a label. All other tokens have the label -100.
    Raises UserError for a label that is not among `label_names`.
    """
    ids = {name: i for i, name in enumerate(label_names)}
    unknown = sorted({label for _, labels in sentences for label in labels} - set(ids))
    if unknown:
        raise UserError(f"the labels {', '.join(unknown[:5])} are not among those to learn, {', '.join(label_names)}")
    continued = {name: ids.get(f"I-{name[2:]}", i) if name.startswith("B-") else i for name, i in ids.items()}
    parts = _split_sentences([words for words, _ in sentences], wordpiece, max_length - 2)
    tokens = wordpiece.encode([" ".join(words) for _, _, words in parts], max_length=max_length, offsets=True)
    labels = np.full(tokens["input_ids"].shape, IGNORED, np.int32)
    word_starts = np.full(labels.shape, -1, np.int32)
    for row, (sample, first, words) in enumerate(parts):
        columns, words = _words_of_pieces(tokens["word_ids"][row], tokens["offsets"][row], words)
        words += first  # in the whole sentence
        is_start = words != np.append(-1, words[:-1])
        of_words = sentences[sample][1]
        labels[row, columns] = [(ids if start else continued)[of_words[i]] for i, start in zip(words, is_start)]
        word_starts[row, columns[is_start]] = words[is_start]
    samples = np.array([sample for sample, _, _ in parts])
    return Examples({name: tokens[name] for name in COLUMNS}, {"labels": labels}, samples, word_starts)


def _words_of_pieces(word_ids, offsets, words):
    """Columns where WordPiece's words begin, and the index of the given word that each is in: both (m,).

    word_ids (t,), offsets (t, 2): of the text " ".join(words), as `WordPiece.encode` gives them.
    """
    starts = np.cumsum([0, *(len(word) + 1 for word in words)])  # characters
    columns = np.flatnonzero((word_ids >= 0) & (word_ids != np.append(-1, word_ids[:-1])))
    return columns, np.searchsorted(starts, offsets[columns, 0], side="right") - 1


def _split_sentences(sentences, wordpiece, room):
    """Lists of words -> [(index of the sentence, index of the first word, words), ...] of at most `room` tokens.

    Or of a single word, which may have more.
    """
    sizes = wordpiece.encode([" ".join(words) for words in sentences])["attention_mask"].sum(axis=1) - 2
    parts = []
    for i, (words, size) in enumerate(zip(sentences, sizes)):
        if size <= room:
            parts.append((i, 0, words))
            continue
        ends = np.cumsum(wordpiece.encode(words)["attention_mask"].sum(axis=1) - 2)
        first = 0
        while first < len(words):
            before = ends[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(ends, before + room, side="right")))
            parts.append((i, first, words[first:last]))
            first = last
    return parts


# Answers.


def question_answering(questions, wordpiece, max_length, doc_stride):
    """Questions of `text_files.read_questions` -> `Examples` with "start_positions" and "end_positions" (n,).

    Each question is in as many windows as its context takes (`WordPiece.windows`). Labels are the first and the last
    token of the first answer; 0, the position of [CLS], in a window that does not hold all of it.
    """
    texts = [question for question, _, _ in questions], [context for _, context, _ in questions]
    tokens = wordpiece.windows(*texts, max_length, doc_stride)
    samples = tokens["overflow_to_sample_mapping"]
    in_answer = _tokens_of_answers(tokens, [answers for _, _, answers in questions])
    complete = _complete(in_answer, tokens["offsets"], samples)
    position = np.arange(in_answer.shape[1])
    start = np.where(in_answer, position, OUTSIDE).min(axis=1)
    end = np.where(in_answer, position, -1).max(axis=1)
    labels = {"start_positions": start, "end_positions": end}
    labels = {name: np.where(complete, x, 0).astype(np.int32) for name, x in labels.items()}
    return Examples({name: tokens[name] for name in COLUMNS}, labels, samples)


def _tokens_of_answers(tokens, answers):
    """Whether a token of the context overlaps the first answer of its question: (n, t) bool."""
    spans = [some[0] if some else (-1, "") for some in answers]
    samples = tokens["overflow_to_sample_mapping"]
    start = np.array([start for start, _ in spans])[samples, None]
    end = start + np.array([len(text) for _, text in spans])[samples, None]
    in_context = (tokens["token_type_ids"] == 1) & (tokens["word_ids"] >= 0)
    return in_context & (tokens["offsets"][..., 1] > start) & (tokens["offsets"][..., 0] < end)


def _complete(in_answer, offsets, samples):
    """Whether a window holds all tokens of the answer that any window of its question holds: (n,) bool."""
    start = np.where(in_answer, offsets[..., 0], OUTSIDE).min(axis=1)
    end = np.where(in_answer, offsets[..., 1], -1).max(axis=1)
    windows = np.flatnonzero(np.diff(samples, prepend=-1))  # the first of each question
    complete = in_answer.any(axis=1) & (start == np.minimum.reduceat(start, windows)[samples])
    return complete & (end == np.maximum.reduceat(end, windows)[samples])


# Batches.


def batches(examples, batch_size, seed=None, buckets=1):
    """`Examples` as a `RandomAccessDataset` of batches (tokens, labels), each example once an epoch.

    Labels are a dictionary, or an array if there is one kind. The last batch of a length is filled up with empty rows
    that do not count.

    Args:
        examples: `Examples`.
        batch_size: b.
        seed: of a new order in each epoch; None keeps the order of the examples, within their bucket.
        buckets: most lengths of batches.
    """
    parts = length_buckets(examples.tokens["attention_mask"].sum(axis=1), buckets)
    tables = [_table(examples, *part) for part in parts]

    def make_batch(i, epoch, number, step):
        return _batch(tables[i], batch_indices(i, epoch, number, len(parts[i][0]), batch_size, seed))

    return bucketed(make_batch, [num_batches(len(rows), batch_size) for rows, _ in parts], seed)


def _table(examples, rows, length):
    """Tokens and labels of some rows, cut to a length, and an empty row that does not count."""
    import tensorflow as tf

    empty = {name: OUTSIDE if name.endswith("positions") else IGNORED for name in examples.labels}
    both = []
    for arrays in (examples.tokens, examples.labels):
        some = {name: x[rows, :length] if x.ndim == 2 else x[rows] for name, x in arrays.items()}
        both.append({
            name: tf.constant(np.pad(x, [(0, 1), (0, 0)][: x.ndim], constant_values=empty.get(name, 0)))
            for name, x in some.items()
        })  # fmt: skip
    return both


def _batch(table, rows):
    import tensorflow as tf

    x, y = ({name: tf.gather(array, rows) for name, array in arrays.items()} for arrays in table)
    return x, y if len(y) > 1 else y["labels"]
