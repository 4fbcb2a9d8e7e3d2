"""The broker's line to the process manager: what is said at one end is heard at the other,
and its end is noticed.
"""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing import Pipe
from typing import Any

import msgpack
import pytest
import zmq

from zflow.devices.broker.control import Commands, ManagerLine

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
    say(manager, "crash", b"work/rep-0#1", "SIGKILL")
    say(manager, "drain")
    assert list(line.heard()) == [["crash", b"work/rep-0#1", "SIGKILL"], ["drain"]]
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


def test_commands_are_numbered_and_each_ends_once() -> None:
    commands = Commands(7 << 32)
    first, second = commands.begin(("front", b"a", 1)), commands.begin(("front", b"a", 2))
    assert 7 << 32 < first < second
    assert commands.end(second) == ("front", b"a", 2)
    assert commands.end(second) is None
    assert commands.end(1) is None, "of a broker before"
    assert commands.end(first) == ("front", b"a", 1)


def test_a_client_has_so_many_commands_under_way_and_all_together_so_many() -> None:
    commands = Commands(0)
    begun = [commands.begin(("front", b"a", id)) for id in range(Commands.MOST_OF_ONE + 1)]
    assert all(begun[:-1])
    assert begun[-1] == 0
    assert commands.begin(("public", b"a", 0)), "over another socket it is another client"
    commands.end(begun[0])
    assert commands.begin(("front", b"a", 99))
    others = [commands.begin(("front", b"%d" % client, 1)) for client in range(Commands.MOST)]
    assert sum(map(bool, others)) == Commands.MOST - Commands.MOST_OF_ONE - 1
    assert commands.begin(("front", b"another", 1)) == 0
