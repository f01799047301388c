"""Recipes of BERT and ELECTRA (`models/bert_heads.py`, `models/electra.py`): pre-training; see `fine_tuning.py`."""

import dataclasses
import functools
from typing import Literal

from homl_models.errors import UserError
from homl_models.recipes.recipe import Recipe, positive, rate

SIZES = "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"  # of an encoder
SHOWN = 6  # texts


@dataclasses.dataclass(frozen=True)
class Encoder(Recipe):
    """What all of them share: the size of the encoder, its vocabulary, and how it is trained.

    A subclass has `training_texts`, an iterator over the texts to learn a vocabulary from.
    """

    learning_rate: float = 5e-4
    hidden_size: int = 128
    """Size of what becomes of a token."""
    num_hidden_layers: int = 2
    """Blocks of the encoder."""
    num_attention_heads: int = 2
    """Heads of every attention."""
    intermediate_size: int = 512
    """Hidden units of the feed-forward networks."""
    position_embedding_type: Literal["absolute", "relative_key", "relative_key_query"] = "absolute"
    """Embeddings of positions, or of distances, within every attention (see `models/bert.py`)."""
    initializer_range: float = 0.02
    """Standard deviation of new weights; 0.02 is BERT's, for a size of 768."""
    dropout: float = 0.1
    """Dropout rate on embeddings, on every sub-layer and on the attention weights."""
    max_length: int = 128
    """Tokens of a text, with those that are added."""
    vocab_file: str = ""
    """A vocab.txt of WordPiece, a token on each line. Empty: one is learned from the training texts."""
    vocab_size: int = 8192
    """Most tokens of a vocabulary that is learned."""
    lowercase: bool = True
    """Read texts without case and accents."""
    num_buckets: int = 4
    """Lengths of batches: texts of like length share one."""
    schedule: Literal["linear", "cosine", "polynomial", "constant"] = "linear"
    """Learning rate after the warm-up, down to zero or constant; `polynomial` is the square of the linear one."""
    warmup: float = 0.1
    """Share of the training in which the learning rate rises."""
    decay: float = 0.01
    """Weight decay, of all but biases and normalizations."""
    layer_decay = 1.0

    def __post_init__(self):
        super().__post_init__()
        if self.max_length < 5:
            raise UserError(f"--max-length must be 5 or more, not {self.max_length}")
        positive(num_buckets=self.num_buckets, initializer_range=self.initializer_range)
        rate(dropout=self.dropout, warmup=self.warmup)
        if self.decay < 0:
            raise UserError("--decay must be 0 or more")
        self.check_sizes()

    @property
    def sizes(self):
        """Those of the encoder, and of a vocabulary that is learned."""
        return {name: getattr(self, name) for name in (*SIZES, "vocab_size")}

    def check_sizes(self):
        """Raise `UserError` for an encoder that cannot be."""
        sizes = self.sizes
        if sizes.pop("vocab_size") < 10:
            raise UserError(f"--vocab-size must be 10 or more, not {self.vocab_size}")
        positive(**sizes)
        heads, size = sizes["num_attention_heads"], sizes["hidden_size"]
        if size % heads:
            raise UserError(f"--num-attention-heads {heads} does not divide --hidden-size {size}")

    @functools.cached_property
    def wordpiece(self):
        """The vocabulary, from its file or learned on the training part."""
        from homl_models.tokenizers.wordpiece import WordPiece, has_capitals
        from homl_models.tokenizers.wordpiece_graph import tensorflow_text

        tensorflow_text()  # the SavedModel needs it in the end
        if self.vocab_file:
            found = WordPiece.from_file(self.vocab_file, self.lowercase)
            if self.lowercase and has_capitals(found.vocabulary):
                raise UserError(f"the words of --vocab-file {self.vocab_file} have capitals: give --no-lowercase")
            return found
        return WordPiece.train(self.training_texts(), self.sizes["vocab_size"], self.lowercase)

    def learnt_from(self):
        return super().learnt_from() | {"vocabulary": self.wordpiece.vocabulary}

    def settings(self):
        """Fields of the encoder's configuration."""
        return self.sizes | {
            "vocab_size": len(self.wordpiece.vocabulary),
            "max_position_embeddings": self.max_length,
            "position_embedding_type": self.position_embedding_type,
            "initializer_range": self.initializer_range,
            "hidden_dropout_prob": self.dropout,
            "attention_probs_dropout_prob": self.dropout,
        }

    def reading(self):
        """Arguments of a model of texts."""
        return {"vocabulary": self.wordpiece.vocabulary, **self.wordpiece.settings, "dtype": self.precision}

    def compiled(self, model):
        """`model` with its optimizer."""
        if not model.built:
            model.build()
        steps = self.epochs * self.datasets()[0].steps
        jit_compile = self.precision == "float32" or "auto"  # XLA has no fast products in half precision on a CPU
        model.compile(self.optimizer(steps), jit_compile=jit_compile)
        return model

    @property
    def num_layers(self):
        """Blocks of the encoder."""
        return self.sizes["num_hidden_layers"]

    def optimizer(self, steps):
        from homl_models.optimizers import LayerwiseAdamW
        from homl_models.schedules import WarmUp

        schedule = WarmUp(self.learning_rate, steps, int(self.warmup * steps), self.schedule, power=2.0)
        layers = {"num_layers": self.num_layers, "layer_decay": self.layer_decay}
        return LayerwiseAdamW(schedule, self.decay, **layers, global_clipnorm=1.0)


# Pre-training.


@dataclasses.dataclass(frozen=True)
class _Pretrain(Encoder):
    """What both share: documents, and rows of them with masks."""

    dropout: float = 0.0
    data: Literal["imdb", "events"] = "imdb"
    """The 25,000 film reviews of IMDb, from Keras' cache or the network, or made-up sentences."""
    num_documents: int = 0
    """Use only that many documents. 0: all; of those that are made up 2,000."""
    text_files: str = ""
    """Your own texts instead: a UTF-8 file, or a folder of .txt files; a sentence a line, an empty line between
    documents. Or a .csv with a column `text`. All may be gzipped."""
    masked_lm_prob: float = 0.15
    """Fraction of the tokens that are masked."""
    whole_word_mask: bool = False
    """Mask all pieces of a word, or none."""
    pairs = always_mask = False

    def __post_init__(self):
        super().__post_init__()
        positive(masked_lm_prob=self.masked_lm_prob)
        if self.num_documents < 0:
            raise UserError("--num-documents must be 0 (all) or more")
        if self.masked_lm_prob > 1:
            raise UserError(f"--masked-lm-prob must be 1 at most, not {self.masked_lm_prob}")

    @functools.cached_property
    def splits(self):
        """Documents for training and, a twentieth of them, for validation."""
        import random

        documents = self.documents(self.text_files)
        if min(len(documents), self.num_documents or 4) < 4:
            raise UserError(f"{len(documents)} documents are too few; part them by empty lines, or give more")
        documents = random.Random(self.seed).sample(documents, len(documents))[: self.num_documents or None]
        count = max(2, len(documents) // 20)
        return documents[count:], documents[:count]

    def documents(self, path):
        from homl_models.pipelines import events, text_files

        if path:
            return text_files.read_documents(path)
        if self.data == "imdb":
            return [text_files.sentences(text) for text in text_files.imdb("train")[0]]
        return events.documents(self.num_documents or 2000, self.seed)

    def training_texts(self):
        return (sentence for document in self.splits[0] for sentence in document)

    def rows(self, documents, wordpiece):
        from homl_models.pipelines import pretraining_instances

        encoded = pretraining_instances.encode(documents, wordpiece)
        return pretraining_instances.create_instances(encoded, self.max_length, self.pairs, seed=self.seed)

    def masks(self):
        """How places are masked, for both parts."""
        names = "masked_lm_prob", "whole_word_mask", "always_mask"
        return {name: getattr(self, name) for name in names} | {"buckets": self.num_buckets}

    def validation(self, documents, wordpiece):
        """Documents as a `RandomAccessDataset` that is the same each time."""
        from homl_models.pipelines import masked_text

        return self.given(
            masked_text.eval_batches(self.rows(documents, wordpiece), self.batch_size, self.seed, **self.masks())
        )

    def given(self, stream):
        """A stream as the model takes it."""
        return stream

    @functools.cached_property
    def _datasets(self):
        from homl_models.pipelines import masked_text

        rows = self.rows(self.splits[0], self.wordpiece)
        train = masked_text.batches(rows, self.batch_size, self.seed, **self.masks())
        return self.given(train), self.validation(self.splits[1], self.wordpiece)

    def datasets(self):
        return self._datasets

    def evaluate(self, model, text_files=""):
        """The metrics of training on the held-out documents, or on those of `text_files`, in the model's own words."""
        from homl_models.tokenizers.wordpiece import SETTINGS, WordPiece

        if not model.compiled:
            model.compile()
        wordpiece = WordPiece(model.vocabulary, **{name: getattr(model, name) for name in SETTINGS})
        stream = self.validation(self.documents(text_files) if text_files else self.splits[1], wordpiece)
        found = model.evaluate(stream.dataset(), return_dict=True, verbose=0)
        return {f"{'' if text_files else 'val_'}{name}": float(value) for name, value in found.items()}

    def masked(self):
        """Held-out sentences, each with a [MASK] for one of its words: [(sentence, the word), ...]."""
        import random

        draw, found = random.Random(self.seed), []
        for document in self.splits[1]:
            words = draw.choice(document).split(" ")
            whole = [i for i, word in enumerate(words) if word.isalpha() and len(word) > 3]
            if not whole or len(found) == SHOWN:
                continue
            place = draw.choice(whole)
            sentence = " ".join([*words[:place], "[MASK]", *words[place + 1 :]])
            if self.wordpiece.encode([sentence])["input_ids"].shape[1] <= self.max_length:
                found.append((sentence, words[place]))
        return found


@dataclasses.dataclass(frozen=True)
class BertPretrain(_Pretrain):
    """BERT, pre-trained on film reviews: masked words, and whether one text follows another.

    Measured: `python -m homl_models.train bert_pretrain --text-files reviews.csv`, the 25,000 training reviews of IMDb
    (Maas et al., 2011) as they were written, one core of an AMD EPYC (AVX2), 10 epochs of 3,446 steps, 172 minutes
    beside other work (0.235 to 0.31 s a step). On the held-out twentieth, whose rows are masked alike each time:

        epoch                      1     2     3     4     5     6     7     8     9    10
        masked words right, %   12.4  21.5  28.0  30.7  32.2  33.3  34.3  34.9  35.5  35.6
        loss, both tasks, nats  6.81  6.02  5.15  4.84  4.67  4.56  4.47  4.41  4.39  4.38

    and 64.0 % of the next sentences (of the training rows 73.0 %). "I was [MASK] disappointed.": very 0.21, so 0.13,
    not 0.10; "This movie is [MASK] crafted": well 0.46, poorly 0.11, beautifully 0.05. What it is worth where labels
    are few: `fine_tuning.Classify`. The paper's base model, of 110 million parameters, took four days on 16 TPU chips.

    It takes an epoch until masked words are filled in by what stands around them. Models of 4 blocks of 192 did not get
    so far in 3,000 steps; what a greater one learns in more time was not tried.
    """

    kind = "fit"
    pairs: bool = True
    """Rows are pairs of texts, of which it also learns whether they belong together (next sentence prediction)."""

    def model(self):
        from homl_models.models import bert, bert_config, bert_pretraining

        kind = bert_pretraining.BertForPreTraining if self.pairs else bert_pretraining.BertForMaskedLM
        config = bert_config.BertConfig(**self.settings())
        backbone = bert.Bert(config, add_pooling_layer=self.pairs, dtype=self.precision)
        return self.compiled(kind(backbone, **self.reading()))

    def given(self, stream):
        from homl_models.pipelines.random_access import RandomAccessDataset

        if self.pairs:
            return stream

        def batch(step):
            x, y = stream.batch(step)
            return x, y["labels"]

        return RandomAccessDataset(batch, stream.steps)

    def show(self, model, folder):
        """Held-out sentences with a word masked, and what it may have been."""
        return guesses(model, self.masked())


@dataclasses.dataclass(frozen=True)
class ElectraPretrain(_Pretrain):
    """ELECTRA, pre-trained on film reviews: which words were replaced by a small generator's guesses.

    Measured: `python -m homl_models.train electra_pretrain --text-files reviews.csv`, the reviews, the machine and the
    number of epochs of `BertPretrain`, 2,424 steps each, 167 minutes beside other work (0.31 to 0.41 s a step), so
    nearly equal compute. On the held-out twentieth:

        epoch                            1      2      3      4      5      6      7      8      9     10
        generator right, %             5.2    8.7   11.9   13.1   14.0   15.0   15.5   16.3   16.8   17.0
        generator's loss, nats        6.62   6.31   5.97   5.79   5.63   5.51   5.43   5.35   5.31   5.27
        discriminator's loss, nats  0.4106 0.4028 0.3912 0.3800 0.3721 0.3648 0.3595 0.3555 0.3517 0.3501

    That is the begin of a training: the discriminator says "original" of nearly all (86.8 % right), and what it knows
    is a small part of what can be known. "One of the best banana I have ever seen.": 5 % for the wrong word, 10 % for
    "one". The paper's claim, better than BERT for equal compute, does not show in judging reviews
    (`fine_tuning.Classify`) and not beyond chance in answering (`fine_tuning.Answer`).
    """

    kind = "joint"
    embedding_size: int = 128
    """Size of a token's embedding."""
    generator_size: float = 0.5
    """The generator's size as a share of the discriminator's: hidden size, heads and hidden units."""
    objective: Literal["electra", "electra_15", "replace_mlm", "all_tokens_mlm"] = "electra"
    """What is learnt of the replaced text; see `models/electra.py`."""
    weight: float = 50.0
    """Weight of the discriminator's loss; of the two last objectives it is 1."""
    share_embeddings: bool = True
    """Generator and discriminator have the same embeddings."""
    generator: str = ""
    """A run of this recipe, e.g. with --weight 0, whose generator is taken and rests (the second of two stages); a
    discriminator of its size begins with its weights."""
    always_mask = True

    def __post_init__(self):
        super().__post_init__()
        positive(embedding_size=self.embedding_size, generator_size=self.generator_size)
        if self.weight < 0:
            raise UserError("--weight must be 0 or more")
        if self.weight != type(self).weight and "mlm" in self.objective:
            raise UserError(f"--weight is for other objectives than {self.objective}")
        if self.generator and self.share_embeddings:
            raise UserError("--generator needs --no-share-embeddings: what rests cannot share")
        heads = self.num_attention_heads * self.generator_size
        if heads != int(heads) or heads < 1:
            raise UserError(f"--generator-size must leave a whole number of heads, not {heads:g}")

    def model(self):
        from homl_models.models import bert_config, electra

        fraction = self.generator_size
        config = bert_config.ElectraConfig(**self.settings(), embedding_size=self.embedding_size)
        generator_config = dataclasses.replace(
            config,
            hidden_size=int(self.hidden_size * fraction),
            num_attention_heads=int(self.num_attention_heads * fraction),
            intermediate_size=int(self.intermediate_size * fraction),
        )
        names = "objective", "weight", "share_embeddings", "seed"
        model = electra.ElectraPretrainer(
            electra.Electra(config, dtype=self.precision),
            generator_config,
            freeze_generator=bool(self.generator),
            **{name: getattr(self, name) for name in names},
            **self.reading(),
        )
        model = self.compiled(model)
        if self.generator:
            self.take_generator(model)
        return model

    def take_generator(self, model):
        """Give the model the weights of the generator of another run."""
        from homl_models import loading
        from homl_models.models.electra import ElectraPretrainer

        other = loading.load(self.generator)
        if not isinstance(other, ElectraPretrainer):
            raise UserError(f"{self.generator} is no run of electra_pretrain; train one with --weight 0")
        if other.vocabulary != model.vocabulary:
            raise UserError(
                f"the vocabulary of {self.generator} is another; train both on the same texts, by one --seed"
            )
        pairs = [(model.generator, other.generator)]
        if self.generator_size == 1:
            pairs.append((model.discriminator, other.generator_backbone))
        for taker, giver in pairs:
            if [w.shape for w in taker.weights] != [w.shape for w in giver.weights]:
                raise UserError(f"the generator of {self.generator} has another size; train both with the same sizes")
            taker.set_weights(giver.get_weights())

    def given(self, stream):
        from homl_models.pipelines import masked_text

        return masked_text.electra_batches(stream)

    def evaluate(self, model, text_files=""):
        """The metrics of training on the held-out documents, or on those of `text_files`, with draws of its own."""
        state = model.seed_generator.state
        before = state.numpy()
        state.assign(before * 0 + self.seed)
        found = super().evaluate(model, text_files)
        state.assign(before)
        return found

    def show(self, model, folder):
        """What may have been masked, and of which words the discriminator doubts that they were there."""
        head = model.mlm_head or model.generator
        text = guesses(head, self.masked())
        if not model.discriminator_head:
            return text
        lines = []
        for (sentence, _), [guess] in zip(self.masked(), head.fill_mask([s for s, _ in self.masked()], 2)):
            word = guess[1][0]
            [tokens] = model.discriminator_head.detect_replaced([sentence.replace("[MASK]", word)])
            lines.append(f"{word!r} put in:  " + " ".join(f"{t}({100 * p:.0f}%)" if p > 0.1 else t for t, p in tokens))
        return "\n\n".join([text, *lines])


def guesses(head, masked):
    """A block of lines for each sentence with a [MASK]: what it was, and the head's guesses."""
    from homl_models.training import reports

    sentences, words = zip(*masked) if masked else ((), ())
    found = [", ".join(f"{t} {p:.2f}" for t, p in best) for [best] in head.fill_mask(list(sentences))]
    return reports.blocks({"text": sentences, "was": words, "guesses": found})


TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
TINY |= {"epochs": 2, "batch_size": 8, "max_length": 32, "num_buckets": 1, "vocab_size": 120}
TINY_PRETRAIN = TINY | {"data": "events", "num_documents": 48}

RECIPES = {
    "bert_pretrain": BertPretrain(),
    "electra_pretrain": ElectraPretrain(),
    "bert_pretrain_tiny": BertPretrain(**TINY_PRETRAIN),
    "electra_pretrain_tiny": ElectraPretrain(**TINY_PRETRAIN, embedding_size=8),
}
