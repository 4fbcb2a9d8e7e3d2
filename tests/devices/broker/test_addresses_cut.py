"""External Executors whose connection is cut: who is back soon, who is given up,
and who is another one by then.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from zflow.devices.broker.addresses import ASK_EVERY, GRACE, SILENT_FOR
from zflow.devices.protocol.messages import Cancel, Hello, Request

from .test_addresses import Rig, rigged, task


@pytest.fixture
def rig() -> Iterator[Rig]:
    with rigged() as rig:
        yield rig


def test_a_flow_that_is_back_soon_is_sent_again_what_it_had_not_answered(rig: Rig) -> None:
    rig.joined()
    rig.cut()
    assert rig.told() == [("lose", None)]
    rig.now += GRACE / 2
    rig.pool.unanswered = [task(5)]
    rig.back()
    assert rig.told(2) == [("find",), ("resize", 3)]
    assert rig.hears(Request) == [
        Request(5, "/a", None, None, 0, True, [2], [b"plain a", b"plain b"])
    ]


def test_one_that_is_not_is_given_up_and_what_it_was_given_cancelled_when_it_is_back(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    replica = rig.joined()
    replica.held[5] = task(5)
    rig.cut()
    rig.now += GRACE * 1.1
    assert rig.told(2) == [("lose", None), ("crash", "it does not answer")]
    assert f"tcp://127.0.0.1:{rig.port} does not answer; still trying" in caplog.messages[-1]
    rig.back()
    assert rig.hears(Cancel) == [Cancel(5)]
    assert rig.told() == [("joined", 3)]


@pytest.mark.parametrize("anew", [{"instance": "two"}, {"epoch": 1}])
def test_another_flow_at_the_same_address_knows_nothing_of_what_the_one_before_had(
    rig: Rig, anew: dict[str, Any]
) -> None:
    rig.joined().held[5] = task(5)
    rig.cut()
    rig.back(**anew)
    assert rig.told(3) == [("lose", None), ("crash", "it does not answer"), ("joined", 3)]
    rig.now += ASK_EVERY * 1.1
    rig.until(lambda: rig.far.heard)
    assert [type(message) for message in rig.far.heard] == [Hello], "nothing is cancelled there"


def test_where_nothing_is_begun_twice_there_is_nothing_to_wait_for() -> None:
    with rigged(retries=0) as rig:
        rig.joined()
        rig.cut()
        assert rig.told(2) == [("lose", None), ("crash", "it does not answer")]


def test_one_that_says_nothing_although_it_was_asked_is_lost(rig: Rig) -> None:
    rig.joined()
    rig.now += ASK_EVERY * 1.1
    rig.hears(Hello)
    rig.now += SILENT_FOR * 0.9
    rig.until(lambda: rig.far.heard)
    assert rig.owner.told == [], "not yet"
    rig.now += SILENT_FOR * 0.2
    assert rig.told() == [("lose", None)]


def test_one_that_is_silent_is_asked_once_in_a_while_not_with_each_turn(rig: Rig) -> None:
    rig.joined()
    for _ in range(3):
        rig.now += ASK_EVERY * 1.1
        for _ in range(50):
            rig.turn()
    rig.hears(Hello, 3)


def test_giving_a_task_while_the_connection_is_cut_neither_waits_nor_fails(rig: Rig) -> None:
    line = rig.joined().line
    rig.cut()
    line.give(task())
    assert line.flush()


def test_an_address_is_tried_until_somebody_is_there(rig: Rig) -> None:
    for _ in range(5):
        rig.turn()
        rig.now += 3600
    assert rig.owner.told == []
    rig.joined()
