"""BERT's WordPiece: texts to token ids and back, in Python and in a TensorFlow graph, each equal to the other.

A text is cleaned, parted into words and single punctuation marks (Devlin et al., 2018,
https://arxiv.org/abs/1810.04805), and each word is cut from the left into the longest
pieces of the vocabulary; a piece that continues a word begins with "##", and a word that
cannot be cut is [UNK] (Wu et al., 2016, https://arxiv.org/abs/1609.08144). In Python the
library `tokenizers` does it. The graph reads the cleaning off that library as a table,
code point -> what becomes of it, and leaves the cutting to `tensorflow-text`.
Shapes: b texts, t tokens, n characters of a batch.
"""

import functools
import itertools
import re
import unicodedata
from pathlib import Path

import numpy as np

from homl_models.errors import UserError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SETTINGS = ("lowercase", "strip_accents", "tokenize_chinese_chars", "special_names")  # arguments of `WordPiece`
LONGEST = 100  # characters of a word; a longer one is [UNK]
CLOSED_UP = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")  # what loses its spaces in a text
COLUMNS = ("input_ids", "token_type_ids", "attention_mask")  # then come offsets, two columns, and words
ADDED = (1, 0, 0, -1)  # the columns of an added token, after its id and its type
PADDING = (0, 0, 0, 0, -1)  # those of padding, after its id

# In the table of the graph: what is no letter, the size of a page, and the code points of private use (which the
# cleaning removes) that stand in a text for the ends of a special token, and for themselves. Between its ends such a
# token has a letter of its own, as often as keeps its length.
NOTHING, SPACE = 1 << 21, (1 << 21) + 1
PAGE = 256
OPEN, CLOSE, PRIVATE = "\ue000", "\ue001", "\ue002"
INNER = "pucsm"


class WordPiece:
    """Texts (b,) <-> ids of a vocabulary; the id of a token is its place.

    vocabulary: strings, among them the special ones; of a token that stands there twice, as in `transformers`, the
    last place is its id. lowercase: as `bert-base-uncased` does it.
    strip_accents: whether é is e; None for what `lowercase` is. tokenize_chinese_chars: whether each Chinese character
    is a word of its own. special_names: what padding, an unknown word, the begin, the end of a part and a mask are
    called, of three characters or more.
    special_tokens: whether "[MASK]" and the like in a text are those tokens, as in `transformers`, or plain characters.
    The graph needs `tensorflow-text`, and so does a process that loads a SavedModel of it: one operation, of
    `_fast_wordpiece_tokenizer.so`; nothing else is needed there.
    Raises UserError where the vocabulary lacks a special token.
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
        """The arguments of these names, {name: value}."""
        return {name: getattr(self, name) for name in SETTINGS}

    @property
    def _cleans(self):
        """Arguments of `_cleaning`."""
        strip = self.lowercase if self.strip_accents is None else self.strip_accents
        return bool(self.lowercase), bool(strip), bool(self.tokenize_chinese_chars)

    @classmethod
    def from_file(cls, path, lowercase=True, special_tokens=True, **settings):
        """From a `vocab.txt`: a token a line, see `read_vocabulary`."""
        return cls(read_vocabulary(path), lowercase, special_tokens, **settings)

    @classmethod
    def learned(cls, texts, size, lowercase=True):
        """With a vocabulary of `size` tokens at most, learned from texts by the library `tokenizers`.

        It holds all letters of the texts. Raises UserError where they are too many.
        """
        from tokenizers import Tokenizer, models, trainers

        def vocabulary(size, first):
            learner = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=LONGEST))
            learner.normalizer, learner.pre_tokenizer = _cleaning(lowercase, lowercase)
            trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=list(first), show_progress=False)
            learner.train_from_iterator(texts, trainer)
            tokens = learner.get_vocab()
            return sorted(tokens, key=tokens.get)

        texts = list(texts)
        letters = vocabulary(0, SPECIAL)[len(SPECIAL) :]  # in an order of chance, on which the choice of pieces depends
        if size < len(SPECIAL) + len(letters):
            raise UserError(f"a vocabulary of {size} tokens is too small; give {len(SPECIAL) + len(letters)} or more")
        return cls(vocabulary(size, (*SPECIAL, *sorted(letters))), lowercase)

    # In Python.

    @functools.cached_property
    def _library(self):
        from tokenizers import Tokenizer, decoders, models

        unknown = self.special_names[1]
        tokenizer = Tokenizer(models.WordPiece(self.ids, unk_token=unknown, max_input_chars_per_word=LONGEST))
        tokenizer.normalizer, tokenizer.pre_tokenizer = _cleaning(*self._cleans)
        tokenizer.decoder = decoders.WordPiece()
        tokenizer.add_special_tokens(list(self.special_names))
        tokenizer.encode_special_tokens = not self.special_tokens
        return tokenizer

    def encode(self, texts, pairs=None, max_length=None, offsets=False):
        """Strings -> {"input_ids", "token_type_ids", "attention_mask": int32 arrays (b, t)}.

        [CLS] text [SEP], or [CLS] text [SEP] pair [SEP] with type 1 from the pair on; t is the longest.
        max_length: tokens are taken from the end of the longer of the two until all fit.
        offsets: also "offsets" (b, t, 2), the first character of a token in its text and the one after
        its last, (0, 0) for what is added; and "words" (b, t), the index of its word in the text, else -1.
        Raises UserError where there is no room for the added tokens, or not one pair for each text.
        """
        _check(texts, pairs, max_length)
        both = [self._rows(part, kind) for kind, part in enumerate([texts] if pairs is None else [texts, pairs])]
        if max_length is not None:
            limits = _limits(np, [np.array([len(row) for row in rows]) for rows in both], max_length - 1 - len(both))
            both = [[row[:end] for row, end in zip(rows, ends)] for rows, ends in zip(both, limits)]
        return _named(self._laid(both), offsets)

    def windows(self, texts, pairs, max_length, overlap):
        """As `encode` with offsets, for pairs that may be longer than fits: each in as many rows as it takes.

        Rows of one pair share the text, of which max_length / 2 tokens are kept, and the last `overlap` tokens of the
        pair in one are the first in the next. "origins" (rows,): which pair each belongs to.
        Raises UserError where there is no room for both, or not one pair for each text.
        """
        _check(texts, pairs, None)
        _check_windows(max_length)
        both, origins = ([], []), []
        for i, (text, pair) in enumerate(zip(self._rows(texts, 0), self._rows(pairs, 1))):
            text = text[: max(1, max_length // 2 - 2)]
            room = max_length - 3 - len(text)
            step = max(1, room - overlap)
            for first in range(0, max(1, len(pair) - room + step), step):
                both[0].append(text)
                both[1].append(pair[first : first + room])
                origins.append(i)
        return _named(self._laid(both), True) | {"origins": np.array(origins, np.int32)}

    def _laid(self, both):
        """Rows of each part, arrays (t, 6) -> (b, t, 6), with the tokens that are added."""
        added = [np.array([[token, kind, *ADDED]], np.int32) for token, kind in self._added(len(both))]
        rows = [np.concatenate([added[0], *itertools.chain(*zip(parts, added[1:]))]) for parts in zip(*both)]
        columns = np.tile(np.array([self.pad, *PADDING], np.int32), (len(rows), max(map(len, rows), default=0), 1))
        for place, row in zip(columns, rows):
            place[: len(row)] = row
        return columns

    def _rows(self, texts, kind):
        """Texts -> of each an array (t, 6) as `_tokens` gives it."""

        def columns(row):
            first, last = np.reshape(row.offsets, (-1, 2)).T
            size = len(row.ids)
            return np.stack([row.ids, [kind] * size, [1] * size, first, last, row.word_ids], axis=1).astype(np.int32)

        texts = [str(text) for text in texts]
        return [columns(row) for row in self._library.encode_batch(texts, add_special_tokens=False)]

    def _added(self, parts):
        """The tokens before the first part and after each, with their types."""
        return [(self.cls, 0), *((self.sep, kind) for kind in range(parts))]

    def decode(self, ids, skip_special=True):
        """Rows of ids -> a list of texts, without the spaces of `CLOSED_UP`; the special tokens are left out."""
        rows = [[int(i) for i in row] for row in ids]
        texts = self._library.decode_batch(rows, skip_special_tokens=skip_special)
        for end in CLOSED_UP:
            texts = [text.replace(end, end.strip()) for text in texts]
        return texts

    # In a graph.

    def tf_encode(self, texts, pairs=None, max_length=512, offsets=False):
        """`encode` for string tensors (b,): the same names and values as int32 tensors.

        Offsets count characters (code points) of the text as it was given. Bytes that are not UTF-8 are left out.
        """
        import tensorflow as tf

        both = [self._tokens(part, kind) for kind, part in enumerate([texts] if pairs is None else [texts, pairs])]
        _check_room(max_length, len(both))
        if max_length is not None:
            limits = _limits(tf, [tokens.row_lengths() for tokens in both], max_length - 1 - len(both))
            both = [_first(tokens, limit) for tokens, limit in zip(both, limits)]
        return _named(self._tf_laid(both), offsets)

    def tf_windows(self, texts, pairs, max_length, overlap):
        """`windows` for string tensors (b,): the same names and values as int32 tensors."""
        import tensorflow as tf

        _check_windows(max_length)
        text, pair = self._tokens(texts, 0), self._tokens(pairs, 1)
        sizes = tf.minimum(text.row_lengths(), max(1, max_length // 2 - 2))
        room = max_length - 3 - sizes
        step = tf.maximum(room - overlap, 1)
        counts = 1 + tf.maximum(pair.row_lengths() - room + step - 1, 0) // step
        origins = tf.repeat(tf.range(tf.size(counts)), counts)
        first = tf.ragged.range(counts).flat_values * tf.gather(step, origins)
        last = tf.minimum(first + tf.gather(room, origins), tf.gather(pair.row_lengths(), origins))
        begins = tf.gather(pair.row_starts(), origins)
        places = tf.ragged.range(begins + first, begins + last)
        some = tf.RaggedTensor.from_row_lengths(tf.gather(pair.values, places.flat_values), places.row_lengths())
        columns = self._tf_laid([tf.gather(_first(text, sizes), origins), some])
        return _named(columns, True) | {"origins": origins}

    def _tf_laid(self, both):
        """Ragged tokens (b, None, 6) of each part -> (b, t, 6), with the tokens that are added."""
        import tensorflow as tf

        shape = [both[0].nrows(), 1, 1]
        added = [tf.tile([[[token, kind, *ADDED]]], shape) for token, kind in self._added(len(both))]
        columns = tf.concat([added[0], *itertools.chain(*zip(both, added[1:]))], axis=1)
        return columns.to_tensor(tf.constant([self.pad, *PADDING]))

    def tf_decode(self, ids, skip_special=True):
        """Ids (b, t), also ragged -> texts (b,), as `decode` does."""
        import tensorflow as tf

        first, later, special, named = self._strings
        ids = tf.ragged.boolean_mask(ids, tf.gather(named & ~special if skip_special else named, ids))
        strings = tf.concat([tf.gather(first, ids[:, :1]), tf.gather(later, ids[:, 1:])], axis=1)
        texts = tf.strings.reduce_join(strings, axis=-1)
        for end in CLOSED_UP:
            texts = tf.strings.regex_replace(texts, re.escape(end), end.strip())
        return texts

    @property
    def _named(self):
        """Whether a place of the vocabulary is the id of its token (v,): one that comes again later has none there."""
        return np.array([self.ids.get(token) == i for i, token in enumerate(self.vocabulary)])

    @functools.cached_property
    def _strings(self):
        """What each token is at the beginning of a text, what it is later; whether it is special, and has this id."""
        join = self._library.decoder.decode
        first = np.array([join([token]) for token in self.vocabulary], object)
        later = np.array([join(["", token]) for token in self.vocabulary], object)
        return first, later, np.isin(np.array(self.vocabulary), self.special_names), self._named

    @functools.cached_property
    def _cutter(self):
        """The cutter of words, and the size in characters of what each token stands for."""
        import tensorflow as tf

        bare = dict(zip(self.special_names, map(self._bare, range(len(SPECIAL)))))
        tokens = [
            bare.get(token, token) if named else f"{PRIVATE}{i}"  # which is in no text
            for i, (token, named) in enumerate(zip(self.vocabulary, self._named))
        ]
        sizes = np.array([len(token.removeprefix("##")) for token in tokens], np.int32)
        with tf.init_scope():
            settings = {"unknown_token": self._bare(1), "max_bytes_per_word": 4 * LONGEST}
            settings |= {"token_out_type": tf.int32, "no_pretokenization": True}
            return tensorflow_text().FastWordpieceTokenizer(tokens, **settings), sizes

    def _bare(self, i):
        """Special token i as `_letters` spells it, in as many characters."""
        return f"{OPEN}{INNER[i] * (len(self.special_names[i]) - 2)}{CLOSE}"

    def _tokens(self, texts, kind):
        """Texts (b,) -> ragged (b, None, 6): id, kind, 1, first character of a token, the one after its last, word."""
        import tensorflow as tf

        letters, source, row = self._letters(texts)
        inside = letters != SPACE
        goes_on = tf.concat([[False], inside[:-1] & (row[:-1] == row[1:])], 0)[: tf.size(row)]
        begins = tf.boolean_mask(inside & ~goes_on, inside)
        letters, source, row = (tf.boolean_mask(x, inside) for x in (letters, source, row))
        word = tf.cumsum(tf.cast(begins, tf.int32)) - 1
        ids, end, size = self._cut(tf.RaggedTensor.from_value_rowids(letters, word))
        start = end - size
        batch = tf.shape(texts, tf.int64)[0]
        words = tf.RaggedTensor.from_value_rowids(tf.boolean_mask(word, begins), tf.boolean_mask(row, begins), batch)
        row = tf.gather(row, start)
        number = tf.gather(word, start) - tf.cast(tf.gather(words.row_starts(), row), tf.int32)
        columns = [ids, tf.fill(tf.shape(ids), kind), tf.ones_like(ids)]
        columns += [tf.gather(source, start), tf.gather(source, end - 1) + 1, number]
        return tf.RaggedTensor.from_value_rowids(tf.stack(columns, axis=1), row, batch)

    def _cut(self, words):
        """Words as code points (words, None) -> ids of their pieces, ends in all the letters, sizes: each (tokens,)."""
        import tensorflow as tf

        cutter, sizes = self._cutter
        lengths = tf.cast(words.row_lengths(), tf.int32)
        words = tf.strings.unicode_encode(words, "UTF-8")
        pieces = cutter.tokenize(tf.where(lengths > LONGEST, self._bare(1), words))
        ids = pieces.flat_values
        size = tf.where(ids == self.unknown, tf.gather(lengths, pieces.value_rowids()), tf.gather(sizes, ids))
        return ids, tf.cumsum(size), size

    def _letters(self, texts):
        """Texts (b,) -> clean code points with `SPACE` between words, the character each comes from, its text: (n,)."""
        import tensorflow as tf

        page, table = _table(*self._cleans)
        texts = tf.strings.regex_replace(texts, f"[{OPEN}{CLOSE}]", PRIVATE)
        for i, token in enumerate(self.special_names if self.special_tokens else ()):
            texts = tf.strings.regex_replace(texts, re.escape(token), self._bare(i))
        texts = tf.strings.unicode_decode(texts, "UTF-8")  # (b, None)
        row, source, codes = texts.value_rowids(), tf.ragged.range(texts.row_lengths()).flat_values, texts.flat_values
        found = tf.gather_nd(table, tf.stack([tf.gather(page, codes // PAGE), codes % PAGE], axis=1))  # (n, 2, 3)
        letters, order = found[:, 0], found[:, 1]
        letters = tf.where(letters < NOTHING, letters + codes[:, None], letters)
        move = tf.reduce_any(order > 0)
        letters, owner = tf.cond(move, lambda: _sorted(letters, order, row), lambda: _in_place(letters))
        return letters, tf.gather(tf.cast(source, tf.int32), owner), tf.gather(row, owner)


def read_vocabulary(path):
    """The tokens of a `vocab.txt`, a line each; a byte order mark and empty lines at the end are left out.

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
    """Whether a vocabulary is of texts with case: one token in a hundred, or more, has a capital."""
    words = [token for token in vocabulary if not (token.startswith("[") and token.endswith("]"))]
    return sum(token != token.lower() for token in words) > len(words) / 100


def tensorflow_text():
    """The package of that name; `UserError` where it is not installed."""
    try:
        import tensorflow_text
    except ImportError:
        raise UserError('tensorflow-text is not installed: pip install "homl_models[text]"') from None
    return tensorflow_text


def _check(texts, pairs, max_length):
    if isinstance(texts, str) or isinstance(pairs, str):
        raise UserError("texts are given as a list of strings, not as one string")
    if pairs is not None and len(pairs) != len(texts):
        raise UserError(f"{len(texts)} texts need as many pairs, not {len(pairs)}")
    _check_room(max_length, 1 if pairs is None else 2)


def _check_room(max_length, parts):
    if max_length is not None and max_length <= parts:
        raise UserError(f"max_length {max_length} has no room for the {parts + 1} tokens that are added; give more")


def _check_windows(max_length):
    if max_length < 5:
        raise UserError(f"max_length {max_length} has no room for a token of both texts; give 5 or more")


def _limits(xp, lengths, room):
    """Lengths (b,) of one or two parts -> those that are left when tokens are taken from the longer until all fit.

    `xp` is NumPy or TensorFlow. Of two that are cut, the one that was longer keeps the odd token, else the second.
    """
    if len(lengths) == 1:
        return [xp.minimum(lengths[0], room)]
    first, second = lengths
    short = xp.minimum(xp.minimum(first, second), room // 2)
    long = xp.minimum(xp.maximum(first, second), room - short)
    return [xp.where(first > second, long, short), xp.where(first > second, short, long)]


def _first(tokens, limits):
    """Ragged (b, None, 6) -> the first tokens of each row, as many as `limits` (b,) says."""
    import tensorflow as tf

    return tf.ragged.boolean_mask(tokens, tf.ragged.range(tokens.row_lengths()) < limits[:, None])


def _named(columns, offsets):
    """Columns (b, t, 6) -> the dict of arrays that is returned."""
    out = {name: columns[..., i] for i, name in enumerate(COLUMNS)}
    return out | ({"offsets": columns[..., 3:5], "words": columns[..., 5]} if offsets else {})


# The table of the graph.


def _cleaning(lowercase, strip_accents, chinese=True):
    """What comes before the cutting, of the library `tokenizers`."""
    from tokenizers import normalizers, pre_tokenizers

    normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=chinese
    )
    return normalizer, pre_tokenizers.BertPreTokenizer()


def _cleaned(characters, *cleans):
    """What becomes of each character; spaces part words: "" (removed), " ", "e" (É), " ! ", " 中 "."""
    normalizer, pre_tokenizer = _cleaning(*cleans)
    text = normalizer.normalize_str("||".join(f"a{character}a" for character in characters))
    joined = " ".join(piece for piece, _ in pre_tokenizer.pre_tokenize_str(text))
    return [between[1:-1] for between in joined.split(" | | ")]


@functools.cache
def _table(*cleans):
    """Page of each 256 code points (4352,), and pages (p, 256, 2, 3): up to three letters, and their orders.

    A letter is the difference to its code point (which makes most pages alike), `NOTHING` or `SPACE`.
    An order is the combining class of a mark where accents are stripped, else 0; and -1 where there is nothing,
    except that a mark which is stripped keeps its order.
    """
    pages = np.array([_page(first, cleans) for first in range(0, 0x110000, PAGE)], np.int32)
    pages[ord(OPEN) // PAGE, ord(OPEN) % PAGE] = (SPACE, 0, NOTHING), (0, 0, -1)
    pages[ord(CLOSE) // PAGE, ord(CLOSE) % PAGE] = (0, SPACE, NOTHING), (0, 0, -1)
    places = {}
    page = [places.setdefault(values.tobytes(), len(places)) for values in pages]
    return np.array(page, np.int32), np.frombuffer(b"".join(places), np.int32).reshape(-1, PAGE, 2, 3)


def _page(first, cleans):
    characters = list(map(chr, range(first, first + PAGE)))
    if set(map(unicodedata.category, characters)) in ({"Cn"}, {"Co"}, {"Cs"}):  # all alike
        characters = ["\ufffd" if "\ud800" <= characters[0] < "\ue000" else characters[0]]
    rows = [_row(*pair, cleans) for pair in zip(characters, _cleaned(characters, *cleans))]
    return np.broadcast_to(rows, (PAGE, 2, 3))


def _row(character, cleaned, cleans):
    lowercase, strips, chinese = cleans
    letters = [SPACE if letter == " " else ord(letter) - ord(character) for letter in cleaned]
    marks = cleaned
    if strips and not cleaned and _cleaned([character], lowercase, False, chinese) != [""]:  # stripped as an accent
        marks = unicodedata.normalize("NFD", character)[0]
    orders = [_order(mark) if strips else 0 for mark in marks]
    return letters + [NOTHING] * (3 - len(letters)), orders + [-1] * (3 - len(orders))


def _order(mark):
    """The combining class; 0 if the library's Unicode is too old to know it."""
    from tokenizers import normalizers

    order = unicodedata.combining(mark)
    known = order < 2 or normalizers.NFD().normalize_str(f"{mark}\u0334") == f"\u0334{mark}"
    return order if known else 0


def _in_place(letters):
    """Letters (n, 3) -> those that are something (m,), and the characters that they come from (m,)."""
    import tensorflow as tf

    place = tf.where(letters != NOTHING)
    return tf.gather_nd(letters, place), place[:, 0]


def _sorted(letters, order, row):
    """`_in_place` of letters whose marks are sorted by class, as in decomposed text (Unicode, annex 15).

    As in the library, what a letter comes from is found by counting, so a mark that moves takes another's place.
    """
    import tensorflow as tf

    place = tf.where(order >= 0)
    letters, order, owner = tf.gather_nd(letters, place), tf.gather_nd(order, place), place[:, 0]
    run = tf.cumsum(tf.cast(order == 0, tf.int64)) + tf.gather(row, owner)
    moved = tf.argsort(run * PAGE + tf.cast(order, tf.int64), stable=True)
    first = place[:, 1] == 0
    count = tf.cumsum(tf.cast(tf.gather(first, moved), tf.int64)) - 1
    letters, owner = tf.gather(letters, moved), tf.gather(tf.boolean_mask(owner, first), count)
    kept = letters != NOTHING
    return tf.boolean_mask(letters, kept), tf.boolean_mask(owner, kept)
