"""Damaged files of every format that a command takes: the right result, or one line that says what is wrong.

Files are made valid, then written in other ways that mean the same, where the result is known, or damaged: bytes
changed, cut, moved, encoded anew. HOML_FUZZ, 1 unless set, multiplies the number of examples: 60 take about an hour.
"""

import codecs
import contextlib
import csv
import gzip
import io
import json
import os
import sys
import unicodedata
import warnings
import zipfile

import hypothesis
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import strategies as st
from PIL import Image

from homl_models import predict
from homl_models.errors import UserError
from homl_models.pipelines import images, lines, tables, tagged_text, text_files, text_windows, translation

pytestmark = pytest.mark.slow
TIMES = float(os.environ.get("HOML_FUZZ", "1"))


def fuzz(examples, **given):
    """Run a test on so many examples, without a limit of time for one: the same each time, others with HOML_FUZZ."""

    def decorated(test):
        checks = list(hypothesis.HealthCheck)
        settings = hypothesis.settings(
            max_examples=max(1, int(examples * TIMES)),
            derandomize="HOML_FUZZ" not in os.environ,
            deadline=None,
            suppress_health_check=checks,
            database=None,
        )
        return settings(hypothesis.given(**given)(test))

    return decorated


def attempt(read, *arguments):
    """(result, messages of warnings), or (None, message of the refusal); any other exception is a finding."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        try:
            value = read(*arguments)
        except UserError as error:
            message = str(error)
            assert message.strip(), "nothing is said"
            assert "\n" not in message, message
            return None, message
    return value, "\n".join(str(w.message) for w in found if issubclass(w.category, UserWarning))


# What happens to files.

ENDS = st.sampled_from(["\n", "\r\n", "\r"])
HOSTILE = b"\0\r\n\t ,;|\"'#\\-\x0b\x0c\x1c\x85\xa0\xc3\xa9\xff\xfe\xef\xbb\xbf{}[]0"


@st.composite
def one_byte(draw, data):
    """Another byte at one place, or one more, or one less."""
    place, byte = draw(st.integers(0, len(data) - 1)), bytes([draw(st.sampled_from(HOSTILE) | st.integers(0, 255))])
    return draw(
        st.sampled_from(
            [
                data[:place] + byte + data[place + 1 :],
                data[:place] + byte + data[place:],
                data[:place] + data[place + 1 :],
            ]
        )
    )


@st.composite
def damaged(draw, data):
    """Anything: some bytes changed, a part cut out, doubled or moved, all of it encoded or packed in another way."""
    for _ in range(draw(st.integers(1, 4))):
        first, last = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
        part = data[first:last]
        kind = draw(st.sampled_from(["byte", "byte", "cut", "end", "double", "insert", "zeros", "encode", "pack"]))
        if kind == "byte" and data:
            data = draw(one_byte(data))
        elif kind == "cut":
            data = data[:first] + data[last:]
        elif kind == "end":
            data = data[:last]
        elif kind == "double":
            data = data[:last] + part[:200] + data[last:]
        elif kind == "insert":
            data = data[:first] + draw(st.binary(max_size=20)) + data[first:]
        elif kind == "zeros":
            data = data[:first] + bytes(len(part)) + data[last:]
        elif kind == "encode":
            encoding = draw(st.sampled_from(["latin-1", "utf-16", "utf-16-le", "utf-32", "utf-8-sig", "cp1252"]))
            data = data.decode("utf-8", "replace").encode(encoding, "replace")
        elif kind == "pack":
            data = gzip.compress(data, mtime=0)
    return data


@st.composite
def written(draw, text):
    """The bytes of a text, whose lines end with a line feed, in a way that means the same."""
    data = text.replace("\n", draw(ENDS)).encode()
    data = draw(st.sampled_from([b"", codecs.BOM_UTF8])) + data
    return gzip.compress(data, mtime=0) if draw(st.booleans()) else data


def characters_of(*, without):
    """Characters of every sort, but those that have a meaning in a format, and NUL."""
    return st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n" + without)


INSIDE = st.sampled_from(
    ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\u00a0", "\ufeff", "é", "\u0301", "I", "İ"]
)


def fields(without=""):
    """Texts that hold something and neither begin nor end with spaces."""
    letters = st.text(
        characters_of(without=without) | INSIDE.filter(lambda c: c not in without), min_size=1, max_size=12
    )
    return letters.map(str.strip).filter(bool)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")

    def write(name, data):
        (folder / name).write_bytes(data)
        return folder / name

    return write


# Lines.


@fuzz(400, data=st.data(), rows=st.lists(st.text(characters_of(without="") | INSIDE), min_size=1))
def test_lines_are_those_that_were_written(place, data, rows):
    rows[0] = rows[0].lstrip("\ufeff")
    rows[-1] = rows[-1] or "."  # or else it is the end of the one before
    written_so = data.draw(written("\n".join(rows) + data.draw(st.sampled_from(["", "\n"]))))
    assert attempt(lambda: lines.split(lines.read(place("lines.txt", written_so)))) == (rows, "")
    assert attempt(lambda: list(lines.read_stream(io.BytesIO(written_so), "it"))) == (rows, "")


@fuzz(400, data=st.data())
def test_a_file_and_a_stream_of_any_bytes_are_the_same_lines_or_refused(place, data):
    given = data.draw(damaged("One é\ntwo\u2028three\r\n\n four\rfive".encode()))
    by_file, _ = attempt(lambda: lines.split(lines.read(place("any.txt", given))))
    by_stream, _ = attempt(lambda: list(lines.read_stream(io.BytesIO(given), "it")))
    assert by_file == by_stream


# Texts and documents.


@fuzz(200, data=st.data(), documents=st.lists(st.lists(fields(), min_size=2, max_size=4), min_size=1, max_size=4))
def test_documents_are_those_that_were_written(place, data, documents):
    documents[0][0] = documents[0][0].lstrip("\ufeff") or "."
    text = "\n\n".join("\n".join(document) for document in documents)
    path = place("documents.txt", data.draw(written(text)))
    assert attempt(text_files.read_documents, path) == ([[line.strip() for line in one] for one in documents], "")
    assert attempt(text_windows.read_text, path) == (text, "")


@fuzz(300, data=st.data())
def test_a_damaged_text_is_read_or_refused(place, data):
    path = place("some.txt", data.draw(damaged("Here is one. And two?\nThrée!\n\nA second.\n".encode())))
    for found, _ in (attempt(text_files.read_documents, path), attempt(text_windows.read_text, path)):
        assert found is None or len(found)
        assert found is None or isinstance(found, str) or all(line for document in found for line in document)


# Tables.


@fuzz(
    400,
    data=st.data(),
    rows=st.lists(st.tuples(fields("<>"), st.sampled_from(["good", "bad"])), min_size=2, max_size=6),
)
def test_tables_are_those_that_were_written(place, data, rows):
    """By Python's own writer."""
    rows = [(text.replace("x", "\n"), label) for text, label in rows if text.strip("x")]
    names = data.draw(st.permutations(["text", "label", "id"]))
    stream = io.StringIO()
    quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]))
    writer = csv.writer(stream, delimiter=data.draw(st.sampled_from(",;\t|")), quoting=quoting, lineterminator="\n")
    writer.writerows(
        [names, *([{"text": a, "label": b, "id": i}[name] for name in names] for i, (a, b) in enumerate(rows))]
    )
    found, said = attempt(
        tables.read, place("t.csv", data.draw(written(stream.getvalue()))), ["text", "label"], "label"
    )
    if found is None:
        assert not rows or "ends on line" in said  # all lines of a text would be rows
    else:
        assert found == [[text.strip() for text, _ in rows], [label for _, label in rows]]


TABLE = "text,label\n" + "".join(f'"Row {i}, yes",good\nRow {i},bad\n' for i in range(6))


@fuzz(600, data=st.data())
def test_no_row_of_a_table_goes_missing_by_one_byte(place, data):
    found, _ = attempt(tables.read, place("t.csv", data.draw(one_byte(TABLE.encode()))), ["text", "label"], "label")
    assert found is None or len(found[0]) == len(found[1]) == 12


@fuzz(400, data=st.data())
def test_a_damaged_table_is_read_or_refused(place, data):
    path = place("t.csv", data.draw(damaged(TABLE.encode())))
    for read in (text_files.read_labelled, text_files.read_documents):
        found, _ = attempt(read, path)
        assert found is None or all(all(column) for column in found)


# Words with labels.

TAGS = st.sampled_from(["O", "B-X", "I-X", "E-X", "S-Y"])
WORDS = fields(" \t\u3000").filter(lambda word: not word.startswith(("#", "-DOCSTART-", "\ufeff")))


@fuzz(300, data=st.data(), sentences=st.lists(st.lists(st.tuples(WORDS, TAGS), min_size=1), min_size=1))
def test_tagged_words_are_those_that_were_written(place, data, sentences):
    kind, between = data.draw(st.sampled_from(["two", "four", "conllu"])), data.draw(st.sampled_from("\t "))
    text, between = "", "\t" if kind == "conllu" else between
    for sentence in sentences:
        text += data.draw(st.sampled_from(["", f"# sent{between}id{between}={between}1{between}of{between}many\n"]))
        for i, (word, tag) in enumerate(sentence, 1):
            columns = {"two": [word, tag], "four": [word, "NN", "_", tag]}.get(
                kind, [str(i), word, *"______", tag, "_"]
            )
            if kind == "conllu" and data.draw(st.booleans()):
                text += "\t".join([f"{i}-{i + 1}", "x", *"________"]) + "\n"
            text += between.join(columns) + "\n"
        text += "\n" + data.draw(st.sampled_from(["", " \n", "-DOCSTART- -X- O O\n\n"]))
    found, said = attempt(
        tagged_text.read_tagged, place("t.conll", data.draw(written(text))), *((1, -2) if kind == "conllu" else ())
    )
    numbers = kind == "four" and all(
        word.replace(".", "").replace("-", "").isdigit() for s in sentences for word, _ in s
    )
    assert found == [tuple(map(list, zip(*sentence))) for sentence in sentences] or (numbers and "counts" in said), said


CONLL = "-DOCSTART- -X- O O\n\n" + "Ada NNP I-NP B-PER\n# # O O\nBonn NNP I-NP B-LOC\n. . O O\n\n" * 3
CONLLU = "# text = a\n" + "1\tAda\tB-PER\n2\tging\tO\n3\tzum\tO\n4\tAmt\tO\n\n" * 3


@fuzz(600, data=st.data(), which=st.sampled_from([(CONLL, 0, -1), (CONLLU, 1, 2)]))
def test_no_word_goes_missing_by_one_byte_without_a_word(place, data, which):
    found, said = attempt(tagged_text.read_tagged, place("t.conll", data.draw(one_byte(which[0].encode()))), *which[1:])
    assert found is None or said or sum(len(words) for words, _ in found) >= 12


@fuzz(400, data=st.data(), which=st.sampled_from([(CONLL, 0, -1), (CONLL, -1, 0), (CONLLU, 1, 2), (CONLLU, 0, 7)]))
def test_damaged_words_are_read_or_refused(place, data, which):
    found, _ = attempt(tagged_text.read_tagged, place("t.conll", data.draw(damaged(which[0].encode()))), *which[1:])
    assert found is None or all(len(words) == len(labels) and all(words) and all(labels) for words, labels in found)


# Questions.

QUESTIONS = [
    {"question": f"Where is {i}?", "id": str(i), "answers": [{"text": "Bønn", "answer_start": 4}]} for i in range(3)
]
SQUAD = {"data": [{"paragraphs": [{"context": "It: Bønn. And more.", "qas": QUESTIONS}]}]}
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just([]) | st.just({})


@st.composite
def changed_json(draw, value):
    """A value of JSON in which one is another, missing or of another type."""
    value, path = json.loads(json.dumps(value)), []
    at = value
    while isinstance(at, (dict, list)) and at and (not path or draw(st.integers(0, 4))):
        path.append((at, draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))))
        at = path[-1][0][path[-1][1]]
    holder, key = path[-1]
    if draw(st.booleans()):
        del holder[key]
    else:
        holder[key] = draw(VALUES)
    return value


@fuzz(400, data=st.data())
def test_questions_are_read_or_refused(place, data):
    text = data.draw(st.sampled_from([json.dumps, lambda x: json.dumps(x, ensure_ascii=False, indent=1)]))(
        data.draw(changed_json(SQUAD)) if data.draw(st.booleans()) else SQUAD
    )
    raw = data.draw(written(text) | damaged(text.encode()))
    found, _ = attempt(text_files.read_questions, place("q.json", raw))
    for question, context, answers in found or ():
        assert isinstance(question, str)
        assert all(context[start:].startswith(answer) and answer for start, answer in answers)
        (question + context).encode()
    if raw == text.encode() and text == json.dumps(SQUAD):
        assert len(found) == 3


# Pairs.

PAIRS = [(f"This is number {i}.", f"Esto es el número {i}.") for i in range(12)]


@fuzz(300, data=st.data(), pairs=st.lists(st.tuples(fields("\t"), fields("\t")), min_size=1, max_size=6))
def test_pairs_are_those_that_were_written(place, data, pairs):
    pairs = [tuple(side.replace("\ufeff", "") or "." for side in pair) for pair in pairs]
    pairs = [tuple(side.strip() or "." for side in pair) for pair in pairs]
    raw = data.draw(written("".join(f"{source}\t{target}\n" for source, target in pairs)))
    if data.draw(st.booleans()):
        stream = io.BytesIO()
        method = data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]))
        with zipfile.ZipFile(stream, "w", method) as archive:
            archive.writestr("__MACOSX/._pairs.txt", b"\0" * 9999)
            archive.writestr("a/pairs.TXT", raw if raw[:2] != lines.GZIP else gzip.decompress(raw))
        raw = stream.getvalue()
    assert attempt(translation.read_pairs, place("pairs", raw)) == (pairs, "")


@fuzz(600, data=st.data())
def test_no_pair_goes_missing_by_one_byte_without_a_word(place, data):
    raw = data.draw(one_byte("".join(f"{source}\t{target}\n" for source, target in PAIRS).encode()))
    found, said = attempt(translation.read_pairs, place("pairs.tsv", raw))
    assert found is None or said or len(found) == 12


@fuzz(300, data=st.data(), method=st.sampled_from([zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, None]))
def test_damaged_pairs_are_read_or_refused(place, data, method):
    raw = "".join(f"{source}\t{target}\n" for source, target in PAIRS).encode()
    if method is not None:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as archive:
            archive.writestr("pairs.txt", raw)
        raw = stream.getvalue()
    found, _ = attempt(translation.read_pairs, place("pairs", data.draw(damaged(raw))))
    assert found is None or all(source and target for source, target in found)


@fuzz(300, text=st.text() | fields())
def test_a_sentence_is_compared_in_one_form(text):
    forms = {translation.normalized(unicodedata.normalize(form, text)) for form in ("NFC", "NFD", "NFKC", "NFKD")}
    assert len(forms) == 1
    assert bool(text) == bool(forms.pop())


# Images.

MODES = "1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "F"
FORMATS = {"png": MODES[:6], "jpg": ("L", "RGB", "CMYK"), "bmp": ("1", "L", "P", "RGB"), "gif": ("L", "P", "RGB"),
           "webp": ("RGB", "RGBA"), "tif": MODES}  # fmt: skip


@st.composite
def image_files(draw):
    """(suffix, bytes) of an image of some mode, size and format."""
    suffix = draw(st.sampled_from(sorted(FORMATS)))
    size = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    mode = draw(st.sampled_from(FORMATS[suffix]))
    bands = len(Image.new(mode, (1, 1)).getbands())
    image = Image.new(mode, size, (9, 99, 199, 80)[:bands] if bands > 1 else draw(st.integers(0, 1)))
    stream = io.BytesIO()
    image.save(stream, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
    return suffix, stream.getvalue()


@fuzz(250, data=st.data(), some=st.lists(image_files(), min_size=1, max_size=4), channels=st.sampled_from([1, 3]))
def test_no_image_of_a_folder_goes_missing_without_a_word(tmp_path_factory, data, some, channels):
    folder = tmp_path_factory.mktemp("images")
    raw = [data.draw(st.one_of(st.just(one), damaged(one))) for _, one in some]
    for i, ((suffix, _), one) in enumerate(zip(some, raw)):
        (folder / f"{i}.{suffix}").write_bytes(one)
    found, said = attempt(images.read_folder, folder, (5, 6), channels)
    sound = raw == [one for _, one in some]
    if found is None:
        assert not sound, said
        return
    assert found.images.shape == (len(found.images), 5, 6, *([3] if channels == 3 else []))
    assert found.images.dtype == np.uint8
    missing = len(some) - len(found.images)
    assert not missing or (f"{missing} of {len(some)} " in said and not sound), said


ARRAYS = st.tuples(
    st.lists(st.integers(0, 5), max_size=5),
    st.sampled_from(["uint8", "int64", "float32", "float64", "float16", "bool", "complex64", "<U3", "uint16", "int8"]),
)


@fuzz(
    400,
    data=st.data(),
    image=ARRAYS,
    labels=ARRAYS,
    kind=st.sampled_from(["npy", "npz"]),
    channels=st.sampled_from([1, 3]),
)
def test_arrays_of_images_are_taken_or_refused(place, data, image, labels, kind, channels):
    arrays = [np.full(shape, 1).astype(dtype) for shape, dtype in (image, labels)]
    if arrays[0].dtype.kind == "f" and arrays[0].size and data.draw(st.booleans()):
        arrays[0].flat[0] = data.draw(st.sampled_from([np.nan, np.inf, -1, 255, 0.5]))
    stream = io.BytesIO()
    if kind == "npy":
        np.save(stream, arrays[0])
    else:
        name = data.draw(st.sampled_from(["images", "x", "x_train"]))
        np.savez(stream, **{name: arrays[0]}, **({"labels": arrays[1]} if data.draw(st.booleans()) else {}))
    raw = stream.getvalue()
    path = place(f"a.{kind}", data.draw(st.one_of(st.just(raw), damaged(raw))))
    found, _ = attempt(images.read_array, path, None, channels)
    if found is not None:
        assert found.images.dtype in (np.uint8, np.float32)
        assert len(found.images) == len(found.labels) > 0
        assert found.images.dtype == np.uint8 or (found.images.min() >= 0 and found.images.max() <= 1)


# Weights.

SETTINGS = {"vocab_size": 12, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
SETTINGS |= {"intermediate_size": 8, "max_position_embeddings": 16}
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefg"]
SMALL = st.none() | st.booleans() | st.integers(-2, 40) | st.text(max_size=3) | st.just([]) | st.just({})
ODD = SMALL | st.sampled_from([float("nan"), 0.5, "8", "gelu_python", "nothing", ["a"], {"0": "a"}])


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The files of a folder of weights, {name: bytes}."""
    from homl_models.checkpoints.huggingface import from_pretrained, save_pretrained
    from homl_models.models import Bert, BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("weights")
    model = BertForSequenceClassification(Bert(BertConfig(**SETTINGS)), num_labels=2, vocabulary=tuple(VOCABULARY))
    model.build()
    save_pretrained(model, folder)
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert attempt(from_pretrained, folder)[0] is not None
    return found | {"tokenizer_config.json": json.dumps({"do_lower_case": True, "strip_accents": None}).encode()}


@fuzz(150, data=st.data())
def test_a_damaged_folder_of_weights_is_read_or_refused(tmp_path_factory, pretrained, data):
    from homl_models.checkpoints.huggingface import from_pretrained

    folder, files = tmp_path_factory.mktemp("weights"), dict(pretrained)
    for name in data.draw(st.lists(st.sampled_from(sorted(files)), min_size=1, max_size=2, unique=True)):
        if name == "config.json" and data.draw(st.booleans()):
            config = json.loads(files[name])
            config[data.draw(st.sampled_from(sorted(config)))] = data.draw(ODD)
            files[name] = json.dumps(config).encode()
        elif name == "tokenizer_config.json" and data.draw(st.booleans()):
            keys = st.sampled_from(
                ["do_lower_case", "strip_accents", "tokenize_chinese_chars", "tokenizer_class", "unk_token"]
            )
            files[name] = json.dumps({data.draw(keys): data.draw(ODD)}).encode()
        elif name.endswith(".safetensors") and data.draw(st.booleans()):
            tensors = safetensors.numpy.load(files[name])
            key = data.draw(st.sampled_from(sorted(tensors)))
            tensor = tensors.pop(key)
            change = data.draw(st.sampled_from([lambda x: x[:-1], lambda x: x.astype("float16"), lambda x: x[None]]))
            renamed = data.draw(st.sampled_from([key, f"module.{key}", "other", None]))
            files[name] = safetensors.numpy.save(tensors | ({renamed: change(tensor).copy()} if renamed else {}))
        else:
            files[name] = data.draw(damaged(files[name]))
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
    model, _ = attempt(from_pretrained, folder)
    if model is not None:
        assert all(np.isfinite(np.asarray(w)).all() or "weights" in str(files) for w in model.get_weights())


# The command.


@fuzz(12, data=st.data(), by_file=st.booleans())
def test_predict_translates_line_by_line_or_refuses_in_one_line(exported, place, data, by_file):
    raw = data.draw(st.one_of(written("May 3, 1999\n\n4 June\u20282001"), damaged(b"May 3, 1999\r4 June 2001\r\n")))
    path, out, err = place("lines.txt", raw), io.StringIO(), io.StringIO()
    stdin = io.TextIOWrapper(io.BytesIO(raw), "ascii")
    words = [str(exported("dates_tiny")), "translate", *(["--file", str(path)] if by_file else [])]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "stdin", stdin)
        status = predict.main(words)
    expected, said = attempt(lambda: lines.split(lines.read(path)))
    if status == 0:
        assert out.getvalue().count("\n") == len(expected)
    else:
        assert status == 2
        assert err.getvalue().startswith("error: ")
        assert err.getvalue().count("\n") == 1
        assert not expected or "read" in err.getvalue(), said
