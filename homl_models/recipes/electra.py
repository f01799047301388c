"""Recipe of ELECTRA (`models/electra.py`): pre-training, in one stage or two; `fine_tuning.py` has the tasks."""

import dataclasses
from typing import ClassVar, Literal

from homl_models.errors import UserError
from homl_models.recipes.bert import TINY_PRETRAIN, Pretraining, guesses
from homl_models.recipes.recipe import positive
from homl_models.recipes.results import Result


@dataclasses.dataclass(frozen=True)
class ElectraPretrain(Pretraining):
    """ELECTRA pre-trained on film reviews: which words were replaced by a small generator.

    --generator-epochs trains it in two stages.
    """

    kind: ClassVar[str] = "joint"
    embedding_size: int = 128
    """Size of a token's embedding."""
    generator_size: float = 0.5
    """Size of the generator as a fraction of the discriminator's: hidden size, heads and hidden units."""
    objective: Literal["electra", "electra_15", "replace_mlm", "all_tokens_mlm"] = "electra"
    """Objective of the discriminator; see `models/electra.py`."""
    weight: float = 50.0
    """Weight of the discriminator's loss; 1 for the two last objectives."""
    share_embeddings: bool = True
    """Generator and discriminator share their embeddings."""
    generator_epochs: int = 0
    """Epochs in which the generator alone is trained first, as a masked language model; then it is frozen, and the
    discriminator begins with its weights where the sizes agree. 0: both are trained together."""
    always_mask: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        positive(embedding_size=self.embedding_size, generator_size=self.generator_size)
        if self.weight < 0:
            raise UserError("--weight must be 0 or more")
        if self.weight != type(self).weight and "mlm" in self.objective:
            raise UserError(f"--weight is for other objectives than {self.objective}")
        if self.generator_epochs < 0:
            raise UserError("--generator-epochs must be 0 or more")
        if self.generator_epochs and self.share_embeddings:
            raise UserError(
                "--generator-epochs needs --no-share-embeddings: a frozen generator has embeddings of its own"
            )
        heads = self.num_attention_heads * self.generator_size
        if heads != int(heads) or heads < 1:
            raise UserError(f"--generator-size must leave a whole number of heads, not {heads:g}")

    def stages(self):
        """One, or the generator's and then the discriminator's (Clark et al., 2020, section 3.3)."""
        if not self.generator_epochs:
            return super().stages()
        generator = self.stage(
            "generator",
            epochs=self.generator_epochs,
            datasets=self.generator_datasets,
            model=self.generator_model,
            monitor="",
            patience=0,
        )
        return [generator, self.stage("discriminator", begin=take_generator)]

    def configs(self):
        """`ElectraConfig` of the discriminator and of the generator."""
        from homl_models.models.bert_config import ElectraConfig

        config, fraction = ElectraConfig(**self.settings(), embedding_size=self.embedding_size), self.generator_size
        return config, dataclasses.replace(
            config,
            hidden_size=int(self.hidden_size * fraction),
            num_attention_heads=int(self.num_attention_heads * fraction),
            intermediate_size=int(self.intermediate_size * fraction),
        )

    def model(self):
        from homl_models.models import electra

        config, generator_config = self.configs()
        names = "objective", "weight", "share_embeddings", "seed"
        model = electra.ElectraPretrainer(
            electra.Electra(config, dtype=self.precision),
            generator_config,
            freeze_generator=self.generator_epochs > 0,
            **{name: getattr(self, name) for name in names},
            **self.tokenizer_kwargs(),
        )
        return self.compiled(model)

    def for_model(self, dataset):
        from homl_models.pipelines import masked_text

        return masked_text.electra_batches(dataset)

    def generator_model(self):
        """Model of the first of two stages: a masked language model."""
        from homl_models.models import electra

        backbone = electra.Electra(self.configs()[1], dtype=self.precision)
        return self.compiled(electra.ElectraForMaskedLM(backbone, **self.tokenizer_kwargs()), self.generator_epochs)

    def generator_datasets(self):
        from homl_models.pipelines import masked_text

        return tuple(map(masked_text.masked_lm_batches, self.masked_batches))

    def evaluate(self, model, text_files=""):
        """Loss and metrics of the held-out documents, or of `text_files`, with the generator's samples by --seed."""
        state = model.seed_generator.state
        before = state.numpy()
        state.assign(before * 0 + self.seed)
        found = super().evaluate(model, text_files)
        state.assign(before)
        return found

    def show(self, model, folder):
        """Masked sentences with the most probable words; sentences with such a word, and its probability to be fake."""
        head = model.mlm_head or model.generator
        text = guesses(head, self.masked_sentences())
        if not model.discriminator_head:
            return text
        lines = []
        for (sentence, _), [guess] in zip(
            self.masked_sentences(), head.fill_mask([s for s, _ in self.masked_sentences()], 2)
        ):
            word = guess[1][0]
            [tokens] = model.discriminator_head.detect_replaced([sentence.replace("[MASK]", word)])
            lines.append(f"{word!r} put in:  " + " ".join(f"{t}({100 * p:.0f}%)" if p > 0.1 else t for t, p in tokens))
        return "\n\n".join([text, *lines])


def take_generator(model, weights):
    """Weights of the generator's stage -> the generator, and each that fits by name and shape -> the discriminator.

    With a generator of the discriminator's size those are all of the encoder, with a smaller one the embeddings.
    """
    model.generator.load_weights(weights)
    source, target = model.generator_backbone, model.discriminator
    trained = {weight.path.removeprefix(source.path): weight for weight in source.weights}
    for weight in target.weights:
        found = trained.get(weight.path.removeprefix(target.path))
        if found is not None and found.shape == weight.shape:
            weight.assign(found)


RECIPES = {
    "electra_pretrain": ElectraPretrain(),
    "electra_pretrain_tiny": ElectraPretrain(**TINY_PRETRAIN, embedding_size=8),
}
SUMMARIES = {"electra_pretrain": "ELECTRA pre-trained on film reviews: which words a small generator has replaced"}
RESULTS = [
    Result(
        "electra_pretrain",
        "electra_pretrain --text-files reviews.csv",
        "one core of an Intel Xeon, beside other work",
        208,
        {"val_generator_accuracy": 0.168, "val_discriminator_accuracy": 0.867, "val_discriminator_loss": 0.3524},
        note="""Measured from the same start as `bert_pretrain`: kernels of one shape in a new block began equal.
The reviews and the number of epochs of `bert_pretrain`, 2,425 steps each, so nearly equal compute (167
minutes on an AMD EPYC with AVX2 that did less beside it). On the held-out twentieth, by token:

| epoch | 1 | 2 | 3 | 4 | 5 | 6 | 7 | 8 | 9 | 10 |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
| generator right, % | 5.3 | 7.5 | 11.3 | 12.7 | 14.0 | 14.9 | 15.5 | 16.2 | 16.6 | 16.8 |
| generator's loss, nats | 6.63 | 6.38 | 6.01 | 5.80 | 5.64 | 5.51 | 5.43 | 5.35 | 5.30 | 5.26 |
| discriminator's loss, nats | 0.4112 | 0.4076 | 0.3924 | 0.3810 | 0.3732 | 0.3671 | 0.3617 | 0.3574 | 0.3545 | 0.3518 |

That is the begin of a training: the discriminator says "original" of nearly all (86.7 % right), and has learned a small
part of what can be learned. "One of the best banana I have ever seen.": 22 and 7 % for the two pieces of the wrong
word, 18 % for "one". The paper's claim, better than BERT for equal compute, does not show in the sentiment of reviews
(`electra_classify`) and not beyond chance in answering (`bert_answer`).""",
    )
]
