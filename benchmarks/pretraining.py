"""Gain of pre-training: sentiment of reviews from few labels, from scratch and from BERT and ELECTRA.

    python benchmarks/pretraining.py --bert runs/bert_pretrain --electra runs/electra_pretrain
        [--data-file reviews.csv --test-file reviews_test.csv] [--labels 1000] [--seeds 0 1 2 3 4] [--tested 5000]
        [--epochs 6] [--learning-rates 3e-4 1e-3 3e-3] [--starts words scratch bert electra]

Three starts: a new BERT of the same size with the same word pieces, and the two runs. Each learns from the same
reviews, `--labels` of them for each seed, by the recipes `bert_classify` and `electra_classify`; of the learning rates
each start takes the one that validates best with the first seed. One JSON line per training, and at the end one per
start: mean and standard deviation of the accuracy on `--tested` reviews of the test split, over the seeds.

The baseline `words` has no network: logistic regression (scikit-learn, C = 10) on which pieces the same tokens are,
weighed by TF-IDF, whatever their order.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from homl_models import loading, recipes

STARTS = ["words", "scratch", "bert", "electra"]


def starts(args, folder):
    """{name: recipe} of the three starts."""
    vocabulary = loading.load(args.bert).vocabulary
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    _, pretrained = recipes.of_run(loading.find(args.bert))
    shared = {
        "num_examples": args.labels,
        "epochs": args.epochs,
        "max_length": pretrained.max_length,
        "lowercase": pretrained.lowercase,
        "data_file": args.data_file,
        "test_file": args.test_file,
    }
    names = *recipes.bert.SIZES, "position_embedding_type", "initializer_range"
    sizes = {name: getattr(pretrained, name) for name in names} | {"vocab_size": 0}
    bert, electra = recipes.get("bert_classify"), recipes.get("electra_classify")
    return {
        "scratch": dataclasses.replace(bert, vocab_file=str(folder / "vocab.txt"), **sizes, **shared),
        "bert": dataclasses.replace(bert, pretrained=args.bert, **shared),
        "electra": dataclasses.replace(electra, pretrained=args.electra, **shared),
    }


def train_and_test(args, start, recipe, seed, learning_rate):
    """Train by a recipe -> accuracy on the validation split and on `args.tested` reviews of the test split; printed.

    Later seeds leave the validation out: the learning rate is chosen by then.
    """
    began = time.perf_counter()
    keras.utils.set_random_seed(seed)
    recipe = dataclasses.replace(recipe, seed=seed, learning_rate=learning_rate)
    model, (train, _) = recipe.model(), recipe.datasets()
    model.fit(train.dataset(0, recipe.epochs * train.steps), shuffle=False, verbose=0)
    _, valid, test = recipe.splits
    found = {"test_accuracy": recipe.metrics(model, test[: args.tested])["accuracy"]}
    if seed == args.seeds[0]:
        found["val_accuracy"] = recipe.metrics(model, valid[: args.tested])["accuracy"]
    row = {"start": start, "seed": seed, "learning_rate": learning_rate, **found}
    print(json.dumps(row | {"seconds": round(time.perf_counter() - began, 1)}), flush=True)
    return found


def word_baseline(args, recipe, seed):
    """Accuracy of the baseline without a network; printed."""
    recipe = dataclasses.replace(recipe, seed=seed)
    train, _, test = recipe.splits
    model = make_pipeline(
        TfidfVectorizer(analyzer=lambda ids: ids, sublinear_tf=True), LogisticRegression(C=10.0, max_iter=1000)
    )

    def pieces(rows):
        examples = recipe.examples(rows, recipe.wordpiece, recipe.labels)
        return [list(ids[ids != 0]) for ids in examples.tokens["input_ids"]], examples.labels["labels"]

    row = {
        "start": "words",
        "seed": seed,
        "test_accuracy": model.fit(*pieces(train)).score(*pieces(test[: args.tested])),
    }
    print(json.dumps(row), flush=True)
    return row


def summarize(args, start, found, **more):
    """Print mean and standard deviation of the accuracies over the seeds."""
    values = np.array([row["test_accuracy"] for row in found])
    spread = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    row = {"claim": f"{args.labels} labels, {start}", **more, "seeds": len(values)}
    print(json.dumps(row | {"accuracy": round(float(values.mean()), 4), "deviation": round(spread, 4)}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bert", required=True, help="a run of bert_pretrain")
    parser.add_argument("--electra", required=True, help="a run of electra_pretrain on the same texts")
    parser.add_argument("--data-file", default="", help="a .csv with columns text and label; default: IMDb")
    parser.add_argument("--test-file", default="", help="another, to test on")
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--tested", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3])
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=STARTS, help="what to measure")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        made = starts(args, Path(folder))
        if "words" in args.starts:
            summarize(args, "words", [word_baseline(args, made["scratch"], seed) for seed in args.seeds])
        for start in [start for start in args.starts if start != "words"]:
            recipe = made[start]
            tried = {rate: train_and_test(args, start, recipe, args.seeds[0], rate) for rate in args.learning_rates}
            best = max(tried, key=lambda rate: tried[rate]["val_accuracy"])
            found = [tried[best], *(train_and_test(args, start, recipe, seed, best) for seed in args.seeds[1:])]
            summarize(args, start, found, learning_rate=best)


if __name__ == "__main__":
    main()
