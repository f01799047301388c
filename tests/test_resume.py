"""Exact resume: stopped anywhere, by anything, a run ends as if it had never been stopped.

Every tiny recipe resumes within this process; one of them is killed as well, in processes of its own.
HOML_KILL_ROUNDS=20 kills every tiny recipe, in that many rounds of two kills.
"""

import dataclasses
import os
import random
import resource
import shutil
import signal
import subprocess
import time

import keras
import pytest

from homl_models import files, runs, train
from homl_models.errors import UserError
from homl_models.recipes import RECIPES
from tests.test_train import TINY, command, state

ROUNDS = int(os.environ.get("HOML_KILL_ROUNDS", "0"))
KILLED = TINY if ROUNDS else ["char_rnn_large_tiny"]


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


@pytest.mark.parametrize("name", KILLED)
@pytest.mark.parametrize("attempt", range(max(ROUNDS, 1)))
def test_killed_at_random_times_a_run_ends_as_one_never_killed(name, attempt, trained, tmp_path):
    folder, draw, stopped_early = tmp_path / "run", random.Random(f"{name}{attempt}"), 0
    for _ in range(2):
        process = start(name, folder)
        wait_for_checkpoint(process, folder, latest(folder))
        time.sleep(draw.uniform(0, 0.6))
        process.kill()
        process.communicate()
        stopped_early += process.returncode == -signal.SIGKILL and not (folder / "metrics.json").exists()
    assert stopped_early, "the run was never killed in time to test anything"
    process = start(name, folder)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert state(folder) == state(trained(name))
    assert (folder / "history.csv").read_bytes() == (trained(name) / "history.csv").read_bytes()
    assert not list(folder.rglob(".aside*"))


@pytest.mark.parametrize("name", TINY)
def test_stopped_in_mid_epoch_or_as_one_begins_a_run_ends_as_one_never_stopped(name, trained, tmp_path, monkeypatch):
    """Also the checkpoint at the start of an epoch, which kills at random times rarely meet.

    The model of the finished run goes on from all of them: compiled once; nothing of what it holds may matter.
    """
    finished, recipe, model = trained(name), dataclasses.replace(RECIPES[name], verbose=0), trained.model(name)
    monkeypatch.setattr(type(recipe), "model", lambda recipe: model)
    stops = trained.stops(name)
    assert len(stops) == 3
    for stop in stops:
        folder = shutil.copytree(stop, tmp_path / stop.name)
        assert state(folder) != state(finished)
        train.fit(recipe, folder)
        assert state(folder) == state(finished), stop.name
        assert (folder / "history.csv").read_bytes() == (finished / "history.csv").read_bytes()


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A run of char_rnn_large_tiny (dropout, carried state) that Ctrl-C has stopped in mid-epoch."""
    folder = tmp_path_factory.mktemp("interrupted") / "run"
    process = start("char_rnn_large_tiny", folder)
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
    return train.train("char_rnn_large_tiny", run_dir=str(folder), verbose=0)


def test_ctrl_c_saves_and_the_run_goes_on_exactly(interrupted, trained, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    assert state(go_on(folder)) == state(trained("char_rnn_large_tiny"))


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
        train.fit(dataclasses.replace(RECIPES["char_rnn_large_tiny"], verbose=0), folder)
    assert state(folder) == state(trained("char_rnn_large_tiny"))


def test_with_every_checkpoint_damaged_the_run_starts_again(interrupted, trained, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    for path in folder.glob("checkpoints/step-*.npz"):
        path.write_bytes(path.read_bytes()[:50])
    recipe = dataclasses.replace(RECIPES["char_rnn_large_tiny"], verbose=0)
    keras.utils.set_random_seed(recipe.seed)
    with pytest.warns(UserWarning, match="is damaged"):
        train.fit(recipe, folder)
    assert state(folder) == state(trained("char_rnn_large_tiny"))


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


def test_a_full_disk_ends_with_one_line_and_leaves_the_run_intact(interrupted, tmp_path):
    """The limit on the size of a file stands in for a full disk: the same error at the same place.

    Intact: byte for byte the run that goes on exactly in the test of Ctrl-C.
    """
    folder = shutil.copytree(interrupted, tmp_path / "run")
    before = contents(folder)
    limit = min(path.stat().st_size for path in folder.glob("checkpoints/*.npz")) // 2
    process = start(
        "char_rnn_large_tiny",
        folder,
        env={"TF_XLA_FLAGS": ""},  # or else XLA's cache is what cannot be written
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    _, errors = process.communicate()
    assert process.returncode == 2, errors
    lines = [line for line in errors.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "cannot write" in lines[0]
    assert "Traceback" not in errors
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
        train.train("char_rnn_large_tiny", run_dir=str(folder), verbose=0, units=10)


def test_writing_aside_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), files.write_aside(path) as aside:
        aside.write_text("half \ud800", encoding="utf-8")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
