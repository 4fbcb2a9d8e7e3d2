"""SIGTERM in the user's process: raised, noted or waited with,
and as deadly as ever when nothing runs.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from helpers import in_background, run_script

from zflow.system import signals, termination
from zflow.system.termination import Terminated


@pytest.fixture(autouse=True)
def nothing_runs() -> None:
    """Who closes a Flow in another thread leaves the handler to the next one,
    as a test before may have done.
    """
    signals.forget(signal.SIGTERM)


def sigterm() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def default() -> bool:
    return signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_while_something_runs_it_is_raised_and_the_status_is_143() -> None:
    assert default()
    with termination.handled():
        for _ in range(2):
            with pytest.raises(Terminated) as raised:
                sigterm()
            assert raised.value.code == 143
        with termination.handled():
            pass
        assert not default(), "the other one still runs"
    assert default()


def test_who_waits_for_it_notes_it() -> None:
    with termination.handled(), termination.noting() as noted:
        sigterm()
        assert noted == [signal.SIGTERM]
        with termination.closing():  # what follows from it
            sigterm()
    assert default()


def test_what_is_being_closed_is_closed_first() -> None:
    steps = []

    def close() -> None:
        with termination.closing():
            with termination.closing():
                sigterm()
                steps.append("inner")
            steps.append("outer")

    with termination.handled():
        with pytest.raises(Terminated):
            close()
        with termination.closing():
            pass
    assert steps == ["inner", "outer"]


def test_one_that_was_the_reason_for_closing_needs_no_second() -> None:
    with termination.handled():
        with pytest.raises(Terminated):
            sigterm()
        with termination.closing():
            sigterm()
    with termination.handled(), pytest.raises(Terminated), termination.closing():
        sigterm()  # of what runs later it is the first


def test_a_handler_of_the_users_stays_in_place() -> None:
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    try:
        with termination.handled(), termination.noting() as noted, termination.closing():
            sigterm()
        sigterm()
        assert (len(came), noted) == (2, [])
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_thread_may_begin_and_end_but_only_the_main_one_handles_signals() -> None:
    in_background(termination.begin).result(30)
    assert default()
    termination.begin()
    assert not default()
    termination.end()
    in_background(termination.end).result(30)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


DEADLY = """
import os, signal, threading
from zflow.system import termination

termination.begin()
thread = threading.Thread(target=termination.end)
thread.start()
thread.join()
os.kill(os.getpid(), signal.SIGTERM)
print("survived")
"""
FORKED = """
import os, signal
from zflow.system import termination

with termination.handled():
    child = os.fork()
    if not child:
        with termination.handled():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
    print(os.waitpid(child, 0)[1])
"""


def test_it_is_as_deadly_as_before_when_another_thread_has_closed_the_last_one(
    tmp_path: Path,
) -> None:
    assert run_script(DEADLY, tmp_path) == (-signal.SIGTERM, "", "")


def test_what_is_forked_has_nothing_to_close(tmp_path: Path) -> None:
    assert run_script(FORKED, tmp_path) == (0, f"{signal.SIGTERM:d}\n", "")


FAILED_BEFORE = """
import errno, os, signal
from multiprocessing import connection
from zflow import Executor, Flow
from zflow.errors import StartupFailed

def full(*_, **__):
    raise OSError(errno.EMFILE, "Too many open files")

pipe, connection.Pipe = connection.Pipe, full
try:
    Flow().add(uses=Executor).start()
except StartupFailed:
    connection.Pipe = pipe
with Flow().add(uses=Executor):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    except SystemExit as ended:
        print(ended.code)
"""


def test_a_flow_that_could_not_start_takes_nothing_from_the_next_one(tmp_path: Path) -> None:
    assert run_script(FAILED_BEFORE, tmp_path)[:2] == (0, "143\n")
