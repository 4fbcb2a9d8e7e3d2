"""The broker as its manager sees it: real processes, most of which only pretend to be a broker."""

from __future__ import annotations

import errno
import logging
import math
import os
import selectors
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection, Pipe
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import PATIENCE, kill, title, wait_for

from zflow.devices.broker.settings import Settings
from zflow.processes import broker_child, broker_process, plan
from zflow.processes.broker_child import BACKOFF, DEATHS, BrokerChild
from zflow.processes.plan import Plan
from zflow.system import line, process
from zflow.topology.options import DEFAULTS
from zflow.topology.topology import Topology


class Manager:
    """Turns the loop, and keeps what the broker says."""

    def __init__(self, planned: Plan) -> None:
        self.selector = selectors.DefaultSelector()
        self.others: list[Connection] = []
        self.said: list[tuple[str, list[Any]]] = []
        self.refused = False  # that another process is forked
        self.broker = BrokerChild(
            planned, self.selector, self.fork, lambda: self.others, self._heard
        )

    def _heard(self, word: str, *arguments: Any) -> None:
        self.said.append((word, list(arguments)))

    def fork(self, run: Callable[[], int]) -> int:
        if self.refused:
            raise OSError(errno.EAGAIN, "no more processes")
        return process.fork(run)

    def hears(self, word: str) -> list[Any]:
        """What the broker says next of this."""

        def heard() -> list[list[Any]]:
            for key, _ in self.selector.select(0.005):
                key.data()
            return [arguments for said, arguments in self.said if said == word]

        wait_for(heard, what=f"the broker says {word}")
        found = heard()[0]
        self.said.clear()
        return found

    def started(self, starting: bool = False) -> list[Any]:
        """Start a broker; what it says first."""
        assert self.broker.start(starting) is None
        return self.hears("bound")

    def reap(self) -> int:
        """Wait for its process; how that has ended."""
        _, status = os.waitpid(self.broker.pid, 0)
        self.broker.ended()
        return status

    def kill(self, starting: bool = False) -> line.Failure | None:
        """Kill it; what its death means to the Flow."""
        os.kill(self.broker.pid, signal.SIGKILL)
        return self.broker.died(self.reap(), starting)

    def close(self) -> None:
        if self.broker.pid:
            kill(self.broker.pid)
            self.reap()
        self.selector.close()


@pytest.fixture
def planned() -> Iterator[Plan]:
    """What a Flow of two Executors runs; nothing of it is started."""
    topology = Topology()
    topology.add({}, name="one")
    topology.add({}, name="two")
    made = plan.make(topology, {**DEFAULTS, "shared_memory": 0}, "1.2.3")
    yield made
    shutil.rmtree(made.folder, ignore_errors=True)


@pytest.fixture
def manager(planned: Plan) -> Iterator[Manager]:
    made = Manager(planned)
    yield made
    made.close()


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that tells what it was started with, and then says what it is told to say."""

    def run(settings: Settings, plan: Plan, control: Connection, manager: int) -> int:
        bound = {
            node.name: None if node.endpoints is None else sorted(node.endpoints)
            for node in settings.nodes
            if node.process
        }
        line.say(control, "bound", settings.epoch, settings.public, settings.replicas_from, bound)
        while True:
            try:
                word, *arguments = line.hear(control)
            except EOFError:
                return 0
            if word == "end":
                return 3
            line.say(control, word, *arguments)

    monkeypatch.setattr(broker_process, "run", run)


def test_it_listens_until_it_is_told_to_stop(manager: Manager) -> None:
    front, back = manager.started(starting=True)
    assert (len(front), back) == (2, [])
    assert title(manager.broker.pid) == "zflow: broker"
    assert manager.broker.restart_at == math.inf
    manager.broker.tell("stop")
    assert process.ended(manager.reap()) == "exit code 0"
    assert (manager.broker.pid, manager.broker.line) == (0, None)
    assert not manager.selector.get_map(), "its line is watched no longer"
    manager.broker.tell("stop")  # nobody is there, and that is no error


def test_one_that_dies_is_followed_by_one_that_listens_at_the_same_ports(manager: Manager) -> None:
    front, back = manager.started()
    manager.broker.keep_ports(front, back)
    assert manager.kill() is None
    assert manager.broker.restart_at < math.inf
    assert manager.started() == [front, back]
    assert manager.broker.restart_at == math.inf


def test_a_successor_knows_what_was_learned(pretended: None, manager: Manager) -> None:
    epoch, _, _, bound = manager.started()
    assert (epoch, bound) == (0, {"one": None, "two": None})
    manager.broker.keep_ports(["ipc://front", "tcp://here:1"], ["tcp://here:2"])
    manager.broker.tell("endpoints", "two", ["/a", "/b"])
    assert manager.hears("endpoints") == ["two", ["/a", "/b"]]
    manager.kill()
    successor = [1, "tcp://here:1", "tcp://here:2", {"one": None, "two": ["/a", "/b"]}]
    assert manager.started() == successor
    manager.broker.tell("endpoints", "two", None)
    manager.hears("endpoints")
    manager.kill()
    assert manager.started()[3] == {"one": None, "two": None}


def test_last_words_are_heard(pretended: None, manager: Manager) -> None:
    manager.started()
    manager.broker.tell("drained", 1)
    manager.broker.tell("drained", 2)
    manager.broker.tell("end")
    assert process.ended(manager.reap()) == "exit code 3"
    assert manager.said == [("drained", [1]), ("drained", [2])]


def test_it_holds_no_line_of_another_process(pretended: None, manager: Manager) -> None:
    ours, theirs = Pipe()
    manager.others = [ours]
    manager.started()
    ours.close()
    assert theirs.poll(PATIENCE), "it is closed, which it were not if the broker had its other end"
    with pytest.raises(EOFError):
        theirs.recv_bytes()


def test_a_death_while_the_flow_starts_is_its_end(pretended: None, manager: Manager) -> None:
    manager.started(starting=True)
    why = manager.kill(starting=True)
    assert why == line.failure("the broker died (SIGKILL)")
    assert manager.broker.restart_at == math.inf


def test_one_that_dies_again_and_again_is_the_end(
    pretended: None,
    manager: Manager,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(broker_child, "STEADY", math.inf)
    with caplog.at_level(logging.WARNING, "zflow.manager"):
        for _ in range(DEATHS):
            manager.started()
            assert manager.kill() is None
        manager.started()
        why = manager.kill()
    message = f"the broker died (SIGKILL) {DEATHS + 1} times in a row"
    assert why == line.failure(message)
    assert caplog.messages[0] == "the broker died (SIGKILL); starting it anew"
    assert caplog.messages[-1] == f"{message}; the Flow is taken down"


def test_the_end_says_what_the_broker_has_said_since_it_listened(
    pretended: None, manager: Manager
) -> None:
    said = line.failure("cannot listen there", "PortInUse")
    manager.started()
    manager.broker.tell("failed", said)
    assert manager.hears("failed") == [said]
    assert manager.kill(starting=True) == said
    manager.started()
    assert manager.kill(starting=True) == line.failure("the broker died (SIGKILL)")


def test_deaths_of_brokers_that_lived_for_a_while_are_not_counted_together(
    pretended: None, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_child, "STEADY", -1.0)
    for _ in range(DEATHS + 2):
        manager.started()
        assert manager.kill() is None


def test_where_no_process_can_be_started_it_is_tried_ever_more_seldom(
    pretended: None, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_child, "time", SimpleNamespace(monotonic=lambda: 100.0))
    manager.refused = True
    waits = []
    for _ in range(8):
        assert manager.broker.start(False) is None
        waits.append(manager.broker.restart_at - 100.0)
    assert waits == sorted(waits)
    assert 0.0 < waits[0] < waits[-1] == BACKOFF
    assert not manager.selector.get_map(), "nothing is left of the lines"
    manager.refused = False
    manager.started()
    assert manager.broker.restart_at == math.inf


def test_a_flow_that_starts_does_not_wait_for_another_try(manager: Manager) -> None:
    manager.refused = True
    why = manager.broker.start(True)
    assert why is not None
    assert why["message"].startswith("the broker could not be started: ")


def test_where_the_broker_is_elsewhere_none_is_started(planned: Plan) -> None:
    manager = Manager(replace(planned, settings=None))
    assert manager.broker.start(True) is None
    manager.broker.keep_ports([], [])
    manager.broker.tell("drain")
    assert (manager.broker.pid, manager.broker.restart_at) == (0, math.inf)
    manager.close()
