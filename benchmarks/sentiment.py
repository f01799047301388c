"""An epoch of the recipes of sentiment against the book's pipeline, and the yardstick that each must beat.

The peer is the book's model: strings into the model, `TextVectorization`, batches of 32 in random order, each padded to
its longest text, Nadam, no XLA. Both sides are timed by single training steps, in turn: ours for one batch of each
length, times how often it comes in an epoch; the book's for some batches of the epoch, times all of them. Checked
first: with the same weights both give the same probabilities.

The yardstick is a logistic regression of scikit-learn on TF-IDF, of words and of words and pairs of words, trained on
the same texts as ours: its accuracy and seconds. With --train each recipe is trained as well, with its accuracy beside.

    python benchmarks/sentiment.py --data-file imdb_reviews.csv.gz --test-file imdb_reviews_test_half.csv.gz
"""

import argparse
import collections
import dataclasses
import json
import random
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import timing

from homl_models.recipes import get

BATCH = 32  # of the book
VARIANTS = (
    "sentiment", "sentiment_unmasked", "sentiment_by_hand", "sentiment_ragged", "sentiment_masking_layer",
    "sentiment_own_layer", "sentiment_attention", "sentiment_ngrams",
)  # fmt: skip


def book(vocabulary, masked=True):
    """The book's classifier: strings (b,) -> p (b, 1)."""
    model = keras.Sequential(
        [
            keras.Input(shape=(), dtype="string"),
            keras.layers.TextVectorization(vocabulary=list(vocabulary[2:])),
            keras.layers.Embedding(len(vocabulary), 128, mask_zero=masked),
            keras.layers.GRU(128),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(loss="binary_crossentropy", optimizer="nadam", metrics=["accuracy"], jit_compile=False)
    return model


def step(model, batch):
    """A function that trains on the batch, and returns its loss."""
    import tensorflow as tf

    batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
    model._symbolic_build(data_batch=batch)
    model.make_train_function()

    def train():
        return float(model.train_function(batches)["loss"])

    train()
    return train


def book_steps(recipe, count):
    """{name: step} of some batches of the book's epoch, and how many batches an epoch has."""
    import tensorflow as tf

    rows = random.Random(0).sample(recipe.splits[0], len(recipe.splits[0]))
    model = book(recipe.vocabulary)
    steps = {}
    for i in range(count):
        texts, labels = zip(*rows[i * BATCH : (i + 1) * BATCH])
        batch = tf.constant(texts), tf.constant(recipe.label_ids(list(zip(texts, labels)), recipe.label_names))
        steps[f"book {i}"] = step(model, batch)
    return steps, -(-len(rows) // BATCH)


def our_steps(name, recipe):
    """{name: step} of a batch of each length, {name: how often it comes in an epoch}."""
    model, data = recipe.model(), recipe.datasets()[0]
    counts, batches = collections.Counter(), {}
    for batch in data.dataset():
        length = batch[0].shape[1]
        counts[f"{name} {length}"] += 1
        batches[f"{name} {length}"] = batch
    return {key: step(model, batch) for key, batch in batches.items()}, counts


def check(recipe):
    """The book's model and ours give the same probabilities with the same weights."""
    import tensorflow as tf

    model, reference = recipe.model(), book(recipe.vocabulary)
    model.set_weights([3 * weight for weight in model.get_weights()])  # probabilities far from 0.5
    reference.set_weights(model.get_weights())
    texts = [text for text, _ in recipe.splits[1][:BATCH]]
    np.testing.assert_allclose(model.classify(texts)[1][:, 1], reference(tf.constant(texts))[:, 0], atol=1e-4)


def epochs(recipes, rounds, book_batches):
    """Time and report an epoch of each recipe against the book's."""
    sides, book_epoch = book_steps(recipes["sentiment"], book_batches)
    counts = {}
    for name, recipe in recipes.items():
        steps, counts[name] = our_steps(name, recipe)
        sides |= steps
    medians = timing.interleaved(sides, rounds)
    peer = book_epoch * sum(medians[f"book {i}"] for i in range(book_batches)) / book_batches
    for name, of_lengths in counts.items():
        ours = sum(medians[key] * count for key, count in of_lengths.items())
        timing.report(f"an epoch of {name}, against the book's pipeline", ours, peer, steps=sum(of_lengths.values()))


def yardstick(recipe):
    """Accuracy and seconds of a logistic regression on TF-IDF."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    (texts, labels), (test_texts, test_labels) = (zip(*recipe.splits[i]) for i in (0, 2))
    for n, what in ((1, "words"), (2, "words and pairs of words")):
        began = time.perf_counter()
        model = make_pipeline(
            TfidfVectorizer(ngram_range=(1, n), sublinear_tf=n > 1), LogisticRegression(C=10 ** (n - 1))
        )
        model.fit(texts, labels)
        seconds = time.perf_counter() - began
        accuracy = float(model.score(test_texts, test_labels))
        print(json.dumps({"yardstick": f"TF-IDF of {what}", "accuracy": accuracy, "seconds": seconds}), flush=True)


def train(name, recipe):
    """Train a recipe and report its accuracy and minutes."""
    from homl_models.training import loop

    with tempfile.TemporaryDirectory() as folder:
        loop.run(name, dataclasses.replace(recipe, run_dir=folder, verbose=2))
        metrics = json.loads((Path(folder) / "metrics.json").read_text())
    kept = {key: metrics[key] for key in ("val_accuracy", "test_accuracy", "epochs", "minutes")}
    print(json.dumps({"recipe": name, **kept}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-file", default="", help="reviews, a .csv; by default IMDb from Keras' cache")
    parser.add_argument("--test-file", default="", help="test reviews")
    parser.add_argument("--variants", nargs="+", default=VARIANTS, help="recipes")
    parser.add_argument("--rounds", type=int, default=3, help="times that each step is measured")
    parser.add_argument("--book-batches", type=int, default=8, help="batches of the book's epoch to measure")
    parser.add_argument("--train", action="store_true", help="train each recipe as well")
    args = parser.parse_args()
    names = dict.fromkeys(["sentiment", *args.variants])
    files = {"data_file": args.data_file, "test_file": args.test_file}
    recipes = {name: dataclasses.replace(get(name), **files) for name in names}
    first = recipes["sentiment"]
    for recipe in recipes.values():  # read and count once
        vars(recipe)["splits"] = first.splits
        if recipe.vocab_size == first.vocab_size:
            vars(recipe)["vocabulary"] = first.vocabulary
    check(recipes["sentiment"])
    epochs(recipes, args.rounds, args.book_batches)
    yardstick(recipes["sentiment"])
    for name in args.variants if args.train else ():
        train(name, recipes[name])


if __name__ == "__main__":
    main()
