"""The watchdog: it outlives the process manager, whatever ends that,
and then ends everything else.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

import msgpack
import pytest
from helpers import PATIENCE, alive, title, wait_for

from zflow.processes import watchdog
from zflow.system import process, signals


class Guarded:
    """A watchdog, and the manager that it guards:
    here one that tells its process id and what it has started.
    """

    def __init__(self, folder: Path, serve: Callable[[], int], user: int | None = None) -> None:
        self.line, theirs = Pipe()
        self.folder = folder / "sockets"
        self.folder.mkdir()

        def manage(parent: int) -> int:
            started = subprocess.Popen(["sleep", "3600"], start_new_session=True)
            theirs.send((os.getpid(), started.pid, os.getppid() == parent))
            return serve()

        def run() -> int:
            self.line.close()
            return watchdog.run(manage, str(self.folder), theirs, user)

        self.pid = process.fork(run)
        theirs.close()
        assert self.line.poll(PATIENCE)
        self.manager, self.started, knows_its_parent = self.line.recv()
        assert knows_its_parent

    def end(self) -> int:
        """Wait until it has ended; the status, after a look whether anything is left."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        assert not alive(self.manager)
        assert not alive(self.started)
        assert not self.folder.exists()
        assert self.line.poll(0), "nobody has the other end"
        self.line.close()
        return status


def sleep() -> int:
    time.sleep(3600)
    return 0


@pytest.mark.parametrize("status", [0, 3])
def test_what_the_manager_leaves_is_ended(tmp_path: Path, status: int) -> None:
    assert Guarded(tmp_path, lambda: status).end() == status


def test_what_a_killed_manager_leaves_is_ended(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path, sleep)
    assert title(guarded.manager) != "zflow: watchdog"
    wait_for(lambda: title(guarded.pid) == "zflow: watchdog")
    os.kill(guarded.manager, signal.SIGKILL)
    guarded.end()


def test_no_signal_ends_it_but_one_that_has_it_kill_the_manager(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path, sleep)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        os.kill(guarded.pid, number)
    assert os.getsid(guarded.pid) == os.getsid(guarded.manager) == guarded.pid
    assert alive(guarded.manager)
    os.kill(guarded.pid, signals.END)
    guarded.end()


def test_it_does_not_rely_on_a_signal_that_may_be_discarded(tmp_path: Path) -> None:
    guarded = Guarded(tmp_path, sleep)
    wait_for(lambda: title(guarded.pid) == "zflow: watchdog")
    wait_for(lambda: caught(guarded.pid) >> (signal.SIGCHLD - 1) & 1)
    os.kill(guarded.manager, signal.SIGKILL)
    guarded.end()


def caught(pid: int) -> int:
    """The signals that a process has handlers for, a bit each."""
    return int(
        re.findall(r"^SigCgt:\t(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[0],
        16,
    )


def has_taken_note(pid: int) -> bool:
    """Whether a process has done what signals wanted and waits for others."""
    status = Path(f"/proc/{pid}/status").read_text()
    return re.search(r"^State:\tS.*^ShdPnd:\t0+$", status, re.MULTILINE | re.DOTALL) is not None


def user_of(folder: Path, line: Connection, serving: bool) -> int:
    """Be a user's process: start a watchdog, say who there is, and end."""
    guarded = Guarded(folder, sleep, os.getpid())
    if serving:
        os.kill(guarded.pid, signals.SERVING)
        wait_for(lambda: has_taken_note(guarded.pid))
    line.send((guarded.pid, guarded.manager))
    line.recv()
    return 0


@pytest.mark.parametrize("serving", [False, True])
def test_the_end_of_the_user_is_the_managers_until_it_looks_after_that_itself(
    tmp_path: Path, serving: bool
) -> None:
    ours, theirs = Pipe()
    user = process.fork(lambda: user_of(tmp_path, theirs, serving))
    assert ours.poll(PATIENCE)
    guard, manager = ours.recv()
    ours.send(None)
    os.waitpid(user, 0)
    if serving:
        assert alive(manager)
        os.kill(guard, signals.END)
    wait_for(lambda: not alive(manager) and not alive(guard))
    wait_for(lambda: not (tmp_path / "sockets").exists())
    for end in (ours, theirs):
        end.close()


def test_where_no_manager_can_be_started_the_user_is_told_why(tmp_path: Path) -> None:
    line, theirs = Pipe()

    def full() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    def run() -> int:
        os.fork = full
        return watchdog.run(lambda parent: 0, str(tmp_path / "sockets"), theirs)

    pid = process.fork(run)
    theirs.close()
    kind, error = msgpack.unpackb(line.recv_bytes())
    assert kind == "failed"
    assert "the process manager could not be started: Resource" in error["message"]
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    line.close()
