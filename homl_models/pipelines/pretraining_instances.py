"""Documents as training instances of BERT (Devlin et al., 2018, https://arxiv.org/abs/1810.04805, appendix A.2).

Documents are encoded once, and cut into [CLS] A [SEP] B [SEP] or [CLS] text [SEP]. Names follow
google-research/bert, create_pretraining_data.py; `masked_text.py` masks tokens of the instances.
Shapes: n instances, t tokens.

Deviations from BERT's own data: the segments of a pair are whole sentences, where BERT lets the last one run over
and then truncates; a sentence longer than fits is cut into parts of like size, none of which is lost; each instance may
be one of the shorter ones, not each document.
"""

import bisect
import dataclasses
import itertools
import random

import numpy as np

from homl_models.errors import UserError
from homl_models.tokenizers.wordpiece import WordPiece

CHUNK = 256  # sentences that are encoded together


# Encoding.


@dataclasses.dataclass(frozen=True, eq=False)
class Encoded:
    """Documents as tokens, one after the other.

    ids, word_ids: (tokens,) int32; pieces of a word share its number, special tokens in a text have -1.
    sentences: the index in `ids` where each begins, and the end; documents: the same in `sentences`.
    """

    ids: np.ndarray
    word_ids: np.ndarray
    sentences: np.ndarray
    documents: np.ndarray
    wordpiece: WordPiece


def encode(documents, wordpiece):
    """Documents, lists of sentences -> `Encoded`, without sentences and documents that have no token."""
    texts = [sentence for document in documents for sentence in document]
    lengths, ids = np.zeros(len(texts), np.int64), []
    order = np.argsort([len(text) for text in texts], kind="stable")  # like lengths together leave little padding
    chunks = [order[first : first + CHUNK] for first in range(0, len(texts), CHUNK)]
    for chunk in chunks:
        found = wordpiece.encode([texts[i] for i in chunk])
        ids.append(found["input_ids"][:, 1:])
        lengths[chunk] = found["attention_mask"].sum(axis=1) - 2
    ends = np.cumsum(lengths)
    if not lengths.any():
        raise UserError("the documents hold no words; give some text")
    flat = np.empty(ends[-1], np.int32)
    for chunk, some in zip(chunks, ids):
        row, column = np.nonzero(np.arange(some.shape[1]) < lengths[chunk, None])
        flat[(ends - lengths)[chunk][row] + column] = some[row, column]
    bounds = np.cumsum([0, *map(len, documents)])
    kept = np.concatenate([[0], np.cumsum(lengths > 0)])[bounds]  # sentences before each document
    return Encoded(flat, _word_ids(flat, wordpiece), np.unique([0, *ends]), np.unique(kept), wordpiece)


def _word_ids(ids, wordpiece):
    begins = np.array([not token.startswith("##") for token in wordpiece.vocabulary])
    special = [wordpiece.pad, wordpiece.cls, wordpiece.sep, wordpiece.mask]
    return np.where(np.isin(ids, special), -1, np.cumsum(begins[ids], dtype=np.int32))


# Instances.


@dataclasses.dataclass(frozen=True, eq=False)
class Instances:
    """Training instances before masking.

    input_ids: (n, t) int32, padded at the right. token_type_ids: (n, t) int8, 1 for B and the [SEP] after it.
    lengths: (n,) int32. word_ids: (n, t) int32, a number for each word, -1 for special tokens and padding.
    next_sentence_label: (n,) int32, 0 if B follows A and 1 if it is from another document; None without pairs.
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    lengths: np.ndarray
    word_ids: np.ndarray
    next_sentence_label: np.ndarray | None
    wordpiece: WordPiece


def create_instances(encoded, max_length=128, pairs=True, full_sentences=False, short_seq_prob=0.1, seed=0):
    """`Encoded` -> `Instances` of as many whole sentences as fit into `max_length` tokens with the special ones.

    Raises UserError where max_length is too small, or pairs are to be made of one document.

    Args:
        encoded: documents.
        max_length: tokens of an instance, at most.
        pairs: [CLS] A [SEP] B [SEP] for next sentence prediction, see `_Pairs`; else [CLS] text [SEP].
        full_sentences: text may hold the end of a document and the begin of the next (Liu et al., 2019,
            https://arxiv.org/abs/1907.11692, section 4.2: FULL-SENTENCES; else DOC-SENTENCES).
        short_seq_prob: probability of a pair to have a smaller length, of 2 tokens or more.
        seed: of the pairs.
    """
    max_num_tokens = max_length - (3 if pairs else 2)
    if max_num_tokens < (2 if pairs else 1):
        raise UserError(f"rows of {max_length} tokens have no room for text; give a greater max_length")
    if pairs and len(encoded.documents) < 3:
        raise UserError("pairs need two documents at least; separate them by empty lines, or use rows without pairs")
    sentences, documents = split_sentences(encoded, max_num_tokens // 2 if pairs else max_num_tokens)
    if pairs:
        sampler = _Pairs(sentences.tolist(), documents.tolist(), max_num_tokens, short_seq_prob, random.Random(seed))
        *spans, next_sentence_label = np.array(list(sampler.pairs()), np.int32).T
    else:
        ends = documents[-1:] if full_sentences else documents[1:]
        spans, next_sentence_label = _packed(sentences, ends, max_num_tokens), None
    spans = [sentences[border].astype(np.int32) for border in spans]  # in tokens
    return _assembled(encoded, *spans, next_sentence_label=next_sentence_label)


def split_sentences(encoded, limit):
    """`sentences` and `documents` of parts of sentences with at most `limit` tokens each."""
    lengths = np.diff(encoded.sentences)
    parts = -(-lengths // limit)
    before = np.concatenate([[0], np.cumsum(parts)])
    sentence = np.repeat(np.arange(len(parts)), parts)
    part = np.arange(before[-1]) - before[sentence]
    starts = encoded.sentences[sentence] + part * lengths[sentence] // parts[sentence]
    return np.append(starts, encoded.sentences[-1]), before[encoded.documents]


def _packed(sentences, ends, max_num_tokens):
    """First sentence of each text, and the one after its last. ends: no text goes over these sentences."""
    last = np.searchsorted(sentences, sentences[:-1] + max_num_tokens, side="right") - 1
    last = np.minimum(last, ends[np.searchsorted(ends, np.arange(len(last)), side="right")]).tolist()
    starts, start = [], 0
    while start < len(last):
        starts.append(start)
        start = last[start]
    return starts, [last[start] for start in starts]


@dataclasses.dataclass
class _Pairs:
    """Segments A and B of `create_instances_from_document`.

    A document is read in chunks of about `target_seq_length` tokens, which are cut into A and the rest at a random
    sentence. B is the rest with probability 0.5. Else, and where a chunk is one sentence, B is from a random document,
    and the rest goes into the next chunk.

    sentences: the token where each begins, and the end; documents: the sentence where each begins, and the end.
    """

    sentences: list
    documents: list
    max_num_tokens: int
    short_seq_prob: float
    rng: random.Random

    def pairs(self):
        """Yields (first sentence of A, the one after its last, the same for B, next_sentence_label)."""
        for document, (start, end) in enumerate(itertools.pairwise(self.documents)):
            while start < end:
                target_seq_length = self.target_seq_length()
                chunk_end = min(max(self.end_of(start, target_seq_length, end), start + 2), end)
                a_end = self.rng.randrange(start + 1, chunk_end) if chunk_end > start + 1 else chunk_end
                if a_end < chunk_end and self.rng.random() < 0.5:
                    yield start, a_end, a_end, chunk_end, 0
                    start = chunk_end
                else:
                    a_end, b_start, b_end = self.random_next(document, start, a_end, target_seq_length)
                    yield start, a_end, b_start, b_end, 1
                    start = a_end

    def target_seq_length(self):
        short = self.rng.random() < self.short_seq_prob
        return self.rng.randint(2, self.max_num_tokens) if short else self.max_num_tokens

    def random_next(self, document, start, a_end, target_seq_length):
        """(a_end, b_start, b_end): B begins at a random sentence of another document, and A is cut to leave room."""
        other = self.rng.randrange(len(self.documents) - 2)
        other += other >= document
        b_start = self.rng.randrange(self.documents[other], self.documents[other + 1])
        while self.size(start, a_end) + self.size(b_start, b_start + 1) > self.max_num_tokens:  # two always fit
            a_end -= 1
        target_b_length = target_seq_length - self.size(start, a_end)
        return a_end, b_start, max(self.end_of(b_start, target_b_length, self.documents[other + 1]), b_start + 1)

    def size(self, first, last):
        """Tokens of the sentences first <= i < last."""
        return self.sentences[last] - self.sentences[first]

    def end_of(self, first, tokens, end):
        """The sentence, at most `end`, before which at most so many tokens follow the begin of `first`."""
        return min(bisect.bisect_right(self.sentences, self.sentences[first] + tokens) - 1, end)


def _assembled(encoded, a_start, a_end, b_start=0, b_end=-1, next_sentence_label=None):
    """First token of A, the one after its last, the same for B, each (n,) -> `Instances` with [CLS] and [SEP]."""
    a_length = (a_end - a_start + 2)[:, None]  # with [CLS] and [SEP]
    b_length = np.reshape(b_end - b_start + 1, (-1, 1))  # with [SEP]; 0 without B
    lengths = a_length + b_length
    position = np.arange(lengths.max(), dtype=np.int32)
    inside = position < lengths
    in_b = (position >= a_length) & inside
    is_text = inside & (position > 0) & (position != a_length - 1) & (position != lengths - 1)
    source = np.where(in_b, np.reshape(b_start, (-1, 1)) - a_length, a_start[:, None] - 1) + position
    source[~is_text] = 0
    piece = encoded.wordpiece
    input_ids = np.where(is_text, encoded.ids[source], np.where(inside, piece.sep, piece.pad)).astype(np.int32)
    input_ids[:, 0] = piece.cls
    word_ids = np.where(is_text, encoded.word_ids[source], -1)
    return Instances(input_ids, in_b.astype(np.int8), lengths[:, 0], word_ids, next_sentence_label, piece)
