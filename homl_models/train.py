"""python -m homl_models.train RECIPE [flags]: data -> fit -> evaluate -> show -> save -> export.

Without a recipe it lists them. The same command again resumes a run that was
stopped, exactly where it was. Importing this module loads neither TensorFlow nor Keras.
"""

import contextlib
import dataclasses
import io
import itertools
import re
import sys

from homl_models import cli, environment, recipes
from homl_models.errors import UserError
from homl_models.recipes import FAMILIES, RECIPES, SUMMARIES
from homl_models.training import loop


def main(argv=None):
    """The command: returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv:
        print("Recipes (python -m homl_models.train RECIPE --help shows the flags of one):\n")
        print(listing())
        return 0
    if argv[0] in ("-h", "--help"):
        print(f"{__doc__}\nRecipes:\n\n{listing()}")
        return 0
    return cli.run_command(lambda: _train_command(argv[0], argv[1:]))


def _train_command(name, flags):
    recipe = parse(name, flags)
    environment.check_backend()
    cli.import_tensorflow()
    loop.run(name, recipe)


def parse(name, flags):
    """The recipe of that name, changed by command-line flags (a list of strings); `UserError` if there are no such."""
    import tyro

    default = recipes.get(name)
    messages = io.StringIO()
    try:
        with contextlib.redirect_stderr(messages):
            return tyro.cli(type(default), default=default, args=flags, prog=f"python -m homl_models.train {name}")
    except SystemExit as ended:
        if not ended.code:
            raise
        raise UserError(f"{one_line(messages.getvalue())}; see python -m homl_models.train {name} --help") from None


def one_line(box):
    """tyro's box of an error on one line: the error, and the first flag that it proposes instead."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]
    error = " ".join(itertools.takewhile(lambda line: line and line[0] not in "─╰", lines))
    proposed = re.search(r"(?s)Perhaps you meant.*?(--[a-z-]+)", box)
    return re.sub(r"^Error parsing \w+: (?=--)", "", error) + (f"; perhaps {proposed[1]}?" if proposed else "")


def listing():
    """The recipes by family, a line each."""
    width = max(len(name) for family in FAMILIES for name in family.recipes)
    blocks = [
        "\n".join([family.title, *(f"  {name:{width}}  {SUMMARIES[name]}" for name in family.recipes)])
        for family in FAMILIES
    ]
    return "\n\n".join([*blocks, "Each class has a *_tiny recipe, which trains in seconds: " + ", ".join(tiny())])


def tiny():
    return [name for name in RECIPES if name.endswith("_tiny")]


def train(name, **settings):
    """Train a recipe with some settings changed, e.g. `train("char_rnn", units=256)`; returns the run folder."""
    default = recipes.get(name)
    fields = [field.name for field in dataclasses.fields(default)]
    for key in settings:
        if key not in fields:
            raise UserError(f"recipe {name} has no setting {key!r}; it has {', '.join(fields)}")
    return loop.run(name, dataclasses.replace(default, **settings))


if __name__ == "__main__":
    sys.exit(main())
