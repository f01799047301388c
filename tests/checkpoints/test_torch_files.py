"""Files of torch.save, read without PyTorch: equal to what PyTorch reads, and nothing in them is run."""

import os
import pickle
import zipfile

import numpy as np
import pytest

from homl_models.checkpoints.torch_files import TorchFile, save
from homl_models.errors import UserError
from tests.conftest import DATA


class Evil:
    """A pickle that runs code when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parity
@pytest.mark.parametrize("archive", [True, False], ids=["archive", "before 1.6"])
def test_tensors_are_those_that_pytorch_reads(archive, tmp_path):
    import torch

    base = torch.arange(24.0).reshape(4, 6)
    saved = {
        "plain": torch.randn(3, 5),
        "transposed": base.T,
        "part": base[1:3, 2:5],
        "again": base,
        "half": torch.randn(4).half(),
        "bfloat16": torch.randn(4).bfloat16(),
        "whole": torch.arange(5),
        "scalar": torch.tensor(3.0),
        "none": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "bool": torch.tensor([True, False]),
        "inner": {"list": [torch.ones(2), 5, "text"]},
        "step": 7,
    }
    torch.save(saved, tmp_path / "x.bin", _use_new_zipfile_serialization=archive)
    found = TorchFile(tmp_path / "x.bin")
    wanted = {name: value for name, value in saved.items() if isinstance(value, torch.Tensor)}
    assert set(found) == {*wanted, "inner.list.0"}
    for name, value in wanted.items():
        assert found[name].dtype.name == str(value.dtype).removeprefix("torch."), name
        assert found.shape(name) == found[name].shape == tuple(value.shape)
        np.testing.assert_array_equal(np.float64(found[name]), value.detach().double().numpy())
    np.testing.assert_array_equal(found["inner.list.0"], [1, 1])


def test_weights_of_a_real_network_are_read_alike():
    path = DATA / "checkpoints" / "realesr-animevideov3.pth"
    if not path.exists():
        pytest.skip(f"needs {path}")
    found, arrays = TorchFile(path), np.load(DATA / "checkpoints" / "realesr_animevideov3.npz")
    ours = [found[name] for name in found]
    assert sum(x.size for x in ours) == 621_424
    theirs = [arrays[name] for name in arrays.files]
    for x, y in zip(sorted(ours, key=lambda x: (x.shape, x.sum())), sorted(theirs, key=lambda x: (x.shape, x.sum()))):
        np.testing.assert_array_equal(x, y)


def test_a_network_pickled_whole_gives_its_tensors():
    path = DATA / "checkpoints" / "vdsr_model_epoch_50.pth"
    if not path.exists():
        pytest.skip(f"needs {path}")
    found = TorchFile(path)
    inner = [f"model.residual_layer.{i}.conv.weight" for i in range(18)]
    assert sorted(found) == sorted(["model.input.weight", *inner, "model.output.weight"])
    assert found["model.input.weight"].shape == (64, 1, 3, 3)
    content, kernel = path.read_bytes(), found[inner[7]]
    assert kernel.tobytes() in content
    assert kernel.shape == (64, 64, 3, 3)


@pytest.mark.parametrize("made", [b")\x81", b"X\x03\x00\x00\x00ran\x85\x81"], ids=["plain", "with arguments"])
def test_objects_of_a_network_are_made_without_their_class(made, tmp_path, monkeypatch):
    """An object and its state, as pickle has them without a call: the class, which is a function, is never asked."""
    monkeypatch.chdir(tmp_path)
    storage = b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI2\ntQ"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"I0\n(I2\nt(I1\ntI00\n(dtR"
    state = b"}(S'_parameters'\n}S'w'\n" + tensor + b"sS'_modules'\nNS'forward'\ncposix\nmkdir\nu"
    with zipfile.ZipFile("x.pth", "w") as file:
        file.writestr("x/data.pkl", b"\x80\x02cposix\nmkdir\n" + made + state + b"b.")
        file.writestr("x/data/0", np.array([5, 7], "float32").tobytes())
    found = TorchFile("x.pth")
    assert list(found) == ["w"]
    np.testing.assert_array_equal(found["w"], [5, 7])
    assert sorted(os.listdir()) == ["x.pth"]


WEIGHTS = {
    "a.weight": np.arange(24, dtype="float32").reshape(2, 3, 4).transpose(0, 2, 1),
    "b": np.float32(3) * np.ones(()),
}


def test_what_is_saved_is_read(tmp_path):
    save(tmp_path / "x.pth", WEIGHTS)
    found = TorchFile(tmp_path / "x.pth")
    assert sorted(found) == ["params.a.weight", "params.b"]
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(found[f"params.{name}"], array)


@pytest.mark.parity
def test_pytorch_reads_what_is_saved(tmp_path):
    import torch

    save(tmp_path / "x.pth", WEIGHTS)
    found = torch.load(tmp_path / "x.pth", weights_only=True)["params"]
    assert list(found) == list(WEIGHTS)
    for name, array in WEIGHTS.items():
        np.testing.assert_array_equal(found[name].numpy(), array)


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "bare pickle"])
def test_code_in_a_file_is_refused_and_not_run(archive, tmp_path):
    code = pickle.dumps({"weight": Evil(tmp_path / "ran")}, protocol=2)
    path = tmp_path / "evil.bin"
    if archive:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("archive/data.pkl", code)
    else:
        path.write_bytes(code)
    with pytest.raises(UserError, match=r"carries (posix|nt)\.mkdir, which is no tensor, and was not run"):
        TorchFile(path)
    assert not (tmp_path / "ran").exists()
    pickle.loads(code)  # it would have
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "opcodes",
    [
        b"cbuiltins\neval\n(S'1/0'\ntR.",
        b"ctorch\nload\n(S'x'\ntR.",
        b"ctorch._utils\n_rebuild_device_tensor_from_numpy\n(tR.",
        b"ccollections\nOrderedDict.__class__\n(tR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(tR.",
    ],
)
def test_only_constructors_of_tensors_are_called(opcodes, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as file:
        file.writestr("x/data.pkl", opcodes)
    with pytest.raises(UserError, match="was not run"):
        TorchFile(tmp_path / "x.bin")


@pytest.mark.parametrize(
    ("offset", "size", "stride"), [(0, 5, 1), (1, 4, 1), (0, 2, 4), (-2, 4, 1), (3, 5, -1), (0, -1, 1)]
)
def test_no_tensor_reads_other_memory_than_its_own(offset, size, stride, tmp_path):
    def written(path, offset, size, stride):
        storage = b"(S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI4\ntQ"
        arguments = storage + b"I%d\n(I%d\nt(I%d\ntI00\n(d" % (offset, size, stride)
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("x/data.pkl", b"(S'x'\nctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tRd.")
            file.writestr("x/data/0", np.arange(4, dtype="float32").tobytes())
        return TorchFile(path)

    np.testing.assert_array_equal(written(tmp_path / "good.bin", 1, 2, 2)["x"], [1, 3])
    with pytest.raises(UserError, match="lies outside of its file"):
        written(tmp_path / "bad.bin", offset, size, stride)["x"]


def test_files_of_other_kinds_are_one_line(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        TorchFile(tmp_path / "none.bin")
    (tmp_path / "text.bin").write_text("hello")
    with pytest.raises(UserError, match="not a file of torch.save, or is broken"):
        TorchFile(tmp_path / "text.bin")


def test_a_real_file_cut_short_is_one_line(tmp_path):
    path = DATA / "checkpoints" / "realesr-animevideov3.pth"
    if not path.exists():
        pytest.skip(f"needs {path}")
    (tmp_path / "cut.bin").write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"cut\.bin (is not a file of torch.save, or is broken|ends too early)"):
        TorchFile(tmp_path / "cut.bin")


@pytest.mark.parity
@pytest.mark.parametrize("archive", [True, False], ids=["archive", "before 1.6"])
def test_files_cut_short_are_one_line(archive, tmp_path):
    import torch

    torch.save({"x": torch.randn(1000)}, tmp_path / "x.bin", _use_new_zipfile_serialization=archive)
    (tmp_path / "cut.bin").write_bytes((tmp_path / "x.bin").read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"cut\.bin (is not a file of torch.save, or is broken|ends too early)"):
        TorchFile(tmp_path / "cut.bin")
