"""Recipe of DistilBERT's training (`models/distillation.py`): a smaller BERT learns from a larger."""

import dataclasses
import functools
from typing import ClassVar

from homl_models.errors import UserError
from homl_models.recipes.bert import SIZES, TINY_PRETRAIN, Pretraining, guesses
from homl_models.recipes.recipe import positive


@dataclasses.dataclass(frozen=True)
class Distill(Pretraining):
    """DistilBERT: a student of half the blocks learns masked words from a BERT, and what that makes of them.

    The teacher is a run of bert_pretrain or a folder of Hugging Face, or it is trained first.
    """

    kind: ClassVar[str] = "stages"
    teacher: str = ""
    """A run of bert_pretrain, or the folder (or name) of a BERT of Hugging Face with its masked language model. Empty:
    one of the sizes below is trained first, for --teacher-epochs."""
    teacher_epochs: int = 0
    """Epochs of a new teacher. 0: --epochs."""
    student_layers: int = 0
    """Blocks of the student, which are taken from the teacher's. 0: half of them."""
    temperature: float = 2.0
    """Temperature of the soft targets."""
    soft_weight: float = 5.0
    """Weight of the soft targets' loss."""
    mlm_weight: float = 2.0
    """Weight of the masked words' loss."""
    cosine_weight: float = 1.0
    """Weight of the distance between the directions of hidden states."""

    def __post_init__(self):
        super().__post_init__()
        positive(temperature=self.temperature)
        for name in ("teacher_epochs", "student_layers", "soft_weight", "mlm_weight", "cosine_weight"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name.replace('_', '-')} must be 0 or more, not {getattr(self, name)}")
        if self.position_embedding_type != "absolute":
            raise UserError("--position-embedding-type must be absolute: DistilBERT knows no other")
        own = ("teacher_epochs", "vocab_file", "vocab_size", *SIZES)
        given = [name for name in own if getattr(self, name) != getattr(Distill, name)]
        if self.teacher and given:
            raise UserError(f"--{given[0].replace('_', '-')} is for a new teacher; leave it or --teacher out")
        if self.student_layers > self.num_hidden_layers and not self.teacher:
            raise UserError(f"--student-layers must be at most --num-hidden-layers, {self.num_hidden_layers}")

    # The teacher.

    @functools.cached_property
    def given_teacher(self):
        """The model of --teacher. Raises UserError where it is no masked language model on a BERT."""
        from homl_models import loading
        from homl_models.checkpoints import huggingface
        from homl_models.models.bert_pretraining import BertForMaskedLM, BertForPreTraining

        try:
            loading.find(self.teacher)
        except UserError:
            model = huggingface.from_pretrained(self.teacher)
        else:
            model = loading.load(self.teacher)
        if type(model) not in (BertForMaskedLM, BertForPreTraining):
            raise UserError(f"--teacher {self.teacher} is a {type(model).__name__}, no masked language model of a BERT")
        if model.backbone.config.position_embedding_type != "absolute":
            raise UserError(f"--teacher {self.teacher} has relative positions, which DistilBERT does not know")
        if not model.vocabulary:
            raise UserError(f"--teacher {self.teacher} has no vocabulary, so it cannot read texts; add its vocab.txt")
        if model.max_length < self.max_length:
            raise UserError(f"--teacher {self.teacher} takes --max-length {model.max_length} at most")
        return huggingface.replace_head(model, BertForMaskedLM, dtype=self.precision)

    def new_teacher(self):
        """A masked language model of the sizes of the flags."""
        from homl_models.models import bert, bert_config, bert_pretraining

        config = bert_config.BertConfig(**self.settings())
        backbone = bert.Bert(config, add_pooling_layer=False, dtype=self.precision)
        return bert_pretraining.BertForMaskedLM(backbone, **self.tokenizer_kwargs())

    def teacher_model(self):
        """A new teacher, compiled for its stage."""
        return self.compiled(self.new_teacher(), self.teacher_epochs)

    @functools.cached_property
    def wordpiece(self):
        return self.given_teacher.tokenizer if self.teacher else super().wordpiece

    # The student.

    def stages(self):
        """The teacher's, unless it is given, and the student's."""
        if self.teacher:
            return super().stages()
        epochs = self.teacher_epochs or self.epochs
        first = self.stage("teacher", epochs=epochs, model=self.teacher_model, monitor="", patience=0)
        return [first, self.stage("student", begin=take_teacher)]

    def model(self):
        """A `Distiller`; its student has the weights of a given teacher, or those that `take_teacher` gives it."""
        from homl_models.models import bert_config, distilbert, distillation

        teacher = self.given_teacher if self.teacher else self.new_teacher()
        config = teacher.backbone.config
        own = ("vocab_size", *SIZES, "hidden_act", "max_position_embeddings", "initializer_range")
        settings = {name: getattr(config, name) for name in own}
        settings["num_hidden_layers"] = self.student_layers or max(1, config.num_hidden_layers // 2)
        settings |= {"hidden_dropout_prob": self.dropout, "attention_probs_dropout_prob": self.dropout}
        backbone = distilbert.DistilBert(bert_config.DistilBertConfig(**settings), dtype=self.precision)
        student = distilbert.DistilBertForMaskedLM(backbone, **self.tokenizer_kwargs())
        names = "temperature", "soft_weight", "mlm_weight", "cosine_weight"
        weights = {name: getattr(self, name) for name in names}
        model = self.compiled(distillation.Distiller(student, teacher, **weights, dtype=self.precision))
        if self.teacher:
            distillation.take_layers(student, teacher)
        return model

    def for_model(self, dataset):
        from homl_models.pipelines import masked_text

        return masked_text.masked_lm_batches(dataset)

    def show(self, model, folder):
        """Held-out sentences with a masked word, and the most probable words to the student."""
        return guesses(model.student, self.masked_sentences())


def take_teacher(model, weights):
    """Load the teacher's stage, and begin the student with its blocks."""
    from homl_models.models import distillation

    model.teacher.load_weights(weights)
    distillation.take_layers(model.student, model.teacher)


RECIPES = {"bert_distill": Distill(), "bert_distill_tiny": Distill(**TINY_PRETRAIN, student_layers=1)}
SUMMARIES = {"bert_distill": "DistilBERT: a student of half the blocks learns from a BERT, and masked words"}
RESULTS = []
