"""Results: trainings that were measured here, as data beside the recipe.

Each module of recipes has `RESULTS`, a list of `Result`; README.md's table and docs/results.md are made of them.
"""

import dataclasses
import shlex


@dataclasses.dataclass(frozen=True)
class Result:
    """One training that was measured.

    Args:
        recipe: its name.
        command: the arguments of `python -m homl_models.train`; by default the recipe's name.
        machine: processor, and what else ran beside.
        minutes: of training; None where it was not timed.
        metrics: {name: value}, as `metrics.json` has them, or in words.
        reference: the book's or the paper's figures, and a simple baseline: {name: value}.
        note: more, in Markdown: what samples show, what was tried.
    """

    recipe: str
    command: str = ""
    machine: str = "2 cores of an Intel Xeon"
    minutes: float | None = None
    metrics: dict = dataclasses.field(default_factory=dict)
    reference: dict = dataclasses.field(default_factory=dict)
    note: str = ""

    @property
    def flags(self):
        """The arguments after the recipe's name, as a list."""
        return shlex.split(self.command or self.recipe)[1:]
