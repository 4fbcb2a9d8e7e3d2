"""A broker that fails at something: its requests are failed,
and whatever else there is is served.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from helpers import wait_for

from zflow.devices.balancing.balancer import Balancer
from zflow.devices.balancing.replica import Task
from zflow.devices.broker.back import Back
from zflow.devices.broker.front import Front
from zflow.devices.broker.line import Line
from zflow.devices.broker.mishaps import OURS, at_hand
from zflow.devices.routing.fanout import Scatter
from zflow.devices.routing.pool import Finished, Pool
from zflow.devices.routing.router import Router
from zflow.devices.routing.walk import Walk
from zflow.devices.sockets import guard

from .test_broker import Running, answer_of, ask, do, error_of, given, info, running

SAID = "the Flow itself failed at this request, and goes on; its log says more"


class Planted(Exception):
    """The fault."""


@pytest.fixture
def broker() -> Iterator[Running]:
    with running() as broker:
        yield broker


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[[type, str, int], Callable[[], int]]:
    """Have a method fail the next so many times; returns how often it was called."""

    def planted(owner: type, method: str, times: int) -> Callable[[], int]:
        right = getattr(owner, method)
        calls = [0]

        def wrong(*arguments: Any) -> Any:
            calls[0] += 1
            if calls[0] <= times:
                raise Planted
            return right(*arguments)

        monkeypatch.setattr(owner, method, wrong)
        return lambda: calls[0]

    return planted


def answers(broker: Running, client: Any, replica: Any, id: int) -> None:
    ask(client, id)
    do(replica, given(replica))
    assert answer_of(client).first == id


@pytest.mark.parametrize(
    ("owner", "method"),
    [(Router, "start"), (Pool, "submit"), (Balancer, "submit"), (Line, "give"), (Line, "_send")],
)
def test_it_fails_the_request_and_serves_the_next(
    broker: Running, plant: Any, caplog: pytest.LogCaptureFixture, owner: type, method: str
) -> None:
    client, replica = broker.client(), broker.replica(slots=4)
    plant(owner, method, 3)
    with caplog.at_level(logging.ERROR, "zflow.broker"):
        for id in (1, 2, 3):
            ask(client, id)
            assert error_of(client) == (id, "ZflowError", SAID)
        answers(broker, client, replica, 4)
    assert [record.getMessage() for record in caplog.records] == [
        "failed, and goes on; more of this kind are only counted"
    ]
    told = info(client)
    assert (told["malformed"], told["requests"]) == ({OURS: 3}, 0)


@pytest.mark.parametrize(
    ("owner", "method"), [(Balancer, "finish"), (Pool, "answered"), (Router, "done")]
)
def test_it_fails_at_an_answer(broker: Running, plant: Any, owner: type, method: str) -> None:
    client, replica = broker.client(), broker.replica(slots=4)
    ask(client)
    task = given(replica)
    plant(owner, method, 1)
    do(replica, task)
    assert error_of(client) == (7, "ZflowError", SAID)
    answers(broker, client, replica, 8)


@pytest.mark.parametrize(("owner", "method"), [(Back, "tick"), (Front, "flush")])
def test_what_fails_in_each_turn_keeps_no_core_busy(
    broker: Running, plant: Any, monkeypatch: pytest.MonkeyPatch, owner: type, method: str
) -> None:
    rests: list[float] = []
    client, replica = broker.client(), broker.replica()
    monkeypatch.setattr(guard.time, "sleep", rests.append)
    calls = plant(owner, method, 4)  # the loop turns about once in a second
    answers(broker, client, replica, 7)
    wait_for(lambda: calls() > 4)
    assert len(rests) >= 4


def test_whom_it_was_at_is_found_in_whatever_functions_had() -> None:
    first, second, third, over = (Walk(number, "/a") for number in range(4))
    over.over = True

    def inner(outcome: Finished, over: Walk) -> None:
        raise Planted

    def outer(task: Task, part: Task, walk: Walk, id: int) -> None:
        inner(Finished(walk, 1, []), over)

    try:
        outer(Task(1, (first, [])), Task(2, Scatter(5, 2, (second, []))), third, 41)
    except Planted as error:
        found = at_hand(error.__traceback__)
    assert found == ([first, second, third], {41})
