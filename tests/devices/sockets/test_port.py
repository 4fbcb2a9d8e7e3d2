"""Messages over real sockets: whatever the size of their frames, they come as they were sent."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from helpers import PATIENCE

from zflow.devices.protocol.bundles import read
from zflow.devices.protocol.messages import TO_CLIENT, Reply, encoder
from zflow.devices.sockets.port import LARGE, Port, buffers

HUGE = bytes(random.Random(1).randbytes(3 * LARGE))


@pytest.fixture(params=["inproc", "ipc", "tcp"])
def ports(request: pytest.FixtureRequest) -> Iterator[tuple[Port, Port]]:
    """A ROUTER and a DEALER called `b'me'`, joined."""
    with tempfile.TemporaryDirectory() as folder, zmq.Context() as context:
        address = {
            "inproc": "inproc://ports",
            "ipc": f"ipc://{Path(folder) / 'socket'}",
            "tcp": "tcp://127.0.0.1:*",
        }[request.param]
        with context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as dealer:
            for socket in (router, dealer):
                socket.set(zmq.RCVTIMEO, 5000)
                socket.set(zmq.LINGER, 0)
            router.set(zmq.ROUTER_MANDATORY, 1)
            router.bind(address)
            dealer.set(zmq.ROUTING_ID, b"me")
            dealer.connect(
                router.get_string(zmq.LAST_ENDPOINT) if request.param == "tcp" else address
            )
            yield Port(router, 3), Port(dealer, 2)


def content(frames: list[Any]) -> list[bytes]:
    return [bytes(frame) for frame in frames]


class TestPort:
    @pytest.mark.parametrize(
        "frames",
        [
            [b""],
            [b"header"],
            [b"header", b"payload"],
            [b"header", b"", b"", b""],
            [b"header", b"meta", b"x" * (LARGE - 1), b"x" * LARGE],
            [b"header", b"meta", HUGE, b"small", HUGE[::-1]],
            [HUGE, HUGE, HUGE],
            [b"header", bytearray(b"small"), memoryview(HUGE), memoryview(bytearray(b"view"))],
        ],
        ids=lambda frames: "+".join(str(len(frame)) for frame in frames),
    )
    def test_there_and_back(self, ports: tuple[Port, Port], frames: list[Any]) -> None:
        router, dealer = ports
        dealer.send(frames)
        there = router.receive()
        assert content(there) == [b"me", *content(frames)]
        router.send(there)
        assert content(dealer.receive()) == content(frames)
        trackers = dealer.send_tracked(frames)
        assert content(router.receive()) == [b"me", *content(frames)]
        for tracker in trackers:
            tracker.wait(5)

    def test_the_first_frames_and_small_ones_come_as_bytes_others_uncopied(
        self, ports: tuple[Port, Port]
    ) -> None:
        router, dealer = ports
        dealer.send([b"header", b"meta", HUGE, b"small"])
        frames = router.receive()
        assert [type(frame) for frame in frames] == [bytes, bytes, bytes, zmq.Frame, bytes]
        router.send(frames)
        frames = dealer.receive()
        assert [type(frame) for frame in frames] == [bytes, bytes, zmq.Frame, bytes]
        views = buffers(frames)
        assert [type(view) for view in views] == [bytes, bytes, memoryview, bytes]
        assert content(list(views)) == [b"header", b"meta", HUGE, b"small"]
        assert not views[2].readonly

    # Within a process the memory would be shared.
    @pytest.mark.parametrize("ports", ["ipc", "tcp"], indirect=True)
    def test_memory_that_was_sent_may_be_written_to_when_its_tracker_is_done(
        self, ports: tuple[Port, Port]
    ) -> None:
        router, dealer = ports
        array = bytearray(HUGE)
        (tracker,) = dealer.send_tracked([b"header", b"meta", memoryview(array)])
        received = router.receive()
        tracker.wait(5)
        array[:] = bytes(len(array))
        assert bytes(received[3]) == HUGE

    def test_bytes_need_no_tracker(self, ports: tuple[Port, Port]) -> None:
        router, dealer = ports
        assert dealer.send_tracked([b"header", HUGE]) == []
        assert content(router.receive()) == [b"me", b"header", HUGE]

    def test_readable_says_whether_receive_would_wait(self, ports: tuple[Port, Port]) -> None:
        router, dealer = ports
        assert not router.readable()
        dealer.send([b"one"])
        dealer.send([b"two"])
        assert router.socket.poll(5000)
        assert router.readable()
        assert router.receive()[1] == b"one"
        assert router.socket.poll(5000)
        assert router.receive()[1] == b"two"
        assert not router.readable()

    def test_receive_waits_no_longer_than_the_socket_says(self, ports: tuple[Port, Port]) -> None:
        ports[0].socket.set(zmq.RCVTIMEO, 1)
        with pytest.raises(zmq.Again):
            ports[0].receive()

    def test_a_peer_that_is_not_there_is_an_error_and_the_next_message_is_whole(
        self, ports: tuple[Port, Port]
    ) -> None:
        router, dealer = ports
        dealer.send([b"hello"])
        router.receive()
        for frames in ([b"nobody", b"header", b"meta"], [b"nobody", HUGE, HUGE]):
            with pytest.raises(zmq.ZMQError) as caught:
                router.send(frames)
            assert caught.value.errno == zmq.EHOSTUNREACH
        router.send([b"me", b"header", HUGE])
        assert content(dealer.receive()) == [b"header", HUGE]

    def test_thousands_of_messages_of_all_sizes(self, ports: tuple[Port, Port]) -> None:
        router, dealer = ports
        draw = random.Random(2)
        sizes = [0, 1, 100, 5000, LARGE - 1, LARGE, LARGE + 1]
        for _ in range(300):
            frames = [os.urandom(draw.choice(sizes)) for _ in range(draw.randrange(1, 6))]
            dealer.send(frames)
            echo = router.receive()
            assert echo[0] == b"me"
            router.send(echo)
            assert content(dealer.receive()) == frames

    def test_what_has_arrived_is_received_in_its_order_and_not_too_much_at_a_time(
        self, ports: tuple[Port, Port]
    ) -> None:
        router, dealer = ports
        for number in range(200):
            dealer.send([b"%d" % number])
        received: list[bytes] = []
        while len(received) < 200:
            some = router.receive_some(7)
            assert 1 <= len(some) <= 7
            received += [frames[1] for frames in some]
        assert [int(frame) for frame in received] == list(range(200))

    def test_where_nothing_has_there_is_an_error_not_an_empty_list(
        self, ports: tuple[Port, Port]
    ) -> None:
        ports[0].socket.set(zmq.RCVTIMEO, 1)
        with pytest.raises(zmq.Again):
            ports[0].receive_some(7)
        ports[0].socket.set(zmq.RCVTIMEO, -1)
        with pytest.raises(zmq.Again):
            ports[0].receive(zmq.NOBLOCK)

    def test_small_messages_that_are_said_together_are_one(self, ports: tuple[Port, Port]) -> None:
        router, dealer = ports
        payloads = {7: [b"a"], 9: [b"b"], 11: [HUGE]}
        said = [Reply(id, 1, None, None, 5, payload) for id, payload in payloads.items()]
        assert dealer.say(said, encoder()) == []
        heard = [read(buffers(router.receive()), 1, TO_CLIENT) for _ in range(2)]
        assert [len(some) for some in heard] == [2, 1]
        found = [reply for some in heard for reply in some if isinstance(reply, Reply)]
        assert {reply.first: content(list(reply.payload)) for reply in found} == payloads

    @pytest.mark.parametrize("ports", ["ipc", "tcp"], indirect=True)
    def test_memory_that_is_said_is_tracked(self, ports: tuple[Port, Port]) -> None:
        router, dealer = ports
        said = [
            Reply(7, 1, None, None, 5, payload)
            for payload in ([b"first", memoryview(HUGE)], [b"second"])
        ]
        trackers = dealer.say(said, encoder())
        heard = [reply for _ in range(2) for reply in read(buffers(router.receive()), 1, TO_CLIENT)]
        payloads = [content(list(reply.payload)) for reply in heard if isinstance(reply, Reply)]
        assert payloads == [[b"first", HUGE], [b"second"]]
        assert len(trackers) == 1
        trackers[0].wait(PATIENCE)
