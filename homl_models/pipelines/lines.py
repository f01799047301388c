r"""The one reader of text: files and streams to text, text to lines.

Text is UTF-8, also gzipped; a byte order mark at its beginning is dropped. A line ends with \n, \r\n or \r, and with
nothing else: U+2028, U+0085 and form feeds, where `str.splitlines` ends one too, stand within lines.
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
    r"""The text of a file, each of its lines ended by \n. `UserError` if it cannot be read, is not UTF-8, or binary."""
    return decode(read_bytes(path), path)


def split(text):
    """Text -> its lines, without their ends. The last line may have an end or not."""
    lines = re.split("\r\n|\r|\n", text)
    return lines if lines[-1] else lines[:-1]


def read_stream(stream, name):
    """The lines of a binary stream, each as soon as it has come."""
    number = 1
    for data in stream:
        if number == 1 and data.startswith(GZIP):
            data = unzipped(data + stream.read(), name)
        for line in split(decode(data, name, number)):
            yield line
            number += 1


def read_bytes(path):
    """The bytes of a file, decompressed if it is gzipped."""
    try:
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:  # the latter: a name that no file can have
        raise UserError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}; check the file") from error
    return unzipped(data, path)


def unzipped(data, name):
    if not data.startswith(GZIP):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {name}: {error}; check the file") from error


def decode(data, name, number=1):
    r"""Bytes -> text whose lines end with \n. name: what messages call it; number: that of its first line."""

    def line(before):
        return number + len(re.findall(b"\r\n|\r|\n", before))

    if number == 1:
        data = data.removeprefix(codecs.BOM_UTF8)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        utf_16 = ": it is UTF-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ""
        where = line(data[: error.start])
        raise UserError(f"{name} is not UTF-8 text (line {where}{utf_16}); convert it, e.g. with iconv") from error
    if "\0" in text:
        where = line(data[: data.index(b"\0")])
        raise UserError(f"{name} looks binary (line {where} holds a NUL character); give a text file")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def files(path):
    """The files of texts that `path` stands for: itself, or, below a folder, all .txt and .txt.gz in order.

    Hidden files and folders are left out; others that are left out are counted in a warning. Links are followed.
    """
    path = Path(path)
    if not path.is_dir():
        return [path]
    found, others, seen = [], [], set()
    for folder, inside, names in os.walk(path, followlinks=True, onerror=_refuse):
        known = os.path.realpath(folder) in seen  # by a link that leads back
        seen.add(os.path.realpath(folder))
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
