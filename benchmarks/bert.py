"""BERT: forward pass and training against `transformers` on PyTorch and against keras-hub; tokenization.

    python benchmarks/bert.py [--claims forward step hub lengths tokens] [--rounds 5] [--precision float32]

forward: the forward pass of BERT-base on 8 texts of 128 tokens. `peak_fraction` counts matrix products.
step: a step of masked language modelling of a BERT with 4 blocks of 512, 32 texts of 128 tokens, AdamW, dropout 0.1.
    The peer computes logits for every token, as it does; ours for the masked ones.
hub: the forward pass of keras-hub's BERT-base on the same 8 texts, and a training step (classification, AdamW).
lengths: the 4 x 512 model on 256 texts of mixed length, in batches of 32 of similar length, as `TextModel` does it.
tokens: 2,000 texts of 200 words to ids: ours in the TensorFlow graph against the library `tokenizers`.
Checked first: the same weights give the same hidden states; the same texts the same ids.

The first three and `lengths` need torch==2.13.0 and transformers, `hub` needs keras-hub, `tokens` tensorflow-text.
"""

import argparse
import importlib.util
import random
import sys

import keras
import numpy as np
import tensorflow as tf
import timing

from homl_models.base import compiled
from homl_models.checkpoints.huggingface import state_dict
from homl_models.models import Bert, BertConfig, BertForMaskedLM, BertForSequenceClassification
from homl_models.models.text_model import ANY_LENGTH
from homl_models.optimizers import LayerwiseAdamW

BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
SMALL = {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "intermediate_size": 2048}
LENGTH = 128


def texts(count, length=LENGTH):
    """Inputs of `count` texts without padding."""
    ids = np.random.default_rng(0).integers(999, 30522, (count, length)).astype("int32")
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def to_torch(batch):
    import torch

    return {name: torch.tensor(x.astype("int64")) for name, x in batch.items()}


def model_and_peer(settings, kind, precision, theirs):
    """A model of ours and one of `transformers` with the same weights, checked to give the same."""
    import torch
    import transformers

    model = Bert(BertConfig(**settings), add_pooling_layer=kind is None, dtype=precision)
    model = model if kind is None else kind(model, dtype=precision)
    model.build()
    peer = getattr(transformers, theirs)(transformers.BertConfig(**settings))
    weights = {name: torch.tensor(array) for name, array in state_dict(model).items()}
    missing = peer.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys, missing
    batch = texts(2)
    with torch.inference_mode():
        wanted = peer.eval()(**to_torch(batch))[0].numpy()
    found = model(batch)
    found = np.float32(found["last_hidden_state"] if kind is None else found)
    np.testing.assert_allclose(found, wanted, atol=1e-4 if precision == "float32" else 0.2)
    return model, peer


def matmul_flops(settings, tokens, length):
    """FLOPs of the matrix products of the encoder's forward pass."""
    d, layers = settings["hidden_size"], settings["num_hidden_layers"]
    return 2 * tokens * layers * (4 * d * d + 2 * d * settings["intermediate_size"] + 2 * length * d)


def forward(args):
    import torch

    model, peer = model_and_peer(BASE, None, args.precision, "BertModel")
    batch = texts(8)
    mine, given = compiled(lambda x: model(x, training=False)["last_hidden_state"], False), to_torch(batch)
    fed = {name: tf.constant(x) for name, x in batch.items()}

    def theirs():
        with torch.inference_mode():
            peer(**given)[0][0, 0, 0].item()

    sides = {"ours": lambda: mine(fed)[0, 0, 0].numpy(), "torch": theirs, "product": timing.matrix_product()}
    taken = timed(sides, args.rounds)
    rate = timing.PEAK_FLOPS / taken["product"]
    timing.report(
        f"BERT-base reads 8 x 128 tokens, {args.precision}, against transformers on PyTorch in float32",
        taken["ours"],
        taken["torch"],
        peak_fraction=matmul_flops(BASE, 8 * LENGTH, LENGTH) / taken["ours"] / rate,
        matrix_product_gflops=rate / 1e9,
    )


def timed(sides, rounds, calls=None):
    for side in sides.values():
        side()
    return timing.interleaved(sides, rounds, {"product": 20} | (calls or {}))


def fitting(model, x, y, count):
    """A function that runs `count` training steps by `fit`."""
    options = tf.data.Options()
    options.autotune.enabled = False
    data = tf.data.Dataset.from_tensors((x, y)).repeat(count).with_options(options)
    return lambda: model.fit(data, shuffle=False, verbose=0)


def step(args):
    import torch

    model, peer = model_and_peer(SMALL, BertForMaskedLM, args.precision, "BertForMaskedLM")
    count, k, batch = 4, round(0.15 * LENGTH), texts(32)
    positions = np.sort(np.random.default_rng(1).permuted(np.tile(np.arange(LENGTH), (32, 1)), axis=1)[:, :k], axis=1)
    labels = np.take_along_axis(batch["input_ids"], positions, axis=1)
    model.compile(LayerwiseAdamW(1e-4, global_clipnorm=1.0), jit_compile=args.precision == "float32")
    mine = fitting(model, batch | {"masked_positions": positions.astype("int32")}, labels, count)
    optimizer = torch.optim.AdamW(peer.train().parameters(), 1e-4, weight_decay=0.01)
    everywhere = np.full_like(batch["input_ids"], -100)
    np.put_along_axis(everywhere, positions, labels, axis=1)
    given = to_torch(batch | {"labels": everywhere})

    def theirs():
        loss = peer(**given).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    sides = {
        "ours": mine,
        "torch": lambda: [theirs() for _ in range(count)],
        "product": timing.matrix_product(),
    }
    taken = timed(sides, args.rounds)
    rate = timing.PEAK_FLOPS / taken["product"]
    head = 2 * labels.size * SMALL["hidden_size"] * (SMALL["hidden_size"] + 30522)
    timing.report(
        f"a training step of the 4 x 512 model, 32 x 128 tokens, {args.precision}, against transformers on PyTorch",
        taken["ours"] / count,
        taken["torch"] / count,
        peak_fraction=3 * (matmul_flops(SMALL, 32 * LENGTH, LENGTH) + head) / (taken["ours"] / count) / rate,
        matrix_product_gflops=rate / 1e9,
    )


def hub(args):
    import keras_hub

    model = Bert(BertConfig(**BASE, hidden_act="gelu_new"))  # as keras-hub has it
    model.build()
    peer = keras_hub.models.BertBackbone(30522, 12, 12, 768, 3072)
    batch = texts(8)
    names = {"input_ids": "token_ids", "attention_mask": "padding_mask", "token_type_ids": "segment_ids"}
    copy_to_hub(model, peer)
    given = {names[name]: x for name, x in batch.items()}
    found, wanted = model(batch)["last_hidden_state"], peer(given)["sequence_output"]
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    mine = compiled(lambda x: model(x, training=False)["last_hidden_state"], False)
    theirs = compiled(lambda x: peer(x, training=False)["sequence_output"], False)
    fed, given = ({name: tf.constant(x) for name, x in some.items()} for some in (batch, given))
    taken = timed(
        {"ours": lambda: mine(fed)[0, 0, 0].numpy(), "hub": lambda: theirs(given)[0, 0, 0].numpy()}, args.rounds
    )
    timing.report("BERT-base reads 8 x 128 tokens, against keras-hub, both without XLA", taken["ours"], taken["hub"])
    count, labels = 2, np.arange(8) % 2
    classifier = BertForSequenceClassification(model)
    classifier.build()
    classifier.compile(LayerwiseAdamW(1e-5), jit_compile=True)
    other = keras_hub.models.BertTextClassifier(peer, num_classes=2, preprocessor=None, dropout=0.1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    other.compile(keras.optimizers.AdamW(1e-5), loss, metrics=["accuracy"], jit_compile=True)
    sides = {
        "ours": fitting(classifier, batch, labels, count),
        "hub": fitting(other, {names[name]: x for name, x in batch.items()}, labels, count),
    }
    taken = timed(sides, args.rounds)
    timing.report(
        "a training step of BERT-base, 8 x 128 tokens, against keras-hub, both with XLA",
        taken["ours"] / count,
        taken["hub"] / count,
    )


def copy_to_hub(model, peer):
    """Give a backbone of keras-hub the weights of ours."""
    embeddings = model.embeddings
    peer.get_layer("token_embedding").embeddings.assign(embeddings.word.embeddings)
    peer.get_layer("position_embedding").position_embeddings.assign(embeddings.position.embeddings)
    peer.get_layer("segment_embedding").embeddings.assign(embeddings.token_type.embeddings)
    peer.get_layer("embeddings_layer_norm").set_weights([embeddings.norm.gamma, embeddings.norm.beta])
    for i, block in enumerate(model.blocks):
        layer = peer.get_layer(f"transformer_layer_{i}")
        attention, heads = layer._self_attention_layer, block.config.num_attention_heads
        dense = dict(zip(("query", "key", "value", "output"), block.attention.projections))
        for name in ("query", "key", "value"):
            kernel, bias = dense[name].kernel.numpy(), dense[name].bias.numpy()
            shapes = (len(kernel), heads, -1), (heads, -1)
            getattr(attention, f"_{name}_dense").set_weights([kernel.reshape(shapes[0]), bias.reshape(shapes[1])])
        kernel = dense["output"].kernel.numpy()
        attention._output_dense.set_weights([kernel.reshape((heads, -1, kernel.shape[1])), dense["output"].bias])
        layer._self_attention_layer_norm.set_weights([block.norms[0].gamma, block.norms[0].beta])
        layer._feedforward_intermediate_dense.set_weights([block.hidden.kernel, block.hidden.bias])
        layer._feedforward_output_dense.set_weights([block.output_dense.kernel, block.output_dense.bias])
        layer._feedforward_layer_norm.set_weights([block.norms[-1].gamma, block.norms[-1].beta])


def lengths(args):
    import torch

    model, peer = model_and_peer(SMALL, None, args.precision, "BertModel")
    draw = np.random.default_rng(2)
    sizes = np.clip(np.rint(draw.lognormal(3.9, 0.6, 256)), 8, LENGTH).astype(int)
    batch = texts(256)
    batch["attention_mask"][np.arange(LENGTH) >= sizes[:, None]] = 0
    mine = compiled(lambda x: model(x, training=False)["last_hidden_state"], False, [dict.fromkeys(batch, ANY_LENGTH)])
    ours, theirs = [], []
    for rows in np.split(np.argsort(sizes), 8):
        some = {name: x[rows, : sizes[rows].max()] for name, x in batch.items()}
        ours.append({name: tf.constant(x) for name, x in some.items()})
        theirs.append(to_torch(some))

    def in_sorted():
        with torch.inference_mode():
            for some in theirs:
                peer(**some)[0][0, 0, 0].item()

    sides = {"ours": lambda: [mine(some)[0, 0, 0].numpy() for some in ours], "torch": in_sorted}
    taken = timed(sides, args.rounds)
    timing.report(
        "256 texts of mixed length, 4 x 512 model, in batches of 32 by length, against PyTorch with the same",
        taken["ours"],
        taken["torch"],
        padding=1 - sizes.sum() / sum(some["input_ids"].numel() for some in theirs),
    )


def tokens(args):
    from homl_models.tokenizers.wordpiece import WordPiece

    draw = random.Random(0)
    syllables = [a + b for a in "bcdfghklmnprst" for b in ("a", "e", "i", "o", "u", "an", "er")]
    words = ["".join(draw.choice(syllables) for _ in range(draw.randint(1, 4))) for _ in range(5000)]
    some = [" ".join(draw.choices(words, k=200)) + "." for _ in range(2000)]
    piece = WordPiece.train(some, 3000)
    graph = tf.function(lambda texts: piece.tf_encode(texts, max_length=512)["input_ids"])
    fed = tf.constant(some)
    np.testing.assert_array_equal(graph(fed), piece.encode(some, max_length=512)["input_ids"])

    def library():
        return piece._library.encode_batch_fast(some)

    taken = timed({"graph": lambda: graph(fed).numpy(), "library": library, "python": lambda: piece.encode(some)}, 3)
    timing.report(
        "400,000 words to ids in the graph, against the library tokenizers",
        taken["graph"],
        taken["library"],
        python_s=taken["python"],
    )


CLAIMS = {"forward": forward, "step": step, "hub": hub, "lengths": lengths, "tokens": tokens}
PEERS = {"forward": "transformers", "step": "transformers", "hub": "keras_hub", "lengths": "transformers"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--claims", nargs="*", choices=CLAIMS, default=list(CLAIMS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", default="float32")
    args = parser.parse_args()
    for claim in args.claims:
        if claim in PEERS and importlib.util.find_spec(PEERS[claim]) is None:
            print(f"{claim} is left out: {PEERS[claim]} is not installed", file=sys.stderr)
        else:
            CLAIMS[claim](args)


if __name__ == "__main__":
    main()
