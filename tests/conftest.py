"""Shared fixtures: a quiet TensorFlow, the real data where it is at hand, tiny recipes trained once, a budget.

XLA is off (HOML_XLA=0) but in tests marked `xla`, where compilation is the claim: tracing and compiling, not steps,
are what tiny models cost. With HOML_REQUIRE_DATA=1 a test that skips has failed: nothing may be missing.
"""

import atexit
import contextlib
import ctypes
import dataclasses
import fcntl
import functools
import gc
import io
import json
import logging
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import pytest

from tests import budget, processes

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("HOML_TEST_DATA", ROOT.parent / "shared" / "data"))
REAL = DATA / "keras" / "datasets"
LARGE = 1.8  # GB of a process of the tests, from which on it gives back what is free
STRICT = os.environ.get("HOML_REQUIRE_DATA") == "1"


def make_keras_home():
    """A KERAS_HOME of these tests alone, with the real data sets if they are there; Keras reads it when imported."""
    home = Path(tempfile.mkdtemp(prefix="homl_models_keras_"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    (home / "datasets" / "fashion-mnist").mkdir(parents=True)
    for path in [*REAL.glob("shakespeare.txt"), *REAL.glob("spa-eng.zip"), *REAL.glob("fashion-mnist/*")]:
        (home / path.relative_to(DATA / "keras")).symlink_to(path)
    return str(home)


os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # before TensorFlow is imported
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"  # as the command of training does, for the same last bits
os.environ["KERAS_HOME"] = make_keras_home()
os.environ.setdefault("HOML_XLA", "0")


def pytest_configure(config):
    config.pluginmanager.register(budget.Budget())


@pytest.hookimpl(tryfirst=True)  # or else pytest-xdist has looked for groups before there are any
def pytest_collection_modifyitems(items):
    """Tests of one recipe, or else of one file, run in one of the two processes, which trains that recipe once."""
    for item in items:
        if item.get_closest_marker("xdist_group"):
            continue
        name = getattr(item, "callspec", None) and item.callspec.params.get("name")
        group = name if isinstance(name, str) and name.endswith("_tiny") else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    _strictly(outcome.get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector):
    outcome = yield
    _strictly(outcome.get_result())


def _strictly(report):
    """Where nothing may be missing, a skip is a failure."""
    if STRICT and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"skipped, with HOML_REQUIRE_DATA=1: {reason}"


@pytest.fixture(autouse=True)
def xla(request, monkeypatch):
    """Compile by XLA in tests that are marked so, and nowhere else."""
    if request.node.get_closest_marker("xla"):
        from homl_models import base

        monkeypatch.setattr(base, "XLA", True)


@pytest.fixture(scope="module", autouse=True)
def memory_is_given_back():
    """After a file, if there is much: the two processes go through all of them, and neither keeps every model."""
    yield
    if budget.gigabytes() < LARGE:
        return
    import keras
    from tensorflow.python.framework import ops

    # TensorFlow keeps each custom gradient that it traced, with its graph and all variables of the model.
    registry = ops.gradient_registry._registry
    for name in [name for name in registry if name.startswith("CustomGradient-")]:
        del registry[name]
    keras.backend.clear_session()
    gc.collect()
    with contextlib.suppress(AttributeError):  # of another C library than GNU's
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session")
def keras_home():
    """The KERAS_HOME of the tests, which holds the real data sets."""
    if not REAL.is_dir():
        pytest.skip(f"needs the real data sets, and {REAL} is not there; set HOML_TEST_DATA to their folder")
    return Path(os.environ["KERAS_HOME"])


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real images and checkpoints."""
    if not (DATA / "sr").is_dir():
        pytest.skip(f"needs the real data, and {DATA} is not there; set HOML_TEST_DATA to their folder")
    return DATA


@pytest.fixture(scope="session")
def spa_eng(keras_home):
    """The book's pairs of sentences."""
    from homl_models.pipelines import translation

    return translation.read_pairs(keras_home / "datasets" / "spa-eng.zip")


@dataclasses.dataclass(frozen=True)
class Trained:
    """Tiny recipes, each trained once by whichever test process comes first, with what the run left on its way."""

    place: Path

    def __call__(self, name):
        """The run folder."""
        folder = self.place / name
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "warned.json").exists():
                self.train(name, folder)
        return folder / "run"

    def stops(self, name):
        """Runs as a kill would have left them: in mid-epoch, as the next epoch begins, and in its middle."""
        return sorted(self(name).parent.glob("stopped_*"))

    def warned(self, name):
        """All warnings that a user would have seen: those that Python shows, and those that are logged."""
        return json.loads((self(name).parent / "warned.json").read_text())

    def train(self, name, folder):
        from homl_models import recipes, train
        from homl_models.training import checkpointing

        save = checkpointing.Progress.save
        first, *others = [stage.name for stage in recipes.get(name).stages()]

        def save_and_copy(progress):
            save(progress)
            stage, middle = progress.stage.name, progress.steps // 2
            second = [(others[0], 0, middle), (others[0], 1, 0)] if others else [(first, 1, 0), (first, 1, middle)]
            if (stage, progress.epoch, progress.step) in [(first, 0, middle), *second]:
                stop = folder / f"stopped_{stage}_in_epoch_{progress.epoch}_at_step_{progress.step}"
                shutil.copytree(folder / "run" / "checkpoints", stop / "checkpoints")

        warned, log = [], logging.Handler("WARNING")
        log.emit = lambda record: warned.append(f"{record.name}: {record.getMessage()}")
        silent = contextlib.redirect_stdout(io.StringIO())  # a test may be looking at what is printed
        with silent, pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("always")
            for hidden in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
                warnings.filterwarnings("ignore", category=hidden, module=r"(?!homl_models)")
            patch.setattr(warnings, "showwarning", lambda *w, **_: warned.append(f"{w[1].__name__}: {w[0]} ({w[2]})"))
            patch.setattr(checkpointing.Progress, "save", save_and_copy)
            for logger in map(logging.getLogger, ("", "tensorflow", "absl")):
                patch.setattr(logger, "handlers", [*logger.handlers, log])
            train.train(name, run_dir=str(folder / "run"), verbose=0, checkpoint_seconds=0)
        (folder / "warned.json").write_text(json.dumps(warned))


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """`trained(name)` is the run folder of a tiny recipe, which all tests share; see `Trained`."""
    base = tmp_path_factory.getbasetemp()
    return Trained((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "trained")


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    """`untrained(name, **settings)` is like the run folder of a recipe whose model has learned nothing; made once."""

    @functools.cache
    def folder(name, **settings):
        from homl_models.recipes import get
        from homl_models.training import files

        run = tmp_path_factory.mktemp(name)
        model = dataclasses.replace(get(name), **settings).model()
        files.write_json(run / "recipe.json", {"recipe": name, "settings": settings})
        model.save(run / "model.keras")
        return run

    return folder


@pytest.fixture(scope="session")
def exported(untrained):
    """`exported(name)` is `untrained(name)` with its SavedModel."""

    @functools.cache
    def folder(name):
        from homl_models import export

        export.export(str(untrained(name) / "model.keras"), untrained(name) / "saved_model")
        return untrained(name)

    return folder


@pytest.fixture(scope="session")
def tensorflow_process():
    """The process of that name runs, so that its start is in no test's seconds."""
    processes.run("import keras, homl_models.train; print(0)")


@pytest.fixture(scope="session")
def jax_process(tensorflow_process):
    processes.run("import keras, homl_models.train; print(0)", process=processes.JAX)


@pytest.fixture(autouse=True)
def trained_before(request):
    """Trains a recipe before the seconds of a test that shares the run count."""
    if {"trained", "name"} <= set(request.fixturenames):
        request.getfixturevalue("trained")(request.getfixturevalue("name"))
