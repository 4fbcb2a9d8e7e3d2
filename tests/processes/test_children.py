"""The replicas as the process manager sees them: real ones, at a real broker,
and a manager that is the test.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import selectors
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import msgpack
import pytest
from faulty import Start
from helpers import PATIENCE, alive, title, wait_for
from hypothesis import given
from hypothesis import strategies as st

from zflow.devices.broker.settings import Settings
from zflow.processes import broker_process, plan
from zflow.processes.children import (
    FIRST_BACKOFF,
    HEED,
    LONGEST_BACKOFF,
    LOOP,
    Child,
    Children,
    backoff,
)
from zflow.processes.plan import Plan
from zflow.replicas.seat import identity
from zflow.system import process
from zflow.topology.options import DEFAULTS
from zflow.topology.topology import Topology


class Manager:
    """Turns the loop, as the process manager does, and keeps what it is told."""

    def __init__(self, planned: Plan) -> None:
        assert planned.settings is not None
        self.starting = True
        self.ending = False
        self.told_to_end = False
        self.clock: Callable[[], float] = lambda: 0.0  # nothing is due unless the test says so
        self.told: list[tuple[str, Any]] = []
        self.selector = selectors.DefaultSelector()
        self.children = Children(list(planned.seats), self.selector, self, planned.sharing)
        self._broker_line, self.broker = _start_broker(planned, planned.settings)

    def fork(self, run: Callable[[], int]) -> int:
        return process.fork(run)

    def became_ready(self, child: Child) -> None:
        self.told.append(("ready", child.seat.name))

    def could_not_start(self, reason: dict[str, Any]) -> None:
        self.told.append(("could not start", reason))

    def died(self, child: Child, how: str) -> None:
        self.told.append((how, child.seat.name))

    def turn(self, at: float | None = None) -> None:
        """See what has happened; as if it were the time `at`."""
        for key, _ in self.selector.select(0.005):
            key.data()
        for pid in self.children.alive:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self.children.reaped(pid, status)
        self.children.check_timers(self.clock() if at is None else at)

    def until(self, condition: Callable[[], Any], what: str = "") -> None:
        """Turn the loop until something holds."""

        def turned() -> Any:
            self.turn()
            return condition()

        wait_for(turned, what=what)

    def started(self) -> Manager:
        """Start all, and be past the start when they serve."""
        self.children.start_all()
        self.until(lambda: self.children.all_ready, "all are ready")
        self.starting = False
        self.told.clear()
        return self

    def called(self, name: str) -> Child:
        return next(child for child in self.children if child.seat.name == name)

    def end(self) -> None:
        """End whatever runs."""
        self.ending = True
        for pid in self.children.alive:
            os.kill(pid, signal.SIGKILL)
        self.until(lambda: not self.children.alive)
        self._broker_line.close()
        os.waitpid(self.broker, 0)
        self.selector.close()


def _start_broker(planned: Plan, settings: Settings) -> tuple[Connection, int]:
    ours, theirs = Pipe()
    manager = os.getpid()

    def run() -> int:
        ours.close()
        return broker_process.run(settings, planned, theirs, manager)

    pid = process.fork(run)
    theirs.close()
    assert ours.poll(PATIENCE)
    assert msgpack.unpackb(ours.recv_bytes())[0] == "bound"
    return ours, pid


@pytest.fixture
def manage() -> Iterator[Callable[..., Manager]]:
    """Make a manager for replicas of an Executor `start`, none of which runs yet."""
    made: list[tuple[Manager, Plan]] = []

    def manage(**options: Any) -> Manager:
        topology = Topology()
        topology.add({}, **{"name": "start", "uses": Start, **options})
        planned = plan.make(topology, DEFAULTS, "1")
        planned = replace(planned, sharing=planned.sharing.made())
        made.append((Manager(planned), planned))
        return made[-1][0]

    yield manage
    for manager, planned in made:
        manager.end()
        planned.sharing.close()
        shutil.rmtree(planned.folder)


# -- a start ---------------------------------------------------------------------------------------


def test_all_are_started_and_tell_when_they_serve(manage: Callable[..., Manager]) -> None:
    manager = manage(replicas=2, shards=2)
    children = manager.children
    assert (children.alive, children.lines, children.all_ready) == ([], [], False)
    children.start_all()
    manager.until(lambda: children.all_ready)
    names = [
        "start/shard-0/rep-0",
        "start/shard-0/rep-1",
        "start/shard-1/rep-0",
        "start/shard-1/rep-1",
    ]
    assert [child.seat.name for child in children.of("start")] == names
    assert sorted(manager.told) == [("ready", name) for name in names]
    assert [title(child.pid) for child in children] == [
        f"zflow: {child.seat.name}" for child in children
    ]
    assert len(set(children.alive)) == len(children.lines) == 4
    assert {child.identity for child in children} == {
        identity(child.seat.name, child.pid) for child in children
    }
    assert children.of("other") == []


@pytest.mark.parametrize(
    ("way", "words"),
    [
        ("raise", ["LookupError: no model at this path", "start/rep-0"]),
        ("vanish", ["start/rep-0 died while it started (exit code 3)"]),
        ("kill", ["start/rep-0 died while it started (SIGKILL)"]),
    ],
)
def test_a_death_while_the_flow_starts_is_told_with_its_reason(
    manage: Callable[..., Manager], way: str, words: list[str]
) -> None:
    manager = manage(uses_with={"way": way})
    manager.children.start_all()
    manager.until(lambda: manager.told)
    [(what, reason)] = manager.told
    assert what == "could not start"
    assert all(word in reason["message"] for word in words), reason
    assert manager.children.alive == []


def test_who_takes_too_long_to_get_ready_is_killed(manage: Callable[..., Manager]) -> None:
    manager = manage(uses_with={"way": "hang"}, timeout_ready=60_000)
    manager.children.start_all()
    manager.turn()
    [child] = manager.children
    assert child.overdue_at < math.inf
    assert child.overdue_at in manager.children.timers
    manager.turn(at=child.overdue_at - 1)
    assert not child.timed_out
    manager.turn(at=child.overdue_at)
    manager.until(lambda: manager.told)
    assert manager.told == [
        (
            "could not start",
            {
                "type": "StartupFailed",
                "message": "start/rep-0 was not ready within timeout_ready=60000 ms",
            },
        )
    ]


def test_who_may_take_any_time_is_never_overdue(manage: Callable[..., Manager]) -> None:
    manager = manage(uses_with={"way": "hang"}, timeout_ready=-1)
    manager.children.start_all()
    [child] = manager.children
    assert child.overdue_at == math.inf
    manager.turn(at=time.monotonic() + 10**9)
    assert alive(child.pid)


# -- deaths ----------------------------------------------------------------------------------------


def test_who_dies_is_started_anew_after_a_pause(
    manage: Callable[..., Manager], caplog: pytest.LogCaptureFixture
) -> None:
    manager = manage(replicas=2).started()
    child, other = manager.called("start/rep-0"), manager.called("start/rep-1")
    before, stays = child.pid, other.pid
    os.kill(before, signal.SIGKILL)
    manager.until(lambda: manager.told)
    assert manager.told == [("SIGKILL", "start/rep-0")]
    assert (child.pid, child.ready, child.deaths) == (0, False, 1)
    assert child.restart_at in manager.children.timers
    assert manager.children.alive == [stays]
    manager.turn(at=child.restart_at)
    manager.until(lambda: manager.children.all_ready, "it is back")
    assert child.pid not in (0, before, stays)
    assert other.pid == stays
    warnings = [
        record.getMessage() for record in caplog.records if record.levelno == logging.WARNING
    ]
    assert warnings == ["start/rep-0 died (SIGKILL); restarting it in 0.1 s", "start/rep-0 is back"]


def test_who_dies_again_and_again_waits_ever_longer_and_is_called_a_crash_loop(
    manage: Callable[..., Manager], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cause = tmp_path / "cause"
    manager = manage(uses_with={"way": "vanish", "only_if": str(cause)}).started()
    [child] = manager.children
    cause.touch()
    os.kill(child.pid, signal.SIGKILL)
    for deaths in range(1, LOOP + 2):
        manager.until(lambda deaths=deaths: child.deaths == deaths)  # type: ignore[misc]
        assert manager.children.crashing("start") == (["start/rep-0"] if deaths >= LOOP else [])
        assert child.restart_at < math.inf
        if deaths <= LOOP:
            manager.turn(at=child.restart_at)
            assert child.pid
    assert [how for how, _ in manager.told] == ["SIGKILL"] + ["exit code 3"] * LOOP
    told = [record.getMessage() for record in caplog.records]
    assert [message.rpartition("restarting it in ")[2] for message in told] == [
        "0.1 s",
        "0.2 s",
        "0.4 s",
        "0.8 s",
    ]
    assert ", 3 times in a row; " in told[2]
    cause.unlink()
    manager.turn(at=child.restart_at)
    manager.until(lambda: manager.children.all_ready, "it is back")
    assert manager.children.crashing("start") == []


def test_one_can_be_killed_by_its_identity(manage: Callable[..., Manager]) -> None:
    manager = manage(replicas=2).started()
    child, other = manager.children
    manager.children.kill(b"start/rep-0#1")
    manager.children.kill(child.identity)
    manager.until(lambda: manager.told)
    assert manager.told == [("SIGKILL", child.seat.name)]
    assert alive(other.pid)


def test_deaths_while_the_flow_ends_are_nothing_to_speak_of(manage: Callable[..., Manager]) -> None:
    manager = manage(replicas=2).started()
    manager.ending = True

    def told() -> bool:
        # Again and again: one that has just begun to wait does not notice.
        manager.children.tell_all_to_end()
        return not manager.children.alive

    manager.until(told, "they end")
    manager.turn(at=time.monotonic() + 10**9)
    assert manager.children.alive == []
    assert manager.told == []


def test_the_end_of_another_process_is_none_of_theirs(manage: Callable[..., Manager]) -> None:
    manager = manage().started()
    manager.children.reaped(os.getpid(), 0)
    assert manager.told == []
    assert manager.children.all_ready


# -- SIGTERM ---------------------------------------------------------------------------------------


def test_who_gets_sigterm_ends_when_it_is_clear_that_not_all_have(
    manage: Callable[..., Manager],
) -> None:
    manager = manage(replicas=2).started()
    child, other = manager.children
    before = child.pid
    os.kill(before, signal.SIGTERM)
    manager.until(lambda: child.heed_at < math.inf, "it says so")
    assert child.heed_at < math.inf
    assert child.heed_at in manager.children.timers
    manager.turn(at=child.heed_at - HEED / 2)
    assert child.heed_at < math.inf, "it is not time yet"
    manager.clock = time.monotonic
    manager.until(lambda: manager.told, "it ends")
    assert manager.told == [("exit code 0", child.seat.name)]
    manager.until(lambda: manager.children.all_ready, "another one takes its place")
    assert child.pid not in (0, before)
    assert (child.remind_at, child.heed_at, other.deaths) == (math.inf, math.inf, 0)


def test_who_gets_sigterm_while_the_flow_starts_serves_until_it_is_started(
    manage: Callable[..., Manager],
) -> None:
    manager = manage().started()
    [child] = manager.children
    manager.starting = True
    os.kill(child.pid, signal.SIGTERM)
    manager.until(lambda: child.heed_at < math.inf)
    for _ in range(3):
        assert child.heed_at < math.inf
        manager.turn(at=child.heed_at)
    assert (child.remind_at, alive(child.pid)) == (math.inf, True)
    manager.starting, manager.clock = False, lambda: time.monotonic() + 10**6
    manager.until(lambda: manager.told == [("exit code 0", "start/rep-0")])


def test_who_gets_sigterm_as_all_do_serves_on(manage: Callable[..., Manager]) -> None:
    manager = manage().started()
    [child] = manager.children
    manager.told_to_end = True
    os.kill(child.pid, signal.SIGTERM)
    manager.until(lambda: child.heed_at < math.inf)
    assert child.heed_at < math.inf
    manager.turn(at=child.heed_at)
    assert (child.heed_at, child.remind_at, alive(child.pid)) == (math.inf, math.inf, True)


# -- more and fewer --------------------------------------------------------------------------------


def test_who_is_retired_closes_and_is_not_started_again(
    manage: Callable[..., Manager], tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    manager = manage(replicas=2, uses_with={"closed": str(closed)}).started()
    child, other = manager.children
    manager.clock = time.monotonic
    manager.children.retire(child)
    assert manager.children.of("start") == [other]
    manager.until(lambda: child.gone, "it ends")
    assert manager.told == [("exit code 0", child.seat.name)]
    assert closed.read_text() == f"{child.seat.name}\n"
    assert list(manager.children) == [other]
    assert child.failed is None
    manager.turn(at=time.monotonic() + 10**9)
    assert manager.children.alive == [other.pid]


def test_who_is_retired_between_two_lives_is_gone_at_once(manage: Callable[..., Manager]) -> None:
    manager = manage(replicas=2).started()
    child, other = manager.children
    os.kill(child.pid, signal.SIGKILL)
    manager.until(lambda: child.restart_at < math.inf)
    manager.children.retire(child)
    assert child.gone
    assert list(manager.children) == [other]


def test_one_more_is_one_like_the_others_once_it_serves(manage: Callable[..., Manager]) -> None:
    manager = manage().started()
    [first] = manager.children
    added = manager.children.add(replace(first.seat, replica_id=1))
    assert not manager.children.all_ready
    assert added.new
    manager.until(lambda: manager.children.all_ready)
    assert manager.told == [("ready", "start/rep-1")]
    assert not added.new
    os.kill(added.pid, signal.SIGKILL)
    manager.until(lambda: added.deaths)
    assert added.restart_at < math.inf
    assert added.failed is None


def test_one_more_that_does_not_start_is_given_up(manage: Callable[..., Manager]) -> None:
    manager = manage(uses_with={"way": "raise", "only": 1}).started()
    [first] = manager.children
    added = manager.children.add(replace(first.seat, replica_id=1))
    manager.until(lambda: added.gone)
    assert manager.told == [("exit code 1", "start/rep-1")]
    assert added.failed is not None
    assert "LookupError: no model at this path" in added.failed["message"]
    assert list(manager.children) == [first]


# -- pauses ----------------------------------------------------------------------------------------


@given(st.integers(0, 10**6))
def test_pauses_double_with_each_death_up_to_a_bound(deaths: int) -> None:
    assert backoff(0) == 0
    assert backoff(1) == FIRST_BACKOFF
    assert backoff(deaths + 1) in (
        LONGEST_BACKOFF,
        pytest.approx(2 * backoff(deaths)),
        FIRST_BACKOFF,
    )
    assert backoff(deaths) <= backoff(deaths + 1) <= LONGEST_BACKOFF


# -- limits ----------------------------------------------------------------------------------------


def test_who_cannot_be_started_now_is_tried_again_ever_more_seldom(
    manage: Callable[..., Manager],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    manager = manage().started()
    child = manager.called("start/rep-0")

    def full(run: Callable[[], int]) -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(manager, "fork", full)
    os.kill(child.pid, signal.SIGKILL)
    manager.until(lambda: child.restart_at < math.inf)
    pauses = []
    with caplog.at_level(logging.CRITICAL + 1, "zflow.manager"):
        for _ in range(3):
            begun = time.monotonic()
            manager.turn(at=math.inf)
            assert child.restart_at < math.inf
            pauses.append(child.restart_at - begun)
    assert pauses[0] < pauses[1] < pauses[2]
    added = manager.children.add(replace(child.seat, replica_id=1))
    assert added.failed is not None
    assert added.failed["message"] == (
        "start/rep-1 could not be started: Resource temporarily unavailable:"
        " raise the limit of processes (ulimit -u, or that of the container)"
    )
    assert (added.gone, len(manager.children.lines)) == (True, 0)
    monkeypatch.undo()
    manager.turn(at=math.inf)
    manager.until(lambda: child.ready, "it is back")


def test_a_flow_that_cannot_start_its_replicas_does_not_start(
    manage: Callable[..., Manager], monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = manage(replicas=2)
    monkeypatch.setattr(os, "pipe", lambda: os.open("/", os.O_CREAT))  # any error of the system's
    manager.children.start_all()
    monkeypatch.undo()
    assert [kind for kind, _ in manager.told] == ["could not start"] * 2
