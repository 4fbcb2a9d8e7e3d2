"""Connections whose bytes are counted: real sockets of libzmq's at one end,
and a peer that speaks by hand.
"""

from __future__ import annotations

import contextlib
import resource
import socket as sockets
from collections.abc import Callable, Iterator
from threading import Thread
from unittest.mock import Mock

import pytest
import zmq
from helpers import wait_for
from peers import CutError, Raw

from zflow.devices.sockets import meter as metering
from zflow.devices.sockets import zap
from zflow.devices.sockets.gate import Gate
from zflow.devices.sockets.guarded import LEAST_MEAN, SLICE, GuardedPort
from zflow.devices.sockets.meter import LEAST_FRAME, Meter, most_frames
from zflow.documents import codec

MAX_BYTES = 1 << 20
UNREAD_MESSAGES = 500


class Served:
    """A guarded port, served as by a broker."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.context = zmq.Context()
        self.gate = Gate(self.context, dict, {zap.CLIENTS: 100}, max_bytes)
        router = self.context.socket(zmq.ROUTER)
        router.set(zmq.LINGER, 0)
        self.meter: Meter = self.gate.guard(router, zap.CLIENTS)
        self.port = GuardedPort(router, 3, self.meter, UNREAD_MESSAGES)
        self.number = router.bind_to_random_port("tcp://127.0.0.1")
        self.got: list[list[bytes]] = []
        self.gone: list[bytes] = []
        self.meter.gone = self.gone.append

    def turn(self) -> None:
        zmq.zmq_poll([(one, zmq.POLLIN) for one in (*self.gate.sockets, self.port.socket)], 5)
        self.gate.serve()
        if self.port.readable():
            self.got += self.port.receive_some(64)
        self.gate.tick()

    def until(self, condition: Callable[[], object]) -> None:
        def turned() -> object:
            self.turn()
            return condition()

        wait_for(turned)

    def greeted(self) -> Raw:
        """A connection that was heard of."""
        made: list[Raw] = []
        thread = Thread(target=lambda: made.append(Raw(self.number)))
        thread.start()
        self.until(lambda: made)
        thread.join()
        made[0].send(b"hello")
        before = len(self.got)
        self.until(lambda: len(self.got) > before)
        return made[0]

    def close(self) -> None:
        self.gate.close()
        self.context.destroy(linger=0)


@pytest.fixture
def served() -> Iterator[Served]:
    with contextlib.closing(Served()) as served:
        yield served


def test_peers_of_ours_send_no_smaller_frames_but_one_for_each_payload() -> None:
    assert LEAST_FRAME <= codec.INLINE + 1
    assert most_frames(1 << 30) * LEAST_FRAME >= 1 << 30


def test_a_message_of_many_frames_comes_in_several_turns_and_whole() -> None:
    frames = [b"%d" % number + b"x" * LEAST_MEAN for number in range(3 * SLICE)]
    allowed = Served(max_bytes=sum(map(len, frames)))
    with contextlib.closing(allowed) as served, served.greeted() as client:
        client.send(*frames)
        turns = [0]

        def come() -> bool:
            turns[0] += 1
            return len(served.got) == 2

        served.until(come)
        assert served.got[1][1:] == frames
        assert turns[0] >= 3
        assert not served.gone


def test_who_sends_very_many_tiny_frames_is_cut(served: Served) -> None:
    """Others would wait for all that they cost: ours lie together in one frame."""
    with served.greeted() as client:
        client.send(*[b"x"] * (3 * SLICE))
        served.until(client.was_cut)
        assert len(served.got) == 1


def test_of_a_message_of_too_many_frames_nothing_is_kept_and_its_sender_is_cut(
    served: Served,
) -> None:
    with served.greeted() as client, served.greeted() as other:
        client.send(*[b"x"] * (served.meter.most_frames + 5000))
        served.until(client.was_cut)
        other.send(b"still here")
        served.until(lambda: served.got[-1][1:] == [b"still here"])
        assert len(served.got) == 3
        assert len(served.gone) == 1


def test_who_has_sent_more_than_a_message_and_no_end_is_cut_but_not_who_has_sent_many_messages(
    served: Served,
) -> None:
    with served.greeted() as client, served.greeted() as other:
        for _ in range(20):
            other.send(bytes(MAX_BYTES // 2), bytes(MAX_BYTES // 2))
            served.turn()
        with pytest.raises(CutError):
            _send_on(client, served)
        served.until(lambda: len(served.got) == 22)
        assert not other.was_cut()


def test_who_reads_nothing_is_cut(served: Served) -> None:
    with served.greeted() as client:
        name = served.got[0][0]

        def answered() -> bool:
            with contextlib.suppress(zmq.ZMQError):
                for _ in range(20):
                    served.port.send([name, bytes(900)])
            return bool(served.gone)

        client.socket.setsockopt(1, 8, 4096)
        served.until(answered)
        assert served.gone == [name]
        with pytest.raises(CutError):
            _read_all(client)


def test_who_has_read_nothing_for_a_while_is_cut_as_soon_as_much_waits(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metering, "UNREAD", 20 << 20)
    monkeypatch.setattr(metering, "STUCK", 1.0)
    with served.greeted(), served.greeted() as reader:
        for _ in range(40):
            served.port.send([served.got[0][0], bytes(1 << 20)])
        for _ in range(40):
            served.port.send([served.got[1][0], bytes(1 << 20)])
        frames: list[bytes] = []
        thread = Thread(target=lambda: frames.extend(reader.frame() for _ in range(40)))
        thread.start()
        served.until(lambda: served.gone)
        thread.join()
        assert served.gone == [served.got[0][0]]
        assert [len(frame) for frame in frames] == [1 << 20] * 40


def test_it_looks_once_in_a_second_while_little_comes(served: Served) -> None:
    with served.greeted():
        served.until(lambda: not served.meter.active)
        assert served.gate.wait == 1.0
        assert not served.meter.curious


def test_who_is_to_be_cut_is_cut_also_where_no_descriptor_is_left(served: Served) -> None:
    with served.greeted() as client:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1, hard))
        try:
            served.meter.clogged(served.got[0][0])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        served.until(client.was_cut)
        assert served.gone == [served.got[0][0]]


# -- without libzmq --------------------------------------------------------------------------------


class Pairs:
    """A meter, and connections between this test and itself."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        self.meter = Meter(MAX_BYTES, lambda address, why: self.refused.append(why))
        self._server = sockets.create_server(("127.0.0.1", 0))
        self._open: list[sockets.socket] = [self._server]

    def connect(self) -> tuple[sockets.socket, sockets.socket]:
        """A connection: the other end, and the one that is metered."""
        theirs = sockets.create_connection(self._server.getsockname(), timeout=30)
        ours, _ = self._server.accept()
        self._open += [theirs, ours]
        self.meter.opened(ours.fileno(), "")
        return theirs, ours

    def close(self) -> None:
        self.meter.close()
        for one in self._open:
            one.close()


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    pairs = Pairs()
    yield pairs
    pairs.close()


def pass_on(pair: tuple[sockets.socket, sockets.socket], size: int) -> None:
    """Send so many bytes, and read all but one of what has arrived."""
    theirs, ours = pair
    theirs.sendall(bytes(size))
    ours.recv(size - 1, sockets.MSG_WAITALL)


def test_who_sends_little_is_not_looked_at_closely_each_time(
    pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    closely = Mock(side_effect=metering._traffic)
    monkeypatch.setattr(metering, "_traffic", closely)
    made = [pairs.connect() for _ in range(20)]
    for _ in range(metering.OFTEN):
        for pair in made:
            pass_on(pair, 100)
        pairs.meter.look()
        assert pairs.meter.active
    assert 0 < closely.call_count < 3 * len(made)


def test_who_sends_a_little_again_and_again_cannot_hide_a_message_without_an_end(
    pairs: Pairs,
) -> None:
    pair = pairs.connect()
    sent = 0
    while not pairs.refused:
        pass_on(pair, 8192)
        sent += 8192
        pairs.meter.look()
        assert sent < 4 * MAX_BYTES
    assert pairs.refused == ["it sent a message without an end"]
    assert _has_ended(pair[0])


def test_who_takes_over_a_name_is_not_taken_for_who_had_it(pairs: Pairs) -> None:
    (_, before), (theirs, after) = pairs.connect(), pairs.connect()
    for ours in (before, after):
        pairs.meter.heard(b"name", Mock(get=Mock(return_value=ours.fileno())))
    pairs.meter.closed(before.fileno())
    pairs.meter.clogged(b"name")
    assert pairs.refused == ["it does not read what it is sent"]
    assert _has_ended(theirs)


def _has_ended(theirs: sockets.socket) -> bool:
    try:
        return theirs.recv(1) == b""
    except ConnectionError:
        return True


def _send_on(client: Raw, served: Served) -> None:
    for _ in range(5000):
        client.send(bytes(MAX_BYTES // 16), more=True)
        served.turn()


def _read_all(client: Raw) -> None:
    while True:
        client.frame()
