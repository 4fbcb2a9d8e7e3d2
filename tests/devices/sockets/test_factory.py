"""Sockets as the broker makes them: where they listen, who is greeted,
and what becomes of too much.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import zmq
from helpers import PATIENCE, in_background, wait_for

from zflow.devices.protocol.messages import MAX_HEADER, MEMBER, STRANGER
from zflow.devices.sockets.factory import bind, dealer, listen

LOOPBACK = "tcp://127.0.0.1:*"
MAX_BYTES = 100_000
MANY = 10_000  # messages; of these ZeroMQ keeps 1000 at each end, if nothing else is said
Context = Any  # of zmq
Socket = Any


@pytest.fixture
def context() -> Iterator[Context]:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


def router(
    context: Context, address: str = LOOPBACK, max_bytes: int | None = None
) -> tuple[Socket, str]:
    """A ROUTER that listens, and where."""
    socket, (address,) = listen(context, zmq.ROUTER, [address], max_bytes)
    return socket, address


def again(context: Context, address: str) -> Socket:
    """Another one where one has listened before, whose end may take a while."""

    def listening() -> Socket | None:
        try:
            return router(context, address)[0]
        except zmq.ZMQError:
            return None

    return wait_for(listening, what=f"{address} is free")


def joined(listener: Socket, address: str, kind: bytes = STRANGER) -> Socket:
    """A DEALER that has connected and was greeted. Whoever sends over it keeps it:
    as garbage it would drop that.
    """
    peer = dealer(listener.context, kind)
    peer.connect(address)
    assert greeting(peer, listener) == [b""]
    return peer


def greeting(peer: Socket, listener: Socket) -> list[bytes]:
    """The next message; who listens takes note of a connection only when it looks for messages."""

    def come() -> int:
        listener.poll(0)
        return int(peer.poll(1))

    wait_for(come, what="there is a greeting")
    return heard(peer)


def heard(socket: Socket) -> list[bytes]:
    """The next message."""
    assert socket.poll(int(PATIENCE * 1000)), "nothing came"
    return list(socket.recv_multipart())


class TestListen:
    def test_the_address_says_which_port_was_taken(self, context: Context) -> None:
        socket, address = router(context)
        port = int(address.rpartition(":")[2])
        peer = joined(socket, f"tcp://127.0.0.1:{port}")
        peer.send(b"hello")
        assert heard(socket)[1] == b"hello"

    def test_one_socket_may_have_several_addresses(self, context: Context) -> None:
        ipc = "inproc://here"
        socket, addresses = listen(context, zmq.ROUTER, [LOOPBACK, ipc, LOOPBACK])
        assert len(set(addresses)) == 3
        assert addresses[1] == ipc
        for address in addresses:
            peer = joined(socket, address)
            peer.send(address.encode())
            assert heard(socket)[1] == address.encode()

    def test_others_can_be_added_later(self, context: Context) -> None:
        socket, addresses = listen(context, zmq.ROUTER, [])
        assert addresses == []
        (address,) = bind(socket, [LOOPBACK])
        peer = joined(socket, address)
        peer.send(b"hello")
        assert heard(socket)[1] == b"hello"

    def test_one_that_is_taken_is_an_error_that_names_it(self, context: Context) -> None:
        _, address = router(context)
        with pytest.raises(zmq.ZMQError, match=f": {re.escape(address)}$") as caught:
            router(context, address)
        assert caught.value.errno == zmq.EADDRINUSE

    def test_so_is_one_that_cannot_be(self, context: Context) -> None:
        address = "ipc:///no/such/folder/socket"
        with pytest.raises(zmq.ZMQError, match=f": {re.escape(address)}$"):
            router(context, address)

    def test_it_may_be_of_either_version_of_the_internet_protocol(self, context: Context) -> None:
        try:
            socket, address = router(context, "tcp://[::]:*")
        except zmq.ZMQError as error:
            pytest.skip(f"there is no IPv6 here: {error}")
        port = address.rpartition(":")[2]
        for host in ("[::1]", "127.0.0.1"):
            peer = joined(socket, f"tcp://{host}:{port}")
            peer.send(host.encode())
            assert heard(socket)[1] == host.encode()

    def test_other_kinds_of_sockets_listen_as_well(self, context: Context) -> None:
        collector, (address,) = listen(context, zmq.PULL, [LOOPBACK])
        push = context.socket(zmq.PUSH)
        push.connect(address)
        push.send(b"done")
        assert heard(collector) == [b"done"]
        fan, (address,) = listen(context, zmq.XPUB, [LOOPBACK])
        sub = context.socket(zmq.SUB)
        sub.connect(address)
        sub.subscribe(b"topic")
        assert heard(fan) == [b"\x01topic"]
        fan.send(b"topic: news")
        assert heard(sub) == [b"topic: news"]


class TestGreeting:
    def test_each_connection_is_greeted_with_an_empty_frame(self, context: Context) -> None:
        socket, address = router(context)
        for _ in range(3):
            assert joined(socket, address).poll(0) == 0  # and with nothing else

    def test_so_is_one_that_connects_anew_and_it_is_known_as_the_same(
        self, context: Context
    ) -> None:
        socket, address = router(context)
        peer = joined(socket, address)
        peer.send(b"to the first")
        name, _ = heard(socket)
        socket.close(linger=0)
        socket = again(context, address)
        assert greeting(peer, socket) == [b""]
        peer.send(b"to the second")
        assert heard(socket) == [name, b"to the second"]

    def test_who_comes_back_before_its_old_connection_is_gone_takes_its_place(
        self, context: Context
    ) -> None:
        socket, address = router(context)
        peers = [dealer(context), dealer(context)]
        peers[1].set(zmq.ROUTING_ID, peers[0].get(zmq.ROUTING_ID))
        for peer in peers:
            peer.connect(address)
            assert greeting(peer, socket) == [b""]
            peer.send(b"hello")
            name, _ = heard(socket)
        socket.send_multipart([name, b"welcome"])
        assert heard(peers[1]) == [b"welcome"]


class TestDealer:
    @pytest.mark.parametrize("kind", [STRANGER, MEMBER])
    def test_its_name_says_of_which_kind_it_is_and_nothing_else_of_it_can_be_guessed(
        self, context: Context, kind: bytes
    ) -> None:
        socket, address = router(context)
        names = []
        for _ in range(4):
            peer = joined(socket, address, kind)
            peer.send(b"hello")
            names.append(heard(socket)[0])
        assert {(len(name), name[:1]) for name in names} == {(16, kind)}
        assert len({name[1:8] for name in names}) == len({name[8:] for name in names}) == 4

    def test_nobody_is_a_member_who_does_not_say_so(self, context: Context) -> None:
        assert dealer(context).get(zmq.ROUTING_ID)[:1] == STRANGER

    def test_it_may_connect_before_anybody_listens(self, context: Context) -> None:
        socket, address = router(context)
        socket.close(linger=0)
        peer = dealer(context)
        peer.connect(address)
        assert greeting(peer, again(context, address)) == [b""]

    def test_what_nobody_took_does_not_hold_up_its_end(self) -> None:
        context = zmq.Context()
        peer = dealer(context)
        peer.connect("tcp://127.0.0.1:9")  # where nobody listens
        peer.send(b"hello")
        peer.close()
        in_background(context.term).result(PATIENCE)


class TestMuch:
    def test_nothing_is_dropped_however_much_a_peer_lets_lie(self, context: Context) -> None:
        socket, address = router(context)
        peer = joined(socket, address)
        peer.send(b"hello")
        name, _ = heard(socket)
        for number in range(MANY):
            socket.send_multipart([name, b"%d" % number])
        assert [int(heard(peer)[0]) for _ in range(MANY)] == list(range(MANY))

    def test_a_dealer_never_waits_with_what_it_sends(self, context: Context) -> None:
        peer = dealer(context)
        peer.connect("tcp://127.0.0.1:9")
        for _ in range(MANY):
            peer.send(b"hello", zmq.NOBLOCK)  # would raise

    def test_a_frame_of_the_largest_size_arrives(self, context: Context) -> None:
        socket, address = router(context, max_bytes=MAX_BYTES)
        peer = joined(socket, address)
        peer.send_multipart([b"header", bytes(MAX_BYTES)])
        assert heard(socket)[1:] == [b"header", bytes(MAX_BYTES)]

    def test_one_clearly_above_it_cuts_the_connection_and_who_sent_it_is_greeted_anew(
        self, context: Context
    ) -> None:
        socket, address = router(context, max_bytes=MAX_BYTES)
        peer = joined(socket, address)
        peer.send_multipart([b"header", bytes(MAX_BYTES + MAX_HEADER + 1)])
        assert greeting(peer, socket) == [b""]
        peer.send(b"small")
        assert heard(socket)[1:] == [b"small"]

    def test_without_a_limit_there_is_none(self, context: Context) -> None:
        socket, address = router(context)
        peer = joined(socket, address)
        peer.send(bytes(20 * MAX_BYTES))
        assert heard(socket)[1:] == [bytes(20 * MAX_BYTES)]
