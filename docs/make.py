"""python docs/make.py: README.md's table of systems and docs/results.md, made from the families and results of recipes.

With --check nothing is written; the exit status is 1 where a file is not as it would be made.
"""

import argparse
import re
import sys
from pathlib import Path

from homl_models.recipes import FAMILIES, RECIPES, RESULTS, SUMMARIES

ROOT = Path(__file__).parents[1]
HEADLINE = {
    "char_rnn": "val_accuracy",
    "seq2seq_attention": "val_accuracy",
    "transformer_book": "val_accuracy",
    "transformer": "bleu",
    "bert_classify": "test_accuracy",
    "autoencoder_stacked": "val_loss",
    "vae": "val_loss",
    "dcgan_conditional": "frechet_distance",
    "ddpm_conditional": "frechet_distance",
}  # recipes and their metric in the short table of README.md


def code(*names):
    return ", ".join(f"`{name}`" for name in names)


def table(header, rows):
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def systems():
    """The table of README.md: system, paper, file, recipes, notebook, presets."""
    rows = [
        (
            family.title,
            ", ".join(f"[{name}]({link})" for name, link in family.paper.items()),
            f"[{family.file}](homl_models/{family.file})",
            code(*family.recipes),
            f"[{family.notebook}](notebooks/{family.notebook}.ipynb)",
            code(*family.presets) or "–",
        )
        for family in FAMILIES
    ]
    return table(("system", "paper", "file", "recipes", "notebook", "preset"), rows)


def headline():
    """The short table of results in README.md."""
    rows = []
    for name, metric in HEADLINE.items():
        result = next(result for result in RESULTS if result.recipe == name)
        known = result.reference.get(metric)
        value = f"{metric} {result.metrics[metric]}" + (f" ({known})" if known is not None else "")
        rows.append((code(name), SUMMARIES[name], value, "–" if result.minutes is None else f"{result.minutes:g} min"))
    return table(("recipe", "", "measured", "training"), rows)


def readme(text):
    """README.md with new tables."""
    for name, make in {"systems": systems, "headline": headline}.items():
        begin, end = f"<!-- {name}: made by docs/make.py -->", f"<!-- end of {name} -->"
        text = re.sub(f"(?s)(?<={begin}\n).*(?={end})", lambda match, make=make: f"\n{make()}\n\n", text)
    return text


def figures(values):
    """{name: value} in a cell."""
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )


def results():
    """docs/results.md: everything that was measured, by family."""
    lines = [
        "# Results",
        "",
        "Trained with `python -m homl_models.train COMMAND`. Made by `docs/make.py` from the `RESULTS` of "
        "`homl_models/recipes/`; speed is in [benchmarks](../benchmarks/README.md).",
    ]
    for family in FAMILIES:
        found = [result for name in family.recipes for result in RESULTS if result.recipe == name]
        if not found:
            continue
        rows = [
            (
                code(one.command or one.recipe),
                figures(one.metrics),
                figures(one.reference) or "–",
                "–" if one.minutes is None else f"{one.minutes:g}",
                one.machine,
            )
            for one in found
        ]
        lines += ["", f"## {family.title}", "", *(f"- `{name}`: {SUMMARIES[name]}" for name in family.recipes), ""]
        lines += [table(("command", "measured", "reference", "minutes", "machine"), rows)]
        lines += [f"\n`{one.command or one.recipe}`: {one.note.strip()}" for one in found if one.note]
        lines += [f"\n{family.note}"] if family.note else []
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check, wrong = parser.parse_args().check, []
    for path, make in ((ROOT / "README.md", readme), (ROOT / "docs" / "results.md", lambda text: results())):
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        after = make(before)
        if after != before:
            wrong.append(path.name)
            if not check:
                path.write_text(after, encoding="utf-8")
    if wrong:
        print(f"{' and '.join(wrong)} {'are not as docs/make.py makes them' if check else 'written'}")
    return int(check and bool(wrong))


if __name__ == "__main__":
    assert {name for family in FAMILIES for name in family.recipes} <= RECIPES.keys()
    sys.exit(main())
