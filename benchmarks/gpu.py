"""The package on a GPU, on the JAX backend, against the same in PyTorch compiled: rates, steps, sampling, memory.

    python benchmarks/gpu.py [--claims NAME ...] [--minutes 8] [--small] [--precision mixed_bfloat16] [--no-peer]

For a machine with JAX and PyTorch: it needs no TensorFlow, data or network, and takes 8 minutes at most (`--minutes`;
a claim that no longer fits is named, with "skipped"). The first row is the rate of an 8192^3 product in bfloat16, of
both; each claim prints a row of JSON as soon as it is done:
    claim, ours_s, peer_s, ratio = peer_s / ours_s; device, both cards' names if they differ; peer, which one it is
    gflop: operations of the products and convolutions alone; peak_fraction, peer_peak_fraction: their rate as a share
        of that of the large product, the faster of the two
    ours_peak_gib: what XLA plans for the compiled step, arguments, outputs and temporaries, since JAX's own peak cannot
        be reset within a process; peer_peak_gib: most that PyTorch had allocated since the claim began
    peer_launched_s: where peer_s is that of a CUDA graph, the same without one
    parameters: [ours, peer]; losses: [[first, at last] of ours, of the peer], ours a mean since the first step
    difference: of the outputs with the same weights and no dropout, relative, in the L2 norm (same_tokens: the share of
        tokens that are the same); of training steps only with --small
    equal: whether outputs and first losses are, as far as precision and dropout let them, and losses finite
An error is a row with "error", and the next claim goes on; the exit status is then 1.

Both sides run in one process, in turn (`timing.interleaved`), on batches that lie on the device, with the same weights
to begin with, dropout as in the recipe, bfloat16 (`mixed_bfloat16`; `torch.autocast`) on float32 weights and TF32 for
the rest. Ours is the step that `fit` runs: `Model.train_step` jitted with its state donated, as
`Model.make_train_function` does, compiled ahead so that its memory is known, the state handed from step to step as in
`fit`; without callbacks and reading of data. Sampling and decoding are the model's own loops, jitted here as a whole.
Accuracies are part of our steps alone. PyTorch: see `gpu_peers.py` and `gpu_vision.py`; `peer_s` is the faster of the
compiled step and the same replayed as a CUDA graph. Measuring: see `gpu_bench.py`.

`--small` runs everything at sizes for a CPU, in a minute or two; there PyTorch's side is traced by `torch.compile` and
run eagerly (backend="eager"). `--no-peer` leaves PyTorch out. Keras comes as a wheel: `pip download --no-deps` of keras
and optree for that machine's Python, there `pip install --no-deps *.whl`; PYTHONPATH=. is enough for the package.

A new claim is a function with `@claim(seconds)`, its rough duration on a GPU, that returns the row.
"""

import argparse
import gc
import json
import math
import os
import sys
import time
import traceback

import numpy as np
from gpu_bench import CLAIMS, Bench, Call, Step, claim, output_claim, step_claim, timed

# Claims, in the order of their weight.


@claim(15)
def product(bench):
    """The rate of a large product in bfloat16, in JAX and in PyTorch; the faster one is the peak of all claims."""
    import jax
    import jax.numpy as jnp

    n = bench.pick(8192, 256)
    a, b = (jax.random.normal(jax.random.key(i), (n, n), jnp.bfloat16) for i in range(2))
    program = jax.jit(jnp.matmul)

    def ours(count):
        for _ in range(count):
            out = program(a, b)
        out.block_until_ready()

    sides = {"ours": ours}
    if bench.runtime:
        import torch

        x, y = (torch.randn(n, n, device=bench.runtime.device, dtype=torch.bfloat16) for _ in range(2))

        def peer(count):
            for _ in range(count):
                torch.mm(x, y)
            bench.runtime.wait()

        sides["peer"] = peer
    taken = timed(bench, sides)
    flops = 2 * n**3
    bench.rate = flops / min(taken.values())
    row = {"claim": f"a product of {n} x {n} x {n} in bfloat16", "ours_s": taken["ours"], "peer_s": taken.get("peer")}
    row |= {"ratio": row["peer_s"] and row["peer_s"] / row["ours_s"], "gflop": flops / 1e9, "device": bench.card}
    row |= {"ours_tflops": flops / row["ours_s"] / 1e12}
    row |= {"peer_tflops": flops / row["peer_s"] / 1e12} if row["peer_s"] else {"note": bench.missing}
    return row


BERT_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
BERT_TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def bert_model(bench):
    """A `BertForMaskedLM` and its sizes."""
    import keras

    from homl_models.models import Bert, BertConfig, BertForMaskedLM

    keras.utils.set_random_seed(0)
    sizes = bench.pick(BERT_BASE | {"vocab_size": 30522}, BERT_TINY | {"vocab_size": 1000})
    backbone = Bert(BertConfig(**sizes), add_pooling_layer=False, dtype=bench.precision)
    model = BertForMaskedLM(backbone, dtype=bench.precision)
    model.build()
    return model, sizes


def bert_batch(sizes, count, length):
    """Ids, token types (b, t), masked positions and their words (b, k), 15 % of the tokens."""
    draw = np.random.default_rng(0)
    ids = draw.integers(sizes["vocab_size"] // 30, sizes["vocab_size"], (count, length)).astype(np.int32)
    order = draw.permuted(np.tile(np.arange(length, dtype=np.int32), (count, 1)), axis=1)
    positions = np.sort(order[:, : round(0.15 * length)], axis=1)
    return ids, np.zeros_like(ids), positions, np.take_along_axis(ids, positions, axis=1)


def bert_gflop(sizes, count, length, masked=0):
    """Products of the encoder's forward pass, and of the head at so many masked positions."""
    d = sizes["hidden_size"]
    block = 4 * d * d + 2 * d * sizes["intermediate_size"] + 2 * length * d
    return 2 * (count * length * sizes["num_hidden_layers"] * block + masked * d * (d + sizes["vocab_size"])) / 1e9


def bert_step(bench, count, length):
    from homl_models.optimizers import LayerwiseAdamW

    model, sizes = bert_model(bench)
    ids, types, positions, words = arrays = bert_batch(sizes, count, length)
    model.compile(LayerwiseAdamW(1e-4, global_clipnorm=1.0), jit_compile=True)
    read = {"input_ids": ids, "token_type_ids": types}
    return step_claim(
        bench,
        f"a training step of {bench.pick('BERT-base', 'a tiny BERT')}, {count} x {length} tokens, logits of 15 %",
        model,
        (read | {"masked_positions": positions}, words),
        lambda peers, runtime: peers.bert_step(runtime, model, arrays),
        lambda: model(read, training=False),
        3 * bert_gflop(sizes, count, length, words.size),
    )


@claim(100)
def bert_128(bench):
    """BERT-base, masked language modelling, 32 texts of 128 tokens: AdamW, dropout 0.1."""
    return bert_step(bench, *bench.pick((32, 128), (4, 16)))


def rrdb_model(bench):
    """The generator of ESRGAN for a scale of 4."""
    import keras

    from homl_models.models.rrdb import RRDBNet

    keras.utils.set_random_seed(0)
    sizes = bench.pick({}, {"filters": 4, "num_blocks": 1, "growth": 4})
    model = RRDBNet(**sizes, dtype=bench.precision)
    model.build()
    for kernel in (w for block in model.body for w in block.weights if bench.small and len(w.shape) == 4):
        kernel.assign(10 * kernel)  # large enough for the blocks to count
    return model


def rrdb_gflop(model, pixels):
    """Convolutions of a forward pass over so many pixels, all images together."""
    late = [math.prod(layer.kernel.shape) for layer in (*model.conv_up, model.conv_hr, model.conv_last)]
    early = sum(math.prod(w.shape) for w in model.weights if len(w.shape) == 4) - sum(late)
    enlarged = sum(n * 4 ** min(i, len(model.conv_up)) for i, n in enumerate(late, 1))
    return 2 * pixels * (early + enlarged) / 1e9


@claim(130)
def rrdb_step(bench):
    """ESRGAN's generator, 16 crops of 32 x 32 enlarged 4 times: mean absolute error, Adam."""
    import keras

    model, (count, size) = rrdb_model(bench), bench.pick((16, 32), (2, 8))
    draw = np.random.default_rng(0)
    shapes = [(count, side, side, model.channels) for side in (size, model.scale * size)]
    images, targets = batch = tuple(draw.uniform(size=shape).astype(np.float32) for shape in shapes)
    model.compile(keras.optimizers.Adam(2e-4), "mean_absolute_error", jit_compile=True)

    def build(_, runtime):
        import gpu_vision

        return gpu_vision.rrdb_step(runtime, model, images, targets)

    return step_claim(
        bench,
        f"a training step of an RRDBNet of {model.num_blocks} blocks, {count} crops of {size} x {size}, scale 4",
        model,
        batch,
        build,
        lambda: model(images, training=False),
        3 * rrdb_gflop(model, count * size**2),
    )


def beit_gflop(config, count, labels):
    """Products of a forward pass."""
    d, n = config.hidden_size, config.num_patches
    block = (n + 1) * (4 * d * d + 2 * d * config.intermediate_size + 2 * (n + 1) * d)
    patches = n * math.prod(config.patch_shape) * config.num_channels * d
    return 2 * count * (patches + config.num_hidden_layers * block + d * labels) / 1e9


@claim(100)
def beit(bench):
    """BEiT-base, classification of 64 images of 224 x 224 into 1,000 labels: AdamW, no dropout, no stochastic depth."""
    import keras

    from homl_models.models import Beit, BeitConfig, BeitForImageClassification
    from homl_models.optimizers import LayerwiseAdamW

    keras.utils.set_random_seed(0)
    tiny = BERT_TINY | {"image_size": 32, "patch_size": 8}
    tiny |= {"initializer_range": 0.2, "layer_scale_init_value": 1.0}  # large enough for every part to count
    sizes = bench.pick({}, tiny)
    config = BeitConfig(use_relative_position_bias=True, drop_path_rate=0.0, **sizes)
    count, labels = bench.pick((64, 1000), (4, 10))
    model = BeitForImageClassification(Beit(config, dtype=bench.precision), labels, dtype=bench.precision)
    model.build()
    draw = np.random.default_rng(0)
    for weight in model.trainable_weights:
        if weight.name == "table":  # which begins at zero
            weight.assign(draw.normal(0, 1, weight.shape))
    images = draw.uniform(size=(count, *config.image_shape, config.num_channels)).astype(np.float32)
    classes = draw.integers(0, labels, count).astype(np.int32)
    model.compile(LayerwiseAdamW(1e-4, decay=0.05, global_clipnorm=3.0), jit_compile=True)

    def build(_, runtime):
        import gpu_vision

        return gpu_vision.beit_step(runtime, model, images, classes)

    return step_claim(
        bench,
        f"a training step of {bench.pick('BEiT-base', 'a tiny BEiT')}, {count} images of {images.shape[1]} pixels",
        model,
        (images, classes),
        build,
        lambda: model(images, training=False),
        3 * beit_gflop(config, count, labels),
    )


@claim(70)
def rrdb_forward(bench):
    """That generator enlarges 8 images of 128 x 128 four times."""
    model, (count, size) = rrdb_model(bench), bench.pick((8, 128), (1, 16))
    images = np.random.default_rng(0).uniform(size=(count, size, size, model.channels)).astype(np.float32)

    def build(_, runtime):
        import gpu_vision

        return gpu_vision.rrdb_forward(runtime, model, images)

    return output_claim(
        bench,
        f"an RRDBNet of {model.num_blocks} blocks enlarges {count} images of {size} x {size} 4 times",
        lambda: Call(model, lambda images: model(images, training=False), images),
        build,
        rrdb_gflop(model, count * size**2),
    )


@claim(100)
def bert_512(bench):
    """The same with 8 texts of 512 tokens."""
    return bert_step(bench, *bench.pick((8, 512), (2, 32)))


@claim(60)
def bert_forward(bench):
    """BERT-base reads 64 texts of 128 tokens."""
    model, sizes = bert_model(bench)
    count, length = bench.pick((64, 128), (4, 16))
    ids, types, *_ = bert_batch(sizes, count, length)
    name = f"{bench.pick('BERT-base', 'a tiny BERT')} reads {count} x {length} tokens"

    def read(ids, types):
        return model.backbone({"input_ids": ids, "token_type_ids": types}, training=False)["last_hidden_state"]

    def build(peers, runtime):
        return peers.bert_forward(runtime, model, (ids, types))

    return output_claim(bench, name, lambda: Call(model, read, ids, types), build, bert_gflop(sizes, count, length))


def ddpm_model(bench):
    """The model of the recipe `ddpm_conditional`; layers that begin at zero are given weights, to tell them apart."""
    import keras

    from homl_models.models import ddpm, unet

    keras.utils.set_random_seed(0)
    shape, filters = bench.pick(((28, 28), (64, 128)), ((8, 8), (8, 8)))
    network = unet.UNet(filters=filters, num_classes=10, dtype=bench.precision, name="network")
    model = ddpm.DDPM(network, image_shape=shape, seed=0, dtype=bench.precision)
    model.build()
    draw = np.random.default_rng(0)
    for weight in model.network.weights:
        if len(weight.shape) == 4 and not np.any(weight):
            weight.assign(draw.normal(0, 0.02, weight.shape))
    model.ema_network.set_weights(model.network.get_weights())
    return model


@claim(90)
def ddpm(bench):
    """The recipe `ddpm_conditional`: 128 images of 28 x 28, velocities, EMA, Adam."""
    import keras

    model, count = ddpm_model(bench), bench.pick(128, 8)
    draw = np.random.default_rng(0)
    images = draw.uniform(size=(count, *model.image_shape)).astype(np.float32)
    labels = (np.arange(count) % 10).astype(np.int32)
    model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=1.0), jit_compile=True)
    timesteps = np.minimum(np.arange(1, count + 1), model.num_steps).astype(np.int32)
    return step_claim(
        bench,
        f"a training step of a DDPM's U-Net, {count} images of {images.shape[1]} x {images.shape[2]}",
        model,
        ((images, labels),),
        lambda peers, runtime: peers.ddpm_step(runtime, model, images, labels),
        lambda: model.network(model.normalize(images), timesteps, labels, training=False),
    )


@claim(60)
def sampling(bench):
    """256 images in 25 steps of DPM-Solver++ by the EMA of that model."""
    from homl_models import diffusion

    model, (count, steps) = ddpm_model(bench), bench.pick((256, 25), (4, 5))
    labels = (np.arange(count) % 10).astype(np.int32)
    timesteps = diffusion.timesteps(model.num_steps, steps)
    table = np.float32(diffusion.step_coefficients(model.noise_schedule, timesteps, "dpm_solver"))
    noise = np.random.default_rng(0).normal(size=(count, *model.normalized_shape)).astype(np.float32)
    step_range, zero, one = np.array([0, steps], np.int32), np.uint32(0), np.float32(1)

    def sample(x, labels):
        x, _ = model.sampling_steps(x, x * 0, step_range, timesteps, table, zero, zero, labels, one, None, None, True)
        return model.denormalize(x)

    return output_claim(
        bench,
        f"{count} images of {model.image_shape[0]} x {model.image_shape[1]} in {steps} steps by that U-Net",
        lambda: Call(model, sample, noise, labels),
        lambda peers, runtime: peers.sampling(runtime, model, noise, labels, timesteps, table),
    )


def translation_model(bench):
    """The model of the recipe `transformer`."""
    import keras

    from homl_models.models.transformer import Transformer
    from homl_models.tokenizers.base import SPECIAL

    keras.utils.set_random_seed(0)
    sizes = {"dim": 256, "num_heads": 4, "hidden_units": 1024, "num_encoder_layers": 3, "num_decoder_layers": 2}
    sizes = bench.pick(sizes, {"dim": 32, "num_heads": 2, "hidden_units": 64})
    words = (*SPECIAL, *(f"w{i}" for i in range(bench.pick(4000, 100) - len(SPECIAL))))
    model = Transformer(words, words, "subwords", pre_norm=True, share_embeddings=True, dtype=bench.precision, **sizes)
    model.build()
    return model


def sentences(model, count, length, seed=0):
    """Ids (count, length): between half and all of `length` tokens with `END`, then zeros."""
    from homl_models.tokenizers.base import END, PAD, SPECIAL

    draw = np.random.default_rng(seed)
    ids = draw.integers(len(SPECIAL), len(model.source_vocabulary), (count, length)).astype(np.int32)
    for row, n in zip(ids, draw.integers(length // 2, length + 1, count)):
        row[n - 1 :] = [END] + [PAD] * (length - n)
    return ids


def translation_gflop(model, count, s, t):
    """Products of a forward pass over pairs of s and t tokens, padding included."""
    d, hidden, v = model.dim, model.hidden_units, len(model.target_vocabulary)
    encoder = len(model.encoder) * s * (4 * d * d + 2 * d * hidden + 2 * s * d)
    of_target = t * (6 * d * d + 2 * d * hidden + 2 * (s + t) * d)
    return 2 * count * (encoder + len(model.decoder) * (of_target + 2 * s * d * d) + t * d * v) / 1e9


@claim(70)
def translation(bench):
    """The recipe `transformer`: 128 pairs of 24 tokens, label smoothing 0.1, dropout 0.1, Adam."""
    import keras

    from homl_models.losses import SmoothedCrossentropy
    from homl_models.tokenizers.base import START

    model, (count, length) = translation_model(bench), bench.pick((128, 24), (8, 8))
    source, labels = sentences(model, count, length), sentences(model, count, length, 1)
    target = np.concatenate([np.full((count, 1), START, np.int32), labels[:, :-1]], axis=1)
    adam = keras.optimizers.Adam(1e-3, global_clipnorm=1.0)
    model.compile(adam, SmoothedCrossentropy(0.1), metrics=["accuracy"], jit_compile=True)
    return step_claim(
        bench,
        f"a training step of translation, a Transformer of {model.dim}, {count} x {length} tokens",
        model,
        ((source, target), labels),
        lambda peers, runtime: peers.translation_step(runtime, model, (source, target, labels)),
        lambda: model((source, target), training=False),
        3 * translation_gflop(model, count, length, length),
    )


@claim(60)
def decoding(bench):
    """That model writes 64 tokens for each of 64 sources, greedily, with a key-value cache."""
    from homl_models.tokenizers.base import END, START

    model, (count, length) = translation_model(bench), bench.pick((64, 64), (4, 8))
    source, limits = sentences(model, count, bench.pick(24, 8)), np.full(count, length, np.int32)

    def greedy(source, limits):
        return model.greedy(source, limits, length=length, min_length=length - 1)[0]

    def agreement(bench, ours, peer):
        """Where logits are close, bfloat16 decides, and all that follows is another text: of that, the first tokens."""
        share, first = np.mean(ours[:, :-1] == peer[:, :-1]), np.mean(ours[:, 0] == peer[:, 0])
        return {"same_tokens": share, "equal": bool((share if bench.precision == "float32" else first) > 0.9)}

    forbidden = {*model.suppress_tokens, END}  # the end comes last
    return output_claim(
        bench,
        f"{length} tokens for {count} sources, greedily, with a cache, by that Transformer",
        lambda: Call(model, greedy, source, limits),
        lambda peers, runtime: peers.decoding(runtime, model, source, length, START, forbidden),
        translation_gflop(model, count, source.shape[1], length),
        agreement,
    )


def recurrent(bench, cell):
    """A training step of the sizes of `char_rnn_large`, ours a loop over time that XLA compiles.

    keras_s: the same with Keras' layer in it, which on a GPU is cuDNN's for an LSTM and such a loop for a GRU.
    """
    import unittest.mock

    import keras

    from homl_models.models import char_rnn

    (units, embed, count, length), kind = bench.pick((512, 64, 64, 100), (16, 8, 4, 8)), getattr(keras.layers, cell)
    ids = np.random.default_rng(0).integers(0, 40, (count, length + 1)).astype(np.int32)
    batch = ids[:, :-1], ids[:, 1:]

    def made(layer=None):
        keras.utils.set_random_seed(0)
        letters, name = "".join(map(chr, range(48, 88))), cell.lower()
        sizes = {"embed_dim": embed, "units": units, "num_layers": 2, "dropout": 0.3, "dtype": bench.precision}
        with unittest.mock.patch.dict(char_rnn.CELLS, {name: layer or char_rnn.CELLS[name]}):
            model = char_rnn.CharRNN(letters, cell=name, **sizes)
        model.build()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(3e-3, global_clipnorm=1.0), loss, metrics=["accuracy"], jit_compile=True)
        return model

    model = made()
    weights = sum(math.prod(w.shape) for layer in model.recurrent for w in layer.weights if layer.cell.bias is not w)
    return step_claim(
        bench,
        f"a training step of two {cell}s of {units} on {count} x {length} characters",
        model,
        batch,
        lambda peers, runtime: peers.recurrent_step(runtime, model, batch),
        lambda: model(batch[0], training=False),
        6 * count * length * (weights + 40 * units) / 1e9,
        {"keras_s": lambda: Step(made(kind), batch)},
    )


@claim(40)
def gru(bench):
    """GRU, against cuDNN's."""
    return recurrent(bench, "GRU")


@claim(40)
def lstm(bench):
    """LSTM, against cuDNN's, which has a second bias in each layer."""
    return recurrent(bench, "LSTM")


@claim(50)
def dcgan(bench):
    """The recipe `dcgan`: a step of the discriminator and one of the generator on 64 images of 28 x 28."""
    import keras

    from homl_models.models.gan import GAN
    from homl_models.models.gan_networks import Discriminator, Generator
    from homl_models.optimizers import GANOptimizer

    keras.utils.set_random_seed(0)
    shape, count, filters = bench.pick(((28, 28), 64, (128, 64)), ((8, 8), 8, (8, 8)))
    settings = {"image_shape": (*shape, 1), "dtype": bench.precision}
    networks = Generator(100, filters=filters, **settings), Discriminator(filters=filters[::-1], **settings)
    model = GAN(*networks, image_shape=shape, seed=0, dtype=bench.precision)
    model.build()
    adams = [keras.optimizers.Adam(2e-4, 0.5) for _ in range(2)]
    model.compile(GANOptimizer(*adams), auto_scale_loss=False, jit_compile=True)
    images = np.random.default_rng(0).uniform(size=(count, *shape)).astype(np.float32)
    codings = np.linspace(-2, 2, count * 100).reshape(count, 100).astype(np.float32)
    return step_claim(
        bench,
        f"a training step of the DCGAN, {count} images of {shape[0]} x {shape[1]}",
        model,
        (images,),
        lambda peers, runtime: peers.dcgan_step(runtime, model, images),
        lambda: model.discriminator(model.generator(codings, training=False), training=False),
    )


# The command.


def say(row):
    """Print a row, numbers rounded to four digits."""

    def rounded(x):
        if isinstance(x, (list, tuple)):
            return [rounded(part) for part in x]
        return float(f"{x:.4g}") if isinstance(x, (float, np.floating)) else x

    print(json.dumps({key: rounded(value) for key, value in row.items()}), flush=True)


def run(bench, name):
    """Run a claim and print its row; whatever happens, the next can follow."""
    start = time.perf_counter()
    try:
        row = {"name": name} | CLAIMS[name][0](bench)
        say(row | {"claim_s": time.perf_counter() - start})
    except Exception as error:
        traceback.print_exc()
        bench.failed = True
        say({"name": name, "claim": name, "error": f"{type(error).__name__}: {error}"[:500]})
    gc.collect()
    if bench.runtime:
        bench.runtime.reset()


def ready(small):
    """Settings that must stand before JAX and Keras are imported; an exit where they cannot be used."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch shares the card
    os.environ["HOML_XLA"] = "1"
    if small:
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # compiling is what tiny sizes cost
    try:
        import jax
        import keras
    except ImportError as error:
        sys.exit(f"gpu.py: {error}; carry keras and optree as wheels: pip install --no-deps *.whl (see --help)")
    if keras.backend.backend() != "jax":
        sys.exit("gpu.py: this compares on the JAX backend: KERAS_BACKEND=jax")
    if jax.default_backend() == "cpu" and not small:
        sys.exit("gpu.py: JAX sees no GPU; --small runs on a CPU")


def main():
    start = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claims", nargs="*", default=list(CLAIMS), metavar="NAME", help=", ".join(CLAIMS))
    parser.add_argument("--minutes", type=float, default=8.0, help="no claim begins that would end later")
    parser.add_argument("--small", action="store_true", help="tiny sizes, for a CPU")
    parser.add_argument("--precision", default="mixed_bfloat16", choices=["mixed_bfloat16", "float32"])
    parser.add_argument("--no-peer", action="store_true", help="leave PyTorch out")
    args = parser.parse_args()
    unknown = [name for name in args.claims if name not in CLAIMS]
    if unknown:
        print(f"gpu.py: no claim {', '.join(unknown)}; there are {', '.join(CLAIMS)}", file=sys.stderr)
        sys.exit(2)
    ready(args.small)
    bench = Bench(args.small, args.precision, args.no_peer)
    for name in dict.fromkeys(["product", *args.claims]):
        needed = 0 if args.small else CLAIMS[name][1]
        if time.perf_counter() - start + needed > 60 * args.minutes:
            say({"name": name, "claim": name, "skipped": "no time left"})
        else:
            run(bench, name)
    sys.exit(int(bench.failed))


if __name__ == "__main__":
    main()
