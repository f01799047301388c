"""BERT's WordPiece: texts to token ids and back.

A text is cleaned and split into words and single punctuation marks (Devlin et al., 2018,
https://arxiv.org/abs/1810.04805), and each word is cut from the left into the longest pieces of the vocabulary; a
piece that continues a word begins with "##", and a word that cannot be cut is [UNK] (Wu et al., 2016,
https://arxiv.org/abs/1609.08144). Here in Python, by the library `tokenizers`; the methods `tf_*` do the same in a
TensorFlow graph, see `wordpiece_graph.py`. Shapes: b texts, t tokens.
"""

import functools
import itertools
from pathlib import Path

import numpy as np

from homl_models.errors import UserError
from homl_models.tokenizers.basic_tokenizer import basic_tokenizer
from homl_models.tokenizers.wordpiece_graph import GraphWordPiece
from homl_models.tokenizers.wordpiece_rows import (
    ADDED,
    PADDING,
    added_tokens,
    check_texts,
    check_windows,
    named,
    owned_tokens,
    truncated_lengths,
)

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SETTINGS = ("lowercase", "strip_accents", "tokenize_chinese_chars", "special_names")  # arguments of `WordPiece`
MAX_WORD_LENGTH = 100  # characters; a longer word is [UNK]
CLEAN_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")  # lose their spaces in a decoded text


class WordPiece:
    """Texts (b,) <-> token ids, indices of the vocabulary.

    The graph needs `tensorflow-text`, and so does a process that loads a SavedModel of it: one operation, of
    `_fast_wordpiece_tokenizer.so`; nothing else is needed there.
    Raises UserError where the vocabulary lacks a special token.

    Args:
        vocabulary: strings, among them the special ones; of a token that is there twice, as in `transformers`, the
            last index is the id.
        lowercase: as `bert-base-uncased` does it.
        special_tokens: whether "[MASK]" and the like in a text are those tokens, as in `transformers`, or plain
            characters.
        strip_accents: whether é is e; None for the value of `lowercase`.
        tokenize_chinese_chars: whether each Chinese character is a word of its own.
        special_names: names of padding, unknown word, begin, end of a segment and mask, of three characters or more.
    """

    def __init__(
        self,
        vocabulary,
        lowercase=True,
        special_tokens=True,
        strip_accents=None,
        tokenize_chinese_chars=True,
        special_names=SPECIAL,
    ):
        self.vocabulary, self.special_names = tuple(vocabulary), tuple(special_names)
        self.lowercase, self.strip_accents, self.tokenize_chinese_chars = (
            lowercase,
            strip_accents,
            tokenize_chinese_chars,
        )
        self.special_tokens = special_tokens
        self.ids = {token: i for i, token in enumerate(self.vocabulary) if token}
        missing = [token for token in self.special_names if token not in self.ids]
        if missing:
            raise UserError(f"the vocabulary lacks {' '.join(missing)}; give the lines of BERT's vocab.txt, in order")
        if len(set(self.special_names)) < len(SPECIAL) or min(map(len, self.special_names)) < 3:
            raise UserError(
                f"the special tokens {' '.join(self.special_names)} cannot be read: there must be five different ones, "
                "of three characters or more"
            )
        self.pad, self.unknown, self.cls, self.sep, self.mask = map(self.ids.get, self.special_names)

    @property
    def settings(self):
        """Arguments of the constructor that say how texts are read, {name: value}."""
        return {name: getattr(self, name) for name in SETTINGS}

    @property
    def _cleaning(self):
        """Arguments of `basic_tokenizer`."""
        strip = self.lowercase if self.strip_accents is None else self.strip_accents
        return bool(self.lowercase), bool(strip), bool(self.tokenize_chinese_chars)

    @classmethod
    def from_file(cls, path, lowercase=True, special_tokens=True, **settings):
        """Tokenizer of a `vocab.txt`, a token a line, see `read_vocabulary`."""
        return cls(read_vocabulary(path), lowercase, special_tokens, **settings)

    @classmethod
    def train(cls, texts, vocab_size, lowercase=True):
        """Tokenizer with a vocabulary of at most `vocab_size` tokens, learned from texts by the library `tokenizers`.

        It holds all characters of the texts. Raises UserError where they are too many.
        """
        from tokenizers import Tokenizer, models, trainers

        def vocabulary(size, first):
            tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=MAX_WORD_LENGTH))
            tokenizer.normalizer, tokenizer.pre_tokenizer = basic_tokenizer(lowercase, lowercase)
            trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=list(first), show_progress=False)
            tokenizer.train_from_iterator(texts, trainer)
            tokens = tokenizer.get_vocab()
            return sorted(tokens, key=tokens.get)

        texts = list(texts)
        alphabet = vocabulary(0, SPECIAL)[len(SPECIAL) :]  # in random order, on which the choice of pieces depends
        least = len(SPECIAL) + len(alphabet)
        if vocab_size < least:
            raise UserError(f"a vocabulary of {vocab_size} tokens is too small; give {least} or more")
        return cls(vocabulary(vocab_size, (*SPECIAL, *sorted(alphabet))), lowercase)

    # In Python.

    @functools.cached_property
    def _library(self):
        from tokenizers import Tokenizer, decoders, models

        unknown = self.special_names[1]
        model = models.WordPiece(self.ids, unk_token=unknown, max_input_chars_per_word=MAX_WORD_LENGTH)
        tokenizer = Tokenizer(model)
        tokenizer.normalizer, tokenizer.pre_tokenizer = basic_tokenizer(*self._cleaning)
        tokenizer.decoder = decoders.WordPiece()
        tokenizer.add_special_tokens(list(self.special_names))
        tokenizer.encode_special_tokens = not self.special_tokens
        return tokenizer

    def encode(self, texts, pairs=None, max_length=None, offsets=False):
        """Strings -> {"input_ids", "token_type_ids", "attention_mask": int32 arrays (b, t)}.

        [CLS] text [SEP], or [CLS] text [SEP] pair [SEP] with type 1 from the pair on; t is the longest.
        max_length: tokens are taken from the end of the longer of the two until all fit.
        offsets: also "offsets" (b, t, 2), the first character of a token in its text and the one after
        its last, (0, 0) for added tokens; and "word_ids" (b, t), the index of its word in the text, else -1.
        Raises UserError where there is no room for the added tokens, or not one pair for each text.
        """
        check_texts(texts, pairs, max_length)
        segments = [self._rows(part, kind) for kind, part in enumerate([texts] if pairs is None else [texts, pairs])]
        if max_length is not None:
            lengths = [np.array([len(row) for row in rows]) for rows in segments]
            limits = truncated_lengths(np, lengths, max_length - 1 - len(segments))
            segments = [[row[:end] for row, end in zip(rows, ends)] for rows, ends in zip(segments, limits)]
        return named(self._packed(segments), offsets)

    def windows(self, texts, pairs, max_length, doc_stride):
        """`encode` with offsets, for pairs that may be longer than fits: each in as many rows (windows) as it takes.

        Windows of one pair share the text, of which max_length / 2 tokens are kept, and the last `doc_stride` tokens of
        the pair in one are the first in the next (as in `transformers`; in google-research/bert it is the step).
        "overflow_to_sample_mapping" (rows,): the pair that each belongs to.
        Raises UserError where there is no room for both, or not one pair for each text.
        """
        check_texts(texts, pairs, None)
        check_windows(max_length)
        segments, samples = ([], []), []
        for i, (text, pair) in enumerate(zip(self._rows(texts, 0), self._rows(pairs, 1))):
            text = text[: max(1, max_length // 2 - 2)]
            room = max_length - 3 - len(text)
            step = max(1, room - doc_stride)
            for first in range(0, max(1, len(pair) - room + step), step):
                segments[0].append(text)
                segments[1].append(pair[first : first + room])
                samples.append(i)
        return named(self._packed(segments), True) | {"overflow_to_sample_mapping": np.array(samples, np.int32)}

    def text_windows(self, texts, max_length, doc_stride):
        """`encode` with offsets, for texts that may be longer than fits: each in as many rows (windows) as it takes.

        The last `doc_stride` tokens of a window are the first of the next. "overflow_to_sample_mapping" (rows,): the
        text that each belongs to. "is_owned" (rows, t): 1 for tokens that count, each of a text once: `owned_tokens`.
        """
        check_texts(texts, None, None)
        check_windows(max_length, 1)
        room = max_length - 2
        step = max(1, room - doc_stride)
        rows, samples = [], []
        for i, row in enumerate(self._rows(texts, 0)):
            for first in range(0, max(1, len(row) - room + step), step):
                rows.append(row[first : first + room])
                samples.append(i)
        columns, samples = self._packed([rows]), np.array(samples, np.int32)
        changes, sizes = np.diff(samples) > 0, np.array([len(row) for row in rows], np.int32)
        is_first, is_last = np.append(True, changes)[: len(rows)], np.append(changes, True)[: len(rows)]
        owned = owned_tokens(np, is_first, is_last, sizes, np.arange(columns.shape[1]) - 1, room - step)
        more = {"is_owned": owned.astype(np.int32), "overflow_to_sample_mapping": samples}
        return named(columns, True) | more

    def _packed(self, segments):
        """Rows of each segment, arrays (t, 6) -> (b, t, 6), with special tokens and padding."""
        special = added_tokens(self.cls, self.sep, len(segments))
        added = [np.array([[token, kind, *ADDED]], np.int32) for token, kind in special]
        rows = [np.concatenate([added[0], *itertools.chain(*zip(parts, added[1:]))]) for parts in zip(*segments)]
        columns = np.tile(np.array([self.pad, *PADDING], np.int32), (len(rows), max(map(len, rows), default=0), 1))
        for place, row in zip(columns, rows):
            place[: len(row)] = row
        return columns

    def _rows(self, texts, kind):
        """Texts -> an array (t, 6) for each, the columns of `wordpiece_rows`. kind: the token type."""

        def columns(row):
            first, last = np.reshape(row.offsets, (-1, 2)).T
            size = len(row.ids)
            return np.stack([row.ids, [kind] * size, [1] * size, first, last, row.word_ids], axis=1).astype(np.int32)

        texts = [str(text) for text in texts]
        return [columns(row) for row in self._library.encode_batch(texts, add_special_tokens=False)]

    def decode(self, ids, skip_special=True):
        """Rows of ids -> a list of texts, without the spaces of `CLEAN_UP`; the special tokens are left out."""
        rows = [[int(i) for i in row] for row in ids]
        texts = self._library.decode_batch(rows, skip_special_tokens=skip_special)
        for end in CLEAN_UP:
            texts = [text.replace(end, end.strip()) for text in texts]
        return texts

    def join(self, tokens):
        """Strings of tokens -> a text."""
        return self._library.decoder.decode(tokens)

    # In a graph.

    @functools.cached_property
    def _graph(self):
        return GraphWordPiece(self, self._cleaning, MAX_WORD_LENGTH, CLEAN_UP)

    def tf_encode(self, texts, pairs=None, max_length=512, offsets=False):
        """`encode` for string tensors (b,): the same names and values as int32 tensors.

        Offsets count characters (code points) of the text as it was given. Bytes that are not UTF-8 are left out.
        """
        return self._graph.encode(texts, pairs, max_length, offsets)

    def tf_windows(self, texts, pairs, max_length, doc_stride):
        """`windows` for string tensors (b,): the same names and values as int32 tensors."""
        return self._graph.windows(texts, pairs, max_length, doc_stride)

    def tf_text_windows(self, texts, max_length, doc_stride):
        """`text_windows` for string tensors (b,): the same names and values as int32 tensors."""
        return self._graph.text_windows(texts, max_length, doc_stride)

    def tf_decode(self, ids, skip_special=True):
        """Ids (b, t), also ragged -> texts (b,), as `decode` does."""
        return self._graph.decode(ids, skip_special)


def read_vocabulary(path):
    """Tokens of a `vocab.txt`, a line each; a byte order mark and empty lines at the end are left out.

    Raises UserError where it cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except OSError as error:
        raise UserError(f"cannot read the vocabulary {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"the vocabulary {path} is no UTF-8 text; give a vocab.txt, a token a line") from None
    return tuple(lines)


def has_capitals(vocabulary):
    """Whether a vocabulary is cased: one token in a hundred, or more, has a capital."""
    words = [token for token in vocabulary if not (token.startswith("[") and token.endswith("]"))]
    return sum(token != token.lower() for token in words) > len(words) / 100
