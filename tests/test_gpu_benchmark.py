"""`benchmarks/gpu.py --small` on a CPU: every claim prints a row, both sides compute the same, no TensorFlow needed."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLAIMS = (
    "product", "bert_128", "rrdb_step", "beit", "rrdb_forward", "bert_512", "bert_forward", "ddpm", "sampling",
    "translation", "decoding", "gru", "lstm", "dcgan",
)  # fmt: skip
SCRIPT = """
import importlib.machinery, runpy, sys
blocked, *sys.argv = sys.argv[1:]
blocked, finder = blocked.split(","), importlib.machinery.PathFinder
found = finder.find_spec
finder.find_spec = lambda name, *args: None if name in blocked else found(name, *args)
sys.modules.update((name, None) for name in blocked if "." in name)
sys.path.insert(0, "benchmarks")
runpy.run_path(sys.argv[0], run_name="__main__")
"""
pytestmark = [pytest.mark.parity, pytest.mark.slow]


def benchmark(*flags, blocked="tensorflow"):
    """`gpu.py` in a process of its own in which the modules `blocked` cannot be imported."""
    environment = {name: value for name, value in os.environ.items() if name not in ("HOML_XLA", "KERAS_BACKEND")}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", SCRIPT, blocked, "benchmarks/gpu.py", *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


def rows(*flags, **kwargs):
    done = benchmark("--small", *flags, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}


def check(row):
    """Times are finite and positive, and the ratio is theirs; whatever was compared is equal."""
    assert not {"error", "skipped", "beside"} & set(row), row
    times = [row[key] for key in ("ours_s", "peer_s", "claim_s", "keras_s") if key in row]
    assert all(math.isfinite(x) and x > 0 for x in times), row
    assert row["ratio"] == pytest.approx(row["peer_s"] / row["ours_s"], rel=2e-3)
    assert row["gflop"] > 0
    assert row.get("equal", row["name"] == "product") is True, row


def test_every_claim_prints_its_row():
    pytest.importorskip("jax")
    pytest.importorskip("torch")
    found = rows()
    assert tuple(found) == CLAIMS
    for row in found.values():
        check(row)
        if row["name"] == "product":
            continue
        assert row["peak_fraction"] == pytest.approx(
            row["gflop"] / row["ours_s"] / 1e3 / max(found["product"]["ours_tflops"], found["product"]["peer_tflops"]),
            rel=3e-3,
        )
        assert row["ours_peak_gib"] > 0
        assert row["device"] == "cpu"
        if "parameters" in row:  # cuDNN's LSTM has a bias of the input and one of the state, 4 x 16 in each layer
            assert row["parameters"][1] - row["parameters"][0] == (128 if row["name"] == "lstm" else 0)
    for name in ("bert_128", "rrdb_step", "beit", "bert_512", "translation", "gru", "lstm"):
        assert all(last < first for first, last in found[name]["losses"]), found[name]


def test_in_float32_both_sides_agree_without_transformers_too():
    """Plain BERT and BEiT take the place of those of `transformers`; tolerances are 1e-3 there."""
    pytest.importorskip("jax")
    pytest.importorskip("torch")
    names = tuple(name for name in CLAIMS if name not in ("product", "bert_512"))
    found = rows("--precision", "float32", "--claims", *names, blocked="tensorflow,transformers")
    assert tuple(found) == ("product", *names)
    for row in found.values():
        check(row)
    assert "plain PyTorch BERT" in found["bert_128"]["peer"]
    assert "plain PyTorch BEiT" in found["beit"]["peer"]


def test_what_the_peers_use_of_a_gpu_exists():
    """No run on a CPU reaches it."""
    torch = pytest.importorskip("torch")
    for name in ("gpu_peers.py", "gpu_vision.py"):
        used = set(re.findall(r"torch\.cuda\.(\w+)", (ROOT / "benchmarks" / name).read_text()))
        assert not [attribute for attribute in used if not hasattr(torch.cuda, attribute)]


@pytest.mark.parametrize(("flags", "blocked"), [(["--no-peer"], "tensorflow"), ([], "tensorflow,torch")])
def test_without_pytorch_ours_is_measured_and_that_is_said(flags, blocked):
    pytest.importorskip("jax")
    found = rows(*flags, "--claims", "gru", blocked=blocked)
    for row in found.values():
        assert row["ours_s"] > 0
        assert row["peer_s"] is row["ratio"] is None
        assert row["note"].startswith("no peer: ")
        assert ("--no-peer" if flags else "torch") in row["note"]


def test_what_no_longer_fits_is_named():
    pytest.importorskip("jax")
    found = rows("--minutes", "0", "--claims", "lstm", "gru")
    assert {name: row["skipped"] for name, row in found.items()} == dict.fromkeys(
        ("product", "lstm", "gru"), "no time left"
    )


def test_a_claim_that_fails_is_a_row_and_the_next_goes_on():
    pytest.importorskip("jax")
    done = benchmark(
        "--small", "--no-peer", "--claims", "decoding", "gru", blocked="tensorflow,homl_models.models.transformer"
    )
    product, failed, after = map(json.loads, done.stdout.splitlines())
    assert done.returncode == 1
    assert failed["name"] == "decoding"
    assert "homl_models.models.transformer" in failed["error"]
    assert product["ours_s"] > 0
    assert after["ours_s"] > 0


@pytest.mark.parametrize(
    ("flags", "blocked", "status", "words"),
    [
        (["--small", "--claims", "bert"], "tensorflow,jax,keras", 2, "no claim bert; there are product, bert_128"),
        (["--small"], "tensorflow,keras", 1, "wheels"),
        ([], "tensorflow", 1, "--small"),
    ],
)
def test_what_cannot_run_is_one_line(flags, blocked, status, words):
    pytest.importorskip("jax")
    done = benchmark(*flags, blocked=blocked)
    assert done.returncode == status
    assert not done.stdout
    (line,) = done.stderr.splitlines()
    assert words in line
