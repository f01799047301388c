"""Rows of token ids, [CLS] text [SEP] or [CLS] text [SEP] pair [SEP]: columns, truncation and checks.

Shared by `wordpiece.py` (NumPy) and `wordpiece_graph.py` (TensorFlow). A token is six numbers: its id, token type,
attention mask, first character, the character after its last, and its word. Shapes: b texts, t tokens.
"""

from homl_models.errors import UserError

COLUMNS = ("input_ids", "token_type_ids", "attention_mask")  # then the offsets, two columns, and word_ids
ADDED = (1, 0, 0, -1)  # columns of a special token that is added, after its id and its type
PADDING = (0, 0, 0, 0, -1)  # columns of padding, after its id


def added_tokens(cls, sep, segments):
    """(id, token type) of the special tokens before the first segment and after each."""
    return [(cls, 0), *((sep, kind) for kind in range(segments))]


def truncated_lengths(xp, lengths, room):
    """`longest_first` truncation: lengths (b,) of one or two segments -> lengths that together are at most `room`.

    `xp` is NumPy or TensorFlow. Of two that are cut, the one that was longer keeps the odd token, else the second.
    """
    if len(lengths) == 1:
        return [xp.minimum(lengths[0], room)]
    first, second = lengths
    short = xp.minimum(xp.minimum(first, second), room // 2)
    long = xp.minimum(xp.maximum(first, second), room - short)
    return [xp.where(first > second, long, short), xp.where(first > second, short, long)]


def owned_tokens(xp, is_first, is_last, sizes, columns, overlap):
    """Which tokens of windows of a text count, (w, t) bool, so that each counts once, where it has more context.

    Of the `overlap` tokens that successive windows share, the first half counts in the earlier. is_first, is_last (w,):
    whether it is that of its text; sizes (w,): tokens without special ones; columns (t,): positions from the first.
    """
    low = xp.where(is_first, 0, overlap // 2)
    high = xp.where(is_last, sizes, sizes - (overlap - overlap // 2))
    return (columns >= low[:, None]) & (columns < high[:, None])


def named(columns, offsets):
    """Columns (b, t, 6) -> {name: array}, with "offsets" (b, t, 2) and "word_ids" (b, t) if wanted."""
    out = {name: columns[..., i] for i, name in enumerate(COLUMNS)}
    return out | ({"offsets": columns[..., 3:5], "word_ids": columns[..., 5]} if offsets else {})


def check_texts(texts, pairs, max_length):
    if isinstance(texts, str) or isinstance(pairs, str):
        raise UserError("texts are given as a list of strings, not as one string")
    if pairs is not None and len(pairs) != len(texts):
        raise UserError(f"{len(texts)} texts need as many pairs, not {len(pairs)}")
    check_room(max_length, 1 if pairs is None else 2)


def check_room(max_length, segments):
    if max_length is not None and max_length <= segments:
        raise UserError(f"max_length {max_length} has no room for the {segments + 1} tokens that are added; give more")


def check_windows(max_length, segments=2):
    if max_length < (least := 2 * segments + 1):
        texts = "both texts" if segments == 2 else "a text"
        raise UserError(f"max_length {max_length} has no room for a token of {texts}; give {least} or more")
