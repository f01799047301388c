"""The reader of text: decoding, line ends, and the text files of a folder."""

import codecs
import gzip
import io
import warnings

import pytest

from homl_models.pipelines import lines
from tests.checks import fails

INSIDE = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"  # where str.splitlines ends a line too
LINES = ["One é", f"two{INSIDE}", "", " three \t", "", "fi\u00adve"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=ascii)
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_a_file_and_a_stream_have_the_same_lines(tmp_path, end, last, pack, mark):
    data = pack(mark + (end.join(LINES) + end * last).encode())
    (tmp_path / "a").write_bytes(data)
    assert lines.read(tmp_path / "a") == "\n".join(LINES) + "\n" * last
    assert lines.split(lines.read(tmp_path / "a")) == LINES
    assert list(lines.read_stream(io.BytesIO(data), "it")) == LINES


def test_lines_of_a_stream_are_yielded_one_by_one():
    def stream():
        yield b"one\r\n"
        raise KeyboardInterrupt

    assert next(lines.read_stream(stream(), "it")) == "one"


def test_text_without_lines_has_none():
    assert lines.split("") == list(lines.read_stream(io.BytesIO(b""), "it")) == []
    assert lines.split("\n") == list(lines.read_stream(io.BytesIO(b"\n"), "it")) == [""]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a\r\nb\rc\né".encode("latin-1"), r"it is not UTF-8 text \(line 4\)"),
        (b"a\nb\rc\0", r"it looks binary \(line 3 holds a NUL"),
        ("a".encode("utf-16"), r"it is not UTF-8 text \(line 1: it is UTF-16\)"),
        (b"a\n" + codecs.BOM_UTF8 + b"\xff", r"\(line 2\)"),
        (gzip.compress(b"a\n\xff", mtime=0), r"it is not UTF-8 text \(line 2\)"),
        (gzip.compress(b"a" * 999, mtime=0)[:-9], "cannot read it: "),
    ],
    ids=repr,
)
def test_invalid_text_is_refused_with_its_line(tmp_path, data, message):
    fails(message, lambda: list(lines.read_stream(io.BytesIO(data), "it")))
    (tmp_path / "it").write_bytes(data)
    fails(message.replace("it ", ".*it ", 1).replace("read it", "read .*it"), lambda: lines.read(tmp_path / "it"))


def test_an_invalid_file_name_is_refused():
    fails("cannot read a", lambda: lines.read("a\0b"))


def test_text_files_of_a_folder_are_found_through_links_and_never_twice(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "b.TXT").write_text("")
    (tmp_path / "far" / "back").symlink_to(tmp_path / "here")
    for hidden in ("here/.ipynb_checkpoints/c.txt", "here/._a.txt", "here/a.txt.gz"):
        (tmp_path / hidden).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / hidden).write_bytes(b"")
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "far")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = lines.files(tmp_path / "here")
    assert found == [tmp_path / "here" / "a.txt.gz", tmp_path / "here" / "linked" / "b.TXT"]
