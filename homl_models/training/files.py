"""Atomic writes, files with checksums, digests."""

import contextlib
import hashlib
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np

from homl_models.errors import UserError


@contextlib.contextmanager
def atomic_write(path):
    """Atomic write: a temporary path beside `path`, renamed to `path` on success, removed on failure.

    Makes the folder of `path`. Replaces a file; a folder only if it is not there yet.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".aside-{os.getpid()}-{path.name}")
    try:
        yield aside
        if aside.is_file():
            with open(aside, "rb") as file:
                os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        remove(aside)
        raise


def remove(path):
    """Remove a file or a folder, or nothing if it is not there."""
    if Path(path).is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        Path(path).unlink(missing_ok=True)


def remove_leftovers(folder):
    """Remove the temporary files of a killed process."""
    for path in list(Path(folder).rglob(".aside-*")):
        remove(path)


def write_json(path, value):
    with atomic_write(path) as aside:
        aside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path):
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); is this a run folder?") from error


def digest(value):
    """SHA-256, as text, of arrays, strings, numbers and None, in tuples, lists and dictionaries of any depth."""
    found = hashlib.sha256()

    def add(value):
        if isinstance(value, (tuple, list)):
            found.update(f"[{len(value)}".encode())
            for part in value:
                add(part)
        elif isinstance(value, dict):
            add(list(value.items()))
        elif isinstance(value, np.ndarray):
            found.update(f"{value.dtype}{value.shape}".encode())
            found.update(np.ascontiguousarray(value).data)
        else:
            found.update(f"{type(value).__name__}{value!r}".encode("utf-8", "surrogatepass"))

    add(value)
    return found.hexdigest()


def write_arrays(path, arrays, info):
    """Arrays {name: array} and a JSON value into one .npz, whose checksums `read_arrays` verifies."""
    encoded = np.frombuffer(json.dumps(info).encode(), np.uint8)
    with atomic_write(path) as aside, open(aside, "wb") as file:
        np.savez(file, info=encoded, **arrays)


def read_arrays(path):
    """Arrays {name: array} and info of a file of `write_arrays`. Raises `zipfile.BadZipFile` if any byte is wrong."""
    with zipfile.ZipFile(path) as archive:
        if bad := archive.testzip():
            raise zipfile.BadZipFile(f"checksum of {bad} does not match")
    with np.load(path) as file:
        arrays = dict(file)
    return arrays, json.loads(arrays.pop("info").tobytes())
