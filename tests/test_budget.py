"""The budget of the default suite sees what is over it."""

import subprocess
import sys

import pytest

from tests import budget
from tests.kinds import ROOT


def test_slow_tests_large_files_and_large_processes_are_named():
    seconds = {
        ("a.py::quick", "call"): 1.0,
        ("a.py::shared", "setup"): 30.0,
        ("b.py::slow", "call"): 20.5,
        ("b.py::slow", "setup"): 65.0,
        ("b.py::slow", "teardown"): 35.0,
        ("c.py::trains[some_tiny]", "call"): 14.0,
        ("d.py::more[some_tiny]", "setup"): 107.0,
    }
    assert budget.over(seconds, {"gw0": 3.9, "gw1": 4.2}) == [
        "20.5 s, more than 20: b.py::slow",
        "121.0 s, more than 120: some_tiny",
        "120.5 s, more than 120: b.py",
        "4.2 GB, more than 4: gw1",
    ]
    assert budget.over(seconds, {}, pace=1.02) == ["20.5 s, more than 20: b.py::slow"]


def test_the_pace_is_that_of_the_loops_between_the_tests():
    assert budget.pace([]) == budget.pace([budget.LOOP / 2]) == 1.0
    assert budget.pace([budget.LOOP, 2 * budget.LOOP, 9 * budget.LOOP]) == 2.0


@pytest.mark.parametrize(
    ("limit", "flags", "status"), [("10", (), 0), ("0.05", (), 1), ("0.05; budget.MEMORY = 0", ("-m", "slow"), 0)]
)
def test_a_run_over_the_budget_fails(limit, flags, status, tmp_path):
    """Also where pytest-xdist runs the tests; those marked slow are free, in memory too."""
    (tmp_path / "conftest.py").write_text(
        "from tests import budget\n"
        f"budget.pace = lambda loops: 1.0\nbudget.TEST = {limit}\n"
        "def pytest_configure(config):\n"
        "    config.addinivalue_line('markers', 'slow: free')\n"
        "    config.pluginmanager.register(budget.Budget())\n"
    )
    (tmp_path / "test_some.py").write_text(
        "import time, pytest\ndef test_some(): time.sleep(0.1)\n@pytest.mark.slow\ndef test_free(): time.sleep(0.2)\n"
    )
    command = [sys.executable, "-m", "pytest", "-n", "1", "-p", "no:cacheprovider", "--rootdir", tmp_path]
    command += [*flags, tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == status, done.stdout
    assert f"{1 if flags else 2} passed" in done.stdout
    assert ("over budget: 0.1 s" in done.stdout) == bool(status)
    assert "test_free" not in done.stdout
