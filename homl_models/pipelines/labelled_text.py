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

    Longer sentences are in windows that share a quarter of their tokens, each word labelled in that where it has more
    context. Where WordPiece makes several words of one, such as of "3/4", the rest of them continue its label: "I-DATE"
    after "B-DATE", if there is such a label. All other tokens have the label -100.
    Raises UserError for a label that is not among `label_names`.
    """
    ids = {name: i for i, name in enumerate(label_names)}
    unknown = sorted({label for _, labels in sentences for label in labels} - set(ids))
    if unknown:
        raise UserError(f"the labels {', '.join(unknown[:5])} are not among those to learn, {', '.join(label_names)}")
    texts = [" ".join(words) for words, _ in sentences]
    tokens = wordpiece.text_windows(texts, max_length, max_length // 4)
    rows, columns, samples, words, is_first = _words_of_pieces(tokens, [words for words, _ in sentences])
    continued = np.array([*_continued(ids).values()], np.int32)
    of_words = [np.array([ids[label] for label in labels], np.int32) for _, labels in sentences]
    own = np.array([of_words[sample][word] for sample, word in zip(samples, words)], int)
    labels, word_starts = (np.full(tokens["input_ids"].shape, none, np.int32) for none in (IGNORED, -1))
    labels[rows, columns] = np.where(is_first, own, continued[own])
    word_starts[rows[is_first], columns[is_first]] = words[is_first]
    mapping = tokens["overflow_to_sample_mapping"]
    return Examples({name: tokens[name] for name in COLUMNS}, {"labels": labels}, mapping, word_starts)


def _continued(ids):
    """{label: id of the label of a word's further words}, -100 where a scheme has none: after E-X and S-X."""
    ended = {name for name in ids if name[:2] in ("E-", "S-")}
    continued = {name: ids.get(f"I-{name[2:]}", i) if name.startswith("B-") else i for name, i in ids.items()}
    return continued | dict.fromkeys(ended, IGNORED)


def _words_of_pieces(tokens, sentences):
    """Where WordPiece's words begin that count, and in which of the given words.

    tokens: `WordPiece.text_windows` of " ".join(words) of each of the sentences. Arrays (m,): row and column of each
    such token, its sentence, the given word, counted within it, and whether it is the first of that word.
    """
    rows, columns = np.nonzero((tokens["is_owned"] > 0) & (tokens["word_ids"] >= 0))
    samples, own = tokens["overflow_to_sample_mapping"][rows], tokens["word_ids"][rows, columns]
    begins = (own != np.append(-1, own[:-1])) | (samples != np.append(-1, samples[:-1]))
    rows, columns, samples = rows[begins], columns[begins], samples[begins]
    starts = [np.cumsum([0, *(len(word) + 1 for word in words)])[:-1] for words in sentences]  # characters
    bounds = np.flatnonzero(samples != np.append(-1, samples[:-1])).tolist()
    words = np.zeros(len(rows), np.int64)
    for first, last in zip(bounds, [*bounds[1:], len(rows)]):
        offsets = tokens["offsets"][rows[first:last], columns[first:last], 0]
        words[first:last] = np.searchsorted(starts[samples[first]], offsets, side="right") - 1
    is_first = (words != np.append(-1, words[:-1])) | (samples != np.append(-1, samples[:-1]))
    return rows, columns, samples, words, is_first


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
