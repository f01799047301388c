"""What the tests share: a quiet TensorFlow, and the real data where it is at hand."""

import os
import shutil
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
    shutil.copyfile(source / "shakespeare.txt", home / "datasets" / "shakespeare.txt")
    return home
