"""Shared parts of the commands: parsing, errors and exit status, output, a quiet import of TensorFlow."""

import argparse
import contextlib
import logging
import os
import re
import sys

from homl_models import environment
from homl_models.errors import UserError

CHATTER = re.compile(rb"WARNING: All log messages before absl::InitializeLog|[IW]\d{4} \d\d:\d\d:\d\d")


class Parser(argparse.ArgumentParser):
    """`argparse` parser without abbreviations, whose errors are `UserError`."""

    def __init__(self, **settings):
        super().__init__(**settings, allow_abbrev=False)

    def error(self, message):
        raise UserError(f"{message}; see {self.prog} --help")


def run_command(command, stopped="the same command resumes from the last checkpoint"):
    """Run a command; a user's mistake becomes one line on stderr and exit status 2.

    stopped: what the line after Ctrl-C says.
    """
    environment.use_agg_backend()
    utf8_output()
    try:
        command()
        return 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            return 0
        where = f" {error.filename}" if error.filename else ""
        print(f"error: cannot write or read{where}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; {stopped}", file=sys.stderr)
        return 130


def utf8_output():
    """Print UTF-8 in every locale, as it is read."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def import_tensorflow():
    """Import TensorFlow without its information and warnings for developers; errors are shown.

    TF_CPP_MIN_LOG_LEVEL=0 or 1 in the environment shows everything.
    """
    if "tensorflow" in sys.modules:
        return
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") in ("0", "1"):
        import tensorflow as tf  # noqa: F401

        return
    with _without_chatter():
        import tensorflow as tf  # noqa: F401
    logging.getLogger("absl").addFilter(lambda record: "unsaved custom gradients" not in record.getMessage())


@contextlib.contextmanager
def _without_chatter():
    """Let what is written to file descriptor 2 through a process that leaves out lines of TensorFlow's log.

    The log's level does not count before TensorFlow has read it, and its C++ knows no other stream. A process of its
    own still shows the last words of one that is aborted.
    """
    if not hasattr(os, "fork"):
        yield
        return
    sys.stderr.flush()
    ours, (read, write) = os.dup(2), os.pipe()
    child = os.fork()
    if not child:
        _copy(read, ours, write)
    os.close(read)
    os.dup2(write, 2)
    os.close(write)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(ours, 2)
        os.close(ours)
        os.waitpid(child, 0)


def _copy(read, out, other):
    """Copy lines until the other side has closed the pipe, then end this process."""
    try:
        os.close(other)
        os.dup2(out, 2)
        with open(read, "rb") as lines:
            for line in lines:
                if not CHATTER.match(line):
                    os.write(out, line)
    finally:
        os._exit(0)
