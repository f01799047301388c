"""Every recipe by itself: it builds, takes steps and comes back; its kind, its contract, its bad values.

Everything that a kind of training has in common is tested in tests/training, once for each kind.
"""

import dataclasses
import itertools

import keras
import numpy as np
import pytest

import homl_models
from homl_models import train
from homl_models.errors import UserError
from homl_models.recipes import FAMILIES, RECIPES, RESULTS, SUMMARIES, get
from homl_models.recipes.recipe import KINDS, Recipe
from homl_models.training import loop
from tests import checks
from tests.kinds import EACH, OF_KIND, OTHER, TINY, nameless


def test_every_recipe_class_has_a_tiny_instance_and_a_documented_real_one():
    tiny = {type(RECIPES[name]) for name in TINY}
    assert {type(recipe) for recipe in RECIPES.values()} == tiny
    assert all(type(recipe).__doc__ for recipe in RECIPES.values())


def test_every_recipe_has_a_line_and_belongs_to_a_family():
    """Tiny ones belong to the tests."""
    real = [name for name in RECIPES if name not in TINY]
    assert sorted(SUMMARIES) == sorted(real)
    assert sorted(name for family in FAMILIES for name in family.recipes) == sorted(real)
    for name, line in SUMMARIES.items():
        assert line[0].isupper(), name
        assert not line.endswith("."), name
        assert len(line) <= 100, name
        assert "--" not in line, name


def test_every_result_belongs_to_a_recipe_and_has_figures():
    assert {result.recipe for result in RESULTS} <= RECIPES.keys() - set(TINY)
    for result in RESULTS:
        assert result.metrics, result.recipe
        assert result.machine, result.recipe
        train.parse(result.recipe, result.flags)


@EACH
def test_what_is_not_a_flag_is_marked_as_such(name):
    """A class attribute without an annotation would be a setting that nobody can set."""
    recipe = type(RECIPES[name])
    for cls in recipe.__mro__[:-1]:
        annotated = cls.__dict__.get("__annotations__", {})
        for key, value in vars(cls).items():
            plain = not key.startswith("_") and isinstance(value, (bool, int, float, str, tuple))
            assert not plain or key in annotated, f"{cls.__name__}.{key}"


def unnamed(classes):
    """Classes that do not say themselves which kind of training is theirs."""
    return [cls.__name__ for cls in classes if vars(cls).get("kind") not in KINDS]


def test_every_recipe_class_names_its_kind_and_every_kind_is_tested():
    assert unnamed({type(recipe) for recipe in RECIPES.values()}) == []
    assert {kind: type(RECIPES[name]).kind for kind, name in OF_KIND.items()} == {kind: kind for kind in KINDS}


def test_a_class_that_leaves_its_kind_to_its_parent_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Inherits(type(get("char_rnn"))):
        pass

    @dataclasses.dataclass(frozen=True)
    class Invents(Recipe):
        kind = "by magic"

    assert unnamed([Inherits, Invents, type(get("char_rnn"))]) == ["Inherits", "Invents"]


@OTHER
def test_a_recipe_builds_takes_steps_and_comes_back(name, tmp_path):
    """From its checkpoint in mid-epoch, and from its .keras file: all variables and the configuration.

    Those that stand for a kind of training do more: they are trained and resumed as a whole.
    """
    recipe = dataclasses.replace(RECIPES[name], verbose=0)
    (tmp_path / "checkpoints").mkdir()
    keras.utils.set_random_seed(recipe.seed)
    batches, valid, model, progress = loop.prepare(recipe, recipe.stages()[0], tmp_path)
    before = checks.arrays(model.trainable_variables)
    progress.on_train_begin()
    model.fit(batches.dataset(0, 2), shuffle=False, verbose=0)  # the first warms up from a learning rate of 0
    assert any((a != b).any() for a, b in zip(before, checks.arrays(model.trainable_variables)))
    progress.step = 2
    progress.save()

    keras.utils.set_random_seed(recipe.seed + 1)
    _, _, again, restored = loop.prepare(recipe, recipe.stages()[0], tmp_path)
    assert restored.step == 2 < batches.steps
    checks.close(restored.variables(), progress.variables(), 0)

    model.save(tmp_path / "model.keras")
    loaded = homl_models.load(str(tmp_path / "model.keras"))
    assert type(loaded) is type(model)
    assert nameless(loaded.get_config()) == nameless(again.get_config()) == nameless(model.get_config())
    checks.close(loaded.weights, model.weights, 0)
    for ours, theirs in zip(loaded.optimizers, model.optimizers, strict=True):
        assert int(ours.iterations) == 2
        checks.close(ours.variables, theirs.variables, 0)
    assert valid is None or valid.steps > 0


@EACH
def test_a_recipe_says_what_it_is_for_bad_values(name):
    for bad in ({"epochs": 0}, {"batch_size": 0}, {"learning_rate": -1.0}, {"seed": -1}, {"patience": -1}):
        with pytest.raises(UserError, match="--" + next(iter(bad)).replace("_", "-")):
            dataclasses.replace(RECIPES[name], **bad)


def test_unknown_setting_and_unknown_recipe_are_refused():
    with pytest.raises(UserError, match="no_such"):
        train.train("char_rnn_tiny", no_such=1)
    with pytest.raises(UserError, match="did you mean char_rnn"):
        get("char_rnm")


def test_recipe_methods_that_are_missing_say_so():
    for method in ("datasets", "model"):
        with pytest.raises(TypeError, match="Recipe"):
            getattr(Recipe(), method)()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "precision"), zip(TINY, itertools.cycle(["mixed_bfloat16", "mixed_float16"])))
def test_half_precision_trains_and_keeps_float32_weights(name, precision, tmp_path):
    recipe = dataclasses.replace(RECIPES[name], verbose=0, precision=precision, monitor="", patience=0)
    (tmp_path / "checkpoints").mkdir()
    data, _, model, progress = loop.prepare(recipe, recipe.stages()[0], tmp_path)
    before = [weight.numpy() for weight in model.trainable_weights]
    loop.fit_epoch(recipe, model, data, None, progress)
    assert all(np.isfinite(value) for name, value in progress.history[0].items() if name != "stage")
    assert any((weight.numpy() != old).any() for weight, old in zip(model.trainable_weights, before, strict=True))
    model.save(tmp_path / "model.keras")
    for one in (model, homl_models.load(str(tmp_path / "model.keras"))):
        assert one.dtype_policy.name == precision
        assert {weight.dtype for weight in one.trainable_weights} == {"float32"}


def test_scheduled_sampling_is_tested_on_batches_of_several_lengths():
    batches = get(OF_KIND["scheduled_sampling"]).datasets()[0]
    assert len({source.shape[1] for (source, _), _ in batches.dataset(0, batches.steps)}) > 1
