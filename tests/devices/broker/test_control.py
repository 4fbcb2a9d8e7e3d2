"""The broker's line to the process manager: what is said at one end is heard at the other, and its end is noticed."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing import Pipe
from typing import Any

import msgpack
import pytest
import zmq

from zflow.devices.broker.control import ManagerLine

Ends = tuple[ManagerLine, Any]  # the broker's, and the manager's


@pytest.fixture
def ends() -> Iterator[Ends]:
    manager, broker = Pipe()
    with manager, broker:
        yield ManagerLine(broker), manager


def say(manager: Any, *message: Any) -> None:
    manager.send_bytes(msgpack.packb(message))


def test_what_the_broker_tells_arrives_in_order(ends: Ends) -> None:
    line, manager = ends
    line.tell("bound", ["ipc:///front"], [])
    line.tell("kill", b"work/rep-0#1")
    heard = [msgpack.unpackb(manager.recv_bytes()) for _ in range(2)]
    assert heard == [["bound", ["ipc:///front"], []], ["kill", b"work/rep-0#1"]]
    assert not line.broken


def test_all_that_the_manager_has_said_is_heard_in_order_and_only_once(ends: Ends) -> None:
    line, manager = ends
    say(manager, "dead", b"work/rep-0#1", "SIGKILL")
    say(manager, "drain")
    assert list(line.heard()) == [["dead", b"work/rep-0#1", "SIGKILL"], ["drain"]]
    assert list(line.heard()) == []
    assert not line.broken


def test_the_line_can_be_watched_for_something_to_read(ends: Ends) -> None:
    line, manager = ends
    watched = [(line.fileno(), zmq.POLLIN)]
    assert zmq.zmq_poll(watched, 0) == []
    say(manager, "stop")
    assert zmq.zmq_poll(watched, 10_000) == watched


def test_a_manager_that_is_gone_is_noticed_when_it_is_told_something(ends: Ends) -> None:
    line, manager = ends
    manager.close()
    line.tell("drained")
    assert line.broken


def test_what_a_manager_said_before_its_end_is_heard(ends: Ends) -> None:
    line, manager = ends
    say(manager, "drain")
    manager.close()
    assert list(line.heard()) == [["drain"]]
    assert line.broken
