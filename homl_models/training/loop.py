"""The training of a recipe: data -> fit, stage after stage -> evaluate -> show -> save -> export.

Importing this module loads neither TensorFlow nor Keras.
"""

import contextlib
import dataclasses
import math
import sys
from pathlib import Path

from homl_models.training import files, reports, run_folder, saved_model

WEIGHTS = "final.weights.h5"  # of a stage, for the one after it


def run(name, recipe):
    """Train `recipe` into its run folder, or resume the run that is there; returns the folder."""
    folder = Path(recipe.run_dir or f"runs/{name}")
    with run_folder.locked_run_dir(folder, name, recipe):
        if (folder / "metrics.json").is_file():
            print(f"{folder} is finished; choose another --run-dir to train again")
        else:
            finish(recipe, *fit(recipe, folder), folder)
        run_folder.report(folder)
    return folder


def fit(recipe, folder):
    """Train stage after stage, from the newest checkpoint if there is one.

    Returns the model of the last stage and its `training.checkpointing.Progress`.
    """
    from homl_models.training.checkpointing import Interrupted

    stages, before = recipe.stages(), None
    for number, stage in enumerate(stages):
        last, place = stage is stages[-1], folder / "checkpoints" / stage.name
        if not last and (place / WEIGHTS).is_file():
            before = place
            continue
        if len(stages) > 1 and recipe.verbose:
            print(f"Stage {number + 1} of {len(stages)}: {stage.name}")
        try:
            model, progress = fit_stage(recipe, stage, folder, before)
        except Interrupted as stop:
            print(f"\nstopped and saved in {stop.where}; the same command resumes from there", file=sys.stderr)
            raise SystemExit(128 + stop.number) from None
        if not last:
            progress.take_best_weights()
            with files.atomic_write(place / WEIGHTS) as aside:
                model.save_weights(aside)
        before = place
    return model, progress


def fit_stage(recipe, stage, folder, before):
    """Train one stage, which begins from the weights in the folder `before` (None: it is the first)."""
    with scope(recipe.strategy):
        train, valid, model, progress = prepare(recipe, stage, folder, before)
        with progress, contextlib.closing(reports.HistoryLog(folder, progress.history)) as log:
            while not progress.finished:
                fit_epoch(recipe, model, train, valid, progress)
                log.write(progress.history)
    if recipe.strategy != "none":  # from here on one device is enough
        _, _, model, progress = prepare(dataclasses.replace(recipe, strategy="none"), stage, folder, before)
    return model, progress


def prepare(recipe, stage, folder, before=None):
    """Data, model and `training.checkpointing.Progress` of a stage, at its start or as its newest checkpoint has it."""
    import keras

    from homl_models.training.checkpointing import Progress

    train, valid = stage.datasets()
    run_folder.refuse_other_data(recipe, folder)
    keras.utils.set_random_seed(recipe.seed)
    model = stage.model()
    if recipe.strategy == "mirrored" and keras.backend.backend() == "tensorflow":
        model.jit_compile = False  # XLA cannot reach the variables of another device than the first
    model._symbolic_build(data_batch=next(iter(train.dataset(0, 1))))  # metrics and optimizer, before restoring
    progress = Progress(stage, train.steps, folder, recipe.checkpoint_seconds)
    progress.set_model(model)
    if not progress.restore() and before is not None:
        progress.follow(before)
        stage.begin(model, before / WEIGHTS)
    return train, valid, model, progress


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
        epochs=progress.stage.epochs,
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


def finish(recipe, model, progress, folder):
    """Take the best weights, calibrate, save and export, then evaluate and show samples; metrics.json comes last.

    If a report fails, the others are made nevertheless and the first error is raised at the end; the same command then
    only makes the reports.
    """
    progress.take_best_weights()
    recipe.calibrate(model)
    with files.atomic_write(folder / "model.keras") as aside:
        model.save(aside)
    saved_model.export(folder / "model.keras", folder / "saved_model", model)
    metrics = {
        "epochs": len(progress.history),
        "best_epoch": progress.best_epoch or len(progress.history),
        "minutes": round(progress.seconds / 60, 2),
        "parameters": sum(math.prod(w.shape) for w in model.trainable_weights),
    }

    def show():
        text = recipe.show(model, folder)
        with files.atomic_write(folder / "samples.txt") as aside:
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
