"""Texts from files: documents, texts with labels, words with labels, questions with answers."""

import csv
import gzip
import io
import json
import re
import tarfile
import zlib
from pathlib import Path

from homl_models.errors import UserError
from homl_models.pipelines.fetch import fetched

IMDB_URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
IMDB_LABELS = "negative", "positive"


def read_documents(path):
    """Documents, lists of sentences, of a UTF-8 text file, also gzipped, or of all .txt and .txt.gz below a folder.

    Empty lines part documents. A line is a sentence, but a document of a single line is parted by `sentences`, and
    so is each `text` of a .csv or .csv.gz.
    """
    path = Path(path)
    if path.name.endswith((".csv", ".csv.gz")):
        return [sentences(text) for text in _table(path, ["text"])[0]]
    files = sorted((*path.rglob("*.txt"), *path.rglob("*.txt.gz"))) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} holds no .txt or .txt.gz file; name a text file or a folder with some")
    documents = [document for file in files for document in _documents(_text(file))]
    if not documents:
        raise UserError(f"{path} is empty; give texts with a sentence per line and an empty line between documents")
    return documents


def read_labelled(path):
    """Texts, and the name of the label of each, of a .csv file, also gzipped, with columns `text` and `label`."""
    return _table(path, ["text", "label"])


def _table(path, names):
    """The columns of these names of a .csv file, lists of strings. "<br />" becomes a space."""
    reader = csv.DictReader(io.StringIO(_text(path), newline=""))
    columns = [[] for _ in names]
    try:
        if not set(names) <= set(reader.fieldnames or ()):
            raise UserError(f"{path} has no columns {' and '.join(names)}; its first line must name them")
        for row in reader:
            for name, column in zip(names, columns):
                value = (row[name] or "").replace("<br />", " ").strip()
                if not value:
                    raise UserError(f"{path}: the row that ends in line {reader.line_num} has no {name}")
                column.append(value)
    except csv.Error as error:
        raise UserError(
            f"{path} is no table of comma-separated values (after line {reader.line_num}: {error})"
        ) from error
    if not columns[0]:
        raise UserError(f"{path} holds no text; give lines with {' and '.join(names)}")
    return columns


def imdb(part):
    """25,000 film reviews of the part "train" or "test", in turn "negative" and "positive": texts and labels.

    The Large Movie Review Dataset (Maas et al., 2011), from Keras' cache or the network.
    """
    path = fetched("aclImdb_v1.tar.gz", IMDB_URL, "name files of your own")
    found = {label: [] for label in IMDB_LABELS}
    try:
        with gzip.open(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                place = re.fullmatch(rf"aclImdb/{part}/(neg|pos)/([0-9]+)_[0-9]+\.txt", member.name)
                if place:
                    text = archive.extractfile(member).read().decode("utf-8").replace("<br />", " ")
                    found[IMDB_LABELS[place[1] == "pos"]].append((int(place[2]), text))
            while file.read(1 << 20):  # to the end, where the checksum is
                pass
    except (OSError, EOFError, tarfile.TarError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it, and it will be fetched again") from error
    pairs = [(text, label) for rows in zip(*map(sorted, found.values())) for (_, text), label in zip(rows, found)]
    if not pairs:
        raise UserError(f"{path} holds no reviews of the part {part}; remove it, and it will be fetched again")
    return tuple(map(list, zip(*pairs)))


def read_tagged(path, token_column=0, label_column=-1):
    """Sentences [(words, labels), ...] of a file of CoNLL's format, also gzipped: a word a line, an empty line between.

    A line has columns, with tabs between, or else spaces; those chosen hold the word and its label. Left out are lines
    that begin with -DOCSTART-, and comments: lines with # and without the tab that the others have.
    """
    lines = [line.rstrip("\r") if line.strip() else "" for line in _text(path).split("\n")]
    tabs = any("\t" in line for line in lines)
    sentences, words, labels = [], [], []
    for number, line in enumerate([*lines, ""], 1):
        if not line or line.startswith("-DOCSTART-"):
            if words:
                sentences.append((words, labels))
                words, labels = [], []
            continue
        if tabs and line.startswith("#") and "\t" not in line:
            continue
        columns = [part.strip(" ") for part in line.split("\t")] if tabs else re.split(" +", line.strip(" "))
        try:
            word, label = columns[token_column], columns[label_column]
        except IndexError:
            word = label = ""
        if not word or not label or len(columns) < 2:
            raise UserError(
                f"{path}, line {number}: there are {len(columns)} columns, of which the word would be number "
                f"{token_column} and its label number {label_column}, counted from 0, from the end if below 0"
            )
        words.append(word)
        labels.append(label)
    if not sentences:
        raise UserError(f"{path} is empty; give lines with a word and its label, and an empty line between sentences")
    return sentences


def read_questions(path):
    """[(question, context, [(first character, answer), ...]), ...] of a file of SQuAD's format, version 1.1 or 2.0.

    A question without an answer in the context has an empty list (Rajpurkar et al., 2016,
    https://arxiv.org/abs/1606.05250, and 2018, https://arxiv.org/abs/1806.03822). Also gzipped.
    """
    found, at = [], ""
    try:
        for article in json.loads(_text(path))["data"]:
            for paragraph in article["paragraphs"]:
                context = paragraph["context"]
                for question in paragraph["qas"]:
                    at = f" (question {question.get('id', question['question'])})"
                    answers = [] if question.get("is_impossible") else question["answers"]
                    answers = [(int(answer["answer_start"]), answer["text"]) for answer in answers]
                    if any(start < 0 or not text or not context.startswith(text, start) for start, text in answers):
                        raise UserError(f"{path}{at}: an answer does not stand in the context where it should")
                    found.append((question["question"], context, answers))
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path}{at} is not of SQuAD's format ({type(error).__name__}: {error}); it is JSON with data, paragraphs, "
            "context and qas with question and answers"
        ) from error
    if not found:
        raise UserError(f"{path} holds no questions")
    return found


def sentences(text):
    """A text -> its sentences: each ends with . ! or ? before a space."""
    return [sentence for sentence in re.split(r"(?<=[.!?])\s+", text.strip()) if sentence]


def _text(path):
    try:
        data = Path(path).read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}); convert it, e.g. with iconv") from error
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}; check the file") from error
    if "\0" in text:
        raise UserError(f"{path} looks binary (it holds a NUL character); give a text file")
    return text


def _documents(text):
    blocks = [[]]
    for line in map(str.strip, text.split("\n")):
        if line:
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return [sentences(block[0]) if len(block) == 1 else block for block in blocks if block]
