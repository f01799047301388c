"""ONNX files, run by onnxruntime."""

import sys

import keras
import numpy as np
import pytest

from homl_models import export
from homl_models.checkpoints import onnx as ours
from homl_models.errors import UserError
from homl_models.models.rrdb import RRDBNet
from homl_models.models.srvgg import SRVGGNetCompact
from homl_models.models.vdsr import VDSR
from tests import checks

NETWORKS = {
    "RRDBNet": lambda: RRDBNet(filters=8, num_blocks=2, growth=4),
    "RRDBNet, scale 2, unshuffled": lambda: RRDBNet(scale=2, filters=8, num_blocks=1, growth=4),
    "RRDBNet, scale 1, grey": lambda: RRDBNet(scale=1, filters=4, num_blocks=1, growth=2, channels=1),
    "SRVGGNetCompact": lambda: SRVGGNetCompact(filters=8, num_convs=2),
    "SRVGGNetCompact, scale 3": lambda: SRVGGNetCompact(scale=3, filters=8, num_convs=1, channels=1),
}


def built(name):
    keras.utils.set_random_seed(0)
    model = NETWORKS[name]()
    model.build()
    rng = np.random.default_rng(0)
    for weight in model.weights:  # of biases and slopes too
        weight.assign(weight + 0.1 * rng.standard_normal(weight.shape))
    return model


@pytest.mark.parity
@pytest.mark.parametrize("name", NETWORKS)
def test_onnxruntime_gives_the_same_images_of_every_size(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = built(name)
    ours.export_onnx(model, tmp_path / "x.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "x.onnx"), providers=["CPUExecutionProvider"])
    for seed, size in enumerate([(2, 8, 12), (1, 20, 4)]):
        images = np.random.default_rng(seed).random((*size, model.channels), np.float32)
        expected = np.asarray(model(images))
        (found,) = session.run(["output"], {"input": images.transpose(0, 3, 1, 2)})
        np.testing.assert_allclose(found.transpose(0, 2, 3, 1), expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parity
def test_the_command_exports_to_onnx(tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    built("SRVGGNetCompact").save(tmp_path / "model.keras")
    assert export.main([str(tmp_path / "model.keras"), "--to", str(tmp_path / "x.onnx")]) == 0
    graph = onnx.load(tmp_path / "x.onnx").graph
    sizes = [d.dim_param or d.dim_value for d in graph.output[0].type.tensor_type.shape.dim]
    assert sizes == ["batch", 3, "4 * height", "4 * width"]


def test_other_networks_and_a_missing_package_are_one_line(tmp_path, monkeypatch):
    checks.fails("a VDSR cannot be exported to ONNX", lambda: ours.export_onnx(VDSR(num_convs=3), tmp_path / "x.onnx"))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="needs the package onnx"):
        ours.export_onnx(built("SRVGGNetCompact"), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())
