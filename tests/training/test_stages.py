"""Stages: each begins from the weights of the one before, has its own model and checkpoints, and resumes exactly."""

import csv
import dataclasses
import shutil

import numpy as np
import pytest

from homl_models.recipes import get
from homl_models.training import loop
from homl_models.training.checkpointing import Progress
from homl_models.training.stages import load_by_name
from tests.kinds import state


@dataclasses.dataclass(frozen=True)
class Grown(type(get("char_rnn_tiny"))):
    """A character RNN with few units, then one with more, whose embedding begins as the first one's ended."""

    def stages(self):
        def small():
            return dataclasses.replace(self, units=4).model()

        return [self.stage("small", epochs=1, model=small), self.stage("large", epochs=2)]


@pytest.fixture(scope="module")
def recipe():
    tiny = get("char_rnn_tiny")
    settings = {field.name: getattr(tiny, field.name) for field in dataclasses.fields(tiny)}
    return Grown(**settings | {"verbose": 0, "steps_per_epoch": 4, "monitor": "val_loss", "checkpoint_seconds": 0})


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """The folder of a run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.warns(UserWarning, match="could not be loaded"):
        loop.fit(recipe, folder)
    return folder


def test_history_curves_and_tensorboard_show_the_stages(whole):
    with open(whole / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["stage"], row["epoch"]) for row in rows] == [("small", "1"), ("large", "2"), ("large", "3")]
    assert len(list((whole / "tensorboard").glob("events*"))) == 1


@pytest.mark.filterwarnings("ignore:.*could not be loaded")
def test_a_stage_begins_with_the_weights_of_the_same_names_and_shapes(recipe, whole):
    small, large = recipe.stages()
    before = small.model()
    load_by_name(before, whole / "checkpoints" / "small" / loop.WEIGHTS)
    model = large.model()
    fresh = [w.numpy() for w in model.weights]
    large.begin(model, whole / "checkpoints" / "small" / loop.WEIGHTS)
    np.testing.assert_array_equal(model.embedding.embeddings.numpy(), before.embedding.embeddings.numpy())
    changed = [w.path for w, old in zip(model.weights, fresh) if (w.numpy() != old).any()]
    assert any("embedding" in path for path in changed)
    assert not any("kernel" in path and "gru" in path for path in changed)


class Stop(Exception):
    pass


@pytest.mark.filterwarnings("ignore:.*could not be loaded")
@pytest.mark.parametrize(
    ("stage", "epoch", "step"), [("small", 0, 2), ("small", 1, 0), ("large", 0, 2), ("large", 1, 2)]
)
def test_stopped_in_any_stage_a_run_ends_as_one_never_stopped(stage, epoch, step, recipe, whole, tmp_path, monkeypatch):
    """At a step within a stage, and between the last checkpoint of a stage and the first of the next."""
    save = Progress.save

    def stopping(progress):
        save(progress)
        if (progress.stage.name, progress.epoch, progress.step) == (stage, epoch, step):
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "save", stopping)
        with pytest.raises(Stop):
            loop.fit(recipe, tmp_path)
    loop.fit(recipe, tmp_path)
    assert state(tmp_path) == state(whole)
    assert (tmp_path / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()


def test_a_stage_that_is_finished_is_not_trained_again(recipe, whole, tmp_path, monkeypatch):
    folder = shutil.copytree(whole, tmp_path / "run")
    monkeypatch.setattr(loop, "fit_epoch", None)
    loop.fit(recipe, folder)
    assert state(folder) == state(whole)
