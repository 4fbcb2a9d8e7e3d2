"""Descriptors that are kept for this machine,
and a socket that takes no new connections for a while.
"""

from __future__ import annotations

import os
import socket

import pytest

from zflow.devices.sockets import listener
from zflow.devices.sockets.listener import Listener


def test_what_is_kept_grows_with_what_there_is() -> None:
    assert listener.reserve(150) == listener.LEAST_RESERVE
    assert listener.reserve(16_000) == 1000
    assert (
        listener.room(4096, replicas=4, doors=1)
        == 4096 - 256 - listener.OWN - 4 * listener.PER_REPLICA
    )
    assert listener.room(4096, replicas=4, doors=2) == listener.room(4096, replicas=4, doors=1) // 2
    assert listener.room(100, replicas=4, doors=1) == 0


def test_used_ones_are_counted() -> None:
    before = listener.used()
    pipe = os.pipe()
    assert (
        listener.used() == before + 2 <= listener.descriptors() <= listener.descriptors(hard=True)
    )
    for descriptor in pipe:
        os.close(descriptor)


def test_while_it_rests_new_connections_wait_and_open_ones_go_on() -> None:
    listening = Listener()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as early,
    ):
        accepted, _ = server.accept()
        listening.bound(server.fileno())
        listening.rest(True)
        assert listening.resting
        late = socket.socket()
        late.setblocking(False)
        late.connect_ex(server.getsockname())
        server.settimeout(0.3)
        try:
            server.accept()
        except TimeoutError:
            pass
        else:
            raise AssertionError("it was accepted")
        early.sendall(b"a")
        assert accepted.recv(1) == b"a"
        listening.rest(False)
        server.settimeout(30)
        server.accept()[0].close()
        for one in (accepted, late):
            one.close()
    listening.close()
    assert server.fileno() == -1


def test_it_says_that_it_rests_only_where_the_system_can_do_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listening = Listener()
    listening.rest(True)
    assert not listening.resting, "it does not listen"
    monkeypatch.setattr(listener, "_ATTACH_FILTER", 0x7FFF)
    with socket.create_server(("127.0.0.1", 0)) as server:
        listening.bound(server.fileno())
        listening.rest(True)
        assert not listening.resting
    listening.close()
