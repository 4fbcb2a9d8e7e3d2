"""The external example: two servers, a Flow over them in both spellings, an outage,
and the same over a network.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import PATIENCE, ROOT, launched

pytestmark = pytest.mark.slow

EXAMPLE = ROOT / "examples" / "external"
OUTAGE = """\
before: 1000 answered by 2 processes
one killed half way: 1000 answered, none lost
without it: 1000 answered by 1 process
after its return: 1000 answered by 2 processes
"""
SPELLING = r"{}: 1000 requests answered by 2 processes: \[\d{{1,3}}, \d{{3}}\]\n"
SPELLINGS = SPELLING.format("two lists") + SPELLING.format("one list")
NOT_ALLOWED = 77  # the status with which the network is skipped


@pytest.fixture
def ports() -> list[str]:
    """Two that are free."""
    with socket.socket() as one, socket.socket() as other:
        for probe in (one, other):
            probe.bind(("127.0.0.1", 0))
        return [str(probe.getsockname()[1]) for probe in (one, other)]


@pytest.fixture
def example(tmp_path: Path, ports: list[str]) -> Path:
    """A copy of the example on those ports."""
    copy = tmp_path / "external"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for path in copy.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        path.write_text(
            text.replace("12345", ports[0]).replace("12346", ports[1]), encoding="utf-8"
        )
    return copy


@contextlib.contextmanager
def running(*command: str) -> Iterator[None]:
    """A program that serves until it is told to end, as it then does."""
    with launched([sys.executable, *command]) as process:
        try:
            yield
        finally:
            process.terminate()
    assert process.returncode == 0


def run(*command: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end."""
    return subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, **env},
    )


def test_both_spellings_use_both_servers(example: Path, ports: list[str]) -> None:
    encoder = str(example / "encoder.py")
    with (
        running(encoder, f"localhost:{ports[0]}"),
        running("-m", "zflow", "executor", "--uses", f"{encoder}:Encoder", "--port", ports[1]),
    ):
        for port in ports:
            pinged = run("-m", "zflow", "ping", port, "--timeout", str(1000 * PATIENCE))
            assert "Encoder: " in pinged.stdout, pinged.stderr
        done = run(str(example / "flow.py"))
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(SPELLINGS, done.stdout)


def test_nothing_is_lost_when_one_is_killed_and_it_serves_again_when_it_is_back(
    example: Path,
) -> None:
    done = run(str(example / "outage.py"))
    assert (done.returncode, done.stdout) == (0, OUTAGE), done.stderr


def test_the_same_over_a_network() -> None:
    done = run(str(EXAMPLE / "namespaces.py"))
    if done.returncode == NOT_ALLOWED:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(SPELLINGS + OUTAGE, done.stdout)


def test_where_there_can_be_no_network_it_says_why(tmp_path: Path) -> None:
    for tool in ("nsenter", "ip"):
        (tmp_path / tool).symlink_to("/bin/true")
    done = run(str(EXAMPLE / "namespaces.py"), PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (NOT_ALLOWED, "")
    assert (
        done.stderr == "skipped: there is no command 'unshare'; install util-linux and iproute2\n"
    )
    (tmp_path / "unshare").write_text("#!/bin/sh\necho 'unshare: not permitted' >&2\nexit 1\n")
    (tmp_path / "unshare").chmod(0o755)
    done = run(str(EXAMPLE / "namespaces.py"), PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (NOT_ALLOWED, "")
    assert done.stderr == (
        "skipped: no network namespace can be made here: unshare: not permitted; run it as root\n"
    )
