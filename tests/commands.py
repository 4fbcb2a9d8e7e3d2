"""What the tests of `zflow-run` share: running a command here or in a process of its own,
and an Executor to serve.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import pytest
from helpers import PATIENCE, launched

from zflow import cli

ENCODER = """
import os
from zflow import Executor, requests

class Encoder(Executor):
    def __init__(self, size=8, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    @requests
    def encode(self, docs, **kwargs):
        for doc in docs:
            doc.tags = {"size": self.size, "pid": os.getpid(), "threads": os.environ.get("THREADS")}

    def close(self):
        print("closed", flush=True)
"""


@contextlib.contextmanager
def served(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[str], int]]:
    """`zflow-run` as it serves: the process, the lines before the last one it printed at first,
    and the port.
    """
    command = [sys.executable, "-m", "zflow", *arguments]
    with launched(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                if line.startswith("serving at "):
                    break
                lines.append(line.rstrip("\n"))
            else:
                raise AssertionError(process.communicate())
            yield process, lines, int(line.partition(",")[0].rpartition(":")[2])
        finally:
            process.kill()


def run(*arguments: str) -> tuple[int, str, str]:
    """Run `zflow-run` to its end: exit status, stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "zflow", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout, done.stderr


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run it here, where it has to refuse the usage; what it says."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    return capsys.readouterr().err


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run it here, where it has to show its help; what it shows."""
    with pytest.raises(SystemExit) as ended:
        cli.main([*arguments, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out
