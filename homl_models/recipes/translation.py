"""Base class of translation recipes (`recipes/seq2seq.py`, `recipes/transformer.py`): pairs, batches, metrics."""

import dataclasses
import functools
from typing import Literal

from homl_models.errors import UserError
from homl_models.recipes.recipe import Recipe, positive
from homl_models.recipes.sources import Sourced

BOOK_SENTENCES = ("I like soccer", "I like soccer and also going to the beach")


@dataclasses.dataclass(frozen=True)
class TranslationRecipe(Sourced, Recipe):
    """Pairs of sentences, their splits, vocabularies and batches; evaluation by accuracy, BLEU and chrF."""

    epochs: int = 5
    batch_size: int = 64
    monitor: str = "val_accuracy"
    monitor_mode: Literal["min", "max"] = "max"
    data: Literal["spa-eng", "dates"] = "spa-eng"
    """The book's English-Spanish pairs, from Keras' cache or the network, or generated dates."""
    pairs_file: str = ""
    """Your own pairs instead: UTF-8 lines of source, tab, target; plain, .gz or .zip."""
    tfds_keys: tuple[str, ...] = ()
    """Source and target among the features of --source tfds:NAME, e.g. en pt. Empty: as TensorFlow Datasets says."""
    num_pairs: int = 0
    """Use only that many pairs. 0: all of a file; of dates 20,000."""
    split: Literal["book", "honest"] = "book"
    """`book` splits at random; `honest` keeps pairs that share a sentence in one split."""
    tokenizer: Literal["words", "subwords", "characters"] = "words"
    """The book's lower-cased words, learned subwords, or characters."""
    vocab_size: int = 1000
    """Size of a vocabulary (no limit to characters)."""
    max_length: int = 50
    """Leave out pairs with more tokens on a side."""
    num_buckets: int = 5
    """Length buckets, each with its own shape of batches."""
    num_judged: int = 2000
    """Test pairs that are translated for BLEU and chrF."""

    def __post_init__(self):
        super().__post_init__()
        positive(vocab_size=self.vocab_size - 4, max_length=self.max_length, num_buckets=self.num_buckets)
        positive(num_judged=self.num_judged)
        self.check_source(pairs_file=self.pairs_file)
        if self.tfds_keys and (self.source == "keras" or len(self.tfds_keys) != 2):
            raise UserError("--tfds-keys are two names, of source and target, for --source tfds:NAME")
        if self.num_pairs < 0:
            raise UserError("--num-pairs must be 0 (all) or more")
        if self.synthetic and self.split == "book":
            raise UserError("--split book is for files of pairs; a generated date of a test is never trained on")

    @property
    def synthetic(self):
        """Whether pairs are generated."""
        return self.data == "dates" and not self.pairs_file

    @functools.cached_property
    def splits(self):
        """Training, validation and test pairs."""
        import random

        from homl_models.pipelines import tfds, translation

        if self.synthetic:
            return self._generated_dates()
        if self.tfds_name:
            found = tfds.pairs(self.tfds_name, self.tfds_keys)
            pairs, *held_out = (found.get(split, []) for split in ("train", "validation", "test"))
        else:
            pairs = translation.read_pairs(self.pairs_file) if self.pairs_file else translation.spa_eng()
            held_out = ()
        if self.num_pairs:
            pairs = random.Random(self.seed).sample(pairs, min(self.num_pairs, len(pairs)))
        split = translation.book_split if self.split == "book" else translation.group_split
        splits = (pairs, *held_out) if held_out and all(held_out) else split(pairs, self.seed)
        if not all(splits):
            raise UserError(f"{len(pairs)} pairs are too few to split; give more")
        return splits

    def _generated_dates(self):
        from homl_models.pipelines import dates

        count = self.num_pairs or 20_000
        held_out = dates.generate(2 * max(16, min(2000, count // 10)), self.seed + 1)
        train = dates.generate(count, self.seed, exclude={iso for _, iso in held_out})
        return train, held_out[: len(held_out) // 2], held_out[len(held_out) // 2 :]

    @functools.cached_property
    def vocabularies(self):
        """Source and target vocabulary, learned on the training split; subwords share one of both sides."""
        from homl_models.tokenizers import subwords
        from homl_models.tokenizers.characters import learn_characters
        from homl_models.tokenizers.words import learn_words

        sources, targets = map(list, zip(*self.splits[0]))
        if self.tokenizer == "subwords":
            return (subwords.learn_subwords(sources + targets, self.vocab_size),) * 2
        if self.tokenizer == "characters":
            return learn_characters(sources), learn_characters(targets)
        return learn_words(sources, self.vocab_size), learn_words(targets, self.vocab_size)

    def fingerprinted(self):
        return super().fingerprinted() | {"vocabulary": self.vocabularies}

    def bucketed_dataset(self, pairs, vocabularies, max_length=None, seed=None):
        """The pairs with at most `max_length` tokens on a side, and their batches as a `RandomAccessDataset`."""
        from homl_models.pipelines import translation
        from homl_models.tokenizers import TOKENIZERS

        make = TOKENIZERS[self.tokenizer]
        sources, targets = translation.encode(pairs, *map(make, vocabularies))
        if max_length is not None:
            pairs, sources, targets = translation.filter_by_length(pairs, sources, targets, max_length)
        return pairs, translation.batches(translation.bucket(sources, targets, self.num_buckets), self.batch_size, seed)

    @functools.cached_property
    def _datasets(self):
        train, valid, _ = self.splits
        settings = self.vocabularies, self.max_length
        return self.bucketed_dataset(train, *settings, self.seed)[1], self.bucketed_dataset(valid, *settings)[1]

    def datasets(self):
        return self._datasets

    def compile(self, model):
        """Build and compile `model` -> model."""
        model.build()
        model.compile(self.optimizer(self.epochs * self.datasets()[0].steps), **self.compile_kwargs())
        return model

    def compile_kwargs(self):
        """Arguments of `compile` beside the optimizer."""
        import keras

        from homl_models import metrics

        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        return {"loss": loss, "metrics": [metrics.TokenAccuracy()], "jit_compile": True}

    def evaluate(self, model, pairs_file=""):
        """Loss in nats per token, accuracy per token, BLEU and chrF; `pairs_file` instead of the recipe's test data.

        The loss is the training loss, with label smoothing if the recipe has it. BLEU of words is computed within the
        model's vocabulary.
        """
        from homl_models.pipelines import translation

        if not model.compiled:
            model.compile(**self.compile_kwargs())
        if pairs_file:
            splits = {"": translation.read_pairs(pairs_file)}
        else:
            splits = {"val_": self.splits[1], "test_": self.splits[2]}
        metrics, vocabularies = {}, (model.source_vocabulary, model.target_vocabulary)
        for prefix, pairs in splits.items():
            pairs, batches = self.bucketed_dataset(pairs, vocabularies, model.max_length)
            for name, value in model.evaluate(batches.dataset(), return_dict=True, verbose=0).items():
                metrics[prefix + name] = float(value)
        return metrics | self.translation_metrics(model, pairs[: self.num_judged])

    def translation_metrics(self, model, pairs):
        """BLEU and chrF of greedy and beam search on pairs; of characters, the fraction of exact translations."""
        from homl_models import metrics

        sources, references = zip(*pairs)
        greedy = translate_all(model, sources, 1)
        if self.tokenizer == "characters":
            return {"exact": sum(a == b for a, b in zip(greedy, references)) / len(pairs)}
        if self.tokenizer == "words":
            references = model.normalize(references)
        scores = metrics.translation(greedy, references)
        beam = metrics.translation(translate_all(model, sources, 4), references)
        return scores | {f"{name}_beam4": value for name, value in beam.items()}

    def show(self, model, folder):
        """A table of translations (source, reference, greedy, beam 4) and attention.png."""
        from homl_models.training import reports

        book = self.data == "spa-eng" and not self.pairs_file and not self.tfds_name
        pairs = [(s, "") for s in BOOK_SENTENCES] if book else []
        pairs += self.splits[2][:8]
        sources, references = map(list, zip(*pairs))
        columns = {"source": sources, "reference": references, "greedy": model.translate(sources)}
        columns["beam 4"] = model.translate(sources, beam_width=4)
        if model.has_attention:
            reports.attention(*model.attention_weights(sources[min(1, len(sources) - 1)]), folder / "attention.png")
        return reports.blocks(columns)


def translate_all(model, sources, beam_width, batch_size=250):
    """Translations of many sentences, in batches of similar length, with a progress bar."""
    import tqdm

    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    translations = {}
    for first in tqdm.trange(0, len(order), batch_size, desc=f"beam {beam_width}", leave=False):
        batch = order[first : first + batch_size]
        translations |= zip(batch, model.translate([sources[i] for i in batch], beam_width=beam_width))
    return [translations[i] for i in range(len(sources))]


TINY = {
    "epochs": 2,
    "batch_size": 8,
    "data": "dates",
    "split": "honest",
    "tokenizer": "characters",
    "num_pairs": 80,
    "num_buckets": 1,
    "num_judged": 8,  # as many as `show` translates, so that one shape is compiled
}
