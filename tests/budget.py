"""The seconds and the memory that the default suite may take; more of either fails the run.

Whoever adds a system stays within 40 worker-seconds, a test within 10, a file within 60; twice as much fails.
Tests marked `slow` or `parity` are free. Seconds are stretched by `pace` where cores are slower or do other work: a
loop that is timed between the tests says how much.
"""

import collections
import re
import statistics
import time
from pathlib import Path

import pytest

TEST, FILE = 10.0, 60.0  # seconds of a test, and of a file or of all tests of one recipe
VARIES = 2.0  # times as much may be chance, where others use the machine too: what is above it fails
MEMORY = 4.0  # GB of a process of the tests
LOOP = 0.05  # seconds of `loop` on the machine of the budget, a core of an Intel Xeon that does nothing else
EVERY = 10.0  # seconds between two measurements of it


def gigabytes(what="VmRSS"):
    """Memory of this process: `VmRSS` now, `VmHWM` at its most (`ru_maxrss` is inherited from who started it)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{what}:\s+(\d+) kB", status)[1]) * 1024 / 1e9


def loop():
    """Seconds of a loop of this process now: more where the core is slower, or shared with others."""
    began = time.perf_counter()
    sum(i * i % 7 for i in range(1_000_000))
    return time.perf_counter() - began


def pace(loops):
    """How much longer things took than on the machine of the budget, by the seconds of loops between the tests."""
    return max(1.0, statistics.median(loops or [0]) / LOOP)


def group(test):
    """The group that a test's seconds count for: the tiny recipe that it is about, or else its file."""
    recipe = re.search(r"\[(\w+?_tiny)\b", test)
    return recipe[1] if recipe else test.split("::")[0]


def over(seconds, memory, pace=1.0):
    """Lines that say what is over the budget.

    seconds: {(test id, "setup" | "call" | "teardown"): seconds}; memory: {worker: GB}.
    """
    limit, most = TEST * VARIES * pace, FILE * VARIES * pace
    tests, groups = collections.Counter(), collections.Counter()
    for (test, when), duration in seconds.items():
        tests[test] += duration if when == "call" else 0
        groups[group(test)] += duration
    lines = [f"{d:.1f} s, more than {limit:.0f}: {test}" for test, d in tests.most_common() if d > limit]
    lines += [f"{d:.1f} s, more than {most:.0f}: {name}" for name, d in groups.most_common() if d > most]
    return lines + [f"{gb:.1f} GB, more than {MEMORY:.0f}: {name}" for name, gb in memory.items() if gb > MEMORY]


class Budget:
    """A pytest plugin that measures seconds and memory, and fails a run that takes too much."""

    def __init__(self):
        self.seconds, self.memory, self.found, self.pace = {}, {}, [], 1.0
        self.loops, self.measured = [], time.perf_counter()

    def pytest_runtest_logreport(self, report):
        if not {"slow", "parity"} & set(report.keywords):
            test = report.nodeid.split("@")[0]  # after it the group that pytest-xdist has put it in
            self.seconds[test, report.when] = report.duration

    def pytest_runtest_teardown(self):
        if time.perf_counter() - self.measured > EVERY:
            self.loops.append(loop())
            self.measured = time.perf_counter()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node, error):
        """A process of pytest-xdist has ended."""
        output = getattr(node, "workeroutput", {})
        self.memory[node.gateway.id] = output.get("gigabytes", 0)
        self.loops += output.get("loops", [])

    def pytest_sessionfinish(self, session):
        peak = gigabytes("VmHWM")
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput |= {"gigabytes": peak, "loops": self.loops}
            return
        self.memory["main"], self.pace = peak, pace(self.loops)
        self.found = over(self.seconds, self.memory, self.pace) if self.seconds else []  # slow tests are free
        if self.found and session.exitstatus == 0:
            session.exitstatus = 1

    def pytest_terminal_summary(self, terminalreporter):
        peaks = ", ".join(f"{name} {gb:.1f} GB" for name, gb in self.memory.items())
        groups = collections.Counter()
        for (test, _), duration in self.seconds.items():
            groups[group(test)] += duration
        terminalreporter.line(f"budget: {groups.total():.0f} worker-seconds, pace {self.pace:.1f}; peak memory {peaks}")
        terminalreporter.line("  " + ", ".join(f"{name} {d:.0f} s" for name, d in groups.most_common(12)))
        for line in self.found:
            terminalreporter.line(f"over budget: {line}", red=True)
