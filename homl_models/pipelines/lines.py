r"""The one reader of text files and streams: UTF-8, plain or gzipped, split into lines.

A byte order mark is dropped. A line ends with \n, \r\n or \r only: U+2028, U+0085 and form feeds, where
`str.splitlines` splits too, are kept within lines.
"""

import codecs
import gzip
import os
import re
import warnings
import zlib
from pathlib import Path

from homl_models.errors import UserError

GZIP = b"\x1f\x8b"


def read(path):
    r"""Text of a file, with \n as line ends; `UserError` if it is unreadable, not UTF-8, or binary."""
    return decode(read_bytes(path), path)


def split(text):
    """Text -> lines without line ends; the last line may lack one."""
    lines = re.split("\r\n|\r|\n", text)
    return lines if lines[-1] else lines[:-1]


def read_stream(stream, name):
    """Lines of a binary stream, each yielded as soon as it arrives; `UserError` as in `read`."""
    number = 1
    for data in stream:
        if number == 1 and data.startswith(GZIP):
            data = decompress(data + stream.read(), name)
        for line in split(decode(data, name, number)):
            yield line
            number += 1


def read_bytes(path):
    """Bytes of a file, decompressed if it is gzipped; `UserError` if it cannot be read."""
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # the latter: an invalid name, e.g. with NUL
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}; check the file") from error
    return decompress(data, path)


def decompress(data, name):
    """Bytes, decompressed if they are gzipped; `UserError` that names them if they are damaged."""
    if not data.startswith(GZIP):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {name}: {error}; check the file") from error


def decode(data, name, number=1):
    r"""UTF-8 bytes -> text with \n as line ends, or a `UserError` with `name` and line. number: of the first line."""

    def line_number(before):
        return number + len(re.findall(b"\r\n|\r|\n", before))

    if number == 1:
        data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        utf_16 = ": it is UTF-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ""
        where = line_number(data[: error.start])
        raise UserError(f"{name} is not UTF-8 text (line {where}{utf_16}); convert it, e.g. with iconv") from error
    if "\0" in text:
        where = line_number(data[: data.index(b"\0")])
        raise UserError(f"{name} looks binary (line {where} holds a NUL character); give a text file")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def files(path):
    """Text files at `path`: the file itself, or all .txt and .txt.gz files below a folder, sorted.

    Hidden files and folders are skipped; other files are skipped and counted in a warning. Links are followed.
    `UserError` for a folder without text files, or that cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    found, others, visited = [], [], set()
    for folder, inside, names in os.walk(path, followlinks=True, onerror=_refuse):
        known = os.path.realpath(folder) in visited  # a circular link
        visited.add(os.path.realpath(folder))
        inside[:] = [] if known else [name for name in inside if not name.startswith(".")]
        for name in [] if known else names:
            if not name.startswith("."):
                text = name.lower().endswith((".txt", ".txt.gz"))
                (found if text else others).append(Path(folder, name))
    if not found:
        raise UserError(f"{path} holds no .txt or .txt.gz file; name a text file or a folder with some")
    if others:
        message = f"{path}: {len(others)} files that are not .txt or .txt.gz are left out, such as {min(others).name}"
        warnings.warn(message, stacklevel=3)
    return sorted(found)


def _refuse(error):
    raise UserError(f"cannot read {error.filename}: {error.strerror}; check its permissions")
