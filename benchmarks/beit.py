"""BEiT-base on images of 224 pixels: forward pass and training steps against `transformers` on PyTorch.

    python benchmarks/beit.py [--claims forward step pretrain] [--rounds 5] [--precision float32]

forward: the logits of 1,000 labels of 8 images; a table of relative positions in each block.
step: a training step of that classifier on 8 images, AdamW, stochastic depth 0.1.
pretrain: a step of masked image modelling on 8 images, one shared table, 75 of 196 patches masked. The peer computes
    the logits of 8,192 visual tokens for every patch, as it does; ours for the masked ones.
`peak_fraction` counts matrix products. Checked first: the same weights give the same logits.

Needs torch==2.13.0 and transformers.
"""

import argparse
import importlib.util
import sys

import keras
import numpy as np
import tensorflow as tf
import timing

from homl_models.base import compiled
from homl_models.checkpoints.huggingface import state_dict
from homl_models.models import Beit, BeitConfig, BeitForImageClassification, BeitForMaskedImageModeling
from homl_models.optimizers import LayerwiseAdamW

BATCH, LABELS, VISUAL_TOKENS, MASKED = 8, 1000, 8192, 75
CLASSIFIER = {"use_relative_position_bias": True}
PRETRAINING = {"use_shared_relative_position_bias": True, "use_mask_token": True}


def images():
    return np.random.default_rng(0).random((BATCH, 224, 224, 3)).astype("float32")


def pixel_values(x):
    import torch

    return torch.tensor(2 * x - 1).permute(0, 3, 1, 2).contiguous()


def mask():
    """The masked patches of each image, as numbers (b, 75) and as booleans (b, 196)."""
    positions = np.random.default_rng(1).permuted(np.tile(np.arange(196), (BATCH, 1)), axis=1)[:, :MASKED]
    positions, masked = np.sort(positions, axis=1), np.zeros((BATCH, 196), bool)
    np.put_along_axis(masked, positions, True, axis=1)
    return positions, masked


def model_and_peer(args, head, settings, **more):
    """A model of ours and one of `transformers` with the same weights, checked to give the same logits."""
    import torch
    import transformers

    keras.utils.set_random_seed(0)
    backbone = Beit(BeitConfig(**settings), add_pooling_layer=head.uses_pooler, dtype=args.precision)
    model = head(backbone, **more, dtype=args.precision)
    model.build()
    for weight in model.trainable_weights:
        if weight.name in ("table", "mask_token"):
            weight.assign(0.1 * keras.random.normal(weight.shape))
    peer = getattr(transformers, head.__name__)(transformers.BeitConfig(**settings, **more)).eval()
    peer.load_state_dict({name: torch.tensor(array) for name, array in state_dict(model).items()})
    x, given = {"images": images()[:1]}, {"pixel_values": pixel_values(images()[:1])}
    if settings["use_mask_token"]:
        x["bool_masked_pos"] = mask()[1][:1]
        given["bool_masked_pos"] = torch.tensor(x["bool_masked_pos"])
    with torch.no_grad():  # the peer keeps tensors, which training cannot use if they are made in inference mode
        wanted = peer(**given).logits.numpy()
    np.testing.assert_allclose(model(x), wanted, atol=1e-4 if args.precision == "float32" else 0.1)
    return model, peer


def flops(head):
    """FLOPs of the matrix products of a forward pass. head: those of the head."""
    d, layers, n = 768, 12, 196
    patches, tokens = 2 * BATCH * n * 16 * 16 * 3 * d, BATCH * (n + 1)
    return patches + 2 * tokens * layers * (4 * d * d + 2 * d * 3072 + 2 * (n + 1) * d) + head


def report(args, claim, sides, count, head, passes):
    for side in sides.values():
        side()
    taken = timing.interleaved(sides | {"product": timing.matrix_product()}, args.rounds, {"product": 20})
    rate, seconds = timing.PEAK_FLOPS / taken["product"], taken["ours"] / count
    timing.report(
        f"{claim}, {args.precision}, against transformers on PyTorch in float32",
        seconds,
        taken["torch"] / count,
        peak_fraction=passes * flops(head) / seconds / rate,
        matrix_product_gflops=rate / 1e9,
    )


def forward(args):
    import torch

    model, peer = model_and_peer(
        args, BeitForImageClassification, CLASSIFIER | {"use_mask_token": False}, num_labels=LABELS
    )
    mine, x, given = compiled(lambda x: model(x, training=False), False), tf.constant(images()), pixel_values(images())

    def theirs():
        with torch.inference_mode():
            peer(given).logits[0, 0].item()

    sides = {"ours": lambda: mine(x)[0, 0].numpy(), "torch": theirs}
    report(args, "BEiT-base classifies 8 images of 224 pixels", sides, 1, 2 * BATCH * 768 * LABELS, 1)


def training(args, claim, model, peer, x, y, given, head):
    """A claim of training steps. x, y: our batch. given: the peer's. head: FLOPs of the matrix products of the head."""
    import torch

    count = 2
    model.compile(LayerwiseAdamW(1e-4, decay=0.05), jit_compile=True)
    options = tf.data.Options()
    options.autotune.enabled = False
    data = tf.data.Dataset.from_tensors((x, y)).repeat(count).with_options(options)
    optimizer = torch.optim.AdamW(peer.train().parameters(), 1e-4, weight_decay=0.05)

    def theirs():
        loss = peer(**given).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.item()

    sides = {
        "ours": lambda: model.fit(data, shuffle=False, verbose=0),
        "torch": lambda: [theirs() for _ in range(count)],
    }
    report(args, claim, sides, count, head, 3)


def step(args):
    import torch

    settings, y = CLASSIFIER | {"use_mask_token": False}, np.arange(BATCH) * 100
    model, peer = model_and_peer(args, BeitForImageClassification, settings, num_labels=LABELS)
    given = {"pixel_values": pixel_values(images()), "labels": torch.tensor(y)}
    head = 2 * BATCH * 768 * LABELS
    training(args, "a training step of BEiT-base, 8 images of 224 pixels", model, peer, images(), y, given, head)


def pretrain(args):
    import torch

    model, peer = model_and_peer(args, BeitForMaskedImageModeling, PRETRAINING)
    positions, masked = mask()
    tokens = np.random.default_rng(2).integers(0, VISUAL_TOKENS, positions.shape)
    x = {"images": images(), "bool_masked_pos": masked, "masked_positions": positions.astype("int32")}
    given = {"pixel_values": pixel_values(images()), "bool_masked_pos": torch.tensor(masked)}
    given["labels"] = torch.tensor(tokens.ravel())
    head = 2 * tokens.size * 768 * VISUAL_TOKENS
    claim = "a step of masked image modelling of BEiT-base, 8 images of 224 pixels"
    training(args, claim, model, peer, x, tokens, given, head)


CLAIMS = {"forward": forward, "step": step, "pretrain": pretrain}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claims", nargs="*", choices=CLAIMS, default=list(CLAIMS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="float32")
    args = parser.parse_args()
    if importlib.util.find_spec("transformers") is None:
        print("nothing is measured: transformers is not installed", file=sys.stderr)
        return
    for claim in args.claims:
        CLAIMS[claim](args)


if __name__ == "__main__":
    main()
