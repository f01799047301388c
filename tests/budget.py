"""The seconds and the memory that the default suite may take; more of either fails the run.

Whoever adds a system stays within 40 worker-seconds; a file fails at 60. Tests marked `slow` or `parity` are free.
Where the machine does other work the seconds are stretched by its load.
"""

import collections
import os
import re
import resource

import pytest

TEST, FILE = 10.0, 60.0  # seconds of a test, and of a file or of all tests of one recipe
MEMORY = 4.0  # GB of a process of the tests


def group(test):
    """What the seconds of a test count for: the tiny recipe that it is about, or else its file."""
    recipe = re.search(r"\[(\w+_tiny)\]", test)
    return recipe[1] if recipe else test.split("::")[0]


def pace():
    """How much longer things take than on a machine that does nothing else: processes that want a core, per core."""
    return max(1.0, os.getloadavg()[1] / os.cpu_count())


def over(seconds, memory, pace=1.0):
    """Lines that say what is over the budget.

    seconds: {(test id, "setup" | "call" | "teardown"): seconds}; memory: {worker: GB}.
    """
    limit, most = TEST * pace, FILE * pace
    tests, groups = collections.Counter(), collections.Counter()
    for (test, when), duration in seconds.items():
        tests[test] += duration if when == "call" else 0
        groups[group(test)] += duration
    lines = [f"{d:.1f} s, more than {limit:.0f}: {test}" for test, d in tests.most_common() if d > limit]
    lines += [f"{d:.1f} s, more than {most:.0f}: {name}" for name, d in groups.most_common() if d > most]
    return lines + [f"{gb:.1f} GB, more than {MEMORY:.0f}: {name}" for name, gb in memory.items() if gb > MEMORY]


class Budget:
    """A pytest plugin that measures, tells and judges."""

    def __init__(self):
        self.seconds, self.memory, self.found = {}, {}, []

    def pytest_runtest_logreport(self, report):
        if not {"slow", "parity"} & set(report.keywords):
            test = report.nodeid.split("@")[0]  # after it the group that pytest-xdist has put it in
            self.seconds[test, report.when] = report.duration

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node, error):
        """A process of pytest-xdist has ended."""
        self.memory[node.gateway.id] = getattr(node, "workeroutput", {}).get("gigabytes", 0)

    def pytest_sessionfinish(self, session):
        gigabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["gigabytes"] = gigabytes
            return
        self.memory["main"] = gigabytes
        self.found = over(self.seconds, self.memory, pace())
        if self.found and session.exitstatus == 0:
            session.exitstatus = 1

    def pytest_terminal_summary(self, terminalreporter):
        peaks = ", ".join(f"{name} {gb:.1f} GB" for name, gb in self.memory.items())
        groups = collections.Counter()
        for (test, _), duration in self.seconds.items():
            groups[group(test)] += duration
        terminalreporter.line(
            f"budget: {groups.total():.0f} worker-seconds at a pace of {pace():.1f}; peak memory {peaks}"
        )
        terminalreporter.line("  " + ", ".join(f"{name} {d:.0f} s" for name, d in groups.most_common(12)))
        for line in self.found:
            terminalreporter.line(f"over budget: {line}", red=True)
