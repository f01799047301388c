"""Training step of translation against the book's pipeline, PyTorch, and the matrix-product peak.

Claims:
  - an epoch of the recipes `seq2seq`, `seq2seq_bidirectional`, `seq2seq_attention` and `transformer_book`
    (batches bucketed by length, XLA) takes at most a quarter of the time of the book's pipeline: the same
    architecture, strings into the model, everything padded to 50 tokens, no XLA, batches of 32.
    `ratio_same_batch` is the ratio if the book's pipeline takes batches of our size as well. Two recipes
    depart from the book's architecture (Luong's readout; heads of 16 instead of 128, tied weights):
    `--exact` times the book's own as well, "exactly the book's model".
  - a step of the recipe `transformer` is faster than one of `torch.nn.Transformer` blocks of the same size
    on the same batches (tied embeddings, Adam, clipping, label smoothing, dropout; without the accuracy).
    Left out where torch is not installed. Before that the same step against the time that the matrix
    products alone would take at the peak; there `ratio` is `peak_fraction`.
Checked first: with the same weights both sides have the same probabilities (the book) or loss (PyTorch).

Seconds are of an epoch: the time of a step in each bucket, times the steps of that bucket. A step
is what `fit` runs (`train_function`: next batch, forward, backward, optimizer, accuracy). Every shape is
compiled before (`compile_s`, for all of them together).
`peak_fraction`: operations of the matrix products over the seconds of the epoch, as a fraction of the peak of
`timing.py`. Counted are the operations of true tokens: 2 per weight and token, and those of attention
scores and sums, times 3 for forward and backward; `peak_fraction_padded` counts the padding as well.
Embeddings, softmax, normalization, Adam count as time and not as work.
Reads the book's pairs, which Keras downloads and caches (`KERAS_HOME`).

    python benchmarks/translation_step.py [--rounds 3] [--calls 1] [--exact] [--recipes seq2seq ... transformer]
"""

import argparse
import dataclasses

import book_translation
import keras
import numpy as np
import timing

RECIPES = "seq2seq", "seq2seq_bidirectional", "seq2seq_attention", "transformer_book", "transformer"
BOOKS_OWN = {
    "seq2seq": {"dropout": 0.0},
    "seq2seq_bidirectional": {"dropout": 0.0},
    "seq2seq_attention": {"dropout": 0.0, "attention": "book"},
    "transformer_book": {"head_dim": 128, "tie_weights": False},
}
FOREVER = 1_000_000


class Ours:
    """Model of a recipe, and a training step for each bucket of its training split."""

    def __init__(self, recipe, base=None):
        from homl_models.pipelines import translation
        from homl_models.tokenizers import TOKENIZERS

        self.recipe, base = recipe, base or recipe
        for name in ("splits", "vocabularies"):  # read and learned once
            recipe.__dict__[name] = getattr(base, name)
        recipe.__dict__["_datasets"] = base.datasets()
        keras.utils.set_random_seed(recipe.seed)
        self.model = recipe.model()
        make = TOKENIZERS[recipe.tokenizer]
        pairs = recipe.splits[0]
        both = translation.encode(pairs, *map(make, recipe.vocabularies))
        _, sources, targets = translation.filter_by_length(pairs, *both, recipe.max_length)
        self.buckets = translation.bucket(sources, targets, recipe.num_buckets)
        self.datasets = [translation.batches([bucket], recipe.batch_size, recipe.seed) for bucket in self.buckets]
        self.steps_per_epoch = [dataset.steps for dataset in self.datasets]  # of each bucket

    def steps(self):
        """{name: function} of a training step for each bucket, on new batches each time."""
        functions = {}
        for i, random_access in enumerate(self.datasets):
            batches = iter(random_access.dataset(0, FOREVER).map(with_unknown_length))
            if not i:
                self.model._symbolic_build(data_batch=next(batches))
                self.model.make_train_function()
            functions[f"bucket {i}"] = lambda batches=batches: float(self.model.train_function(batches)["loss"])
        return functions

    def epoch(self, seconds):
        """Seconds of an epoch from {name: seconds of a step}."""
        return sum(n * seconds[f"bucket {i}"] for i, n in enumerate(self.steps_per_epoch))

    def flops(self, padded=False):
        """Operations of the matrix products of an epoch, for the true tokens or with the padding."""
        total = 0
        for (source, target), steps in zip(self.buckets, self.steps_per_epoch):
            s, t = source != 0, target[:, :-1] != 0
            s, t = (np.full(len(x), x.shape[1]) if padded else x.sum(axis=1) for x in (s, t))
            total += steps * self.recipe.batch_size * float(np.mean(self.pair_flops(s, t)))
        return total

    def pair_flops(self, s, t):
        """Operations for pairs of s source and t target tokens: 2 per weight and token, 3 times for the gradients."""
        encoder_weights = {id(weight) for layer in self.model.encoder for weight in layer.weights}
        per_source, per_target, attention = 0, 0, 0
        for weight in self.model.trainable_weights:
            size, path = int(np.prod(weight.shape)), weight.path
            if len(weight.shape) < 2 or path.endswith("/embeddings"):
                continue
            if id(weight) in encoder_weights or "cross_attention/key" in path or "cross_attention/value" in path:
                per_source += size
            else:
                per_target += size
        if hasattr(self.model, "num_heads"):
            size = self.model.num_heads * (self.model.head_dim or self.model.dim // self.model.num_heads)
            attention = 2 * size * (len(self.model.encoder) * s * s + len(self.model.decoder) * (t * t + t * s))
            if self.model.tie_weights:
                per_target += len(self.model.target_vocabulary) * self.model.dim
        elif self.model.has_attention:
            attention = 2 * self.model.units * t * s
        return 6 * (per_source * s + per_target * t + attention)


def with_unknown_length(*batch):
    """A batch whose length is unknown when the step is traced, as in `fit`, where buckets alternate."""
    import tensorflow as tf

    return keras.tree.map_structure(
        lambda ids: tf.raw_ops.PlaceholderWithDefault(input=ids, shape=[ids.shape[0], None]), batch
    )


# The book.


def book_step(book, pairs, batch_size):
    """A training step of the book's model, as `fit` runs it, on strings."""
    import tensorflow as tf

    sources, targets = ([text.replace("¡", "").replace("¿", "") for text in side] for side in zip(*pairs))
    inputs = book_translation.strings(sources), book_translation.strings([f"startofseq {t}" for t in targets])
    labels = book.target_ids(book_translation.strings([f"{t} endofseq" for t in targets]))
    dataset = tf.data.Dataset.from_tensor_slices((inputs, labels)).shuffle(10_000).repeat()
    batches = iter(dataset.batch(batch_size, drop_remainder=True).prefetch(2))
    book.model._symbolic_build(data_batch=next(batches))
    book.model.make_train_function()
    return lambda: float(book.model.train_function(batches)["loss"])


def check_book(ours, book, pairs):
    """With our weights, randomized, the book's model gives the same probabilities where there is text."""
    weights = [w.numpy() for w in ours.model.weights]
    recurrent = hasattr(ours.model, "units")
    book_translation.randomized(ours.model, 1.0 if recurrent else ours.model.dim**-0.5, 1.0, 3.0)
    book.same_weights(ours.model)
    sources, targets = map(list, zip(*((s, t) for s, t in pairs if (s + t).isascii())))  # only ours lowers É
    source, target = ours.model.source_ids(sources), ours.model.target_ids(targets)[:, :-1]
    mine = keras.ops.softmax(ours.model((source, target), training=False))
    texts = [f"{s} endofseq" for s in sources], [f"startofseq {t}" for t in targets]  # ours adds them itself
    theirs = book.model([book_translation.strings(side) for side in texts], training=False)
    text = (target != 0) & (target != 3)  # the book's decoder never gets the end
    mine, theirs = mine.numpy()[text], theirs.numpy()[:, : target.shape[1]][text]
    assert mine.max() > 0.005, "too uniform to compare"
    np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-6)
    for weight, value in zip(ours.model.weights, weights):
        weight.assign(value)


def against_book(name, recipe, rounds, calls, exact):
    """Check, time and report one of the book's four models."""
    ours = Ours(recipe)
    variants = {"": ours}
    same = Ours(dataclasses.replace(recipe, **BOOKS_OWN[name]), recipe)
    if exact:
        variants["exactly the book's model, "] = same
    book = book_translation.Book(name, *recipe.vocabularies)
    pairs = recipe.splits[0]
    check_book(same, book, pairs[:64])
    sides = {f"book {size}": book_step(book, pairs, size) for size in (32, recipe.batch_size)}
    sides |= {variant + step: f for variant, o in variants.items() for step, f in o.steps().items()}
    compiled = {side: timing.seconds(function) for side, function in sides.items()}
    medians = timing.interleaved(sides | {"peak": timing.matrix_product()}, rounds, dict.fromkeys(sides, calls))
    for variant, o in variants.items():
        seconds = o.epoch({side.removeprefix(variant): s for side, s in medians.items() if side.startswith(variant)})
        report(
            f"an epoch of {name}, {variant}against the book's pipeline",
            o,
            seconds,
            medians["book 32"] * len(pairs) / 32,
            medians["peak"],
            ratio_same_batch=medians[f"book {recipe.batch_size}"] * len(pairs) / recipe.batch_size / seconds,
            compile_s=sum(s for side, s in compiled.items() if side.startswith(f"{variant}bucket")),
        )


def report(claim, ours, seconds, peer, peak, **more):
    rate = timing.PEAK_FLOPS / peak
    shares = {f"peak_fraction{end}": ours.flops(bool(end)) / seconds / rate for end in ("", "_padded")}
    timing.report(claim, seconds, peer, **shares, **more)


# PyTorch.


class Peer:
    """`torch.nn` blocks between tied embeddings, with the weights of a `Transformer` (pre-norm, shared embeddings)."""

    def __init__(self, model, recipe):
        import torch

        from homl_models.layers.positional import sinusoids

        self.torch, self.dim, self.smoothing = torch, model.dim, recipe.label_smoothing
        settings = {"d_model": model.dim, "nhead": model.num_heads, "dim_feedforward": model.hidden_units}
        settings |= {"dropout": model.dropout, "batch_first": True, "norm_first": model.pre_norm}
        self.core = torch.nn.Transformer(
            num_encoder_layers=len(model.encoder), num_decoder_layers=len(model.decoder), **settings
        )
        self.embedding = torch.nn.Embedding(len(model.target_vocabulary), model.dim)
        self.dropout = torch.nn.Dropout(model.dropout)
        self.positions = torch.tensor(keras.ops.convert_to_numpy(sinusoids(np.arange(200), model.dim)))
        self.modules = torch.nn.ModuleList([self.core, self.embedding, self.dropout])
        self.copy(model)
        self.optimizer = torch.optim.Adam(self.modules.parameters(), lr=1e-4)

    def copy(self, model):
        import torch

        state = {"1.weight": model.target_embedding.get_weights()[0]}
        for side, blocks, last in (("encoder", model.encoder, 0), ("decoder", model.decoder, 1)):
            state |= weights_of(f"0.{side}", {"norm": model.norms[last]})
            for i, block in enumerate(blocks):
                at = f"0.{side}.layers.{i}"
                for name, attention in zip(
                    ("self_attn", "multihead_attn"), map(block.__getattribute__, block.attentions)
                ):
                    parts = [
                        dense.get_weights()
                        for dense in (attention.query_dense, attention.key_dense, attention.value_dense)
                    ]
                    state[f"{at}.{name}.in_proj_weight"] = np.concatenate([kernel.T for kernel, _ in parts])
                    state[f"{at}.{name}.in_proj_bias"] = np.concatenate([bias for _, bias in parts])
                    state |= weights_of(at, {f"{name}.out_proj": attention.output_dense})
                layers = {"linear1": block.hidden, "linear2": block.output_dense}
                layers |= {f"norm{j + 1}": norm for j, norm in enumerate(block.norms)}
                state |= weights_of(at, layers)
        self.modules.load_state_dict({name: torch.tensor(np.array(value)) for name, value in state.items()})

    def embed(self, ids):
        return self.dropout(self.embedding(ids) * self.dim**0.5 + self.positions[: ids.shape[1]])

    def loss(self, batch):
        (source, target), labels = batch
        padding = source == 0
        causal = self.core.generate_square_subsequent_mask(target.shape[1])
        hidden = self.core(
            self.embed(source),
            self.embed(target),
            tgt_mask=causal,
            tgt_is_causal=True,
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        logits = hidden @ self.embedding.weight.T
        settings = {"ignore_index": 0, "label_smoothing": self.smoothing}
        return self.torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), **settings)

    def tensors(self, batch):
        return keras.tree.map_structure(lambda x: self.torch.from_numpy(x.numpy().astype(np.int64)), batch)

    def steps(self, ours):
        """{name: function} of a training step for each bucket."""
        found = {}
        for i, random_access in enumerate(ours.datasets):
            batches = iter(random_access.dataset(0, FOREVER))
            found[f"torch bucket {i}"] = lambda batches=batches: self.step(self.tensors(next(batches)))
        return found

    def step(self, batch):
        self.modules.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(batch)
        loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()


def weights_of(at, layers):
    """Weights of layers of Keras under PyTorch's names."""
    return {
        f"{at}.{name}.{part}": weight.T
        for name, layer in layers.items()
        for part, weight in zip(("weight", "bias"), layer.get_weights())
    }


def check_torch(ours, peer):
    """With the same weights, and without dropout, both have the same loss."""
    batch = next(iter(ours.datasets[1].dataset(0, 1)))
    (source, target), labels = batch
    logits, mask = ours.model((source, target), training=False), labels.numpy() != 0
    mine = ours.model.loss.call(labels, logits).numpy()[mask].mean()
    peer.modules.eval()
    with peer.torch.no_grad():
        theirs = peer.loss(peer.tensors(batch)).item()
    np.testing.assert_allclose(mine, theirs, rtol=1e-4)


def against_torch(name, recipe, rounds, calls, exact):
    """Check, time and report the recipe `transformer`; without torch, only its fraction of the peak."""
    ours = Ours(recipe)
    sides, peer = ours.steps(), None
    try:
        peer = Peer(ours.model, recipe)
    except ImportError as error:
        print(f"no comparison with PyTorch: {error} (pip install torch)")
    if peer:
        check_torch(ours, peer)
        sides |= peer.steps(ours)
    compiled = sum(timing.seconds(f) for side, f in sides.items() if side.startswith("bucket"))
    for side, function in sides.items():
        if side.startswith("torch"):
            function()
    medians = timing.interleaved(sides | {"peak": timing.matrix_product()}, rounds, dict.fromkeys(sides, calls))
    seconds = ours.epoch(medians)
    least = ours.flops() / (timing.PEAK_FLOPS / medians["peak"])
    report(
        f"an epoch of {name}, against its matrix products", ours, seconds, least, medians["peak"], compile_s=compiled
    )
    if peer:
        torch = {side.removeprefix("torch "): s for side, s in medians.items() if side.startswith("torch")}
        report(f"an epoch of {name}, against torch.nn", ours, seconds, ours.epoch(torch), medians["peak"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="times that each side is measured")
    parser.add_argument("--calls", type=int, default=1, help="steps each time")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--exact", action="store_true", help="time exactly the book's architecture as well")
    args = parser.parse_args()

    from homl_models import recipes

    for name in args.recipes:
        compare = against_torch if name == "transformer" else against_book
        compare(name, recipes.get(name), args.rounds, args.calls, args.exact)


if __name__ == "__main__":
    main()
