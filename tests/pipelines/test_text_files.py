"""Readers of text files: each format, in every compression, and the messages for broken files."""

import codecs
import copy
import csv
import gzip
import io
import itertools
import json
import tarfile

import keras
import pytest

from homl_models.pipelines import text_files
from tests import checks
from tests.checks import fails
from tests.conftest import DATA
from tests.pipelines.test_text_windows import NO_NETWORK


def packings(text):
    """The bytes of a text, {name: bytes}, as people and programs write them."""
    return {
        "plain": text.encode(),
        "no last newline": text.rstrip("\n").encode(),
        "byte order mark": codecs.BOM_UTF8 + text.encode(),
        "CRLF": text.replace("\n", "\r\n").encode(),
        "CR": text.replace("\n", "\r").encode(),
        "gzip": gzip.compress(codecs.BOM_UTF8 + text.encode()),
    }


# Documents.

TEXT = "One here. Two?\nÜber all!\n\nLone: a. b.c d? e\n\n\nLast\n"
DOCUMENTS = [["One here. Two?", "Über all!"], ["Lone: a.", "b.c d?", "e"], ["Last"]]
FILES = packings(TEXT) | {
    "spaces": TEXT.replace("\n", " \t\n ").encode(),
    "empty lines around": f"\n\n{TEXT}\n\n".encode(),
}


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_documents_are_parted_by_empty_lines_and_a_lone_line_into_sentences(tmp_path, data):
    for name in ("some.txt", "no_ending"):  # it is not the name that tells
        (tmp_path / name).write_bytes(data)
        assert text_files.read_documents(tmp_path / name) == DOCUMENTS


def test_a_line_separator_within_a_line_is_not_its_end(tmp_path):
    (tmp_path / "a.txt").write_text("one\u2028more\x85\nTwo", encoding="utf-8")
    assert text_files.read_documents(tmp_path / "a.txt") == [["one\u2028more", "Two"]]


def test_all_texts_of_a_folder_are_read_and_no_document_goes_over_a_file(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"B\nb"))
    (tmp_path / "a.txt").write_text("A\na\n\nAA")
    (tmp_path / "deep" / "c.txt").write_text("C")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "d.md").write_text("not this")
    (tmp_path / ".hidden.txt").write_text("nor this")
    with pytest.warns(UserWarning, match=r"1 files that are not .txt or .txt.gz are left out, such as d.md"):
        assert text_files.read_documents(str(tmp_path)) == [["A", "a"], ["AA"], ["B", "b"], ["C"]]


NO_TEXT = {
    "missing": (None, "cannot read .*: No such file", "check the file"),
    "empty": (b"", "is empty", "a sentence per line"),
    "only empty lines": (b"\n \r\n\n", "is empty", "a sentence per line"),
    "Latin-1": ("Señor".encode("latin-1"), r"is not UTF-8 text \(line 1\)", "iconv"),
    "UTF-16": ("Hi".encode("utf-16"), r"is not UTF-8 text \(line 1: it is UTF-16\)", "iconv"),
    "NUL": (b"a\0b", "looks binary", "give a text file"),
    "half a gzip": (gzip.compress(TEXT.encode() * 9)[:-12], "cannot read", "check the file"),
    "a damaged gzip": (gzip.compress(TEXT.encode())[:12] + b"\xff" * 60, "cannot read", "check the file"),
}


@pytest.mark.parametrize(("data", "what", "named"), NO_TEXT.values(), ids=NO_TEXT)
def test_a_file_that_holds_no_text_is_refused_in_one_line(tmp_path, data, what, named):
    if data is not None:
        (tmp_path / "some.txt").write_bytes(data)
    fails(what, lambda: text_files.read_documents(tmp_path / "some.txt"), named, "some.txt")


def test_a_folder_without_texts_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("text\nnot looked for in a folder\n")
    fails("holds no .txt or .txt.gz file", lambda: text_files.read_documents(tmp_path), str(tmp_path))


@pytest.mark.parametrize(("name", "pack"), [("a.csv", bytes), ("a.csv.gz", gzip.compress)])
def test_each_text_of_a_table_is_a_document_of_its_sentences(tmp_path, name, pack):
    table = 'id,text\n1,"One, two. Three!<br /><br />Four\n\nand five"\n\n2, Six? \n'
    (tmp_path / name).write_bytes(pack(table.encode()))
    assert text_files.read_documents(tmp_path / name) == [["One, two.", "Three!", "Four\n\nand five"], ["Six?"]]
    (tmp_path / name).write_bytes(pack(b"review\nOne\n"))
    fails("has no columns text;", lambda: text_files.read_documents(str(tmp_path / name)), name, "first line")


def test_sentences_end_before_a_space():
    assert text_files.sentences(" A b. C?  D!\nE... 1.5 f.g ") == ["A b.", "C?", "D!", "E...", "1.5 f.g"]
    assert text_files.sentences(" ") == []


# Texts with labels.

REVIEWS = 'text,label\n"Fine, I say.<br /><br />""Yes""",1\n"Two\nlines\u2028more", 0 \n plain , so-so\n'


@pytest.mark.parametrize("name", packings(REVIEWS))
def test_texts_and_labels_are_read(tmp_path, name):
    (tmp_path / "r").write_bytes(packings(REVIEWS)[name])
    found, labels = text_files.read_labelled(tmp_path / "r")
    assert found == ['Fine, I say.  "Yes"', "Two\nlines\u2028more", "plain"]
    assert labels == ["1", "0", "so-so"]


def test_columns_are_found_by_name(tmp_path):
    (tmp_path / "r.csv").write_text("id,label,text\n7,1,good\n")
    assert text_files.read_labelled(tmp_path / "r.csv") == [["good"], ["1"]]


NO_REVIEWS = {
    "missing": (None, "cannot read .*: No such file", "check the file"),
    "empty": (b"", "has no columns text and label", "first line"),
    "other columns": (b"text,sentiment\na,1\n", "has no columns text and label", "'text,sentiment'"),
    "header alone": (b"text,label\n", "holds no text", "text and label"),
    "an empty label": (b"text,label\na,1\nb,\n", "line 3: the row has no label", "line 3"),
    "a label of spaces": (b"text,label\na, \n", "line 2: the row has no label", "line 2"),
    "no label": (b"text,label\n\na\n", "line 3: the row has 1 fields", "names 2 columns"),
    "no text": (b'text,label\n"\n<br />\n",1\n', "line 2: the row has no text", "line 2"),
    "Latin-1": ("text,label\nSeñor,1".encode("latin-1"), r"is not UTF-8 text \(line 2\)", "iconv"),
}


@pytest.mark.parametrize(("data", "what", "named"), NO_REVIEWS.values(), ids=NO_REVIEWS)
def test_a_table_without_texts_and_labels_is_refused_in_one_line(tmp_path, data, what, named):
    if data is not None:
        (tmp_path / "r.csv").write_bytes(data)
    fails(what, lambda: text_files.read_labelled(tmp_path / "r.csv"), named, "r.csv")


SHEET = "text,label\n" + "".join(f"Row {i}.,{'good' if i % 2 else 'bad'}\n" for i in range(1, 30))
TURNED = "label,text\n" + "".join(f"{'good' if i % 2 else 'bad'},Row {i}.\n" for i in range(1, 30))
AMISS = {
    "open to the end": (SHEET, 5, '"Row 5.,good', "line 6 to 30: a quote is not closed"),
    "closed before a letter": (SHEET, 5, '"Row 5.,good\n"Six" she said,bad', "line 6 to 7: a quote is wrong"),
    "closed at an end": (
        SHEET,
        5,
        '"Row 5.,good\nRow,bad\nRow",bad',
        "line 6: a quote opens a field that ends on line 8",
    ),
    "closed at an end, turned": (TURNED, 5, 'good,"Row\nbad,Row\nbad,Row"', "line 6: a quote opens .* on line 8"),
    "backslashes": (SHEET, 5, '"a \\\\"b\\\\", c",good', "line 6: a quote is wrong"),
    "a comma": (SHEET, 5, "Row, 5.,good", "line 6: the row has 3 fields"),
    "a comma after lines": (SHEET, 5, '"Row\n5",good\nRow, 5.,good', "line 8: the row has 3 fields"),
    "a comma of the last": (SHEET, 29, "Row, 29,good", "line 30: the row has 3 fields"),
    "names twice": ("text,label,text\na,b,c\n" + 30 * "\n", 5, "", "has two columns text"),
}


@pytest.mark.parametrize(("table", "number", "row", "what"), AMISS.values(), ids=AMISS)
def test_what_is_amiss_in_a_table_is_refused_by_line(tmp_path, table, number, row, what):
    rows = table.split("\n")
    rows[number] = row
    (tmp_path / "r.csv").write_text("\n".join(rows))
    fails(rf"r.csv,? {what}", lambda: text_files.read_labelled(tmp_path / "r.csv"))


@pytest.mark.parametrize("delimiter", list(",;\t|"))
def test_a_table_is_read_by_what_parts_its_first_line(tmp_path, delimiter):
    rows = [
        ["a", "text", "label"],
        ["1", 'Say "x"; y, z | \t?', "no"],
        ["2", "a\nb", "yes"],
        ["3", "w" * 200_000, "no"],
    ]
    limit = csv.field_size_limit()
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL):
        with open(tmp_path / "r.csv", "w", newline="") as file:
            csv.writer(file, delimiter=delimiter, quoting=quoting).writerows(rows)
        assert text_files.read_labelled(tmp_path / "r.csv") == [[row[1] for row in rows[1:]], ["no", "yes", "no"]]
    assert csv.field_size_limit() == limit


def test_a_poem_with_commas_is_one_text(tmp_path):
    (tmp_path / "r.csv").write_text('text,label\n"One, two\nthree, four\nfive, six",good\n"A, b",bad\n')
    assert text_files.read_labelled(tmp_path / "r.csv")[0] == ["One, two\nthree, four\nfive, six", "A, b"]


def real(name):
    path = DATA / "imdb" / name
    if not path.exists():
        pytest.skip(f"needs the IMDb reviews, and {path} is not there; set HOML_TEST_DATA to their data folder")
    return path


def test_real_reviews_are_read():
    found, labels = text_files.read_labelled(real("imdb_reviews_test_half.csv.gz"))
    assert len(found) == 12_500
    assert labels == ["0", "1"] * 6_250
    assert not any("<br />" in text for text in found)


# IMDb's own archive.


def archive(rows, path, split="train"):
    """A .tar.gz of texts and labels, 0 and 1, as the data set comes, in an order of its own."""
    kinds, numbers = ("neg", "pos"), (itertools.count(), itertools.count())
    members = {f"aclImdb/{split}/{kinds[y]}/{next(numbers[y])}_{1 + 9 * y}.txt": x for x, y in rows}
    members |= {f"aclImdb/{split}/unsup/{i}_0.txt": "not labelled" for i in range(3)}
    members |= {f"aclImdb/{split}/urls_neg.txt": "http://", "aclImdb/README": "read", "aclImdb/imdb.vocab": "the"}
    with tarfile.open(path, "w:gz") as file:
        for name in ("aclImdb", "aclImdb/train", "aclImdb/train/neg"):
            folder = tarfile.TarInfo(name)
            folder.type = tarfile.DIRTYPE
            file.addfile(folder)
        for name, text in sorted(members.items(), reverse=True):
            data = text if isinstance(text, bytes) else text.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


ROWS = [(f"Film {i // 2}.<br /><br />{'Good' if i % 2 else 'Bäd'}!", i % 2) for i in range(24)]
IMDB = """
import json, pathlib, shutil, sys
from homl_models.errors import UserError
from homl_models.pipelines import text_files
home, *archives = map(pathlib.Path, sys.argv[1:])
found = []
for archive in (None, *archives):
    if archive:
        (home / "datasets").mkdir(exist_ok=True)
        shutil.copyfile(archive, home / "datasets" / "aclImdb_v1.tar.gz")
    try:
        found.append(text_files.imdb("train"))
    except UserError as error:
        found.append(str(error))
print(json.dumps(found))
"""


def cached(monkeypatch, path):
    monkeypatch.setattr(keras.utils, "get_file", lambda name, origin: str(path))


def test_imdb_that_cannot_be_fetched_says_what_to_do(monkeypatch):
    def get_file(name, origin):
        raise OSError("no network")

    monkeypatch.setattr(keras.utils, "get_file", get_file)
    what = f"^cannot fetch {text_files.IMDB_URL} and it is not cached as aclImdb_v1.tar.gz"
    fails(what, lambda: text_files.imdb("train"), "go online once")


def test_imdb_comes_in_turn_negative_and_positive_by_number(tmp_path, monkeypatch):
    cached(monkeypatch, archive(ROWS, tmp_path / "a.tar.gz"))
    found, labels = text_files.imdb("train")
    assert found == [text.replace("<br />", " ") for text, _ in ROWS]  # 10 comes after 9, not after 1
    assert labels == ["negative", "positive"] * 12


def real_rows():
    with gzip.open(real("imdb_reviews.csv.gz"), "rt", encoding="utf-8", newline="") as file:
        return [(row["text"], int(row["label"])) for row in itertools.islice(csv.DictReader(file), 60)]


def test_real_reviews_in_the_archive_of_imdb_are_those_of_the_table(tmp_path, monkeypatch):
    rows = real_rows()
    cached(monkeypatch, archive(rows, tmp_path / "a.tar.gz"))
    found, labels = text_files.imdb("train")
    assert found == [text.replace("<br />", " ") for text, _ in rows]
    assert labels == ["negative", "positive"] * 30
    assert any("<br />" in text for text, _ in rows)


@pytest.mark.slow
def test_imdb_without_a_network_comes_from_the_cache_of_keras_or_not_at_all(tmp_path):
    """Without a cache, and with a synthetic, a damaged and a real one."""
    archives = [archive(ROWS, tmp_path / "synthetic.tar.gz"), tmp_path / "damaged.tar.gz"]
    archives[1].write_bytes(archives[0].read_bytes()[:-40])
    rows, home = real_rows(), tmp_path / "home"
    archives.append(archive(rows, tmp_path / "real.tar.gz"))
    home.mkdir()
    none, synthetic, damaged, whole = checks.in_fresh_process(IMDB, home, *archives, KERAS_HOME=str(home), **NO_NETWORK)
    assert none.startswith(f"cannot fetch {text_files.IMDB_URL} and it is not cached as aclImdb_v1.tar.gz")
    assert "\n" not in none
    assert synthetic == [[text.replace("<br />", " ") for text, _ in ROWS], ["negative", "positive"] * 12]
    assert "aclImdb_v1.tar.gz is damaged (" in damaged
    assert whole == [[text.replace("<br />", " ") for text, _ in rows], ["negative", "positive"] * 30]


def test_each_part_of_imdb_is_its_own(tmp_path, monkeypatch):
    cached(monkeypatch, archive(ROWS[:4], tmp_path / "a.tar.gz", "test"))
    assert text_files.imdb("test")[1] == list(text_files.IMDB_LABELS) * 2
    fails("holds no reviews of the split train", lambda: text_files.imdb("train"), "remove it")


BROKEN_ARCHIVES = {
    "empty": lambda data: b"",
    "a page of the web": lambda data: b"<html>not found</html>" * 50,
    "cut in the middle": lambda data: data[: len(data) // 2],
    "overwritten in the middle": lambda data: data[:200] + b"\xff" * 50 + data[250:],
    "gzip of something else": lambda data: gzip.compress(b"some text" * 500),
}


@pytest.mark.parametrize("broken", BROKEN_ARCHIVES.values(), ids=BROKEN_ARCHIVES)
def test_a_damaged_archive_is_refused_in_one_line(tmp_path, monkeypatch, broken):
    path = archive(ROWS, tmp_path / "a.tar.gz")
    path.write_bytes(broken(path.read_bytes()))
    cached(monkeypatch, path)
    fails(r"a.tar.gz is damaged \(", lambda: text_files.imdb("train"), "remove it, and it will be downloaded again")


def test_a_review_that_is_not_utf8_is_damage(tmp_path, monkeypatch):
    cached(monkeypatch, archive([("good", 0), ("Señor".encode("latin-1"), 1)], tmp_path / "a.tar.gz"))
    fails("is damaged", lambda: text_files.imdb("train"), "remove it")


# Questions.

CONTEXT = "Café 中 lies in Paris. It was in Paris."
SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": "A",
            "paragraphs": [
                {
                    "context": CONTEXT,
                    "qas": [
                        {
                            "id": "q1",
                            "question": "Where?",
                            "answers": [
                                {"answer_start": 32, "text": "Paris"},
                                {"answer_start": 15, "text": "Paris"},
                                {"answer_start": 12, "text": "in Paris."},
                            ],
                        },
                        {"id": "q2", "question": "What?", "answers": [{"answer_start": 0, "text": "Café 中"}]},
                    ],
                },
                {"context": "No questions here.", "qas": []},
            ],
        },
        {
            "title": "B",
            "paragraphs": [
                {
                    "context": "It is x.",
                    "qas": [{"id": "q3", "question": "x?", "answers": [{"answer_start": 6, "text": "x"}]}],
                }
            ],
        },
    ],
}
QUESTIONS = [
    ("Where?", CONTEXT, [(32, "Paris"), (15, "Paris"), (12, "in Paris.")]),
    ("What?", CONTEXT, [(0, "Café 中")]),
    ("x?", "It is x.", [(6, "x")]),
]


def asked(folder, data):
    (folder / "some.json").write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    return text_files.read_questions(folder / "some.json")


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", packings(""))
def test_questions_are_read(tmp_path, name, indent):
    data = packings(json.dumps(SQUAD, ensure_ascii=False, indent=indent) + "\n")[name]
    assert asked(tmp_path, data) == QUESTIONS


def test_contexts_keep_their_line_ends_emoji_and_marks(tmp_path):
    context = "\ufeffA 👩\u200d👧 Cafe\u0301.\r\nIn \u2028Rome\r"
    start = context.index("Rome")
    question = {"id": "q", "question": "?", "answers": [{"answer_start": start, "text": "Rome"}]}
    paragraphs = [{"context": context, "qas": [question]}]
    for ascii_only in (True, False):
        data = json.dumps({"data": [{"paragraphs": paragraphs}]}, ensure_ascii=ascii_only).encode()
        assert asked(tmp_path, data) == [("?", context, [(start, "Rome")])]


def test_impossible_questions_have_no_answer(tmp_path):
    data = copy.deepcopy(SQUAD)
    first, second = data["data"][0]["paragraphs"][0]["qas"]
    plausible = [{"answer_start": 15, "text": "Paris"}]
    first |= {"is_impossible": True, "answers": [], "plausible_answers": plausible}
    second["is_impossible"] = False
    data["data"][1]["paragraphs"][0]["qas"][0]["answers"] = []  # as in the first version's format
    assert asked(tmp_path, data) == [("Where?", CONTEXT, []), QUESTIONS[1], ("x?", "It is x.", [])]
    del first["answers"]
    assert asked(tmp_path, data)[0] == ("Where?", CONTEXT, [])


@pytest.mark.parametrize("start", [14, 16, 31, 100, -6, -7])
def test_an_answer_that_is_not_in_its_place_is_refused_and_the_question_named(tmp_path, start):
    data = copy.deepcopy(SQUAD)
    data["data"][0]["paragraphs"][0]["qas"][0]["answers"][1]["answer_start"] = start
    fails(r"some.json \(question q1\): an answer is not in the context", lambda: asked(tmp_path, data))


def test_an_empty_answer_and_one_in_other_letters_are_refused(tmp_path):
    for answer in ("", "X", "x. It"):
        data = copy.deepcopy(SQUAD)
        question = data["data"][1]["paragraphs"][0]["qas"][0]
        question["answers"] = [{"answer_start": 6, "text": answer}]
        fails(r"\(question q3\): an answer is not in the context", lambda data=data: asked(tmp_path, data))
        del question["id"]
        fails(r"\(question x\?\): an answer is not in the context", lambda data=data: asked(tmp_path, data))


def without(*place):
    """`SQUAD` without one of its entries."""
    data = inner = copy.deepcopy(SQUAD)
    for name in place[:-1]:
        inner = inner[name]
    del inner[place[-1]]
    return data


FORMAT = "is not in SQuAD format"
NO_QUESTIONS = {
    "empty": (b"", FORMAT, "it is JSON with data"),
    "cut": (json.dumps(SQUAD).encode()[:-9], FORMAT, "it is JSON with data"),
    "no JSON": (b"question: x", FORMAT, "it is JSON with data"),
    "a list": ([SQUAD], FORMAT, "it is JSON with data"),
    "a number": (3, FORMAT, "it is JSON with data"),
    "null": (None, FORMAT, "it is JSON with data"),
    "no data": (without("data"), FORMAT, "KeyError: 'data'"),
    "data of another kind": ({"data": "paragraphs"}, FORMAT, "it is JSON with data"),
    "no paragraphs": (without("data", 0, "paragraphs"), FORMAT, "KeyError: 'paragraphs'"),
    "no context": (without("data", 1, "paragraphs", 0, "context"), FORMAT, "KeyError: 'context'"),
    "no question": (without("data", 0, "paragraphs", 0, "qas", 1, "question"), FORMAT, "KeyError: 'question'"),
    "no answers": (without("data", 0, "paragraphs", 0, "qas", 1, "answers"), FORMAT, "(question q2)"),
    "no start": (without("data", 1, "paragraphs", 0, "qas", 0, "answers", 0, "answer_start"), FORMAT, "(question q3)"),
    "no articles": ({"data": []}, "holds no questions", "some.json"),
    "no question at all": ({"data": [{"paragraphs": [{"context": "", "qas": []}]}]}, "holds no questions", "some.json"),
    "Latin-1": ('{"data": "é"}'.encode("latin-1"), r"is not UTF-8 text \(line 1\)", "iconv"),
}


@pytest.mark.parametrize(("data", "what", "named"), NO_QUESTIONS.values(), ids=NO_QUESTIONS)
def test_a_file_without_questions_is_refused_in_one_line(tmp_path, data, what, named):
    fails(rf"some.json( \(question \w+\))? {what}", lambda: asked(tmp_path, data), named)


def test_a_file_of_questions_that_is_missing_is_named(tmp_path):
    fails("^cannot read .*none.json: No such file", lambda: text_files.read_questions(tmp_path / "none.json"))
