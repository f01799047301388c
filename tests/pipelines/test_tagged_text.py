"""Words with tags in columns: every form of a file, schemes of tags in and out, and the messages for broken files."""

import itertools
import random

import pytest
from seqeval.metrics.sequence_labeling import get_entities
from seqeval.scheme import IOB1, IOB2, IOBES, Entities

from homl_models import metrics
from homl_models.pipelines import tagged_text
from tests.checks import fails
from tests.conftest import DATA
from tests.pipelines.test_text_files import packings

CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
# # B-NP O
. . O O

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER

-DOCSTART- -X- O O
Ürümqi NNP B-NP B-LOC
"""
TAGGED = [
    (["EU", "rejects", "#", "."], ["B-ORG", "O", "O", "O"]),
    (["Peter", "Blackburn"], ["B-PER", "I-PER"]),
    (["Ürümqi"], ["B-LOC"]),
]
TAGGED_FILES = packings(CONLL) | {
    "tabs": CONLL.replace(" ", "\t").encode(),
    "tabs and spaces": CONLL.replace(" ", " \t ").encode(),
    "wide columns": CONLL.replace(" ", "   ").encode(),
    "spaces at the ends": CONLL.replace("\n", "  \n").replace("Peter", "  Peter").encode(),
    "empty lines around": f"\n \n{CONLL}\n\n".replace("\n\n", "\n \t\n\n").encode(),
}


def tagged(folder, data, *columns):
    (folder / "some.conll").write_bytes(data if isinstance(data, bytes) else data.encode())
    return tagged_text.read_tagged(folder / "some.conll", *columns)


@pytest.mark.parametrize("data", TAGGED_FILES.values(), ids=TAGGED_FILES)
def test_words_and_labels_are_read(tmp_path, data):
    assert tagged(tmp_path, data) == TAGGED


def test_columns_are_chosen_by_number(tmp_path):
    parts = ["NNP", "VBZ", "#", "."], ["NNP", "NNP"], ["NNP"]
    assert tagged(tmp_path, CONLL, 0, 1) == [(words, some) for (words, _), some in zip(TAGGED, parts)]
    assert tagged(tmp_path, CONLL, -3, 0) == [(some, words) for (words, _), some in zip(TAGGED, parts)]


CONLLU = """# newdoc
# sent_id = 1
# text = In New York, # 1
1\tIn\tin\tADP\t_
2\tNew York\tNew York\tPROPN\tSpaceAfter=No
3\t,\t,\tPUNCT\t_
4\t#\t#\tSYM\t_
#\twithin = the sentence
5\t1\t1\tNUM\t_

# sent_id = 2
1\t10\u00a0000\t10000\tNUM\t_
"""


def test_comments_are_left_out_and_words_with_spaces_are_kept_whole(tmp_path):
    wanted = [(["In", "New York", ",", "#", "1"], ["ADP", "PROPN", "PUNCT", "SYM", "NUM"]), (["10\u00a0000"], ["NUM"])]
    assert tagged(tmp_path, CONLLU, 1, 3) == wanted
    assert tagged(tmp_path, CONLLU.replace("\n", "\r\n"), 1, -2) == wanted


def test_only_spaces_and_tabs_part_columns(tmp_path):
    words = ["10\u00a0000", "\u2009", "x\u2028y"]
    assert tagged(tmp_path, "".join(f"{word} O\n" for word in words)) == [(words, ["O"] * 3)]


def test_words_of_a_sentence_are_counted_once_in_conllu(tmp_path):
    """Universal Dependencies, CoNLL-U format: ranges such as 1-2 and empty nodes such as 5.1 are no words."""
    rows = [
        ("1-2", "vámonos", "_"),
        ("1", "vamos", "VERB"),
        ("2", "nos", "PRON"),
        ("2.1", "ya", "ADV"),
        ("3", "3.5", "NUM"),
    ]
    data = "# text = ...\n" + "".join("\t".join([i, word, "_", kind, *"______"]) + "\n" for i, word, kind in rows)
    assert tagged(tmp_path, data, 1, 3) == [(["vamos", "nos", "3.5"], ["VERB", "PRON", "NUM"])]
    fails("column 0 counts the words", lambda: tagged(tmp_path, data, 0, 3), "--word-column 1")
    assert tagged(tmp_path, "1-2 NUM\n5.1 NUM\n") == [(["1-2", "5.1"], ["NUM", "NUM"])]  # words, where none are counted


COMMENTED = {
    "four columns": ("#\thttp://a.org [1]\n1\tAda\tB-PER\tO\n2\t#\tO\tO\n\n# b\n1\t#\tO\tO\n", (1, 2)),
    "two columns, no tab": ("# from a.org\nAda\tB-PER\n#\tO\n\n# b\n#\tO\n", ()),
    "two columns, a space": ("# from a.org\nAda B-PER\n# O\n\n# sent id 2\n# O\n", ()),
    "two columns, tabs in comments alone": ("#\thttp://a.org\tin line 1\nAda B-PER\n# O\n\n# O\n", ()),
}


@pytest.mark.parametrize(("data", "columns"), COMMENTED.values(), ids=COMMENTED)
def test_comments_are_no_words_and_the_sign_is(tmp_path, data, columns):
    assert tagged(tmp_path, data, *columns) == [(["Ada", "#"], ["B-PER", "O"]), (["#"], ["O"])]


def test_a_comment_that_might_be_a_word_is_named(tmp_path):
    with pytest.warns(UserWarning, match=r"taken for comments \(line 1, 4\)"):
        found = tagged(tmp_path, "#\thttp://a.org\nAda\tB-PER\n\n#\thttp://b.org\n#love\tO\nit\tO\n")
    assert found == [(["Ada"], ["B-PER"]), (["#love", "it"], ["O", "O"])]


def test_a_word_that_seems_to_be_missing_is_warned_of(tmp_path):
    data = "1\tAda\tB\n2\tsang\tO\n#\ta\tO\n4\tsong\tO\n\n1\t.\tO\n"
    with pytest.warns(UserWarning, match=r"taken for comments \(line 3\)|counted one by one.*\(line 4\)") as warned:
        assert tagged(tmp_path, data, 1, 2) == [(["Ada", "sang", "song"], ["B", "O", "O"]), (["."], ["O"])]
    assert len(warned) == 2


def test_a_first_word_that_a_comment_has_swallowed_is_warned_of(tmp_path):
    data = "# text = a\t1\tAda\tB\n2\tsang\tO\n\n1\t.\tO\n"
    with pytest.warns(UserWarning, match=r"counted one by one.*\(line 2\)"):
        assert tagged(tmp_path, data, 1, 2) == [(["sang"], ["O"]), (["."], ["O"])]


NOT_TAGGED = {
    "missing": (None, (), "cannot read .*: No such file", "check the file"),
    "empty": ("", (), "is empty", "a word and its tag"),
    "no sentence": ("-DOCSTART- -X- O O\n\n", (), "is empty", "a word and its tag"),
    "a lone word": ("a O\n\nb\n", (), "line 3: there are 1 columns", "number 0"),
    "a lone word after CRLF": ("a O\r\n\r\nb O\r\nc\r\n", (), "line 4: there are 1 columns", "line 4"),
    "too few columns": ("a O\nb X O\n", (0, 2), "line 1: there are 2 columns", "number 2"),
    "too few from the end": (
        "a X O\nb O\n",
        (0, -3),
        "line 2: there are 2 columns, 3 in the first line with a word",
        "number 0",
    ),
    "no word": ("a\tO\n\tO\n", (), "line 2: there are 2 columns", "number 0"),
    "no label": ("a\tX\tO\nb\tX\t\n", (), "line 2: there are 3 columns", "number -1"),
    "a row of another width": ("a X O\nb O\n", (), "line 2: there are 2 columns, 3 in the first line", "number 0"),
    "Latin-1": ("Señor O".encode("latin-1"), (), r"is not UTF-8 text \(line 1\)", "iconv"),
}


@pytest.mark.parametrize(("data", "columns", "what", "named"), NOT_TAGGED.values(), ids=NOT_TAGGED)
def test_a_file_without_words_and_labels_is_refused_in_one_line(tmp_path, data, columns, what, named):
    if data is None:
        fails(what, lambda: tagged_text.read_tagged(tmp_path / "some.conll"), named, "some.conll")
    else:
        fails(what, lambda: tagged(tmp_path, data, *columns), named, "some.conll")


# Documents.


@pytest.mark.parametrize("data", [TAGGED_FILES["plain"], TAGGED_FILES["CRLF"], TAGGED_FILES["tabs"]])
def test_marks_part_documents(tmp_path, data):
    (tmp_path / "a.conll").write_bytes(data)
    assert tagged_text.read_documents(tmp_path / "a.conll") == [TAGGED[:2], TAGGED[2:]]


def test_documents_of_conllu_begin_with_newdoc(tmp_path):
    (tmp_path / "a.conllu").write_text(CONLLU + "\n#newdoc id = 2\n# newpar\n1\tSo\tso\tADV\t_\n")
    found = tagged_text.read_documents(tmp_path / "a.conllu", 1, 3)
    assert [len(document) for document in found] == [2, 1]
    assert found[1] == [(["So"], ["ADV"])]


@pytest.mark.parametrize("documents", [[TAGGED], [TAGGED[:2], TAGGED[2:]]])
def test_columns_that_are_written_are_read_again(tmp_path, documents):
    (tmp_path / "a.conll").write_text(tagged_text.as_columns(documents), encoding="utf-8")
    assert tagged_text.read_documents(tmp_path / "a.conll") == documents
    more = [[(words, tags, ["O"] * len(tags)) for words, tags in some] for some in documents]
    (tmp_path / "a.conll").write_text(tagged_text.as_columns(more), encoding="utf-8")
    assert tagged_text.read_documents(tmp_path / "a.conll", 0, 1) == documents


# Schemes.

BY_HAND = {  # BIO, IOB1, BIOES
    "B-X I-X I-X O": ("I-X I-X I-X O", "B-X I-X E-X O"),
    "B-X B-X I-X O": ("I-X B-X I-X O", "S-X B-X E-X O"),
    "B-X B-Y O B-X": ("I-X I-Y O I-X", "S-X S-Y O S-X"),
    "B-X O B-X I-X": ("I-X O I-X I-X", "S-X O B-X E-X"),
    "O B-a-b I-a-b": ("O I-a-b I-a-b", "O B-a-b E-a-b"),
    "NOUN NOUN VERB": ("NOUN NOUN VERB", "NOUN NOUN VERB"),
    "O O": ("O O", "O O"),
}


@pytest.mark.parametrize("bio", BY_HAND)
def test_schemes_by_hand(bio):
    forms = dict(zip(tagged_text.SCHEMES, (bio, *BY_HAND[bio])))
    for given, wanted in itertools.product(forms, repeat=2):
        assert tagged_text.convert(forms[given].split(), wanted) == forms[wanted].split(), (given, wanted)


@pytest.mark.parametrize(("scheme", "theirs"), [("BIO", IOB2), ("IOB1", IOB1), ("BIOES", IOBES)])
def test_tags_in_a_scheme_are_the_same_entities_to_seqeval_in_its_strict_mode(scheme, theirs):
    draw = random.Random(0)
    rows = [draw.choices(["O", "O", "B-X", "I-X", "B-Y", "I-Y"], k=draw.randint(1, 9)) for _ in range(300)]
    found = [tagged_text.convert(row, scheme) for row in rows]
    for row, tags, entities in zip(rows, found, Entities(found, theirs).entities):
        wanted = {(kind, first, last + 1) for kind, first, last in get_entities(row)}
        assert {(entity.tag, entity.start, entity.end) for entity in entities} == wanted
        assert metrics.entities(tags) == wanted


# Real files.

SIZES = {  # sentences, entities or words, documents; as MANIFEST.md has them, and as CoNLL-U's comments count them
    ("wnut17/wnut17train.conll", 0, -1): (3394, 1975, 1),
    ("wnut17/emerging.dev.conll", 0, -1): (1009, 836, 1),
    ("wnut17/emerging.test.annotated", 0, -1): (1287, 1079, 1),
    ("uner_english_ewt/en_ewt-ud-dev.iob2", 1, 2): (2001, 966, 318),
}


@pytest.mark.parametrize("name", SIZES, ids=lambda name: name[0])
def test_real_files_of_entities_are_read_whole(name):
    path = DATA / "ner_pos" / name[0]
    if not path.is_file():
        pytest.skip(f"needs the real data, and {path} is not there; set HOML_TEST_DATA to their folder")
    documents = tagged_text.read_documents(path, *name[1:])
    found = [tags for document in documents for _, tags in document]
    assert (len(found), sum(len(metrics.entities(tags)) for tags in found), len(documents)) == SIZES[name]


UPOS = {
    *("ADJ", "ADP", "ADV", "AUX", "CCONJ", "DET", "INTJ", "NOUN", "NUM"),
    *("PART", "PRON", "PROPN", "PUNCT", "SCONJ", "SYM", "VERB", "X"),
}


def test_real_treebanks_are_read_whole():
    path = DATA / "ner_pos" / "ud_english_ewt" / "en_ewt-ud-test.conllu"
    if not path.is_file():
        pytest.skip(f"needs the real data, and {path} is not there; set HOML_TEST_DATA to their folder")
    text = path.read_text(encoding="utf-8")
    documents = tagged_text.read_documents(path, 1, 3)
    assert len(documents) == text.count("# newdoc id")
    assert sum(map(len, documents)) == 2077 == text.count("# sent_id")
    assert {tag for some in documents for _, tags in some for tag in tags} <= UPOS
