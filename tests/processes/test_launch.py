"""The user's side of the process manager: what it shows, what it waits for,
and what is left at the end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import socket
import struct
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty import Start, Stuck
from helpers import Upper, alive, children, in_background, kill, pid_of, socket_folders, wait_for

from zflow import errors
from zflow.clients.connection import ask
from zflow.executors.executor import Executor
from zflow.processes import plan
from zflow.processes.launch import Display, Launched
from zflow.processes.plan import Plan
from zflow.system import process
from zflow.topology.options import DEFAULTS
from zflow.topology.topology import Topology


def plan_of(*executors: dict[str, Any], **options: Any) -> Plan:
    topology = Topology()
    for executor in executors or ({"name": "upper", "uses": Upper},):
        topology.add({}, **{"needs": "gateway", **executor})
    return plan.make(topology, {**DEFAULTS, **options}, "1.2.3")


class Lost(Executor):
    """Misses a file whose name is not UTF-8."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        raise FileNotFoundError("no file \udcff")


@pytest.fixture
def launch() -> Iterator[Callable[[Plan], Launched]]:
    """Launch a plan; it is closed at the end."""
    running: list[Launched] = []

    def launch(planned: Plan) -> Launched:
        running.append(Launched(planned, "fork"))
        return running[-1]

    yield launch
    for one in running:
        one.close(5)


# -- starting --------------------------------------------------------------------------------------


def test_when_it_is_made_everything_serves(launch: Callable[[Plan], Launched]) -> None:
    planned = plan_of({"name": "upper", "uses": Upper, "replicas": 2}, replica_port=0)
    launched = launch(planned)
    assert planned.settings is not None
    assert launched.addresses[0] == planned.settings.front
    assert plan.port_of(launched.addresses) != plan.port_of(launched.replica_addresses)
    for address in launched.addresses:
        info = ask(address)
        assert info["instance"] == planned.settings.instance
        assert info["executors"]["upper"]["replicas"] == ["upper/rep-0", "upper/rep-1"]
    launched.check()


def test_a_start_that_fails_leaves_nothing_and_says_why() -> None:
    planned = plan_of(
        {"name": "upper", "uses": Upper},
        {"name": "start", "uses": Start, "uses_with": {"way": "raise"}},
    )
    with pytest.raises(errors.StartupFailed) as caught:
        Launched(planned, "fork")
    error = vars(caught.value)
    assert (error["executor"], error["exception"]) == ("start/rep-0", "LookupError")
    assert "in __init__" in error["traceback"]
    assert (children(), socket_folders()) == ([], [])


def test_why_it_fails_is_said_whatever_is_in_the_text() -> None:
    with pytest.raises(errors.StartupFailed, match=r"no file \\udcff"):
        Launched(plan_of({"name": "lost", "uses": Lost}), "fork")


def test_a_port_that_is_taken_is_an_error_of_its_own() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        planned = plan_of(port=taken.getsockname()[1])
        with pytest.raises(errors.PortInUse, match="choose another port= or host="):
            Launched(planned, "fork")
    assert (children(), socket_folders()) == ([], [])


def test_a_manager_that_dies_while_the_flow_starts_is_no_hang() -> None:
    planned = plan_of({"name": "start", "uses": Start, "uses_with": {"way": "hang"}})
    starting = in_background(Launched, planned, "fork")
    pid_of("start/rep-0")
    kill(pid_of("manager"))
    with pytest.raises(
        errors.StartupFailed, match="the process manager died while the Flow started"
    ):
        starting.result(30)
    assert socket_folders() == []


# -- while it runs ---------------------------------------------------------------------------------


def test_a_manager_that_dies_is_noticed_again_and_again() -> None:
    launched = Launched(plan_of(), "fork")
    waiting = in_background(launched.wait)
    kill(pid_of("manager"))
    for _ in range(2):
        with pytest.raises(
            errors.FlowNotRunning,
            match="the Flow is not running any more: its process manager died",
        ):
            launched.check()
    assert isinstance(waiting.exception(30), errors.FlowNotRunning)
    launched.close(5)
    assert socket_folders() == []


def test_a_manager_that_gives_up_says_why(launch: Callable[[Plan], Launched]) -> None:
    launched = launch(plan_of())
    kill(pid_of("watchdog"))
    wait_for(lambda: not children(), what="all end")
    with pytest.raises(errors.FlowNotRunning, match=r"not running any more: its watchdog died"):
        launched.check()


def test_who_waits_waits_until_an_event_is_set(launch: Callable[[Plan], Launched]) -> None:
    launched = launch(plan_of())
    event = threading.Event()
    waiting = in_background(launched.wait, event)
    assert not waiting.done()
    event.set()
    waiting.result(30)
    launched.check()


def test_who_waits_waits_until_sigterm_comes_and_when_all_is_closed_it_is_as_deadly_as_before() -> (
    None
):
    launched = Launched(plan_of(), "fork")

    class Looked:
        """Sends SIGTERM when it is waited for."""

        def is_set(self) -> bool:
            os.kill(os.getpid(), signal.SIGTERM)
            return False

    launched.wait(Looked())
    launched.check()
    launched.close(5)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_handler_of_the_users_stays_in_place(launch: Callable[[Plan], Launched]) -> None:
    launched = launch(plan_of())
    event = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        own = signal.getsignal(signal.SIGTERM)
        threading.Timer(0.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
        launched.wait(event)
        assert signal.getsignal(signal.SIGTERM) == own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_fork_of_the_user_neither_checks_nor_ends_it(launch: Callable[[Plan], Launched]) -> None:
    launched = launch(plan_of())

    def use() -> int:
        launched.check()
        launched.close(0)
        return 0

    assert os.waitpid(process.fork(use), 0)[1] == 0
    launched.check()
    assert ask(launched.addresses[0])["executors"]["upper"]["replicas"]


# -- its end ---------------------------------------------------------------------------------------


def test_closing_ends_all_processes_and_removes_what_they_shared() -> None:
    launched = Launched(plan_of(shared_memory=2**20), "fork")
    assert launched.sharing.descriptor is not None
    os.fstat(launched.sharing.descriptor)
    family = [child.pid for child in children()]
    assert len(family) >= 3
    launched.close(5)
    assert not any(map(alive, family))
    assert socket_folders() == []
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(launched.sharing.descriptor)
    with pytest.raises(
        errors.FlowNotRunning, match="the Flow is not running any more: it was closed"
    ):
        launched.check()


def test_executors_are_closed_within_the_grace(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    launched = Launched(
        plan_of({"name": "start", "uses": Start, "uses_with": {"closed": str(closed)}}), "fork"
    )
    launched.close(30)
    assert closed.read_text() == "start/rep-0\n"


def test_who_does_not_end_within_the_grace_is_killed() -> None:
    launched = Launched(
        plan_of({"name": "stuck", "uses": Stuck, "uses_with": {"where": "close"}}), "fork"
    )
    launched.close(0.1)
    assert (children(), socket_folders()) == ([], [])


# -- what is shown ---------------------------------------------------------------------------------


@contextlib.contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> Iterator[Callable[[], str]]:
    """Make stderr a terminal inside; gives the next three lines that are shown there."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    os.set_blocking(ours, False)

    def drawing() -> str:
        so_far: list[str] = []

        def whole() -> bool:
            with contextlib.suppress(BlockingIOError):
                so_far.append(os.read(ours, 10_000).decode())
            return "".join(so_far).count("\n") >= 3

        wait_for(whole, what="all lines are shown")
        return "".join(so_far)

    with open(theirs, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        yield drawing
    os.close(ours)


def lines(shown: str) -> list[str]:
    """The lines of a drawing, without what clears those below them."""
    return [line.rpartition("\x1b[2K")[2] for line in shown.splitlines()]


@pytest.fixture
def two() -> Iterator[Plan]:
    planned = plan_of(
        {"name": "encoder", "replicas": 3, "env": {"CUDA_VISIBLE_DEVICES": "RRGPU-0,GPU-1"}},
        {"name": "far", "external": True, "port": [5555, 5556]},
        shared_memory=0,
    )
    yield planned
    os.rmdir(planned.folder)


def test_a_terminal_shows_a_line_per_executor_with_how_many_are_ready(
    two: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal(monkeypatch, 100) as shown:
        display = Display(two)
        display.show()
        head = "payloads by frames: no memory is shared"
        devices = ", CUDA_VISIBLE_DEVICES GPU-0 GPU-1 GPU-0"
        assert lines(shown()) == [head, f"encoder 0/3 ready{devices}", "far 0/2 ready"]
        display.ready("encoder/rep-1")
        again = shown()
        assert again.startswith("\x1b[3A"), "over the lines that are there"
        assert lines(again) == [head, f"encoder 1/3 ready{devices}", "far 0/2 ready"]
        display.ready("far/localhost:5555")
        assert lines(shown()) == [head, f"encoder 1/3 ready{devices}", "far 1/2 ready"]


def test_no_line_is_longer_than_the_terminal_is_wide(
    two: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal(monkeypatch, 20) as shown:
        Display(two).show()
        assert lines(shown()) == ["payloads by frames:", "encoder 0/3 ready, ", "far 0/2 ready"]


def test_elsewhere_nothing_is_shown(two: Plan, capfd: pytest.CaptureFixture[str]) -> None:
    display = Display(two)
    display.show()
    display.ready("encoder/rep-0")
    assert capfd.readouterr() == ("", "")


def test_where_no_process_can_be_started_there_is_an_error_and_nothing_is_left() -> None:
    planned = plan_of()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1, before[1]))
    try:
        with pytest.raises(
            errors.StartupFailed, match=r"could not be started: Too many open files.*\(ulimit -n\)"
        ):
            Launched(planned, "fork")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert not os.path.exists(planned.folder)
