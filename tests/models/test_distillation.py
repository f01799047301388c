"""Distillation: its losses by their formulas, the student's start, and the recipe, whose teacher is given or new."""

import dataclasses

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats

import homl_models
from homl_models import models, recipes
from homl_models.checkpoints import huggingface
from homl_models.errors import UserError
from homl_models.models import distillation
from homl_models.training import loop
from tests import checks

SIZES = {"vocab_size": 30, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
SIZES |= {"max_position_embeddings": 12}


def pair(num_layers=4, student_layers=2):
    """A student and a teacher with random weights."""
    keras.utils.set_random_seed(0)
    teacher = models.BertForMaskedLM(models.Bert(models.BertConfig(**SIZES, num_hidden_layers=num_layers), False))
    config = models.DistilBertConfig(**SIZES, num_hidden_layers=student_layers)
    student = models.DistilBertForMaskedLM(models.DistilBert(config))
    for model in (student, teacher):
        model.build()
        for i, weight in enumerate(model.trainable_weights):
            weight.assign(weight + keras.random.normal(weight.shape, stddev=0.3, seed=i))
    return student, teacher


RNG = np.random.default_rng(0)
MASK = np.int32(np.arange(8) < np.array([[8], [5], [6]]))
INPUTS = {"input_ids": RNG.integers(5, 30, (3, 8)), "attention_mask": MASK, "token_type_ids": 0 * MASK}
INPUTS["masked_positions"] = np.array([[1, 3], [2, 4], [1, 0]], np.int32)
LABELS = np.array([[7, 9], [11, 6], [8, -100]], np.int32)


def test_losses_are_those_of_their_formulas():
    student, teacher = pair()
    model = distillation.Distiller(
        student, teacher, temperature=3.0, soft_weight=0.5, mlm_weight=2.0, cosine_weight=7.0
    )
    model.build()
    model.compile(run_eagerly=True)
    found = model.evaluate(INPUTS, LABELS, batch_size=3, verbose=0, return_dict=True)
    outputs = {name: np.float64(value) for name, value in model(INPUTS).items()}
    counted, labels = LABELS >= 0, LABELS[LABELS >= 0]
    s, t = (outputs[f"{name}_logits"][counted] for name in ("student", "teacher"))
    p, q = (scipy.special.softmax(x / 3.0, axis=-1) for x in (t, s))
    soft = 9.0 * scipy.stats.entropy(p, q, axis=-1).mean()
    mlm = -np.log(scipy.special.softmax(s, axis=-1)[np.arange(len(s)), labels]).mean()
    hidden = [outputs[f"{name}_hidden"][MASK > 0] for name in ("student", "teacher")]
    cosine = np.mean([1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(*hidden)])
    wanted = {"soft_loss": soft, "mlm_loss": mlm, "cosine_loss": cosine}
    wanted |= {"accuracy": (s.argmax(-1) == labels).mean(), "teacher_accuracy": (t.argmax(-1) == labels).mean()}
    wanted["loss"] = 0.5 * soft + 2 * mlm + 7 * cosine
    assert found == pytest.approx(wanted, rel=1e-4)
    checks.close(outputs["teacher_logits"], teacher(INPUTS))
    checks.close(outputs["student_hidden"], student.backbone({"input_ids": INPUTS["input_ids"], "attention_mask": MASK})
                 ["last_hidden_state"])  # fmt: skip


def test_the_student_learns_and_the_teacher_stays_also_when_loaded(tmp_path):
    student, teacher = pair()
    model = distillation.Distiller(student, teacher)
    model.build()
    model.compile(keras.optimizers.Adam(1e-2))
    before = [[weight.numpy() for weight in one.weights] for one in (student, teacher)]
    losses = model.fit(INPUTS, LABELS, batch_size=3, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert any((a != b.numpy()).any() for a, b in zip(before[0], student.weights))
    checks.close([weight.numpy() for weight in teacher.weights], before[1], 0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert len(again.trainable_variables) == len(again.student.trainable_variables) == len(student.trainable_variables)
    assert len(again.optimizer.variables) == len(model.optimizer.variables)


def test_a_student_begins_with_blocks_of_its_teacher_at_equal_distances():
    student, teacher = pair(num_layers=12, student_layers=6)
    distillation.take_layers(student, teacher)
    for block, i in zip(student.backbone.blocks, (0, 2, 4, 7, 9, 11)):
        checks.close(block.get_weights(), teacher.backbone.blocks[i].get_weights(), 0)
    ids = {"input_ids": INPUTS["input_ids"]}
    ours, theirs = (one(ids, output_hidden_states=True)["hidden_states"][0] for one in (student, teacher))
    checks.close(ours, theirs, 1e-5)
    same, teacher = pair(num_layers=2, student_layers=2)  # of as many blocks it is the teacher
    distillation.take_layers(same, teacher)
    checks.close(same(INPUTS), teacher(INPUTS), 1e-4)


def test_a_student_of_another_size_is_refused():
    student, teacher = pair()
    other = models.BertForMaskedLM(models.Bert(models.BertConfig(**SIZES | {"hidden_size": 8}), False))
    with pytest.raises(UserError, match=r"differ in \(hidden size, vocabulary\): \(16, 30\) and \(8, 30\)"):
        distillation.Distiller(student, other)


def recipe(**settings):
    return dataclasses.replace(recipes.get("bert_distill_tiny"), verbose=0, **settings)


NEW = dict.fromkeys(("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"))
NEW = {name: getattr(type(recipes.get("bert_distill")), name) for name in NEW}


def test_the_second_stage_begins_with_the_teacher_of_the_first(tmp_path):
    made = recipe()
    first, second = made.stages()
    assert [(stage.name, stage.epochs) for stage in (first, second)] == [("teacher", 2), ("student", 2)]
    keras.utils.set_random_seed(3)
    teacher, model = first.model(), second.model()
    teacher.save_weights(tmp_path / "final.weights.h5")
    second.begin(model, tmp_path / "final.weights.h5")
    checks.close(model.teacher.get_weights(), teacher.get_weights(), 0)
    checks.close(model.student.backbone.blocks[0].get_weights(), teacher.backbone.blocks[0].get_weights(), 0)
    assert len(model.student.backbone.blocks) == 1
    model.save(tmp_path / "model.keras")
    again = homl_models.load(str(tmp_path / "model.keras"))
    checks.close(again.weights, model.weights, 0)
    assert set(made.evaluate(again)) == {f"val_{name}" for name in ("loss", *model.metric_names)}


def test_a_given_teacher_is_distilled_and_both_are_exported_and_fine_tuned(untrained, tmp_path):
    run = str(untrained("bert_pretrain_tiny"))
    made = recipe(teacher=run, **NEW)
    source = homl_models.load(run)
    (stage,) = made.stages()
    (tmp_path / "checkpoints").mkdir()
    train, _, model, _ = loop.prepare(made, stage, tmp_path)
    checks.close(model.teacher.backbone.blocks[1].get_weights(), source.backbone.blocks[1].get_weights(), 0)
    checks.close(model.student.bias, source.bias, 0)
    assert model.student.vocabulary == source.vocabulary
    model.fit(train.dataset(0, 2), verbose=0, shuffle=False)
    for name in ("student", "teacher"):
        head = getattr(model, name)
        huggingface.save_pretrained(head, tmp_path / name)
        again = huggingface.from_pretrained(tmp_path / name)
        checks.close(again.get_weights(), head.get_weights(), 0)
    task = dict.fromkeys(NEW, 0) | {"max_length": 32, "family": "distilbert"}
    for task_name in ("bert_tag_tiny", "bert_answer_tiny"):
        tuned = dataclasses.replace(recipes.get(task_name), pretrained=str(tmp_path / "student"), **task).model()
        assert type(tuned.backbone) is models.DistilBert
        checks.close(tuned.backbone.get_weights(), model.student.backbone.get_weights(), 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "--temperature must be above 0"),
        ({"cosine_weight": -1.0}, "--cosine-weight must be 0 or more"),
        ({"student_layers": 9}, "--student-layers must be at most --num-hidden-layers, 2"),
        ({"position_embedding_type": "relative_key"}, "--position-embedding-type must be absolute"),
        ({"teacher": "x"}, "--vocab-size is for a new teacher; leave it or --teacher out"),
        ({"teacher": "x", **NEW, "teacher_epochs": 2}, "--teacher-epochs is for a new teacher"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(settings, message):
    with pytest.raises(UserError, match=message):
        recipe(**settings)


def test_a_teacher_that_does_not_fit_is_refused(untrained):
    for name, message in (
        ("bert_tag_tiny", "is a BertForTokenClassification, no masked language model of a BERT"),
        ("bert_pretrain_tiny", "takes --max-length 32 at most"),
    ):
        with pytest.raises(UserError, match=message):
            recipe(teacher=str(untrained(name)), **NEW | {"max_length": 64}).model()
