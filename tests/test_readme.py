"""README.md and docs/usage.md can be followed: commands are parsed by their own parsers, Python is executed."""

import ast
import builtins
import dataclasses
import functools
import itertools
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import homl_models
from homl_models import evaluate, export, loading, predict, serving, train, upscale
from homl_models.checkpoints.huggingface import from_pretrained, save_pretrained
from homl_models.errors import UserError
from homl_models.models import Bert, BertConfig, BertForMaskedLM, BertForSequenceClassification, ddpm
from homl_models.recipes import RECIPES, get
from homl_models.tokenizers.wordpiece import SPECIAL
from homl_models.training.saved_model import write_saved_model
from tests import checks

ROOT = Path(__file__).parents[1]
FIRST, USAGE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/usage.md"))
README = f"{FIRST}\n{USAGE}"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


# Commands.


def commands(text):
    """The words of each command of this package in a block of shell lines, without "python -m homl_models."."""
    for line in text.replace("\\\n", " ").splitlines():
        if "python -m homl_models." in line:
            words = shlex.split(line, comments=True)
            for ended, command in itertools.groupby(words, lambda word: word == "&&"):
                command = list(command)
                if not ended and command[:2] == ["python", "-m"]:
                    yield [command[2].removeprefix("homl_models."), *command[3:]]


COMMANDS = [words for language, text in BLOCKS if language != "python" for words in commands(text)]


def test_commands_are_found_with_comments_continued_lines_and_others_before_them():
    text = (
        "cd x && python -m homl_models.train a --b 'c d'  # e\npython -m homl_models.pack \\\n    f\npython -m pytest\n"
    )
    assert list(commands(text)) == [["train", "a", "--b", "c d"], ["pack", "f"]]
    assert {name for name, *_ in COMMANDS} == {"train", "predict", "evaluate", "export", "upscale"}
    assert len(COMMANDS) == README.count("\npython -m homl_models.") + README.count("&& python -m homl_models.") > 20


class Offered(serving.SavedModel):
    """The endpoints that a model would have in its SavedModel."""

    def __init__(self, model):
        self.endpoints = model.endpoints()


@functools.cache
def offered(name):
    """By a preset, or by a run of a recipe, for which a tiny one of its class stands."""
    if (loading.PRESETS / name).is_dir():
        return Offered(homl_models.load(name))
    tiny = next(other for other in RECIPES if other.endswith("_tiny") and type(RECIPES[other]) is type(get(name)))
    return Offered(get(tiny).model())


def trained_before(place):
    """{run folder: recipe} of the commands of training that stand before the one at `place`."""
    folders = {}
    for command, *words in COMMANDS[:place]:
        if command == "train" and words:
            own = words[words.index("--run-dir") + 1] if "--run-dir" in words else f"runs/{words[0]}"
            folders[own] = words[0]
    return folders


def parse(command, words, folders):
    """Hand a command's words to its own parser. folders: {run folder: recipe}."""
    if command == "train":
        if words:
            train.parse(words[0], words[1:])
    elif command == "predict":
        words = list(itertools.takewhile(lambda word: word != "<", words))
        if len(words) > 1:
            predict.parse(offered(folders.get(words[0], words[0])), words)
    elif command == "evaluate":
        run = Path(words[0])
        if words[0] in folders:
            run.mkdir(parents=True)
            (run / "recipe.json").write_text(json.dumps({"recipe": folders[words[0]], "settings": {}}))
        evaluate.parse(words)
    elif command in ("export", "upscale"):
        {"export": export, "upscale": upscale}[command].parser().parse_args(words)
    else:
        raise AssertionError(f"no test knows how to parse {command}")


@pytest.mark.parametrize("place", range(len(COMMANDS)), ids=lambda place: " ".join(COMMANDS[place]))
def test_a_command_is_one_that_the_package_knows(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command, *words = COMMANDS[place]
    if "--help" in words:
        with pytest.raises(SystemExit) as ended:
            parse(command, words, {})
        assert not ended.value.code
    else:
        parse(command, words, trained_before(place))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train char_rn", "did you mean char_rnn"),
        ("train char_rnn --unit-s 3", "--unit"),
        ("train char_rnn --units many", "--units"),
        ("train dates --epochs 0", "--epochs must be above 0"),
        ("predict dates translat", "no endpoint 'translat'; it has translate"),
        ("predict dates translate --beam-width 3", "--beam-width"),
        ("predict runs/mine generate x --length many", "--length must be int32"),
        ("predict runs/mine sample", "no endpoint 'sample'"),
        ("predict runs/other sample", "there is no recipe 'runs/other'"),
        ("evaluate runs/mine --images x", "--images"),
        ("evaluate runs/other", "neither a run folder"),
    ],
)
def test_a_command_that_it_does_not_know_is_noticed(command, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, *words = command.split()
    with pytest.raises(UserError, match=re.escape(message)):
        parse(name, words, {"runs/mine": "char_rnn"})


def test_tables_and_results_are_made_from_what_recipes_record():
    made = subprocess.run([sys.executable, "docs/make.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr


def test_the_first_screen_is_short_and_its_links_lead_somewhere():
    assert len(FIRST.splitlines()) <= 150
    for name in ("overview.png", "super_resolution.jpg"):
        assert (ROOT / "docs" / name).stat().st_size <= 300_000
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), (page.name, link)


# Python.

PYTHON = [text for language, text in BLOCKS if language == "python"]
TEN_LINES, MODELS, BERT, SAVED_MODEL = PYTHON
CHARACTERS, TRANSLATION, AUTOENCODER, DIFFUSION, PHOTOGRAPHS = (
    f"import numpy as np\nimport homl_models\nmodel = {text}" for text in MODELS.split("\nmodel = ")[1:]
)


def executed(text, **names):
    """Execute a block statement by statement -> {a statement that is or assigns an expression: its value}."""
    values = {}
    for node in ast.parse(text).body:
        if isinstance(node, (ast.Expr, ast.Assign)):
            value = values[ast.unparse(node)] = eval(compile(ast.Expression(node.value), "README.md", "eval"), names)
            for target in getattr(node, "targets", []):
                names["_"] = value
                exec(f"{ast.unparse(target)} = _", names)
        else:
            exec(compile(ast.Module([node], []), "README.md", "exec"), names)
    return values


def of(values, beginning):
    """The value of the one statement that begins so."""
    (found,) = (value for source, value in values.items() if source.startswith(beginning))
    return found


@pytest.mark.parametrize("text", PYTHON, ids=["ten lines", "models", "bert", "saved_model"])
def test_python_names_nothing_that_it_has_not_made_before(text):
    known = {*dir(builtins)}
    for node in ast.parse(text).body:
        names = [part for part in ast.walk(node) if isinstance(part, ast.Name)]
        assert {name.id for name in names if isinstance(name.ctx, ast.Load)} <= known, ast.unparse(node)
        known |= {name.id for name in names if isinstance(name.ctx, ast.Store)}
        known |= {(alias.asname or alias.name).split(".")[0] for alias in getattr(node, "names", [])}


def test_the_ten_lines_print_what_stands_below_them(capsys):
    """With 2 images instead of 64, in 2 steps instead of 25."""
    shown = "model.sample(64, seed=1, labels=3"
    assert shown in TEN_LINES
    executed(TEN_LINES.replace(shown, "model.sample(2, steps=2, seed=1, labels=3"))
    (printed,) = (text for language, text in BLOCKS if language == "text")
    assert capsys.readouterr().out == printed


def test_a_character_rnn_does_what_is_shown(capsys):
    found = executed(CHARACTERS)
    assert capsys.readouterr().out.startswith("To be or not to be")
    first, p = next(iter(of(found, "model.next_char").items()))
    assert first == "e"
    assert p > 0.8
    assert 0 < of(found, "model.score") < 2.5


def test_a_transformer_does_what_is_shown():
    found = executed(TRANSLATION)
    assert of(found, "model.translate([")[1] == "El cielo se está oscureciendo."
    best, other = of(found, "model.translate('")
    assert best[0] == "Me gusta el fútbol."
    assert other[1] < best[1] < 0
    assert -20 < of(found, "model.score") < 0
    sources, targets, weights = of(found, "model.attention_weights")
    assert weights.shape == (len(targets), len(sources))


def test_an_autoencoder_does_what_is_shown():
    found = executed(AUTOENCODER)
    images = of(found, "images =")
    assert images.shape == (64, 28, 28)
    assert 0 <= images.min() < images.max() <= 1
    assert of(found, "model.interpolate").shape == (10, 28, 28)
    assert of(found, "codings =").shape == (64, 10)


def test_a_diffusion_model_does_what_is_shown(monkeypatch):
    """With 2 images instead of 64, in 2 steps instead of 25, and in 5 where the number is left to the model."""
    monkeypatch.setattr(ddpm, "STEPS", 5)
    monkeypatch.setattr(ddpm, "INPAINTING_STEPS", 5)
    shown, fewer = "sample(64, seed=1, steps=25", "sample(2, seed=1, steps=2"
    assert shown in DIFFUSION
    images, mask = np.random.default_rng(0).uniform(size=(2, 28, 28)), np.tri(28)
    found = executed(DIFFUSION.replace(shown, fewer), images=images)
    assert of(found, "model.sample").shape == of(found, "model.image_to_image").shape == (2, 28, 28)
    np.testing.assert_allclose(of(found, "model.inpaint")[:, mask == 1], images[:, mask == 1], atol=0.01)


def test_a_photograph_is_enlarged_as_shown(tmp_path, monkeypatch):
    """By a tiny network."""
    monkeypatch.chdir(tmp_path)
    get("rrdb_tiny").model().save("tiny.keras")
    Image.new("RGB", (20, 12)).save("photo.jpg")
    found = executed(PHOTOGRAPHS.replace("realesrgan_x4plus", "tiny.keras", 1), Image=Image)
    assert of(found, "large =").size == (40, 24)
    assert [image.size for image in of(found, "model.with_precision")] == [(40, 24), (40, 24)]


WORDS = "the", "of", "is", "paris", "france", "capital", "what", "a", "film", "!", "."


def test_bert_comes_from_folders_and_goes_into_one(tmp_path, monkeypatch):
    """A tiny one, with as many heads as are taken away."""
    monkeypatch.chdir(tmp_path)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 12, "intermediate_size": 8}
    vocabulary = (*SPECIAL, *WORDS)
    config = BertConfig(len(vocabulary), **sizes, max_position_embeddings=16)
    model = BertForMaskedLM(Bert(config), vocabulary=vocabulary)
    model.build()
    for folder in ("folder/of/bert-base-uncased", "folder"):
        save_pretrained(model, folder)
    with pytest.warns(UserWarning, match="newly initialized"):
        found = executed(BERT)
    ((best,),) = of(found, "model.fill_mask")
    assert len(best) == 3
    assert {token for token, _ in best} <= {*vocabulary}
    labels, scores = of(found, "labels, scores")
    assert len(labels) == 1
    assert scores.shape == (1, 3)
    again = from_pretrained("folder/of/mine", BertForSequenceClassification)
    checks.close(again.classify(["What a film!"])[1], of(found, "small").classify(["What a film!"])[1])
    kernels = safetensors.numpy.load_file("folder/of/mine/model.safetensors")
    shapes = [kernels[f"bert.encoder.layer.{i}.attention.self.query.weight"].shape for i in (0, 1)]
    assert shapes == [(2 * 10, 24), (2 * 12, 24)]


def test_the_saved_model_is_called_as_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs/mine").mkdir(parents=True)
    write_saved_model(get("char_rnn_tiny").model(), Path("runs/mine/saved_model"))
    found = executed(SAVED_MODEL)
    texts = [text.decode() for text in of(found, "model.generate").numpy()]
    assert [(text[:5], len(text)) for text in texts] == [("To be", 205), ("Or no", 206)]


def test_a_run_from_a_notebook_has_the_settings_that_are_shown():
    (call,) = re.findall(r"`homl_models\.train\.(train\(.*?\))`", README)
    call = ast.parse(call, mode="eval").body
    settings = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    assert dataclasses.replace(get(ast.literal_eval(call.args[0])), **settings).epochs == settings["epochs"]
