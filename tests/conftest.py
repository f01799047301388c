"""What the tests share: a quiet TensorFlow, and the real data where it is at hand."""

import atexit
import contextlib
import ctypes
import dataclasses
import fcntl
import gc
import io
import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import pytest

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # before TensorFlow is imported
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"  # as the command of training does, for the same last bits
if "TF_XLA_FLAGS" not in os.environ:  # what XLA has compiled is compiled once for all processes of the tests
    cache = tempfile.mkdtemp(prefix="homl_models_xla_")
    atexit.register(shutil.rmtree, cache, ignore_errors=True)
    os.environ["TF_XLA_FLAGS"] = f"--tf_xla_persistent_cache_directory={cache}"

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("HOML_TEST_DATA", ROOT.parent / "shared" / "data"))


@pytest.hookimpl(tryfirst=True)  # or else pytest-xdist has looked for groups before there are any
def pytest_collection_modifyitems(items):
    """Tests of one recipe, or else of one file, run in one of the two processes, which trains that recipe once.

    Tests of all recipes have a group of their own, which is so small that it comes last, when all are trained.
    """
    for item in items:
        if item.get_closest_marker("xdist_group"):
            continue
        name = getattr(item, "callspec", None) and item.callspec.params.get("name")
        group = name if isinstance(name, str) and name.endswith("_tiny") else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="module", autouse=True)
def memory_is_given_back():
    """After each file: the two processes go through all of them, and what is free in them is of use to others."""
    yield
    gc.collect()
    with contextlib.suppress(AttributeError):  # of another C library than GNU's
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(scope="session")
def keras_home(tmp_path_factory):
    """A writable KERAS_HOME that holds the real data sets. Keras reads the variable when it is imported."""
    source = DATA / "keras" / "datasets"
    if not source.is_dir():
        pytest.skip(f"needs the real data sets, and {source} is not there; set HOML_TEST_DATA to their folder")
    home = tmp_path_factory.mktemp("keras_home")
    (home / "datasets").mkdir()
    for name in ("shakespeare.txt", "spa-eng.zip"):
        shutil.copyfile(source / name, home / "datasets" / name)
    shutil.copytree(source / "fashion-mnist", home / "datasets" / "fashion-mnist")
    return home


@pytest.fixture(scope="session")
def spa_eng(keras_home):
    """The book's pairs of sentences."""
    from homl_models.pipelines import translation

    return translation.read_pairs(keras_home / "datasets" / "spa-eng.zip")


@dataclasses.dataclass(frozen=True)
class Trained:
    """Tiny recipes, each trained once by whichever test process comes first, with what the run left on its way."""

    place: Path
    models: dict = dataclasses.field(default_factory=dict)  # those of this process, as compiled in training

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
        """What the training warned of."""
        return json.loads((self(name).parent / "warned.json").read_text())

    def model(self, name):
        """The model of a run, with whatever training left in it, or else a new one."""
        from homl_models.recipes import RECIPES

        self(name)
        return self.models.get(name) or RECIPES[name].model()

    def train(self, name, folder):
        from homl_models import resume, train
        from homl_models.recipes import RECIPES

        save, new = resume.Progress.save, type(RECIPES[name]).model

        def model(recipe):
            self.models[name] = new(recipe)
            return self.models[name]

        def save_and_copy(progress):
            save(progress)
            if (progress.epoch, progress.step) in ((0, progress.steps // 2), (1, 0), (1, progress.steps // 2)):
                stop = folder / f"stopped_in_epoch_{progress.epoch}_at_step_{progress.step}"
                shutil.copytree(folder / "run" / "checkpoints", stop / "checkpoints")

        silent = contextlib.redirect_stdout(io.StringIO())  # a test may be looking at what is printed
        with silent, pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            patch.setattr(resume.Progress, "save", save_and_copy)
            patch.setattr(type(RECIPES[name]), "model", model)
            train.train(name, run_dir=str(folder / "run"), verbose=0, checkpoint_seconds=0)
        warned = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
        (folder / "warned.json").write_text(json.dumps(warned))


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """`trained(name)` is the run folder of a tiny recipe, which all tests share; see `Trained`."""
    base = tmp_path_factory.getbasetemp()
    return Trained((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "trained")
