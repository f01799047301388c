"""Diffusion: training steps against PyTorch, sampling against the book's loop and against `diffusers`.

    python benchmarks/diffusion.py [--claims train book diffusers sample steps] [--rounds 3] [--batch-size 64]
        [--precision float32] [--count 1000] [--seed 42]

train: a step of the recipe `ddpm` (timesteps and noise, forward, backward, Adam, EMA) against the same U-Net, loss and
    Adam in PyTorch, channels last, with the timesteps and the noise sampled there; `peak_fraction` counts convolutions
    and matrix products, three times those of the forward pass. Checked first: the same weights give the same
    prediction.
book: the book's network in the book's loop, a call at a time, against ours, 64 images; and sampling 64 images in
    full, 4,000 calls there against 25 steps of `ddpm` here. Checked first: the same prediction.
diffusers: 64 images in 25 steps of DDIM by the scheduler of `diffusers` with the U-Net in PyTorch, against ours.
    Checked first: both sample the same from the same noise.
sample: seconds in which recipes sample 1,000 images; diffusion in 25 steps, with guidance if they have it.
steps: the quality of --count images that the preset `ddpm_conditional` samples, a class each in turn, in 1,000 steps
    of ancestral sampling and in few steps of others, against the test part of Fashion MNIST
    (`GeneratorEvaluation`). 1,000 steps take an hour for 1,000 images on one core.

`sample` and `steps` need Fashion MNIST and are left out unless they are asked for.
`train` and `diffusers` need torch==2.13.0 and diffusers. The weights of all but `steps` are new: all takes as long
whatever they are.
"""

import argparse
import functools
import json
import time

import book_diffusion
import keras
import numpy as np
import tensorflow as tf
import timing

from homl_models import loading, recipes
from homl_models.generator_evaluation import GeneratorEvaluation
from homl_models.models.ddpm import BATCH, DDPM
from homl_models.models.unet import SeparableUNet, UNet

IMAGES, STEPS = 64, 25
GENERATORS = "vae", "vae_conv", "gan", "dcgan", "dcgan_conditional", "ddpm_book", "ddpm", "ddpm_conditional"
SAMPLERS = (
    ("dpm_solver", 10),
    ("ddim", 25),
    ("dpm_solver", 25),
    ("dpm_solver", 50),
    ("ancestral", 50),
    ("ancestral", 1000),
)


def flops(network, shape):
    """Multiplications and additions of the convolutions and dense layers of a forward pass of one image."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    graph = tf.function(lambda x, t: network(x, t)).get_concrete_function(
        tf.TensorSpec((1, *shape)), tf.TensorSpec((1,), tf.int32)
    )
    graph = convert_variables_to_constants_v2(graph).graph
    total = 0
    for node in graph.get_operations():
        if node.type in ("Conv2D", "MatMul", "BatchMatMulV2"):
            inputs, output = [tensor.shape for tensor in node.inputs], node.outputs[0].shape
            if node.type == "Conv2D":
                total += 2 * output.num_elements() * np.prod(inputs[1][:3])
            elif node.type == "MatMul":
                total += 2 * output.num_elements() * inputs[1][1 if node.get_attr("transpose_b") else 0]
            elif node.type == "BatchMatMulV2":
                total += 2 * output.num_elements() * inputs[0][-1]
    return float(total)


def diffusion_model(network, precision="float32", **settings):
    model = DDPM(network, image_shape=(28, 28), seed=1, dtype=precision, **settings)
    model.build()
    for i, weight in enumerate(model.network.trainable_weights):  # some begin at zero
        weight.assign(weight + keras.random.normal(weight.shape, stddev=0.02, seed=i))
    model.ema_network.set_weights(model.network.get_weights())
    return model


def torch_network(model):
    import torch
    from torch_unet import UNet as TorchUNet

    network = TorchUNet().load_keras_weights(model.network).to(memory_format=torch.channels_last)
    x, timesteps = np.random.default_rng(0).normal(size=(8, 1, 28, 28)).astype("float32"), np.arange(1, 9) * 100
    with torch.inference_mode():
        theirs = network(torch.tensor(x), torch.tensor(timesteps)).numpy()
    ours = np.array(model.network(x.transpose(0, 2, 3, 1), timesteps)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(
        theirs, ours, atol=2e-4 * np.abs(ours).max() if model.network.compute_dtype == "float32" else 0.2
    )
    return network


def torch_step(network, images, schedule):
    """A function that takes a training step in PyTorch and gives the loss."""
    import torch

    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    tables = schedule.sqrt_alpha_bar, schedule.sqrt_one_minus_alpha_bar
    alpha, sigma = (torch.tensor(table, dtype=torch.float32) for table in tables)
    x0 = torch.tensor(images).unsqueeze(1).contiguous(memory_format=torch.channels_last) * 2 - 1

    def step():
        t, noise = torch.randint(1, 1001, (len(x0),)), torch.randn_like(x0)
        a, s = (table[t][:, None, None, None] for table in (alpha, sigma))
        loss = torch.nn.functional.mse_loss(network(a * x0 + s * noise, t), a * noise - s * x0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def train(args):
    model = diffusion_model(UNet(dtype=args.precision, name="network"), args.precision)
    model.compile(keras.optimizers.Adam(1e-3), jit_compile="auto")
    images = np.random.default_rng(0).uniform(size=(args.batch_size, 28, 28)).astype("float32")
    count, options = 4, tf.data.Options()
    options.autotune.enabled = False
    data = tf.data.Dataset.from_tensors((images, images)).repeat(count).with_options(options)
    theirs = torch_step(torch_network(model), images, model.noise_schedule)
    sides = {
        "ours": lambda: model.fit(data, shuffle=False, verbose=0),
        "torch": lambda: [theirs() for _ in range(count)],
        "product": timing.matrix_product(),
    }
    for side in sides.values():
        side()
    taken = timing.interleaved(sides, args.rounds, {"product": 20})
    work = 3 * flops(model.network, (28, 28, 1)) * args.batch_size
    rate = timing.PEAK_FLOPS / taken["product"]
    timing.report(
        f"a training step of ddpm, {args.batch_size} images, {args.precision}, against PyTorch in float32",
        taken["ours"] / count,
        taken["torch"] / count,
        peak_fraction=work / (taken["ours"] / count) / rate,
        matrix_product_gflops=rate / 1e9,
    )


def book(args):
    theirs, calls = book_diffusion.network(), 20
    model = diffusion_model(SeparableUNet(name="network"), num_steps=4000, prediction="noise")
    few = diffusion_model(UNet(name="network"))

    def loop():
        book_diffusion.generate(theirs, IMAGES, calls=calls)

    sides = {
        "ours": lambda: model.sample(IMAGES, steps=calls, method="ancestral"),
        "few": lambda: few.sample(IMAGES, steps=STEPS),
        "book": loop,
    }
    for side in sides.values():
        side()
    taken = timing.interleaved(sides, args.rounds)
    timing.report(
        "a call of the book's network while 64 images are sampled", taken["ours"] / calls, taken["book"] / calls
    )
    timing.report(
        "sampling 64 images: 25 steps of ddpm, 4,000 of the book's loop", taken["few"], taken["book"] / calls * 4000
    )


def diffusers(args):
    import torch
    from diffusers import DDIMScheduler

    model = diffusion_model(UNet(name="network"))
    network = torch_network(model)
    scheduler = DDIMScheduler(
        1000, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=True, set_alpha_to_one=True
    )
    timesteps = np.round(np.linspace(1000, 0, STEPS + 1)).astype(int)

    def sample(x=None):
        x = torch.randn(IMAGES, 1, 28, 28) if x is None else x
        with torch.inference_mode():
            scheduler.set_timesteps(STEPS)
            scheduler.timesteps = torch.tensor(timesteps[:-1] - 1)
            for t in scheduler.timesteps:
                x = scheduler.step(network(x, (t + 1).repeat(len(x))), t, x, use_clipped_model_output=True).prev_sample
        return ((x + 1) / 2).clamp(0, 1)[:, 0].numpy()

    start = np.array(model.initial_latents(IMAGES, 0, 0)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(sample(torch.tensor(start)), model.sample(IMAGES, 0, STEPS, method="ddim"), atol=2e-3)
    sides = {"ours": lambda: model.sample(IMAGES, steps=STEPS, method="ddim"), "diffusers": sample}
    taken = timing.interleaved(sides, args.rounds)
    timing.report("sampling 64 images in 25 steps of DDIM, against diffusers", taken["ours"], taken["diffusers"])


def sample(args):
    sides = {}
    for name in GENERATORS:
        recipe = recipes.get(name)
        sides[name] = functools.partial(recipe.sample_images, recipe.model())
        sides[name](BATCH)  # compiles
    sides = {name: functools.partial(side, 1000) for name, side in sides.items()}
    taken = timing.interleaved(sides, args.rounds)
    for name, seconds in taken.items():
        print(json.dumps({"claim": f"1,000 images of {name}", "ours_s": round(seconds, 2)}), flush=True)


def steps(args):
    model, net = loading.load("ddpm_conditional"), loading.load("fashion_features")
    labels = np.arange(args.count) % model.num_classes
    evaluation = GeneratorEvaluation(recipes.get("ddpm_conditional").splits[2][0], net)
    for method, count in SAMPLERS:
        start = time.perf_counter()
        fake = model.sample(args.count, args.seed, count, labels, method=method)
        taken = time.perf_counter() - start
        found = evaluation(fake, labels)
        rounded = {name: round(float(value), 3) for name, value in found.items()}
        claim = {"claim": f"{args.count} images, {method}, {count} steps", "seconds": round(taken, 1)}
        print(json.dumps(claim | rounded), flush=True)


CLAIMS = {"train": train, "book": book, "diffusers": diffusers, "sample": sample, "steps": steps}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claims", nargs="*", choices=CLAIMS, default=["train", "book", "diffusers"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--count", type=int, default=1000, help="images for the claim `steps`")
    parser.add_argument("--seed", type=int, default=42, help="of those images")
    args = parser.parse_args()
    for claim in args.claims:
        CLAIMS[claim](args)


if __name__ == "__main__":
    main()
