"""Readers of text files: documents, labelled texts (CSV, IMDb), questions (SQuAD); `tagged_text.py` reads CoNLL."""

import gzip
import json
import re
import tarfile
import zlib

from homl_models.errors import UserError
from homl_models.pipelines import lines, tables
from homl_models.pipelines.download import download

IMDB_URL = "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz"
IMDB_LABELS = "negative", "positive"


def read_documents(path):
    """Documents, lists of sentences, of a UTF-8 text file, also gzipped, or of all .txt and .txt.gz below a folder.

    Empty lines separate documents. A line is a sentence, but a document of a single line is split by `sentences`, and
    so is each `text` of a .csv or .csv.gz.
    """
    if str(path).lower().endswith((".csv", ".csv.gz")):
        return [sentences(text) for text in tables.read(path, ["text"])[0]]
    documents = [document for file in lines.files(path) for document in _documents(lines.read(file))]
    if not documents:
        raise UserError(f"{path} is empty; give texts with a sentence per line and an empty line between documents")
    return documents


def read_labelled(path):
    """Texts and label names of a .csv file, also gzipped, with columns `text` and `label`."""
    return tables.read(path, ["text", "label"], label="label")


def imdb(split):
    """25,000 film reviews of the split "train" or "test", in turn "negative" and "positive": texts and labels.

    The Large Movie Review Dataset (Maas et al., 2011), from Keras' cache or the network.
    """
    path = download("aclImdb_v1.tar.gz", IMDB_URL, "name files of your own")
    found = {label: [] for label in IMDB_LABELS}
    try:
        with gzip.open(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                match = re.fullmatch(rf"aclImdb/{split}/(neg|pos)/([0-9]+)_[0-9]+\.txt", member.name)
                if match:
                    text = archive.extractfile(member).read().decode("utf-8").replace("<br />", " ")
                    found[IMDB_LABELS[match[1] == "pos"]].append((int(match[2]), text))
            while file.read(1 << 20):  # to the end, where the checksum is
                pass
    except (OSError, EOFError, tarfile.TarError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); remove it, and it will be downloaded again") from error
    pairs = [(text, label) for rows in zip(*map(sorted, found.values())) for (_, text), label in zip(rows, found)]
    if not pairs:
        raise UserError(f"{path} holds no reviews of the split {split}; remove it, and it will be downloaded again")
    return tuple(map(list, zip(*pairs)))


def read_questions(path):
    """[(question, context, [(first character, answer), ...]), ...] of a file in SQuAD format, version 1.1 or 2.0.

    A question without an answer in the context has an empty list (Rajpurkar et al., 2016,
    https://arxiv.org/abs/1606.05250, and 2018, https://arxiv.org/abs/1806.03822). Also gzipped.
    """
    found, at, raw = [], "", lines.read(path)
    try:
        for article in json.loads(raw)["data"]:
            for paragraph in article["paragraphs"]:
                context = _string(paragraph["context"])
                for question in paragraph["qas"]:
                    text = _string(question["question"])
                    at = f" (question {' '.join(str(question.get('id', text)).split())[:80]})"
                    answers = [] if question.get("is_impossible") else question["answers"]
                    answers = [(int(answer["answer_start"]), _string(answer["text"])) for answer in answers]
                    if any(start < 0 or not right or not context.startswith(right, start) for start, right in answers):
                        raise UserError(f"{path}{at}: an answer is not in the context at its answer_start")
                    found.append((text, context, answers))
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"{path}{at} is not in SQuAD format ({type(error).__name__}: {error}); it is JSON with data, paragraphs, "
            "context and qas with question and answers"
        ) from error
    if not found:
        raise UserError(f"{path} holds no questions")
    return found


def _string(value):
    """A string of JSON; `ValueError` for other values and for no valid text: JSON can name lone surrogates."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"{str(value)[:40]!r} is not a text")
    value.encode("utf-8")
    return value


def sentences(text):
    """A text -> its sentences: each ends with . ! or ? before a space."""
    return [sentence for sentence in re.split(r"(?<=[.!?])\s+", text.strip()) if sentence]


def _documents(text):
    blocks = [[]]
    for line in map(str.strip, lines.split(text)):
        if line:
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return [sentences(block[0]) if len(block) == 1 else block for block in blocks if block]
