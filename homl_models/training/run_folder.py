"""The folder of a run: whose it is, and what it was trained on.

It holds
    recipe.json        the recipe's name and settings
    data.json          fingerprints of the data and of what was learned from it, such as vocabularies
    checkpoints/       see `training.checkpointing`; a folder for each stage where there are several
    history.csv  learning_curves.png  tensorboard/     made from the checkpoint's history
    model.keras  saved_model/  samples.txt  *.png      made from the best (or last) weights
    metrics.json       written last: a run that has it is finished
"""

import contextlib
import dataclasses
import importlib

from homl_models.errors import UserError
from homl_models.training import files, reports

NOT_IN_RUN = ("run_dir", "verbose", "checkpoint_seconds")  # settings that do not change what is trained


@contextlib.contextmanager
def locked_run_dir(folder, name, recipe):
    """Make the run folder, or check that this run belongs in it; no other process may train there meanwhile."""
    settings = {k: v for k, v in dataclasses.asdict(recipe).items() if k not in NOT_IN_RUN}
    settings = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}  # as JSON has it
    if (folder / "recipe.json").is_file():
        refuse_other(folder, name, settings)
    elif folder.is_dir() and any(path.name[0] != "." and path.name != "checkpoints" for path in folder.iterdir()):
        raise UserError(f"{folder} holds something else than a run; choose another --run-dir")
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    import filelock

    lock = filelock.FileLock(folder / "checkpoints" / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(f"another process is training in {folder}; choose another --run-dir") from None
    with lock:
        files.remove_leftovers(folder)
        if not (folder / "recipe.json").is_file():
            modules = map(importlib.import_module, ("keras", "tensorflow", "numpy"))  # whatever package they come from
            versions = {module.__name__: module.__version__ for module in modules}
            files.write_json(folder / "recipe.json", {"recipe": name, "settings": settings, "versions": versions})
        yield


def refuse_other(folder, name, settings):
    """Raise `UserError` unless the run in `folder` is this very one."""
    saved = files.read_json(folder / "recipe.json")
    if saved["recipe"] != name:
        raise UserError(f"{folder} holds a run of {saved['recipe']}, not {name}; choose another --run-dir")
    for key, value in settings.items():
        if saved["settings"].get(key, value) != value:
            raise UserError(
                f"{folder} holds a run with --{key.replace('_', '-')} {saved['settings'][key]}, not {value}; "
                "use that, or another --run-dir"
            )


def refuse_other_data(recipe, folder):
    """Keep fingerprints of the data in the folder, and of what was learned from it; `UserError` if it holds others."""
    found = {name: files.digest(value) for name, value in recipe.fingerprinted().items()}
    if not (folder / "data.json").is_file():
        files.write_json(folder / "data.json", found)
        return
    noted = files.read_json(folder / "data.json")
    if changed := [name for name in found if noted.get(name, found[name]) != found[name]]:
        raise UserError(
            f"the {' and the '.join(changed)} of the run in {folder} were others when it began; "
            "bring the data back as it was, or choose another --run-dir"
        )


def report(folder):
    """Print the samples and metrics of a finished run."""
    print((folder / "samples.txt").read_text(encoding="utf-8"))
    print(reports.table(files.read_json(folder / "metrics.json")))
    print(f"\nRun folder: {folder}   Use it: python -m homl_models.predict {folder}")
