"""Networks for super-resolution as ONNX graphs, for images of any size.

The graph takes "input" (b, c, h, w) in [0, 1] and gives "output" (b, c, s * h, s * w), near [0, 1]: channels first, as
programs that enlarge images by ONNX expect them. Height and width are multiples of `model.multiple`. Needs the package
`onnx` (pip install "homl_models[onnx]"). Written from the layers: Keras' own export, by tf2onnx, has channels last, and
4 times the nodes.
"""

import numpy as np
from keras import ops

from homl_models.errors import UserError
from homl_models.models.rrdb import BETA, SLOPE, RRDBNet
from homl_models.models.srvgg import SRVGGNetCompact
from homl_models.training import files

OPSET, IR_VERSION = 17, 8  # of ONNX 1.12: any newer runtime reads them


class Graph:
    """Nodes and weights of a graph; each method adds a node and returns the name of its output."""

    def __init__(self):
        self.nodes, self.weights = [], []

    def add(self, kind, *inputs, **attributes):
        import onnx

        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def weight(self, array, name="weight"):
        import onnx

        name = f"{name}_{len(self.weights)}"
        self.weights.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
        return name

    def conv(self, x, layer):
        """A Keras convolution with padding "same", an odd kernel and no activation."""
        kernel = ops.convert_to_numpy(layer.kernel)  # (h, w, in, out)
        weights = [self.weight(kernel.transpose(3, 2, 0, 1), layer.name)]
        if layer.use_bias:
            weights.append(self.weight(ops.convert_to_numpy(layer.bias), layer.name))
        rows, columns = (size // 2 for size in kernel.shape[:2])
        return self.add("Conv", x, *weights, kernel_shape=kernel.shape[:2], pads=[rows, columns, rows, columns])

    def lrelu(self, x):
        return self.add("LeakyRelu", x, alpha=SLOPE)

    def prelu(self, x, layer):
        return self.add("PRelu", x, self.weight(ops.convert_to_numpy(layer.alpha).reshape(-1, 1, 1), layer.name))

    def concat(self, *inputs):
        return self.add("Concat", *inputs, axis=1) if len(inputs) > 1 else inputs[0]

    def scaled_sum(self, x, y):
        """x + BETA * y."""
        return self.add("Add", x, self.add("Mul", y, self.weight(BETA, "beta")))

    def upsample_nearest(self, x, factor=2):
        if factor == 1:
            return x
        scales, how = self.weight([1, 1, factor, factor], "scales"), {"mode": "nearest", "nearest_mode": "floor"}
        return self.add("Resize", x, "", scales, coordinate_transformation_mode="asymmetric", **how)

    def pixel_shuffle(self, x, factor):
        return self.add("DepthToSpace", x, blocksize=factor, mode="CRD") if factor > 1 else x

    def pixel_unshuffle(self, x, factor, channels):
        """A convolution that picks pixels: ONNX' SpaceToDepth has another order of channels."""
        if factor == 1:
            return x
        kernel = np.eye(channels * factor**2).reshape(-1, channels, factor, factor)
        settings = {"kernel_shape": [factor, factor], "strides": [factor, factor]}
        return self.add("Conv", x, self.weight(kernel, "unshuffle"), **settings)

    def model(self, channels, scale, output):
        """The whole as an `onnx.ModelProto`, checked."""
        import onnx

        def image(name, sizes):
            return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", channels, *sizes])

        self.nodes.append(onnx.helper.make_node("Identity", [output], ["output"], "output"))
        inputs = [image("input", ["height", "width"])]
        outputs = [image("output", [f"{scale} * height", f"{scale} * width"])]
        graph = onnx.helper.make_graph(self.nodes, "super_resolution", inputs, outputs, self.weights)
        opset = [onnx.helper.make_opsetid("", OPSET)]
        model = onnx.helper.make_model(graph, opset_imports=opset, producer_name="homl_models", ir_version=IR_VERSION)
        onnx.checker.check_model(model, full_check=True)
        return model


def _rrdb_net(model, graph, x):
    x = x0 = graph.conv(graph.pixel_unshuffle(x, model.factor, model.channels), model.conv_first)
    for rrdb in model.body:
        y = x
        for block in rrdb.blocks:
            known = [y]
            for layer in block.convolutions[:-1]:
                known.append(graph.lrelu(graph.conv(graph.concat(*known), layer)))
            y = graph.scaled_sum(y, graph.conv(graph.concat(*known), block.convolutions[-1]))
        x = graph.scaled_sum(x, y)
    x = graph.add("Add", x0, graph.conv(x, model.conv_body))
    for layer in model.conv_up:
        x = graph.lrelu(graph.conv(graph.upsample_nearest(x), layer))
    return graph.conv(graph.lrelu(graph.conv(x, model.conv_hr)), model.conv_last)


def _srvgg_net(model, graph, images):
    x = images
    for convolution, activation in zip(model.convolutions, model.activations):
        x = graph.prelu(graph.conv(x, convolution), activation)
    x = graph.pixel_shuffle(graph.conv(x, model.convolutions[-1]), model.scale)
    return graph.add("Add", x, graph.upsample_nearest(images, model.scale))


WRITERS = {RRDBNet: _rrdb_net, SRVGGNetCompact: _srvgg_net}


def export_onnx(model, path):
    """Write a network as an ONNX file; of an adversarial model its generator.

    `UserError` for networks that are not in `WRITERS`, and without the package `onnx`.
    """
    model = getattr(model, "generator", model)
    if type(model) not in WRITERS:
        known = " and ".join(kind.__name__ for kind in WRITERS)
        raise UserError(
            f"a {type(model).__name__} cannot be exported to ONNX; a SavedModel can be; ONNX is for {known}"
        )
    try:
        import onnx
    except ImportError:
        raise UserError('exporting to ONNX needs the package onnx: pip install "homl_models[onnx]"') from None
    graph = Graph()
    proto = graph.model(model.channels, model.scale, WRITERS[type(model)](model, graph, "input"))
    with files.atomic_write(path) as aside:
        onnx.save(proto, aside)
