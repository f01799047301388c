"""Exact resume: stopped anywhere, by anything, a run ends as if it had never been stopped.

A recipe of each kind of training by default, every tiny recipe with `-m slow`; one is killed in processes of its own,
all with `-m slow`, in as many rounds as HOML_KILL_ROUNDS says.
"""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import keras
import pytest

from homl_models import files, runs, train
from homl_models.errors import UserError
from homl_models.recipes import RECIPES
from homl_models.resume import Progress
from tests import processes
from tests.kinds import OF_KIND, TINY, WHOLE, command, state

ROUNDS = int(os.environ.get("HOML_KILL_ROUNDS", "1"))
KILLED = OF_KIND["stateful"]


def start(name, folder, *flags, env=None, **kwargs):
    """The training command in a process of its own, with a checkpoint after every step."""
    flags = ("--run-dir", folder, "--checkpoint-seconds", "0", "--verbose", "0", *flags)
    args, env = command(name, *flags, **(env or {}))
    return subprocess.Popen(args, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


def wait_for_checkpoint(process, folder, beyond=-1, seconds=120):
    """Until a checkpoint of a later step than `beyond` is there, or the process has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if latest(folder) > beyond:
            return
        time.sleep(0.002)
    assert process.poll() is not None, "no checkpoint was written"


def latest(folder):
    return max((int(p.stem[5:]) for p in folder.glob("checkpoints/step-*.npz")), default=-1)


def results(folder):
    """What a finished run says of itself: metrics but for the time, samples and history, byte for byte."""
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics.pop("minutes")
    return metrics, (folder / "samples.txt").read_bytes(), (folder / "history.csv").read_bytes()


TRAIN = """
import sys
from homl_models import train
print(train.main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
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


GO_ON = """
import dataclasses, pathlib, sys
from homl_models import recipes, train
name, *folders = sys.argv[1:]
recipe = dataclasses.replace(recipes.get(name), verbose=0)
model = recipe.model()
object.__setattr__(recipe, "model", lambda: model)
for folder in folders:
    train.fit(recipe, pathlib.Path(folder))
print(0)
"""


@WHOLE
def test_stopped_in_mid_epoch_or_as_one_begins_a_run_goes_on_in_a_new_process(name, trained, tmp_path):
    """And ends as the one that never stopped.

    Also from the checkpoint at the start of an epoch, which kills at random times rarely meet. One model goes on from
    all of them: traced once; nothing of what it holds may matter.
    """
    finished, stops = trained(name), trained.stops(name)
    assert len(stops) == 3
    folders = [shutil.copytree(stop, tmp_path / stop.name) for stop in stops]
    assert all(state(folder) != state(finished) for folder in folders)
    processes.run(GO_ON, name, *folders)
    for folder in folders:
        assert state(folder) == state(finished), folder
        assert (folder / "history.csv").read_bytes() == (finished / "history.csv").read_bytes()


class Stop(Exception):
    """Instead of a signal, right after a checkpoint."""


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("autoencoder_tiny", {"steps_per_execution": 2}),
        ("vae_tiny", {"steps_per_execution": 3}),
        ("char_rnn_large_tiny", {"precision": "mixed_float16", "steps_per_epoch": 8}),
    ],
)
def test_several_steps_at_once_and_scaled_losses_resume_exactly(name, settings, tmp_path, monkeypatch):
    recipe = dataclasses.replace(RECIPES[name], verbose=0, checkpoint_seconds=0, **settings)
    save, seen = Progress.save, []

    def fit(folder):
        (tmp_path / folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        keras.utils.set_random_seed(recipe.seed)
        train.fit(recipe, tmp_path / folder)
        return state(tmp_path / folder)

    def stopping(progress):
        save(progress)
        seen.append((progress.epoch, progress.step))
        if progress.epoch == 1 and progress.step:
            raise Stop

    expected = fit("whole")
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "save", stopping)
        with pytest.raises(Stop):
            fit("stopped")
    at_once = settings.get("steps_per_execution", 1)
    assert [step for epoch, step in seen if epoch == 0][0] == at_once  # between executions, not within
    assert seen[-1] == (1, at_once)
    assert fit("stopped") == expected
    if "precision" in settings:
        assert any("loss_scale" in v.path or "dynamic_scale" in v.path for v in recipe.model().optimizer.variables)


@pytest.mark.parametrize(("number", "times", "status"), [("SIGTERM", 1, 143), ("SIGINT", 2, 130)])
def test_signals_stop_a_run_at_its_last_checkpoint(number, times, status, trained, tmp_path, monkeypatch, capsys):
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
        assert "the same command goes on from" in errors[-1]
        assert ("stopped and saved in epoch 1" in errors[-1]) == (times == 1)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, kept)
    assert not (folder / "metrics.json").exists()
    assert latest(folder) == 3
    if times == 1:
        train.fit(dataclasses.replace(RECIPES[KILLED], verbose=0), folder)
        assert state(folder) == state(trained(KILLED))


KILLED_AS_IT_ENDS = """
import contextlib, os, signal, sys
from homl_models import files, train
write_aside, (name, folder, victim) = files.write_aside, sys.argv[1:]
@contextlib.contextmanager
def deadly(path):
    with write_aside(path) as aside:
        yield aside
        if path.name == victim:  # written, but not in its place
            os.kill(os.getpid(), signal.SIGKILL)
files.write_aside = deadly
train.main([name, "--run-dir", folder, "--verbose", "0"])
"""


@pytest.mark.parametrize(
    "victim",
    [
        *(pytest.param(file, marks=pytest.mark.slow) for file in ("learning_curves.png", "samples.txt", "model.keras")),
        "saved_model",
        pytest.param("metrics.json", marks=pytest.mark.slow),
    ],
)
def test_killed_as_it_shows_saves_or_exports_a_run_ends_as_one_never_killed(victim, trained, tmp_path):
    name = OF_KIND["fit"]
    finished = trained(name)
    folder = shutil.copytree(finished, tmp_path / "run", ignore=lambda *_: ["saved_model", "tensorboard"])
    for file in ("metrics.json", "samples.txt", "model.keras", "learning_curves.png"):
        (folder / file).unlink()
    env = command()[1]
    killed = subprocess.run([sys.executable, "-c", KILLED_AS_IT_ENDS, name, folder, victim], env=env)
    assert killed.returncode == -signal.SIGKILL
    assert list(folder.glob(".aside*"))
    assert not (folder / "metrics.json").exists()
    train.train(name, run_dir=str(folder), verbose=0)
    assert results(folder) == results(finished)
    assert not list(folder.rglob(".aside*"))
    with_all = {path.relative_to(finished) for path in finished.rglob("*") if path.parent.name != "tensorboard"}
    assert {path.relative_to(folder) for path in folder.rglob("*") if path.parent.name != "tensorboard"} == with_all


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run of char_rnn_large_tiny (dropout, carried state) that Ctrl-C has stopped in mid-epoch."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    process = start(KILLED, folder)
    wait_for_checkpoint(process, folder, 3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    message = errors.strip().splitlines()[-1]
    assert "stopped and saved in epoch" in message
    assert "the same command goes on" in message
    assert not (folder / "metrics.json").exists()
    assert len(list(folder.glob("checkpoints/step-*.npz"))) == 2
    return folder


def contents(folder):
    """All files of a run but TensorBoard's, which are made anew."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "tensorboard")
    return {path.relative_to(folder): path.read_bytes() for path in files}


def go_on(folder):
    return train.train(KILLED, run_dir=str(folder), verbose=0)


def test_ctrl_c_saves_and_the_run_goes_on_exactly(interrupted, trained, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    assert state(go_on(folder)) == state(trained(KILLED))


@pytest.mark.parametrize("damage", ["truncated", "one byte", "empty", "not a zip"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_used(damage, interrupted, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "run") / "checkpoints"
    before, newest = sorted(folder.glob("step-*.npz"))
    expected, expected_info = files.read_arrays(before)
    data = bytearray(newest.read_bytes())
    if damage == "one byte":
        data[len(data) // 2] ^= 1
    newest.write_bytes({"truncated": data[:-100], "one byte": data, "empty": b"", "not a zip": b"hello"}[damage])
    with pytest.warns(UserWarning, match="is damaged.*checkpoint before it"):
        arrays, info = runs.read_checkpoint(folder)
    assert info == expected_info
    assert {k: a.tobytes() for k, a in arrays.items()} == {k: a.tobytes() for k, a in expected.items()}
    assert list(folder.glob("step-*.npz")) == [before]


def test_after_a_damaged_checkpoint_the_run_ends_as_one_never_stopped(interrupted, trained, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    newest = sorted(folder.glob("checkpoints/step-*.npz"))[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="is damaged.*checkpoint before it"):
        train.fit(dataclasses.replace(RECIPES[KILLED], verbose=0), folder)
    assert state(folder) == state(trained(KILLED))


def test_with_every_checkpoint_damaged_the_run_starts_again(interrupted, trained, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    for path in folder.glob("checkpoints/step-*.npz"):
        path.write_bytes(path.read_bytes()[:50])
    recipe = dataclasses.replace(RECIPES[KILLED], verbose=0)
    keras.utils.set_random_seed(recipe.seed)
    with pytest.warns(UserWarning, match="is damaged"):
        train.fit(recipe, folder)
    assert state(folder) == state(trained(KILLED))


def test_every_single_flipped_bit_of_a_checkpoint_is_noticed_or_harmless(interrupted, tmp_path):
    """A random sample of bits: what is read is what was written, or the file is refused."""
    newest = sorted(interrupted.glob("checkpoints/step-*.npz"))[-1]
    good, info = files.read_arrays(newest)
    data, draw, refused = newest.read_bytes(), random.Random(0), 0
    for _ in range(100):
        damaged = bytearray(data)
        damaged[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path = tmp_path / "damaged.npz"
        path.write_bytes(damaged)
        try:
            read, read_info = files.read_arrays(path)
        except Exception:
            refused += 1
            continue
        assert read_info == info
        assert {k: a.tobytes() for k, a in read.items()} == {k: a.tobytes() for k, a in good.items()}
    assert refused > 50


FULL = """
import contextlib, io, json, resource, sys
from homl_models import train
limit, folder, name = int(sys.argv[1]), *sys.argv[2:]
before = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
errors = io.StringIO()
try:
    with contextlib.redirect_stderr(errors):
        status = train.main([name, "--run-dir", folder, "--checkpoint-seconds", "0", "--verbose", "0"])
finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
print(json.dumps([status, errors.getvalue()]))
"""


def test_a_full_disk_ends_with_one_line_and_leaves_the_run_intact(interrupted, tmp_path):
    """The limit on the size of a file stands in for a full disk: the same error at the same place.

    Intact: byte for byte the run that goes on exactly in the test of Ctrl-C.
    """
    folder = shutil.copytree(interrupted, tmp_path / "run")
    before = contents(folder)
    limit = min(path.stat().st_size for path in folder.glob("checkpoints/*.npz")) // 2
    status, errors = processes.run(FULL, limit, folder, KILLED)
    assert status == 2, errors
    assert errors.startswith("error: cannot write")
    assert errors.count("\n") == 1
    assert contents(folder) == before


def test_a_folder_that_cannot_be_written_ends_with_one_line(tmp_path, capsys):
    place = "/proc/run"  # even root cannot write there
    if os.geteuid():
        tmp_path.chmod(0o500)
        place = str(tmp_path / "run")
    assert train.main(["char_rnn_tiny", "--run-dir", place]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: cannot write or read {place}")
    assert errors.count("\n") == 1


def test_a_checkpoint_of_another_model_is_refused(interrupted, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    recipe = (folder / "recipe.json").read_text()
    (folder / "recipe.json").write_text(recipe.replace('"units": 12', '"units": 10'))
    with pytest.raises(UserError, match="does not fit this recipe"):
        train.train(KILLED, run_dir=str(folder), verbose=0, units=10)


def test_writing_aside_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), files.write_aside(path) as aside:
        aside.write_text("half \ud800", encoding="utf-8")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
