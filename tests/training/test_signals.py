"""Signals: a first one saves, a second one does not wait; killed at any moment, a run resumes exactly.

Exact resume after Ctrl-C is in test_checkpointing.py. With `-m slow` a recipe of each kind of training is killed in
training, with HOML_KILL_ROUNDS=2 or more each tiny recipe in so many rounds, and one while its results are written.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from homl_models import train
from homl_models.training.checkpointing import Progress
from tests import processes
from tests.kinds import OF_KIND, TINY, command, latest, results, start, state, wait_for_checkpoint

ROUNDS = int(os.environ.get("HOML_KILL_ROUNDS", "1"))
AT_RANDOM = TINY if ROUNDS > 1 else list(OF_KIND.values())  # tiny recipes that are killed
KILLED = OF_KIND["stateful"]


TRAIN = """
import sys
from homl_models import train
print(train.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", AT_RANDOM)
@pytest.mark.parametrize("attempt", range(ROUNDS))
def test_killed_at_random_times_a_run_ends_as_one_never_killed(name, attempt, trained, tmp_path):
    folder, draw = tmp_path / "run", random.Random(f"{name}{attempt}")
    process = start(name, folder)
    wait_for_checkpoint(process, folder)
    time.sleep(draw.uniform(0, 0.6))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run was not killed in time to test anything"
    assert processes.run(TRAIN, name, "--run-dir", folder, "--verbose", 0) == 0
    assert state(folder) == state(trained(name))
    assert results(folder) == results(trained(name))
    assert not list(folder.rglob(".aside*"))


@pytest.mark.parametrize(("number", "times", "status"), [("SIGTERM", 1, 143), ("SIGINT", 2, 130)])
def test_signals_stop_a_run_at_its_last_checkpoint(number, times, status, tmp_path, monkeypatch, capsys):
    """The first one waits for the end of the step and saves; a second one does not wait."""
    number = getattr(signal, number)
    folder, save, kept = tmp_path / "run", Progress.save, signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest-xdist has its own

    def signalled(progress):
        save(progress)
        if (progress.epoch, progress.step) == (0, 3):
            for _ in range(times):
                os.kill(os.getpid(), number)

    flags = [KILLED, "--run-dir", str(folder), "--verbose", "0", "--checkpoint-seconds", "0"]
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Progress, "save", signalled)
            try:
                found = train.main(flags)
            except SystemExit as ended:
                found = ended.code
        assert found == status
        errors = capsys.readouterr().err.strip().splitlines()
        assert "the same command resumes from" in errors[-1]
        assert ("stopped and saved in epoch 1" in errors[-1]) == (times == 1)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, kept)
    assert not (folder / "metrics.json").exists()
    assert latest(folder) == 3


KILLED_AS_IT_ENDS = """
import contextlib, os, signal, sys
from homl_models import train
from homl_models.training import files
atomic_write, (name, folder, victim) = files.atomic_write, sys.argv[1:]
@contextlib.contextmanager
def deadly(path):
    with atomic_write(path) as aside:
        yield aside
        if path.name == victim:  # written, but not in its place
            os.kill(os.getpid(), signal.SIGKILL)
files.atomic_write = deadly
train.main([name, "--run-dir", folder, "--verbose", "0"])
"""


@pytest.fixture(
    params=[
        *(pytest.param(file, marks=pytest.mark.slow) for file in ("learning_curves.png", "samples.txt", "model.keras")),
        "saved_model",
        pytest.param("metrics.json", marks=pytest.mark.slow),
    ]
)
def killed_as_it_ends(request, trained, tmp_path):
    """A trained run that was killed when that file was written, but not in its place."""
    name, folder = OF_KIND["fit"], tmp_path / "run"
    shutil.copytree(trained(name), folder, ignore=lambda *_: ["saved_model", "tensorboard"])
    for file in ("metrics.json", "samples.txt", "model.keras", "learning_curves.png"):
        (folder / file).unlink()
    script = [sys.executable, "-c", KILLED_AS_IT_ENDS, name, folder, request.param]
    killed = subprocess.run(script, env=command()[1])
    assert killed.returncode == -signal.SIGKILL
    return folder


def test_killed_as_it_shows_saves_or_exports_a_run_ends_as_one_never_killed(killed_as_it_ends, trained):
    folder, finished = killed_as_it_ends, trained(OF_KIND["fit"])
    assert list(folder.glob(".aside*"))
    assert not (folder / "metrics.json").exists()
    train.train(OF_KIND["fit"], run_dir=str(folder), verbose=0)
    assert results(folder) == results(finished)
    assert not list(folder.rglob(".aside*"))
    with_all = {path.relative_to(finished) for path in finished.rglob("*") if path.parent.name != "tensorboard"}
    assert {path.relative_to(folder) for path in folder.rglob("*") if path.parent.name != "tensorboard"} == with_all
