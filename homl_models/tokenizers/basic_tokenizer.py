"""BERT's BasicTokenizer: text cleaning and the split into words, as the library `tokenizers` and as a Unicode table.

Control characters are removed; white space separates words; punctuation marks and Chinese characters are words of
their own; accents and case may be removed (Devlin et al., 2018, https://arxiv.org/abs/1810.04805;
google-research/bert, tokenization.py). The table holds what the library does to every code point, so that a TensorFlow
graph does the same (`wordpiece_graph.py`). Shapes: p pages of 256 code points.
"""

import functools
import unicodedata

import numpy as np

# In the table: no character at all, and the end of a word. Both are greater than any difference of code points.
REMOVED, SPACE = 1 << 21, (1 << 21) + 1
PAGE = 256
# Code points of private use, which the cleaning removes: in a graph they mark the ends of a special token.
OPEN, CLOSE, PRIVATE = "\ue000", "\ue001", "\ue002"


def basic_tokenizer(lowercase, strip_accents, tokenize_chinese_chars=True):
    """Normalizer and pre-tokenizer of the library `tokenizers`."""
    from tokenizers import normalizers, pre_tokenizers

    normalizer = normalizers.BertNormalizer(
        lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=tokenize_chinese_chars
    )
    return normalizer, pre_tokenizers.BertPreTokenizer()


def clean(characters, *settings):
    """Outcome of each character; spaces separate words: "" (removed), " ", "e" (É), " ! ", " 中 "."""
    normalizer, pre_tokenizer = basic_tokenizer(*settings)
    text = normalizer.normalize_str("||".join(f"a{character}a" for character in characters))
    joined = " ".join(piece for piece, _ in pre_tokenizer.pre_tokenize_str(text))
    return [between[1:-1] for between in joined.split(" | | ")]


@functools.cache
def unicode_table(*settings):
    """Two-stage table: page of each 256 code points (4352,), and pages (p, 256, 2, 3): up to three characters, orders.

    A character is stored as the difference to its code point (which makes most pages alike), `REMOVED` or `SPACE`.
    An order is the combining class of a mark where accents are stripped, else 0; and -1 where there is nothing,
    except that a mark which is stripped keeps its order. settings: arguments of `basic_tokenizer`.
    """
    pages = np.array([_page(first, settings) for first in range(0, 0x110000, PAGE)], np.int32)
    pages[ord(OPEN) // PAGE, ord(OPEN) % PAGE] = (SPACE, 0, REMOVED), (0, 0, -1)
    pages[ord(CLOSE) // PAGE, ord(CLOSE) % PAGE] = (0, SPACE, REMOVED), (0, 0, -1)
    numbers = {}
    page = [numbers.setdefault(values.tobytes(), len(numbers)) for values in pages]
    return np.array(page, np.int32), np.frombuffer(b"".join(numbers), np.int32).reshape(-1, PAGE, 2, 3)


def _page(first, settings):
    characters = list(map(chr, range(first, first + PAGE)))
    if set(map(unicodedata.category, characters)) in ({"Cn"}, {"Co"}, {"Cs"}):  # all alike
        characters = ["\ufffd" if "\ud800" <= characters[0] < "\ue000" else characters[0]]
    rows = [_row(*pair, settings) for pair in zip(characters, clean(characters, *settings))]
    return np.broadcast_to(rows, (PAGE, 2, 3))


def _row(character, cleaned, settings):
    lowercase, strips, chinese = settings
    codes = [SPACE if other == " " else ord(other) - ord(character) for other in cleaned]
    marks = cleaned
    if strips and not cleaned and clean([character], lowercase, False, chinese) != [""]:  # stripped as an accent
        marks = unicodedata.normalize("NFD", character)[0]
    orders = [_combining_class(mark) if strips else 0 for mark in marks]
    return codes + [REMOVED] * (3 - len(codes)), orders + [-1] * (3 - len(orders))


def _combining_class(mark):
    """Canonical combining class; 0 if the library's Unicode is too old to know it."""
    from tokenizers import normalizers

    order = unicodedata.combining(mark)
    known = order < 2 or normalizers.NFD().normalize_str(f"{mark}\u0334") == f"\u0334{mark}"
    return order if known else 0
