"""python -m homl_models.evaluate RUN [flags]: the metrics of a run or preset, on its own test data or on yours."""

import inspect
import sys
from pathlib import Path

from homl_models import cli, environment, loading, recipes
from homl_models.errors import UserError
from homl_models.training import reports

FILES = "images", "low_images", "text_file", "pairs_file", "data_file"


def main(argv=None):
    """The command: returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    return cli.run_command(lambda: _evaluate_command(argv))


def _evaluate_command(argv):
    if parsed := parse(argv):
        environment.check_backend()
        run, recipe, settings = parsed
        for key, value in settings.items():
            if key in FILES and value and not Path(value).exists():
                raise UserError(f"cannot read {value}: there is no such file; check --{key.replace('_', '-')}")
        cli.import_tensorflow()
        print(reports.table(recipe.evaluate(loading.load(run), **settings)))


def parse(argv):
    """RUN [flags] -> the run, its recipe and the arguments of its `evaluate`; None after printing help.

    `UserError` if there are no such.
    """
    parser = cli.Parser(prog="python -m homl_models.evaluate", description=__doc__, add_help=False)
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run folder or a preset")
    parser.add_argument("-h", "--help", action="store_true")
    args, rest = parser.parse_known_args(argv)
    if args.run is None:
        parser.print_help()
        if not args.help:
            raise UserError("name a run folder or a preset")
        return None
    name, recipe = recipes.of_run(loading.find(args.run))
    flags = cli.Parser(prog=f"python -m homl_models.evaluate {args.run}", description=recipe.evaluate.__doc__)
    for parameter in list(inspect.signature(recipe.evaluate).parameters.values())[1:]:
        flags.add_argument(
            f"--{parameter.name.replace('_', '-')}", type=type(parameter.default), default=parameter.default
        )
    if args.help:
        flags.print_help()
        return None
    settings, unknown = flags.parse_known_args(rest)
    if unknown:
        known = ", ".join(f"--{key.replace('_', '-')}" for key in vars(settings)) or "none"
        raise UserError(f"{name} does not know {' '.join(unknown)}; its flags for evaluation are: {known}")
    return args.run, recipe, vars(settings)


if __name__ == "__main__":
    sys.exit(main())
