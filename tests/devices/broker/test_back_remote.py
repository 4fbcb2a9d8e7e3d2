"""Replicas of other machines at the broker's side towards replicas, which speak by hand here."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import zmq
from peers import PAYLOAD

from zflow.devices.broker.back import Back
from zflow.devices.broker.settings import Settings
from zflow.devices.protocol.messages import Accepted, Done, Leave, Refused
from zflow.devices.routing.pool import NO_GROUP
from zflow.devices.sockets.meter import Meter
from zflow.devices.sockets.zap import REPLICAS

from .test_back import (
    ANYWHERE,
    ELSEWHERE,
    NAME,
    REFERENCE,
    Owner,
    Rig,
    given,
    ready,
    rigged,
    say,
    task,
)


@pytest.fixture
def remote() -> Iterator[Rig]:
    """One that takes replicas of other machines, too."""
    with rigged(replicas_from=ANYWHERE) as rig:
        yield rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    with rigged() as rig:
        yield rig


def test_replicas_of_other_machines_come_only_where_they_are_wanted(rig: Rig, remote: Rig) -> None:
    assert (rig.back.addresses, rig.guarded) == ([], [])
    assert len(remote.back.addresses) == 1
    assert remote.guarded == [(REPLICAS, b"")], "it is guarded before it listens"


def test_one_of_another_machine_that_differs_is_refused_and_nothing_that_it_said_counts(
    remote: Rig,
) -> None:
    with remote.joined(), remote.connected(b"work/rep-0@far#1-0a", remote.public) as far:
        for changes, words in (
            (
                {"endpoints": ["/b"]},
                "it binds ['/b'], but the Executor's replicas in its Flow ['/a']",
            ),
            ({"batching": {"/a": [5, 0]}}, "it takes requests in batches {'/a': [5, 0 ms]}, but "),
            ({"endpoints": ["/b"], "slots": 0, "batching": {"/a": [5, 2**64 - 1]}}, "0 slots"),
        ):
            say(far, ready(**changes))
            refusal = remote.answer(far)
            assert isinstance(refusal, Refused)
            assert words in refusal.reason
        assert list(remote.owner.replicas) == [NAME]
        assert (remote.work.bindings.endpoints, remote.work.bindings.batching) == ({"/a"}, {})
        say(far, ready())
        assert remote.answer(far) == Accepted(7)


def test_one_of_another_machine_is_sent_away_when_those_here_differ_from_it(remote: Rig) -> None:
    name = b"work/rep-0@far#1-0a"
    with remote.joined(name, remote.public) as far, remote.connected() as here:
        say(here, ready(endpoints=["/a", "/b"]))
        assert remote.answer(here) == Accepted(7)
        refusal = remote.answer(far)
        assert isinstance(refusal, Refused)
        assert (
            "it binds ['/a'], but the Executor's replicas in its Flow ['/a', '/b']"
            in refusal.reason
        )
        assert remote.told(2)[1] == ("lose", remote.work, name, None), "it gets nothing new"
        remote.work.balancer.replicas[name].held[5] = None
        for id in (4, 5):  # of which it was given the second
            say(far, Done(id, 1, [1], [PAYLOAD]))
        say(far, Leave())
        assert [what for what, *_ in remote.told(2)] == ["answered", "leave"], (
            "what it had begun still counts"
        )
        assert [str(error) for error in remote.owner.dropped] == [
            "an answer to what it was not given"
        ]


def test_of_several_answers_those_count_whose_tasks_a_replica_still_has(remote: Rig) -> None:
    """Some may have been taken back after it had begun them; were the others dropped with those,
    they would be its own for ever, and it would get nothing more.
    """
    with remote.joined(ELSEWHERE, remote.public) as far:
        remote.work.balancer.replicas[ELSEWHERE].held.update({5: None, 7: None})
        say(far, Done(4, 1, [1, 2, 3], [b"4", b"5", b"6"]), Done(7, 1, [9], [b"7"]))
        assert remote.told(2) == [
            ("answered", remote.work, ELSEWHERE, 5, 1e-6, [b"5"], [2]),
            ("answered", remote.work, ELSEWHERE, 7, 1e-6, [b"7"], [9]),
        ]
        assert [str(error) for error in remote.owner.dropped] == [
            "an answer to what it was not given"
        ]


def test_a_replica_of_another_machine_is_in_no_group_and_gets_plain_frames(remote: Rig) -> None:
    name = b"work/rep-0@host#41-0a"
    with remote.connected(name, remote.public) as replica:
        say(replica, ready(replica=5))
        remote.answer(replica)
        assert remote.told(1) == [("join", remote.work, name, NO_GROUP)]
        line = remote.owner.replicas[name].line
        line.give(task(frames=[b"a", b"b"]))
        line.flush()
        assert remote.answer(replica) == given(5, b"plain a", b"plain b")


def test_a_reference_to_memory_from_another_machine_is_malformed(remote: Rig) -> None:
    with remote.joined(ELSEWHERE, remote.public) as replica:
        say(replica, Done(5, 0, [1], [b"first", REFERENCE]))
        remote.until(lambda: remote.owner.dropped)
    assert {str(error) for error in remote.owner.dropped} == {"wrong fields in header"}
    with remote.joined(b"work/rep-1#43") as replica:
        say(replica, Done(5, 0, [1], [b"first", REFERENCE]))
        remote.until(lambda: remote.owner.told)
        assert (
            "answered",
            remote.work,
            b"work/rep-1#43",
            5,
            0.0,
            [b"first", REFERENCE],
            [1],
        ) in remote.owner.told


def test_a_replica_of_another_machine_whose_connection_is_gone_is_missed(
    remote: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "zflow.broker"):
        with remote.joined(ELSEWHERE, remote.public):
            pass
        told = remote.told(2)
    assert told == [
        ("lose", remote.work, ELSEWHERE, None),
        ("crash", remote.work, ELSEWHERE, "its connection broke"),
    ]
    assert caplog.messages == ["work/rep-0@far on another machine is gone"]


@pytest.mark.parametrize(
    "name", [NAME, b"work/rep-0", b"work/rep-0#x", b"work/rep-0#@far", b"work/rep-0@far#42"]
)
def test_a_name_of_this_machine_is_no_name_of_another(remote: Rig, name: bytes) -> None:
    with remote.joined(NAME), remote.connected(name, remote.public) as other:
        say(other, ready())
        assert remote.answer(other) == Refused(
            "such a name is for replicas of the Flow's own machine"
        )


def test_an_address_that_is_taken_is_named(remote: Rig) -> None:
    context = zmq.Context()
    places = dict.fromkeys(("front", "back", "fan", "collector"), "ipc://*")
    settings = Settings(
        [], [], [], public="", max_message_bytes=1, replicas_from=remote.public, **places
    )
    with pytest.raises(zmq.ZMQError, match=remote.public) as caught:
        Back(
            context, settings, {}, Owner(), lambda *_: Meter(1 << 20, lambda address, reason: None)
        )
    assert caught.value.errno == zmq.EADDRINUSE
    context.destroy(linger=0)
