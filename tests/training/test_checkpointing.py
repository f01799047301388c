"""Exact resume: stopped anywhere, by anything, a run ends as if it had never been stopped.

A recipe of each kind of training by default, every tiny recipe with `-m slow`. Signals: test_signals.py.
"""

import dataclasses
import errno
import os
import random
import shutil
import signal
import types

import numpy as np
import pytest

from homl_models import train
from homl_models.errors import UserError
from homl_models.recipes import RECIPES
from homl_models.training import checkpointing, files, loop
from homl_models.training.checkpointing import Progress
from tests import processes
from tests.kinds import OF_KIND, start, state, wait_for_checkpoint

KILLED = OF_KIND["stateful"]


GO_ON = """
import dataclasses, pathlib, sys
from homl_models import recipes
from homl_models.training import loop
name, *folders = sys.argv[1:]
recipe = dataclasses.replace(recipes.get(name), verbose=0)
if len(recipe.stages()) == 1:
    model = recipe.model()
    object.__setattr__(recipe, "model", lambda: model)
for folder in folders:
    loop.fit(recipe, pathlib.Path(folder))
print(0)
"""


@pytest.mark.usefixtures("tensorflow_process")
@pytest.mark.parametrize("name", OF_KIND.values())
def test_stopped_in_mid_epoch_or_as_one_begins_a_run_goes_on_in_a_new_process(name, trained, tmp_path):
    """And ends as the one that never stopped.

    Also from the checkpoint at the start of an epoch, which kills at random times rarely meet. One model resumes from
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
        ("char_rnn_large_tiny", {"precision": "mixed_float16", "steps_per_epoch": 8}),
    ],
)
def test_several_steps_at_once_and_scaled_losses_resume_exactly(name, settings, tmp_path, monkeypatch):
    recipe = dataclasses.replace(RECIPES[name], verbose=0, checkpoint_seconds=0, **settings)
    save, seen = Progress.save, []

    def fit(folder):
        (tmp_path / folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        loop.fit(recipe, tmp_path / folder)
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
    assert "the same command resumes" in message
    assert not (folder / "metrics.json").exists()
    assert len(list(folder.glob("checkpoints/step-*.npz"))) == 2
    return folder


def contents(folder):
    """All files of a run but TensorBoard's, which are made anew."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "tensorboard")
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_ctrl_c_saves_and_the_run_goes_on_exactly(interrupted, trained, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    loop.fit(dataclasses.replace(RECIPES[KILLED], verbose=0), folder)
    assert state(folder) == state(trained(KILLED))


@pytest.mark.parametrize("damage", ["truncated", "one byte", "empty", "not a zip"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_used(damage, interrupted, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "run") / "checkpoints"
    before, newest = sorted(folder.glob("step-*.npz"))
    expected, expected_info = files.read_arrays(before)
    data = bytearray(newest.read_bytes())
    if damage == "one byte":
        data[len(data) // 2] ^= 1
    newest.write_bytes({"truncated": data[:-100], "one byte": data, "empty": b"", "not a zip": b"hello"}[damage])
    newest_size = newest.stat().st_size
    with pytest.warns(UserWarning, match="is damaged.*checkpoint before it"):
        arrays, _, info = checkpointing.read_checkpoint(folder)
    assert info == expected_info
    assert {k: a.tobytes() for k, a in arrays.items()} == {k: a.tobytes() for k, a in expected.items()}
    assert list(folder.glob("step-*.npz")) == [before]
    assert (folder / f"{newest.name}.damaged").stat().st_size == newest_size  # kept for who can mend it


def checkpoints(folder, *best_epochs):
    """Checkpoints of the first epochs, each of which names its best one."""
    folder.mkdir()
    for epoch, best in enumerate(best_epochs, 1):
        if best == epoch:
            checkpointing.write_best(folder, epoch, [np.float32([epoch])])
        info = {"best_epoch": best, "best_value": 1.0, "patience_count": 3, "epoch": epoch}
        checkpointing.write_checkpoint(folder, epoch, {"v": np.float32([epoch])}, info)
    return folder


def test_best_weights_are_written_when_they_change_and_kept_as_long_as_a_checkpoint_names_them(tmp_path):
    folder = checkpoints(tmp_path / "run", 1, 1, 3, 3, 3)
    assert [path.name for path in sorted(folder.iterdir())] == [
        "best-000001.npz", "best-000003.npz", "step-000000000004.npz", "step-000000000005.npz",
    ]  # fmt: skip
    (folder / "step-000000000005.npz").unlink()
    arrays, best, info = checkpointing.read_checkpoint(folder)
    assert (arrays["v"], best, info["epoch"]) == ([4], [[3]], 4)


def test_damaged_best_weights_cost_no_checkpoint(tmp_path):
    folder = checkpoints(tmp_path / "run", 1, 1)
    (folder / "best-000001.npz").write_bytes(b"")
    with pytest.warns(UserWarning, match="best-000001.npz is damaged.*the best epoch is looked for anew"):
        arrays, best, info = checkpointing.read_checkpoint(folder)
    assert (arrays["v"], best) == ([2], [])
    assert (info["best_epoch"], info["best_value"], info["patience_count"]) == (None, None, 0)


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(errno.EMFILE, "Too many open files"), PermissionError(13, "")]
)
def test_what_cannot_be_read_now_is_not_taken_for_damaged(error, tmp_path, monkeypatch):
    folder = checkpoints(tmp_path / "run", 1, 1)
    before = sorted(folder.iterdir())
    monkeypatch.setattr("zipfile.ZipFile", lambda path: raises(error))
    with pytest.raises(type(error)):
        checkpointing.read_checkpoint(folder)
    assert sorted(folder.iterdir()) == before


def raises(error):
    raise error


@pytest.mark.parametrize(("mode", "values", "best"), [("min", [np.nan, 3, 2, np.nan], 3), ("max", [np.nan, 3, 2], 2)])
def test_any_number_is_better_than_none(mode, values, best, tmp_path, monkeypatch):
    recipe = types.SimpleNamespace(name="", monitor="m", monitor_mode=mode)
    (tmp_path / "checkpoints").mkdir()
    progress = Progress(recipe, 1, tmp_path)
    monkeypatch.setattr(progress, "weights", lambda: [])
    for epoch, value in enumerate(values, 1):
        progress.compare({"epoch": epoch, "m": value})
    assert progress.best_epoch == best


def test_after_a_damaged_checkpoint_the_run_ends_as_one_never_stopped(interrupted, trained, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    newest = sorted(folder.glob("checkpoints/step-*.npz"))[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="is damaged.*checkpoint before it"):
        loop.fit(dataclasses.replace(RECIPES[KILLED], verbose=0), folder)
    assert state(folder) == state(trained(KILLED))


def test_with_every_checkpoint_damaged_the_run_starts_again(interrupted, trained, tmp_path):
    folder = shutil.copytree(interrupted, tmp_path / "run")
    for path in folder.glob("checkpoints/step-*.npz"):
        path.write_bytes(path.read_bytes()[:50])
    recipe = dataclasses.replace(RECIPES[KILLED], verbose=0)
    with pytest.warns(UserWarning, match="is damaged"):
        loop.fit(recipe, folder)
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


@pytest.mark.usefixtures("tensorflow_process")
def test_a_full_disk_ends_with_one_line_and_leaves_the_run_intact(interrupted, tmp_path):
    """The limit on the size of a file stands in for a full disk: the same error at the same place.

    Intact: byte for byte the run that resumes exactly in the test of Ctrl-C.
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


def test_what_a_killed_process_left_is_removed_at_any_depth(tmp_path):
    kept = tmp_path / "checkpoints" / "layer_0" / "final.weights.h5"
    for path in (kept, kept.with_name(".aside-1-final.weights.h5"), tmp_path / ".aside-2-saved_model" / "a" / "b"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    files.remove_leftovers(tmp_path)
    assert [path for path in tmp_path.rglob("*") if not path.is_dir()] == [kept]
    assert not list(tmp_path.glob(".aside*"))


def test_writing_aside_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), files.atomic_write(path) as aside:
        aside.write_text("half \ud800", encoding="utf-8")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
