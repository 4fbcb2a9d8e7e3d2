"""Tickets: of the broker and a replica, who has read one has the task."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from zflow.devices.local import tickets
from zflow.devices.local.tickets import Tickets

BOTH = tuple[Tickets, Tickets]  # the broker's end, and the replica's


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[BOTH]:
    back, identity = f"ipc://{tmp_path}/back", b"enc/rep-0#123"
    replica = tickets.make(back, identity)
    broker = tickets.find(back, identity)
    assert replica is not None
    assert broker is not None
    tickets.remove(back, identity)
    assert list(tmp_path.iterdir()) == []
    yield broker, replica
    broker.close()
    replica.close()


def test_a_replica_takes_the_tickets_in_the_order_given(ends: BOTH) -> None:
    broker, replica = ends
    numbers = [broker.give(task) for task in (7, 5, 2**62)]
    assert numbers == sorted(set(numbers))
    assert [replica.take(number) for number in numbers] == [True] * 3
    assert broker.reclaim() is None


def test_the_broker_reclaims_the_oldest_first_and_what_it_has_is_gone(ends: BOTH) -> None:
    broker, replica = ends
    first, second, third = (broker.give(task) for task in (1, 2, 3))
    assert broker.reclaim() == 1
    assert not replica.take(first)
    assert replica.take(second)
    assert broker.reclaim() == 3
    assert not replica.take(third)
    assert broker.reclaim() is None


def test_a_replica_that_looks_for_one_that_is_gone_keeps_the_next_one(ends: BOTH) -> None:
    broker, replica = ends
    first = broker.give(1)
    assert broker.reclaim() == 1
    second = broker.give(2)
    assert not replica.take(first)
    assert replica.take(second)


def test_one_is_taken_once(ends: BOTH) -> None:
    broker, replica = ends
    number = broker.give(1)
    assert replica.take(number)
    assert broker.reclaim() is None


def test_where_the_pipe_is_full_there_is_no_ticket(ends: BOTH) -> None:
    broker, replica = ends
    numbers = [number for task in range(10_000) if (number := broker.give(task))]
    assert len(numbers) < 10_000
    assert broker.give(1) == 0
    assert all(replica.take(number) for number in numbers)
    assert replica.take(broker.give(1))


def test_tickets_of_a_connection_before_are_not_found_in_the_pipe_of_the_next_one(
    tmp_path: Path,
) -> None:
    back, identity = f"ipc://{tmp_path}/back", b"enc/rep-0#123"
    ends = []
    for _ in range(2):
        replica, broker = tickets.make(back, identity), tickets.find(back, identity)
        assert replica is not None
        assert broker is not None
        ends.append((replica, broker))
    (_, before), (replica, broker) = ends
    old, new = before.give(1), broker.give(2)
    assert not replica.take(old)
    assert replica.take(new)
    for pair in ends:
        for end in pair:
            end.close()


@pytest.mark.parametrize(
    "identity", [b"enc/rep-0", b"enc/rep-0#", b"enc/rep-0#../../x", b"enc/rep-0#1-abc", b"\xff#x"]
)
def test_an_identity_that_is_none_of_a_process_here_finds_nothing(
    identity: bytes, tmp_path: Path
) -> None:
    back = f"ipc://{tmp_path}/back"
    assert tickets.make(back, identity) is None
    assert tickets.find(back, identity) is None
    tickets.remove(back, identity)


def test_there_is_none_over_tcp_nor_where_none_was_made(tmp_path: Path) -> None:
    assert tickets.make("tcp://host:1", b"a#1") is None
    assert tickets.find(f"ipc://{tmp_path}/back", b"a#1") is None


def test_where_no_pipe_can_be_made_there_is_none(tmp_path: Path) -> None:
    assert tickets.make(f"ipc://{tmp_path}/gone/back", b"a#1") is None
    assert tickets.find(f"ipc://{tmp_path}/gone/back", b"a#1") is None


def test_the_broker_leaves_half_of_its_files_to_connections(tmp_path: Path) -> None:
    back, identity = f"ipc://{tmp_path}/back", b"a#1"
    replica = tickets.make(back, identity)
    assert replica is not None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * lowest, hard))
        assert tickets.find(back, identity) is None
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * lowest + 2, hard))
        found = tickets.find(back, identity)
        assert found is not None
        found.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        replica.close()


def test_each_is_had_by_one_of_two_processes(ends: BOTH) -> None:
    broker, replica = ends
    count = 2000
    told, telling = os.pipe()  # the numbers to look for, and back how many were found
    child = os.fork()
    if not child:
        os.close(telling)
        taken = 0
        while number := int.from_bytes(os.read(told, 8), "big"):
            taken += replica.take(number)
        os._exit(taken % 251)
    os.close(told)
    mine = 0
    for task in range(count):
        os.write(telling, broker.give(task).to_bytes(8, "big"))
        if task % 3 == 0:
            mine += broker.reclaim() is not None
    os.close(telling)
    _, status = os.waitpid(child, 0)
    while broker.reclaim() is not None:
        mine += 1
    assert mine > 0
    assert (os.waitstatus_to_exitcode(status) + mine) % 251 == count % 251
