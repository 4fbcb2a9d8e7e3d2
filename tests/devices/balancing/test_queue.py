"""The queue that is fair between clients: against a model, and what it promises."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zflow.devices.balancing.queue import FairQueue


@dataclass(eq=False)
class Item:
    client: str
    number: int
    count: int = 1


def numbered(clients: str) -> list[Item]:
    return [Item(client, number) for number, client in enumerate(clients)]


def filled(clients: str) -> FairQueue[Item]:
    queue: FairQueue[Item] = FairQueue()
    for item in numbered(clients):
        queue.append(item)
    return queue


def test_one_client_is_served_in_order() -> None:
    queue = filled("aaaa")
    assert [queue.popleft().number for _ in range(4)] == [0, 1, 2, 3]
    assert not len(queue)


def test_who_asks_for_little_does_not_wait_behind_who_floods() -> None:
    queue = filled("a" * 10_000 + "b")
    assert [queue.popleft().client for _ in range(3)] == ["a", "b", "a"]


def test_what_is_put_back_is_next() -> None:
    queue = filled("ab")
    first = queue.popleft()
    queue.appendleft(first)
    assert queue.head is first
    assert [queue.popleft().number, queue.popleft().number] == [0, 1]


def test_the_youngest_of_the_client_whose_turn_it_is() -> None:
    queue = filled("aabb")
    assert [queue.pop().number for _ in range(4)] == [1, 3, 0, 2]


def test_what_is_not_there_cannot_be_taken_out() -> None:
    queue = filled("a")
    with pytest.raises((KeyError, ValueError)):
        queue.remove(Item("a", 0))
    with pytest.raises(KeyError):
        queue.remove(Item("b", 0))
    assert len(queue) == 1


def test_what_is_not_there_need_not_be_taken_out() -> None:
    queue = filled("ab")
    first = queue.popleft()
    queue.discard(first)
    assert len(queue) == 1
    queue.discard(queue.head)
    assert len(queue) == 0


@given(
    st.text("abc", max_size=40),
    st.lists(st.sampled_from(["left", "right", "remove", "back"]), max_size=60),
)
def test_each_comes_out_once_and_a_clients_own_in_order(clients: str, steps: list[str]) -> None:
    queue = filled(clients)
    inside = {item.number: item for item in numbered(clients)}
    taken: list[int] = []
    for step in steps:
        assert len(queue) == len(inside)
        if not inside:
            break
        if step == "remove":
            queue.remove(queue.head)
            inside = {number: item for number, item in inside.items() if number in _numbers(queue)}
            continue
        item = queue.popleft() if step != "right" else queue.pop()
        assert inside.pop(item.number).client == item.client
        of_client = [number for number, other in inside.items() if other.client == item.client]
        assert all(
            item.number < number if step != "right" else item.number > number
            for number in of_client
        )
        if step == "back":
            queue.appendleft(item)
            inside[item.number] = item
        else:
            taken.append(item.number)
    rest = [queue.popleft().number for _ in range(len(queue))]
    assert sorted(rest) == sorted(inside)
    assert len({*taken, *rest}) == len(taken) + len(rest)


@given(st.text("abcd", min_size=1, max_size=60))
def test_nobody_is_ahead_of_another_who_waits_by_more_than_one(clients: str) -> None:
    queue = filled(clients)
    waiting, served = Counter(clients), Counter[str]()
    while len(queue):
        item = queue.popleft()
        served[item.client] += 1
        waiting[item.client] -= 1
        assert all(served[item.client] - served[other] <= 1 for other in waiting if waiting[other])


def _numbers(queue: FairQueue[Item]) -> set[int]:
    return {item.number for lane in queue._lanes.values() for item in lane}
