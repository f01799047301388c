"""The package as a whole: the direction of imports, public names, a quick command line."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import homl_models
from homl_models.recipes import RECIPES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "homl_models"

# Each layer may import those before it, and itself; files that are named come before the rest of their folder.
LAYERS = [
    {"errors"},
    {"environment", "devices"},
    {"cli", "endpoints"},
    {"training.files", "training.reports", "training.stages"},
    {"tokenizers"},
    {
        "base",
        "layers",
        "decoding",
        "diffusion",
        "image_quality",
        "losses",
        "metrics",
        "generator_evaluation",
        "optimizers",
        "regularizers",
        "schedules",
    },
    {"models"},
    {"checkpoints"},
    {"serving", "loading"},
    {"training"},
    {"pipelines"},
    {"super_resolution_evaluation"},
    {"recipes", "prediction"},
    {"export", "train", "predict", "evaluate", "pack", "upscale"},
]
FORBIDDEN = [("pipelines", "models"), ("pipelines", "checkpoints"), ("pipelines", "training")]
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imports(module):
    """The modules of the package that one imports, at its top or within its functions, by their names."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            within = node.module.removeprefix("homl_models").removeprefix(".")
            parts = {alias.name: f"{within}.{alias.name}".removeprefix(".") for alias in node.names}
            if node.module.split(".")[0] == "homl_models":
                found |= {part if part in MODULES else within for part in parts.values()}
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("homl_models.") for a in node.names if a.name.startswith("homl_models.")}
    return found & set(MODULES) - {module}


def test_imports_go_one_way():
    place = {name: i for i, names in enumerate(LAYERS) for name in names}

    def layer(module):
        return place[module] if module in place else place[module.split(".")[0]]

    wrong = [
        f"{module} imports {other}"
        for module in MODULES.keys() - {"__init__"}
        for other in imports(module)
        if layer(other) > layer(module) or (module.split(".")[0], other.split(".")[0]) in FORBIDDEN
    ]
    assert not wrong


def test_no_module_comes_back_to_itself_by_its_imports():
    graph = {module: imports(module) for module in MODULES}
    for module, direct in graph.items():
        reached, new = set(), set(direct)
        while new:
            reached |= new
            new = {other for one in new for other in graph[one]} - reached
        assert module not in reached, module


@pytest.mark.parametrize("package", ["layers", "models"])
def test_public_layers_and_models_are_there_by_name(package):
    module = importlib.import_module(f"homl_models.{package}")
    assert set(module.__all__) <= set(dir(module))
    for name in module.__all__:
        assert getattr(module, name).__name__ == name
    with pytest.raises(ImportError, match="cannot import name"):
        exec(f"from homl_models.{package} import NoSuchThing")


USAGE_ERRORS = [
    (["char_rn"], "did you mean char_rnn"),
    (["nothing_like_it"], "lists them"),
    (["char_rnn", "--epochs", "ten"], "--epochs: invalid literal"),
    (["char_rnn", "--epochs", "0"], "--epochs must be above 0"),
    (["char_rnn", "--epoch", "3"], "perhaps --epochs"),
    (["char_rnn", "--precision", "float8"], "--precision"),
    (["char_rnn", "--dropout", "1"], "--dropout must lie in"),
    (["char_rnn", "--seed", "-1"], "--seed"),
    (["char_rnn", "--cell", "rnn"], "--cell"),
    (["char_rnn", "--learning-rate", "-1"], "--learning-rate must be above 0"),
    (["char_rnn_stateful", "--strategy", "mirrored"], "--strategy"),
    (["autoencoder_stacked", "--size", "32"], "--size and --channels are for --images"),
    (["autoencoder_stacked", "--data", "mnist"], "--data mnist needs --images"),
    (["autoencoder_stacked", "--activation", "rely"], "--activation"),
    (["dates", "--split", "book"], "--split book is for files of pairs"),
    (["transformer_book", "--warmup-steps", "10"], "--warmup-steps is for --schedule inverse_sqrt"),
    (["vae", "--hidden-units", "0"], "--hidden-units must be above 0"),
]
ALL = """
import contextlib, io, json, sys
sys.modules["tensorflow"] = sys.modules["keras"] = None  # importing either fails from here on
from homl_models import train
found = []
for args in json.load(sys.stdin):
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            status = train.main(args)
        except SystemExit as ended:
            status = ended.code or 0
    found.append([status, out.getvalue(), errors.getvalue()])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def outcomes():
    """(status, output, errors) of train with all arguments that are tried here, without TensorFlow and Keras."""
    tried = [[], *([name, "--help"] for name in RECIPES), *(args for args, _ in USAGE_ERRORS)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    script = [sys.executable, "-c", ALL]
    done = subprocess.run(script, input=json.dumps(tried), env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {tuple(args): outcome for args, outcome in zip(tried, json.loads(done.stdout), strict=True)}


def test_without_arguments_train_lists_every_recipe_on_a_line(outcomes):
    status, output, errors = outcomes[()]
    assert status == 0, errors
    for name in RECIPES:
        line = rf"[ ,]{name}\b" if name.endswith("_tiny") else rf"^  {name} +\S"
        assert re.search(line, output, re.MULTILINE), name


@pytest.mark.parametrize("name", RECIPES)
def test_help_shows_the_flags_that_every_recipe_has(name, outcomes):
    status, output, errors = outcomes[name, "--help"]
    assert status == 0, errors
    flags = "run-dir epochs batch-size learning-rate seed precision strategy verbose"
    assert all(f"--{flag}" in output for flag in flags.split())


@pytest.mark.parametrize(("args", "message"), USAGE_ERRORS)
def test_usage_errors_are_one_line_that_says_what_to_do(args, message, outcomes):
    status, output, errors = outcomes[tuple(args)]
    assert status == 2
    assert message in errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert not output


def test_importing_the_package_is_light():
    script = "import sys, homl_models.train; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode == 0


def test_ci_runs_the_commands_of_the_readme_as_written():
    commands = re.search(r"```\n(pip install .*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1].splitlines()
    lines = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    assert len(commands) == 2
    assert "python -m homl_models.train" in commands[0]
    assert "python -m pytest" in commands[1]
    assert all(command in lines for command in commands)


def test_the_version_is_in_the_changelog():
    assert f"## {homl_models.__version__}" in (ROOT / "CHANGELOG.md").read_text()
