"""python -m homl_models.train RECIPE [flags]: data -> fit -> evaluate -> show -> save -> export.

Without a recipe it lists them. The same command again goes on with a run that was
stopped, exactly where it was. Importing this module loads neither TensorFlow nor Keras.
"""

import contextlib
import dataclasses
import importlib.metadata
import io
import itertools
import math
import re
import sys
from pathlib import Path

from homl_models import cli, environment, files, recipes, reports
from homl_models.errors import UserError
from homl_models.recipes import RECIPES

NOT_IN_RUN = ("run_dir", "verbose", "checkpoint_seconds")  # settings that do not change what is trained


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
    return guarded(lambda: _train_command(argv[0], argv[1:]))


def _train_command(name, flags):
    recipe = parse(name, flags)
    environment.check_backend()
    cli.import_tensorflow()
    run(name, recipe)


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
    """What tyro says in a box, on one line: the error, and the first flag that it proposes instead."""
    lines = [line.strip("│ ") for line in box.splitlines()[1:]]
    error = " ".join(itertools.takewhile(lambda line: line and line[0] not in "─╰", lines))
    proposed = re.search(r"(?s)Perhaps you meant.*?(--[a-z-]+)", box)
    return re.sub(r"^Error parsing \w+: (?=--)", "", error) + (f"; perhaps {proposed[1]}?" if proposed else "")


def listing():
    """One line per recipe."""
    width = max(map(len, RECIPES))
    return "\n".join(f"  {name:{width}}  {described(name, recipe)}" for name, recipe in RECIPES.items())


def described(name, recipe):
    """What a recipe is, in a line: the summary of its class, and the settings in which it differs from it."""
    line = type(recipe).__doc__.splitlines()[0]
    if name.endswith("_tiny"):
        return f"(seconds) {line}"
    changed = {
        f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe) if getattr(recipe, f.name) != f.default
    }
    return " ".join([line, *(_as_flag(name, value) for name, value in changed.items())])


def _as_flag(name, value):
    """A setting as it is given on the command line."""
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return " ".join([f"--{flag}", *map(str, value if isinstance(value, (tuple, list)) else [value])])


def guarded(command):
    """Run a command; a user's mistake becomes one line on stderr and exit status 2."""
    environment.draw_to_files()
    cli.utf8_output()
    try:
        command()
        return 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            return 0
        where = f" {error.filename}" if error.filename else ""
        print(f"error: cannot write or read{where}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130


def train(name, **settings):
    """Train a recipe with some settings changed, e.g. `train("char_rnn", units=256)`; returns the run folder."""
    default = recipes.get(name)
    fields = [field.name for field in dataclasses.fields(default)]
    for key in settings:
        if key not in fields:
            raise UserError(f"recipe {name} has no setting {key!r}; it has {', '.join(fields)}")
    return run(name, dataclasses.replace(default, **settings))


def run(name, recipe):
    """Train `recipe` into its run folder, or go on with the run that is there; returns the folder."""
    folder = Path(recipe.run_dir or f"runs/{name}")
    with claimed(folder, name, recipe):
        if (folder / "metrics.json").is_file():
            print(f"{folder} is finished; choose another --run-dir to train again")
            report(folder)
            return folder
        import keras

        keras.utils.set_random_seed(recipe.seed)
        model, progress = fit(recipe, folder)
        finish(recipe, model, progress, folder)
        report(folder)
    return folder


@contextlib.contextmanager
def claimed(folder, name, recipe):
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
            versions = {p: importlib.metadata.version(p) for p in ("keras", "tensorflow", "numpy")}
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
    """Note digests of the data in the folder, and of what was learnt of it; `UserError` if others are noted there."""
    found = {name: files.digest(value) for name, value in recipe.learnt_from().items()}
    if not (folder / "data.json").is_file():
        files.write_json(folder / "data.json", found)
        return
    noted = files.read_json(folder / "data.json")
    if changed := [name for name in found if noted.get(name, found[name]) != found[name]]:
        raise UserError(
            f"the {' and the '.join(changed)} of the run in {folder} were others when it began; "
            "bring the data back as it was, or choose another --run-dir"
        )


def scope(strategy):
    """Where variables are made: on this device, or mirrored on all of them."""
    import keras

    if strategy == "none":
        return contextlib.nullcontext()
    if keras.backend.backend() == "jax":
        keras.distribution.set_distribution(keras.distribution.DataParallel())
        return contextlib.nullcontext()
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    reduction = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy([device.name for device in devices], reduction).scope()


def prepare(recipe, folder):
    """Data, model and its `resume.Progress`, as the newest checkpoint has it, or at the start."""
    import keras

    from homl_models.resume import Progress

    train, valid = recipe.datasets()
    refuse_other_data(recipe, folder)
    model = recipe.model()
    if recipe.strategy == "mirrored" and keras.backend.backend() == "tensorflow":
        model.jit_compile = False  # XLA cannot reach the variables of another device than the first
    model._symbolic_build(data_batch=next(iter(train.dataset(0, 1))))  # metrics and optimizer, before restoring
    progress = Progress(recipe, train.steps, folder)
    progress.set_model(model)
    progress.restore()
    return train, valid, model, progress


def fit(recipe, folder):
    """Train, from the newest checkpoint if there is one -> the model and its `resume.Progress`."""
    from homl_models.resume import Interrupted

    with scope(recipe.strategy):
        train, valid, model, progress = prepare(recipe, folder)
        try:
            with progress, contextlib.closing(reports.HistoryLog(folder, progress.history)) as log:
                while not progress.finished:
                    if not progress.step:
                        recipe.begin_epoch(model, progress.epoch)
                    fit_epoch(recipe, model, train, valid, progress)
                    log.write(progress.history)
        except Interrupted as stop:
            print(f"\nstopped and saved in {stop.where}; the same command goes on from there", file=sys.stderr)
            raise SystemExit(128 + stop.number) from None
    if recipe.strategy != "none":  # from here on one device is enough
        _, _, model, progress = prepare(dataclasses.replace(recipe, strategy="none"), folder)
    return model, progress


def fit_epoch(recipe, model, train, valid, progress):
    """One `fit`, on exactly the batches that are left of the epoch."""
    import keras

    done, left = progress.epoch * train.steps, train.steps - progress.step
    callbacks = keras.callbacks.CallbackList(
        [progress],
        add_history=True,
        add_progbar=recipe.verbose > 0,
        model=model,
        verbose=recipe.verbose,
        epochs=recipe.epochs,
        steps=left,
    )
    model.fit(
        train.dataset(done + progress.step, done + train.steps),
        validation_data=valid and valid.dataset(),
        initial_epoch=progress.epoch,
        epochs=progress.epoch + 1,
        shuffle=False,
        verbose=recipe.verbose,
        callbacks=callbacks,
    )


def finish(recipe, model, progress, folder):
    """Take the best weights, save and export them, then judge them and show what they make; metrics.json comes last.

    Where a report fails, the others are made all the same, and the first error is raised at the end: the same command
    then only finishes.
    """
    from homl_models.export import export

    if progress.best_weights:
        model.set_weights(progress.best_weights)
    with files.write_aside(folder / "model.keras") as aside:
        model.save(aside)
    export(folder / "model.keras", folder / "saved_model", model)
    metrics = {
        "epochs": progress.epoch,
        "best_epoch": progress.best_epoch or progress.epoch,
        "minutes": round(progress.seconds / 60, 2),
        "parameters": sum(math.prod(w.shape) for w in model.trainable_weights),
    }

    def show():
        text = recipe.show(model, folder)
        with files.write_aside(folder / "samples.txt") as aside:
            aside.write_text(text + "\n", encoding="utf-8")

    failed = {}
    for name, make in {
        "learning_curves.png": lambda: reports.learning_curves(progress.history, folder / "learning_curves.png"),
        "the metrics": lambda: metrics.update(recipe.evaluate(model) | metrics),
        "the samples": show,
    }.items():
        try:
            make()
        except Exception as error:
            failed[name] = error
    if failed:
        print(
            f"{' and '.join(failed)} could not be made; model.keras and saved_model are in {folder}, and the same "
            "command finishes the run without training again",
            file=sys.stderr,
        )
        raise next(iter(failed.values()))
    files.write_json(folder / "metrics.json", metrics)


def report(folder):
    """Print what a finished run has made."""
    print((folder / "samples.txt").read_text(encoding="utf-8"))
    print(reports.table(files.read_json(folder / "metrics.json")))
    print(f"\nRun folder: {folder}   Use it: python -m homl_models.predict {folder}")


if __name__ == "__main__":
    sys.exit(main())
