"""Tensors of files by `torch.save` (.bin, .pth, .pt), read without PyTorch and without running code in them.

Such a file is a pickle, and a pickle may call anything. This reader accepts dictionaries, lists and tensors and refuses
the rest by name. It reads both formats: zip archives, and files of before PyTorch 1.6.
"""

import collections
import os
import pickle
import zipfile

import ml_dtypes
import numpy as np

from homl_models.errors import UserError

DTYPES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
MAGIC = 0x1950A86A20F9469CFC6C  # of files before PyTorch 1.6
PROTOCOL = 1001


class TorchFile(collections.abc.Mapping):
    """Tensors of a file, {name: array}, read lazily.

    Nested dictionaries are joined by dots. `UserError` for a file that is broken, or has anything but tensors.
    """

    def __init__(self, path):
        self.path = os.fspath(path)
        try:
            found = self._archive() if zipfile.is_zipfile(self.path) else self._legacy()
        except UserError:
            raise
        except FileNotFoundError:
            raise UserError(f"there is no file {self.path}") from None
        except Exception as error:  # whatever a broken pickle may raise
            raise UserError(f"{self.path} is not a file of torch.save, or is broken: {error}") from None
        self.tensors = dict(_flat(found))

    def __getitem__(self, name):
        return self.tensors[name].array()

    def __iter__(self):
        return iter(self.tensors)

    def __len__(self):
        return len(self.tensors)

    def shape(self, name):
        return self.tensors[name].shape

    def _archive(self):
        with zipfile.ZipFile(self.path) as archive:
            (name,) = [name for name in archive.namelist() if name.rsplit("/", 1)[-1] == "data.pkl"]
            folder = name[: -len("data.pkl")]

            def storage(kind, key, count):
                return _Storage(kind, count, lambda: _of_archive(self.path, f"{folder}data/{key}"))

            with archive.open(name) as file:
                return _Unpickler(file, self.path, storage).load()

    def _legacy(self):
        storages = {}
        with open(self.path, "rb") as file:

            def storage(kind, key, count):
                return storages.setdefault(key, _Storage(kind, count, None))

            magic, protocol, _ = (_Unpickler(file, self.path, storage).load() for _ in range(3))
            if magic != MAGIC or protocol != PROTOCOL:
                raise UserError(f"{self.path} is not a file of torch.save")
            found = _Unpickler(file, self.path, storage).load()
            for key in _Unpickler(file, self.path, storage).load():
                here = storages[key]
                position = file.tell() + 8  # after the number of elements
                here.read = lambda position=position, n=here.size: _of_file(self.path, position, n)
                file.seek(position + here.size)
            if file.tell() > os.path.getsize(self.path):
                raise UserError(f"{self.path} ends too early: fetch it again")
        return found


def _of_archive(path, name):
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


def _of_file(path, position, size):
    with open(path, "rb") as file:
        file.seek(position)
        return file.read(size)


class _Storage:
    """A flat array in the file, of which tensors are views."""

    def __init__(self, kind, count, read):
        self.dtype, self.read = np.dtype(DTYPES[kind]), read
        self.size = count * self.dtype.itemsize


class _Tensor:
    def __init__(self, storage, offset, shape, strides):
        self.storage, self.offset, self.shape, self.strides = storage, offset, tuple(shape), strides

    def array(self):
        numbers = np.frombuffer(self.storage.read(), self.storage.dtype)
        extents = (self.offset, *self.shape, *self.strides)
        whole = len(self.shape) == len(self.strides) and all(isinstance(n, int) and n >= 0 for n in extents)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides)) if whole else -1
        if not whole or (0 not in self.shape and last >= len(numbers)):  # what follows would read other memory
            raise UserError("a tensor lies outside of its file: fetch it again")
        strides = [s * self.storage.dtype.itemsize for s in self.strides]
        return np.array(np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides))


def _tensor(storage, offset, shape, strides, *more):
    return _Tensor(storage, offset, shape, strides)


def _parameter(tensor, *more):
    return tensor


class _Unpickler(pickle.Unpickler):
    """Makes dictionaries and `_Tensor`s, and nothing else."""

    KNOWN = {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor"): _tensor,
        ("torch._utils", "_rebuild_tensor_v2"): _tensor,
        ("torch._utils", "_rebuild_parameter"): _parameter,
    }

    def __init__(self, file, path, storage):
        super().__init__(file, encoding="latin1")
        self.path, self.storage = path, storage

    def find_class(self, module, name):
        if module == "torch" and name in DTYPES:
            return name
        if (module, name) not in self.KNOWN:
            raise UserError(
                f"{self.path} carries {module}.{name}, which is no tensor, and was not run; take weights only, best as "
                "safetensors"
            )
        return self.KNOWN[module, name]

    def persistent_load(self, pid):
        if not isinstance(pid, tuple) or len(pid) < 5:
            raise UserError(f"{self.path} is not a file of torch.save, or is broken")
        _, kind, key, _, count, *view = pid
        if view and view[0] is not None:
            raise UserError(f"{self.path} has views of storages, which PyTorch no longer writes: save it anew")
        return self.storage(kind, key, count)


def _flat(found, before=""):
    """Nested dictionaries -> pairs of a name and a tensor; numbers and strings are left out."""
    items = enumerate(found) if isinstance(found, (list, tuple)) else found.items() if isinstance(found, dict) else ()
    for name, value in items:
        if isinstance(value, _Tensor):
            yield f"{before}{name}", value
        else:
            yield from _flat(value, f"{before}{name}.")
