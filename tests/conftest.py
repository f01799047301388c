"""What the tests share: a quiet TensorFlow, and the real data where it is at hand."""

import dataclasses
import os
import shutil
import warnings
from pathlib import Path

import pytest

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # before TensorFlow is imported

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("HOML_TEST_DATA", ROOT.parent / "shared" / "data"))


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
    return home


@pytest.fixture(scope="session")
def spa_eng(keras_home):
    """The book's pairs of sentences."""
    from homl_models.pipelines import translation

    return translation.read_pairs(keras_home / "datasets" / "spa-eng.zip")


@dataclasses.dataclass(frozen=True)
class Trained:
    """Tiny recipes, each trained once, with what the run left behind on its way.

    stops: runs as a kill would have left them: in mid-epoch, as the next epoch begins, and in its middle.
    """

    place: Path
    folders: dict = dataclasses.field(default_factory=dict)
    stops: dict = dataclasses.field(default_factory=dict)
    warned: dict = dataclasses.field(default_factory=dict)

    def __call__(self, name):
        """The run folder."""
        if name not in self.folders:
            self.train(name)
        return self.folders[name]

    def train(self, name):
        from homl_models import resume, train

        save, stops, folder = resume.Progress.save, [], self.place / name / "run"

        def save_and_copy(progress):
            save(progress)
            if (progress.epoch, progress.step) in ((0, progress.steps // 2), (1, 0), (1, progress.steps // 2)):
                stop = self.place / name / f"stopped_in_epoch_{progress.epoch}_at_step_{progress.step}"
                stops.append(shutil.copytree(folder / "checkpoints", stop / "checkpoints").parent)

        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            patch.setattr(resume.Progress, "save", save_and_copy)
            train.train(name, run_dir=str(folder), verbose=0, checkpoint_seconds=0)
        self.folders[name], self.stops[name] = folder, stops
        self.warned[name] = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """`trained(name)` is the run folder of a tiny recipe, which all tests share; see `Trained`."""
    return Trained(tmp_path_factory.mktemp("trained"))
