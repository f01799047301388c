"""Tensors of files by `torch.save` (.bin, .pth, .pt), read without PyTorch and without running code in them.

Such a file is a pickle, and a pickle may call anything. This reader accepts dictionaries, lists, tensors, and modules
that were saved whole, whose classes it neither imports nor calls; it refuses the rest by name. It reads both formats:
zip archives, and files of before PyTorch 1.6. `save` writes archives.
"""

import collections
import os
import pickle
import struct
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

    def __setstate__(self, state):
        """Of a parameter of before PyTorch 0.4: its hooks, which are not read."""

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


class _Uncalled(type):
    """Metaclass of stand-ins for classes of the file: instances are made without calling anything."""

    def __call__(cls, *args, **kwargs):
        raise UserError(
            f"{cls.path} carries {cls.__name__}, which is no tensor, and was not run; take weights only, best as "
            "safetensors"
        )


class _Object(metaclass=_Uncalled):
    """An object of the file, of which its state alone is read; a module has its tensors there."""

    def __new__(cls, *args, **kwargs):
        return object.__new__(cls)

    def __setstate__(self, state):
        self.state = state if isinstance(state, dict) else {}

    def tensors(self):
        parts = [getattr(self, "state", {}).get(name) for name in ("_parameters", "_buffers", "_modules")]
        return {name: value for part in parts if isinstance(part, dict) for name, value in part.items()}


class _Unpickler(pickle.Unpickler):
    """Makes dictionaries, `_Tensor`s and `_Object`s, and nothing else."""

    KNOWN = {
        ("torch.nn.parameter", "Parameter"): _parameter,
        ("torch.nn.backends.thnn", "_get_thnn_function_backend"): lambda: None,  # in modules of before PyTorch 1.2
        ("__builtin__", "set"): set,
        ("builtins", "set"): set,
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
            return _Uncalled(f"{module}.{name}", (_Object,), {"path": self.path})
        return self.KNOWN[module, name]

    def persistent_load(self, pid):
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module":  # a class and its source
            return pid[1]
        if not isinstance(pid, tuple) or len(pid) < 5:
            raise UserError(f"{self.path} is not a file of torch.save, or is broken")
        _, kind, key, _, count, *view = pid
        if view and view[0] is not None:
            raise UserError(f"{self.path} has views of storages, which PyTorch no longer writes: save it anew")
        return self.storage(kind, key, count)


def _flat(found, before=""):
    """Nested dictionaries and modules -> pairs of a name and a tensor; numbers and strings are left out."""
    found = found.tensors() if isinstance(found, _Object) else found
    items = enumerate(found) if isinstance(found, (list, tuple)) else found.items() if isinstance(found, dict) else ()
    for name, value in items:
        if isinstance(value, _Tensor):
            yield f"{before}{name}", value
        else:
            yield from _flat(value, f"{before}{name}.")


def save(path, weights):
    """Write {name: float32 array} as `torch.save({"params": ...})` would, an archive that `torch.load` reads."""
    records = {"data.pkl": _pickled(weights), "byteorder": b"little", "version": b"3\n"}
    for i, array in enumerate(weights.values()):
        records[f"data/{i}"] = np.asarray(array, "<f4", order="C").tobytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in records.items():
            archive.writestr(f"archive/{name}", content)


def _pickled(weights):
    """The pickle of {"params": {name: tensor}}: opcodes by hand, since its functions are PyTorch's."""
    opcodes = [b"\x80\x02}", _text("params"), b"}("]
    for i, (name, array) in enumerate(weights.items()):
        strides = [n // 4 for n in np.asarray(array, "<f4", order="C").strides]
        storage = [b"(", _text("storage"), b"ctorch\nFloatStorage\n", _text(str(i)), _text("cpu")]
        opcodes += [_text(name), b"ctorch._utils\n_rebuild_tensor_v2\n(", *storage, _number(array.size), b"tQ"]
        opcodes += [_number(0), _tuple(array.shape), _tuple(strides), b"\x89ccollections\nOrderedDict\n)RtR"]
    return b"".join([*opcodes, b"us."])


def _text(text):
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def _number(n):
    return b"J" + struct.pack("<i", n)


def _tuple(numbers):
    return b"(" + b"".join(map(_number, numbers)) + b"t"
