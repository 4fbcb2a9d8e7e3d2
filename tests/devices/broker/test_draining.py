"""Replicas that rest: who is taken out of the competition, who is put back, and what is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from zflow.devices.balancing.replica import Replica
from zflow.devices.broker import draining
from zflow.devices.broker.draining import MOST_WAITING, Draining
from zflow.devices.routing.pool import Limits, Pool
from zflow.devices.routing.walk import Node, Walk


class Told(list[Any]):
    """What came of commands."""

    def __call__(self, origin: Any, result: dict[str, Any]) -> None:
        self.append((origin, result))


@pytest.fixture
def pool() -> Pool:
    pool = Pool(0, Node("work"), 3, Limits())
    for name in (b"work/rep-0#1", b"work/rep-1#2"):
        pool.join(Replica(name), 0, 0.0)
        pool.names[name] = name.decode().partition("#")[0]
    return pool


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def rests(pool: Pool, told: Told) -> Draining:
    return Draining({"work": pool}, lambda pool, actions: None, told)


def test_one_that_rests_competes_again(pool: Pool, rests: Draining, told: Told) -> None:
    rests.begin("me", "drain", "work/rep-0")
    assert told == [("me", {"replica": "work/rep-0"})]
    assert pool.balancer.replicas[b"work/rep-0#1"].lost
    rests.begin("me", "undrain", "work/rep-0")
    assert not pool.balancer.replicas[b"work/rep-0#1"].lost
    rests.begin("me", "undrain", "work/rep-0")
    assert told[1:] == [("me", {"replica": "work/rep-0"})] * 2


def test_one_that_is_lost_for_another_reason_is_not_called_back(
    pool: Pool, rests: Draining, told: Told
) -> None:
    pool.lose(b"work/rep-0#1", 0.0)
    rests.begin("me", "undrain", "work/rep-0")
    assert pool.balancer.replicas[b"work/rep-0#1"].lost


def test_the_last_one_does_not_rest(pool: Pool, rests: Draining, told: Told) -> None:
    rests.begin("me", "drain", "work/rep-0")
    rests.begin("me", "drain", "work/rep-1")
    assert "the last one" in told[-1][1]["error"]
    rests.begin("me", "drain", "work/rep-7")
    assert "no replica is called 'work/rep-7'" in told[-1][1]["error"]


def test_so_many_wait_for_a_replica_to_rest_and_putting_one_back_is_never_refused(
    pool: Pool, rests: Draining, told: Told
) -> None:
    pool.submit(Walk("request", "/"), [], 1, 0.0)
    for number in range(MOST_WAITING + 1):
        rests.begin(number, "drain", "work/rep-0")
    assert told == [
        (
            MOST_WAITING,
            {"error": "too many replicas are being drained: wait until one of them is done"},
        )
    ]
    rests.begin("back", "undrain", "work/rep-0")
    assert told[1:] == [("back", {"replica": "work/rep-0"})]


def test_who_waits_for_too_long_is_told_and_the_replica_competes_again(
    pool: Pool, rests: Draining, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(draining, "time", SimpleNamespace(monotonic=lambda: now[0]))
    pool.submit(Walk("request", "/"), [], 1, 0.0)
    rests.begin("patient", "drain", "work/rep-0", 2000)
    rests.begin("me", "drain", "work/rep-0", 1000)
    assert rests.wait == 1.0
    now[0] = 1.0
    rests.tick()
    error = "work/rep-0 was not done with what it had within timeout=1000 ms, and goes on"
    assert told == [("me", {"error": error})]
    assert pool.balancer.replicas[b"work/rep-0#1"].lost, "the other one still waits"
    now[0] = 2.0
    rests.tick()
    assert not pool.balancer.replicas[b"work/rep-0#1"].lost
    rests.begin("me", "drain", "work/rep-0", "soon")
    assert told[2] == (
        "me",
        {"error": "timeout must be a whole number of ms from 1 to 9007199254740992, not 'soon'"},
    )
