"""python -m homl_models.pack RUN NAME: a finished run, small enough to ship, as the preset NAME of this package.

Keeps the recipe, its metrics and samples, and the weights in half precision; `homl_models.load(NAME)`,
`predict NAME ...` and `evaluate NAME` then work without a network or training.
"""

import re
import shutil
import sys
from pathlib import Path

from homl_models import cli, loading
from homl_models.errors import UserError
from homl_models.training import files

LIMIT = 40_000_000  # bytes of all presets together


def main(argv=None):
    """The command: returns the exit status."""
    return cli.run_command(lambda: _pack_command(argv))


def _pack_command(argv):
    parser = cli.Parser(prog="python -m homl_models.pack", description=__doc__)
    parser.add_argument("run", help="the folder of a finished run")
    parser.add_argument("name", help="name of the preset")
    parser.add_argument(
        "--presets", type=Path, default=loading.PRESETS, help="folder of presets (by default the package's)"
    )
    args = parser.parse_args(argv)
    pack(args.run, args.name, args.presets)


def pack(run, name, presets=loading.PRESETS):
    """Pack the run folder `run` into `presets`/`name`; see the module."""
    source, target = loading.find(run), Path(presets) / name
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"{name!r} is no name for a preset; use small letters, digits and _")
    if not (source / "metrics.json").is_file():
        raise UserError(f"the run in {source} is not finished; resume it with the command that started it")
    if target.exists():
        raise UserError(f"{target} is there already; remove it first, or choose another name")
    with files.atomic_write(target) as aside:
        aside.mkdir()
        for file in ("recipe.json", "metrics.json", "samples.txt"):
            shutil.copy(source / file, aside)
        loading.pack(loading.load(run), aside)
        size = sum(path.stat().st_size for path in [*target.parent.rglob("*"), *aside.rglob("*")] if path.is_file())
        if size > LIMIT:
            raise UserError(f"all presets together would take {size / 1e6:.1f} MB, above {LIMIT / 1e6:.0f}")
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    sys.exit(main())
