"""python -m homl_models.pack RUN NAME: a finished run, small enough to ship, as the preset NAME of this package.

Keeps the recipe, its metrics and samples, and the weights in half precision; `homl_models.load(NAME)`,
`predict NAME ...` and `evaluate NAME` then work without a network or training.
"""

import re
import shutil
import sys
from pathlib import Path

from homl_models import cli, files, runs
from homl_models.errors import UserError

LIMIT = 40_000_000  # bytes of all presets together


def main(argv=None):
    """The command: returns the exit status."""
    from homl_models.train import guarded

    return guarded(lambda: _pack_command(argv))


def _pack_command(argv):
    parser = cli.Parser(prog="python -m homl_models.pack", description=__doc__)
    parser.add_argument("run", help="the folder of a finished run")
    parser.add_argument("name", help="name of the preset")
    parser.add_argument("--presets", type=Path, default=runs.PRESETS, help="folder of the presets (the package's own)")
    args = parser.parse_args(argv)
    pack(args.run, args.name, args.presets)


def pack(run, name, presets=runs.PRESETS):
    """Pack the run folder `run` into `presets`/`name`; see the module."""
    source, target = runs.find(run), Path(presets) / name
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"{name!r} is no name for a preset; use small letters, digits and _")
    if not (source / "metrics.json").is_file():
        raise UserError(f"the run in {source} is not finished; go on with it by the command that started it")
    if target.exists():
        raise UserError(f"{target} is there already; remove it first, or choose another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    with files.write_aside(target) as aside:
        aside.mkdir()
        for file in ("recipe.json", "metrics.json", "samples.txt"):
            shutil.copy(source / file, aside)
        runs.pack(runs.load(run), aside)
        size = sum(path.stat().st_size for path in [*target.parent.rglob("*"), *aside.rglob("*")] if path.is_file())
        if size > LIMIT:
            raise UserError(f"all presets together would take {size / 1e6:.1f} MB, above {LIMIT / 1e6:.0f}")
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{target}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    sys.exit(main())
