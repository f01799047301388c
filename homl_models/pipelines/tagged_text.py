"""Words with tags in columns (CoNLL-2003, CoNLL-U, WNUT), in and out, and the schemes of tags for entities.

A line has a word, an empty line ends a sentence; a line -DOCSTART- or a comment "# newdoc" begins a document.
Schemes (Ramshaw & Marcus, 1995, https://arxiv.org/abs/cmp-lg/9505040; Ratinov & Roth, 2009): I-X are the words of an
entity of type X, O those of none. BIO: B-X is the first word of each entity. IOB1: B-X is the first word where an
entity of the same type goes before. BIOES: as BIO, and E-X is the last of several words, S-X the only one.
"""

import re
import warnings

from homl_models import metrics
from homl_models.errors import UserError
from homl_models.pipelines import lines

SCHEMES = "BIO", "IOB1", "BIOES"
MARK = "-DOCSTART-"


def read_tagged(path, word_column=0, tag_column=-1):
    """Sentences [(words, tags), ...] of a file, also gzipped; see `read_documents`."""
    return [sentence for document in read_documents(path, word_column, tag_column) for sentence in document]


def read_documents(path, word_column=0, tag_column=-1):
    """Documents, lists of sentences (words, tags); a file without marks is one.

    A line has columns, as many as every other, with tabs between, or else spaces; `word_column` holds the word,
    `tag_column` its tag. Left out are lines that begin with -DOCSTART-, comments (see `_is_comment`), and, where
    the first column counts the words (CoNLL-U), multi-word tokens (1-2) and empty nodes (5.1).
    """
    numbered = list(enumerate(lines.split(lines.read(path)), 1))
    plain = [line for _, line in numbered if line.strip() and not line.startswith(("#", MARK))]
    tabs = any("\t" in line for line in plain)
    rows = [_columns(line, tabs) for line in plain]
    width = len(rows[0]) if rows else 0
    counted = width > 2 and all(re.fullmatch(r"[0-9]+([-.][0-9]+)?", row[0]) for row in rows)
    if counted and word_column in (0, -width):
        raise UserError(f"{path}: column 0 counts the words; say which column holds them: --word-column 1")
    known = {"O", *(row[tag_column] for row in rows if -len(row) <= tag_column < len(row))}
    documents, words, tags, doubtful, miscounted, count = [[]], [], [], [], [], 0
    for number, line in [*numbered, (0, "")]:
        if not line.strip() or line.startswith(MARK):
            if words:
                documents[-1].append((words, tags))
                words, tags = [], []
            if line.startswith(MARK):
                documents.append([])
            continue
        columns = _columns(line, tabs)
        fits = len(columns) == width
        tagged = fits and -width <= tag_column < width and columns[tag_column] in known
        if line.startswith("#") and _is_comment(line, words, counted, tabs, tagged):
            if fits:
                doubtful.append(str(number))
            if not words and re.match(r"# ?newdoc\b", line):
                documents.append([])
        elif not counted or columns[0].isdigit():
            before, count = count, int(columns[0]) if counted else 0
            if counted and count not in ((before + 1,) if words else (0, 1)):
                miscounted.append(str(number))
            words.append(_field(path, number, columns, width, word_column))
            tags.append(_field(path, number, columns, width, tag_column))
    if not any(documents):
        raise UserError(f"{path} is empty; give lines with a word and its tag, and an empty line between sentences")
    for found, what in (
        (doubtful, "lines that begin with # and have as many columns as a word are taken for comments"),
        (miscounted, "words are not counted one by one, so that some may be missing"),
    ):
        if found:
            warnings.warn(f"{path}: {what} (line {', '.join(found[:10])})", stacklevel=2)
    return [document for document in documents if document]


def _columns(line, tabs):
    return [part.strip(" ") for part in line.split("\t")] if tabs else re.split(" +", line.strip(" "))


def _is_comment(line, words, counted, tabs, tagged):
    """Whether a line that begins with # is a comment, and not the word "#" or one like "#this".

    tagged: whether it has as many columns as every line, and a tag that a line without # has too.
    """
    if counted:
        return True  # a word would begin with its number
    if tabs and "\t" not in line:
        return True
    return not words and not tagged  # before a sentence


def _field(path, number, columns, width, column):
    """The word or the tag of a line; `UserError` where it is missing."""
    if len(columns) != width or not -width <= column < width or width < 2 or not columns[column]:
        raise UserError(
            f"{path}, line {number}: there are {len(columns)} columns, {width} in the first line with a word, of which "
            f"number {column} (counted from 0, from the end if below 0) must not be empty"
        )
    return columns[column]


def as_columns(documents):
    """Documents, lists of sentences (words, tags, ...), -> the text of a file, a column each with tabs between.

    Further columns may be predicted tags after the right ones, as the evaluation of CoNLL-2003 has them. Before each of
    several documents stands a line -DOCSTART-.
    """
    blocks = []
    for document in documents:
        columns = next((len(sentence) for sentence in document), 2)
        blocks += ["\t".join([MARK, *["O"] * (columns - 1)])] if len(documents) > 1 else []
        blocks += ["\n".join(map("\t".join, zip(*sentence, strict=True))) for sentence in document]
    return "".join(f"{block}\n\n" for block in blocks)


# Schemes.


def has_entities(tags):
    """Whether tags are those of entities, such as B-X; not those of parts of speech."""
    return any(tag[1:2] == "-" and tag[0] in metrics.SCHEME for tag in tags)


def convert(tags, scheme):
    """The tags of a sentence, of any scheme that `metrics.entities` knows, in one of `SCHEMES`."""
    if not has_entities(tags):
        return list(tags)
    found, before = ["O"] * len(tags), (None, 0)  # type and end of the entity before
    for kind, start, end in sorted(metrics.entities(tags), key=lambda entity: entity[1]):
        found[start:end] = [f"{prefix}-{kind}" for prefix in _prefixes(scheme, end - start, before == (kind, start))]
        before = kind, end
    return found


def _prefixes(scheme, length, follows):
    """Prefixes of an entity's tags; follows: whether one of the same type ends where it begins."""
    if scheme == "BIOES":
        return "S" if length == 1 else f"B{'I' * (length - 2)}E"
    first = "B" if scheme == "BIO" or follows else "I"
    return first + "I" * (length - 1)
