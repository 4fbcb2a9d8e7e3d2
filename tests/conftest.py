"""Nothing that a test starts may outlive it: no process, and no folder of sockets."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psutil
import pytest
from helpers import children, socket_folders, title, wait_for

from zflow.system import process

ENDING = 10.0  # seconds that what a test has told to end may take

# How long an example takes says more of the machine than of what is tested.
hypothesis.settings.register_profile("zflow", deadline=None)
hypothesis.settings.load_profile("zflow")


@pytest.fixture(scope="session", autouse=True)
def private_tmp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A folder for temporary files that no other program uses,
    so that each file left there is ours.

    Its path is short, as the paths of sockets must be. And orphans become children of this process,
    so that whatever becomes of the processes between, they can be found.
    """
    tmp_path_factory.getbasetemp()  # stays where it would be
    process.adopt_orphans()
    folder = tempfile.mkdtemp(prefix="zt-", dir="/tmp")
    before, tempfile.tempdir = tempfile.tempdir, folder
    os.environ["TMPDIR"] = folder
    yield
    tempfile.tempdir = before
    os.environ.pop("TMPDIR")
    shutil.rmtree(folder)


@pytest.fixture(scope="module", autouse=True)
def nothing_left_by_the_module(private_tmp: None) -> Iterator[None]:
    """What a module's tests share ends with the module."""
    yield
    _check(set(), [])


@pytest.fixture(autouse=True)
def nothing_left(private_tmp: None) -> Iterator[None]:
    """What is there after a test was there before."""
    processes, folders = _family(), socket_folders()
    yield
    _check(processes, folders)


def _family() -> set[int]:
    return {child.pid for child in children()} if _has_children() else set()


def _has_children() -> bool:
    """A quick no for the many tests that start nothing."""
    try:
        tasks = os.listdir("/proc/self/task")
        return any(Path(f"/proc/self/task/{task}/children").read_text() for task in tasks)
    except OSError:
        return True


def _check(processes: set[int], folders: list[str]) -> None:
    try:
        wait_for(
            lambda: _family() <= processes, ENDING, "all processes that the test started have ended"
        )
        wait_for(
            lambda: set(socket_folders()) <= set(folders),
            ENDING,
            "all folders of sockets are removed",
        )
    except AssertionError:
        left = {pid: title(pid) for pid in _family() - processes}
        _end(list(left))
        left_folders = sorted(set(socket_folders()) - set(folders))
        for folder in left_folders:
            shutil.rmtree(os.path.join(tempfile.gettempdir(), folder), ignore_errors=True)
        pytest.fail(f"left behind: {left} {left_folders}")
    finally:
        _reap()


def _end(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()


def _reap() -> None:
    """Take note of the orphans that have ended; nobody else waits for them."""
    if not _has_children():
        return
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
            if child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)
