"""A client's socket and session: what it sends by itself,
and the errors that what arrives comes to.
"""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import Iterator
from typing import Any

import pytest
import zmq
from helpers import few_descriptors
from peers import said

from zflow import AsyncClient, Client, errors
from zflow.clients import wire
from zflow.clients.wire import Wire
from zflow.devices.protocol import bundles
from zflow.devices.protocol.messages import (
    FROM_CLIENT,
    Control,
    Failed,
    Hello,
    Message,
    Reply,
    Welcome,
    encoder,
)
from zflow.devices.protocol.session import Welcomed


class Rig:
    """A wire and the ROUTER that it is connected to."""

    def __init__(self, context: zmq.Context[Any]) -> None:
        self.router = context.socket(zmq.ROUTER)
        self.router.set(zmq.LINGER, 0)
        self.port = self.router.bind_to_random_port("tcp://127.0.0.1")
        self.mine = Wire(context, f"tcp://127.0.0.1:{self.port}")

    def hears(self) -> Message:
        """What it says next."""
        [message] = bundles.read(self.router.recv_multipart(), 1, FROM_CLIENT)
        return message


@pytest.fixture
def rig() -> Iterator[Rig]:
    context: zmq.Context[Any] = zmq.Context()
    rig = Rig(context)
    yield rig
    rig.mine.close()
    rig.router.close()
    context.term()


@pytest.mark.parametrize("address", ["tcp://", "nonsense://here:1", "no address"])
def test_what_is_no_address_is_an_error_at_once(address: str) -> None:
    context: zmq.Context[Any] = zmq.Context()
    with pytest.raises(
        errors.FlowUnreachable, match=f"{re.escape(address)} is no address that can be connected to"
    ):
        Wire(context, address)
    context.term()


OUT = r"^Too many open files: this process may have \d+ and has too few left .*\(ulimit -n\), close"


# With two descriptors libzmq would end the process.
@pytest.mark.parametrize("left", [0, 2, 7])
def test_too_few_descriptors_are_an_error_that_says_what_helps(left: int) -> None:
    async def ask() -> None:
        with few_descriptors(left):
            async with AsyncClient(port=1) as client:
                await client.post("/")

    with pytest.raises(errors.OutOfDescriptors, match=OUT):
        asyncio.run(ask())
    with few_descriptors(left), Client(port=1) as client:
        for meet in (lambda: client.post("/"), client.info, client.is_flow_ready):
            with pytest.raises(errors.OutOfDescriptors, match=OUT):
                meet()


def test_many_clients_say_so_when_there_is_no_room_for_more(rig: Rig) -> None:
    wires: list[Wire] = []
    context, address = rig.mine.socket.context, f"tcp://127.0.0.1:{rig.port}"
    with few_descriptors(20), pytest.raises(errors.OutOfDescriptors, match=OUT):
        wires.extend(Wire(context, address) for _ in range(21))
    assert wires
    for one in wires:
        one.close()


def test_a_machine_without_descriptors_is_told_from_a_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENFILE, "Too many open files in system")

    monkeypatch.setattr(zmq, "Context", full)
    with pytest.raises(errors.OutOfDescriptors, match=r": the machine has too many files open"):
        wire.begin()


def test_more_threads_may_share_a_client_than_libzmq_has_sockets_for_by_itself() -> None:
    context = wire.begin()
    assert context.get(zmq.MAX_SOCKETS) == wire.MOST_SOCKETS
    context.term()


def test_questions_and_commands_are_told_apart_by_their_ids(rig: Rig) -> None:
    assert rig.mine.ask() == -1
    order = rig.mine.order("scale", {"replicas": 2})
    rig.mine.say([order])
    assert rig.hears() == Hello(-1)
    assert rig.hears() == order == Control(1, "scale", {"replicas": 2})


def test_a_greeting_is_answered_and_not_passed_on(rig: Rig) -> None:
    reply = Reply(1, 1, None, None, 0, [b"a"])
    assert rig.mine.heard([[b""], said(reply)]) == [reply]
    assert rig.hears() == Hello(-1)


def test_answers_that_come_in_one_are_one_for_each_request(rig: Rig) -> None:
    answers = [Reply(id, 1, None, None, 0, [b"%d" % id]) for id in (7, 8)]
    assert rig.mine.heard([said(Reply(7, 2, None, None, 0, [b"7", b"8"]))]) == answers
    assert rig.mine.heard(bundles.frames_of(answers, encoder())) == answers


def test_who_is_there_is_told(rig: Rig) -> None:
    (event,) = rig.mine.heard([said(Welcome(-1, {"instance": "one"}))])
    assert isinstance(event, Welcomed)
    assert rig.mine.session.info == {"instance": "one"}


def test_what_is_no_flow_and_what_is_one_of_another_version_are_errors(rig: Rig) -> None:
    with pytest.raises(
        errors.FlowUnreachable, match=f":{rig.port} is no zflow Flow: header is not msgpack"
    ):
        rig.mine.heard([[b"\xc1"]])
    with pytest.raises(
        errors.BadRequest, match=f":{rig.port} speaks another version of zflow's protocol"
    ):
        rig.mine.heard([said(Failed(-1, 0, [b""]))])


def test_silence_is_asked_about_and_then_an_error(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(wire, "monotonic", lambda: now)
    rig.mine.tick()
    rig.mine.tick()
    now += wire.SILENCE / 2
    rig.mine.tick()
    assert [rig.hears() for _ in range(2)] == [Hello(-1), Hello(-2)]
    now += wire.SILENCE
    with pytest.raises(errors.FlowUnreachable, match=f":{rig.port} stopped answering 15 s ago"):
        rig.mine.tick()


def test_the_errors_ask_about_keys_as_far_as_there_are_any(rig: Rig) -> None:
    assert str(rig.mine.nobody()).endswith("and does it ask for keys (curve=)?")
    assert "does it ask for keys (curve=), has it room" in str(rig.mine.refusal())
    rig.mine._keys = (b"", b"", b"")
    assert str(rig.mine.nobody()).endswith("and are the keys (curve=) those it knows?")
    assert "are the keys (curve=) those it knows, has it room" in str(rig.mine.refusal())
    assert "has ended; another one listens there now: post again" in str(rig.mine.replaced())


def test_a_wire_that_is_closed_is_not_refused(rig: Rig) -> None:
    assert not rig.mine.refused
    rig.mine.close()
    assert not rig.mine.refused


def test_connecting_takes_no_longer_than_what_it_is_for() -> None:
    assert wire.connecting(None) == wire.connecting(60_000) == wire.CONNECTING
    assert wire.connecting(500) == 0.5
