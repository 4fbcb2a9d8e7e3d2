"""Who gets in over TCP and who does not, with real sockets."""

from __future__ import annotations

import socket as sockets
from collections.abc import Iterator
from contextlib import suppress

import pytest
import zmq
from helpers import wait_for

from zflow.devices.sockets import listener, zap
from zflow.devices.sockets.gate import Gate
from zflow.devices.sockets.zap import CLIENTS, REPLICAS

SERVER, CLIENT, REPLICA, STRANGER, OTHER = (zmq.curve_keypair() for _ in range(5))
SECRETS = [secret for _, secret in (SERVER, CLIENT, REPLICA, STRANGER, OTHER)]
LISTS = {CLIENTS: frozenset({CLIENT[0]}), REPLICAS: frozenset({REPLICA[0]})}
CURVE = {CLIENTS: SERVER[1], REPLICAS: SERVER[1]}
PLAIN = {CLIENTS: None, REPLICAS: None}


class Served:
    """A broker's two doors in this thread: `turn` takes what has come, and answers it."""

    def __init__(self, secrets, limit=100):
        self.context = zmq.Context()
        self.peers = zmq.Context()
        self.lists = LISTS if any(secrets.values()) else {}
        self.gate = Gate(self.context, lambda: self.lists, {CLIENTS: limit, REPLICAS: limit})
        self.routers, self.addresses = {}, {}
        self.got = []  # domain, text and the key whose message it is
        for domain, secret in secrets.items():
            router = self.context.socket(zmq.ROUTER)
            router.linger = 0
            router.set(zmq.IPV6, 1)
            router.set(zmq.BACKLOG, 4096)
            self.gate.guard(router, domain, secret)
            port = router.bind_to_random_port("tcp://127.0.0.1")
            self.routers[domain], self.addresses[domain] = router, f"tcp://127.0.0.1:{port}"

    def turn(self):
        watched = [*self.gate.sockets, *self.routers.values()]
        zmq.zmq_poll([(socket, zmq.POLLIN) for socket in watched], 20)
        self.gate.serve()
        for domain, router in self.routers.items():
            while router.poll(0):
                identity, text = router.recv_multipart(copy=False)
                self.got.append((domain, text.bytes, zap.user_of(text)))
                router.send_multipart([identity.bytes, text.bytes])

    def until(self, condition, what=""):
        def checked():
            self.turn()
            return condition()

        return wait_for(checked, what=what)

    def connect(self, pair, domain=CLIENTS, text=b"hello", server=SERVER[0], watched=False):
        """A peer that connects and speaks; with `watched`, also its monitor."""
        dealer = self.peers.socket(zmq.DEALER)
        dealer.linger = 0
        if pair:
            zap.secure(dealer, server, *pair)
        monitor = zap.watch(dealer) if watched else None
        dealer.sndtimeo = 0
        dealer.connect(self.addresses[domain])
        # Refused already: without keys on both sides libzmq decides in its own thread.
        with suppress(zmq.Again):
            dealer.send(text)
        return (dealer, monitor) if watched else dealer

    def serves(self, pair=CLIENT, domain=CLIENTS):
        """Somebody who may is served from connecting to the answer."""
        with self.connect(pair, domain, b"served") as dealer:
            self.until(lambda: dealer.poll(0), "who may connect is served")
            return dealer.recv() == b"served"

    def close(self):
        self.peers.destroy(linger=0)
        self.gate.close()
        self.context.destroy(linger=0)


@pytest.fixture
def served(caplog) -> Iterator[Served]:
    yield from _served(CURVE)
    logged = [record.getMessage() for record in caplog.get_records("call")]
    assert not [line for line in logged if any(secret.decode() in line for secret in SECRETS)]


@pytest.fixture
def plain() -> Iterator[Served]:
    yield from _served(PLAIN)


def _served(secrets):
    served = Served(secrets, limit=2)
    yield served
    served.close()


def warned(caplog, *words):
    return [text for text in caplog.messages if all(word in text for word in words)]


# -- keys, with real sockets -----------------------------------------------------------------------


def test_an_admin_is_a_client_whose_connection_can_be_told_from_others(served):
    admin = zmq.curve_keypair()
    served.lists = {**served.lists, zap.ADMINS: frozenset({admin[0]})}
    assert served.serves(admin, CLIENTS)
    assert served.serves(CLIENT, CLIENTS)
    assert [user for _, _, user in served.got] == [admin[0], CLIENT[0]]
    assert zap.user_of(zmq.Frame(b"of no connection")) == b""


def test_an_admins_key_lets_no_replica_in(served, caplog):
    admin = zmq.curve_keypair()
    served.lists = {**served.lists, zap.ADMINS: frozenset({admin[0]})}
    with served.connect(admin, REPLICAS):
        served.until(
            lambda: warned(caplog, "its key is an admin's, which does not let it in as a replica")
        )


def test_who_has_a_key_on_the_list_is_served_and_known_by_it(served):
    assert served.serves(CLIENT, CLIENTS)
    assert served.serves(REPLICA, REPLICAS)
    assert served.got == [(CLIENTS, b"served", CLIENT[0]), (REPLICAS, b"served", REPLICA[0])]


@pytest.mark.parametrize(
    ("pair", "domain", "reason"),
    [
        (STRANGER, CLIENTS, "refused a client from 127.0.0.1: its key is not on the list"),
        (STRANGER, REPLICAS, "refused a replica from 127.0.0.1: its key is not on the list"),
        (CLIENT, REPLICAS, "its key is a client's, which does not let it in as a replica"),
        (REPLICA, CLIENTS, "its key is a replica's, which does not let it in as a client"),
    ],
)
def test_another_key_is_refused_and_logged_while_others_are_served(
    served, caplog, pair, domain, reason
):
    dealer, monitor = served.connect(pair, domain, watched=True)
    served.until(
        lambda: warned(caplog, reason, "127.0.0.1", pair[0].decode()), "the refusal is logged"
    )
    assert (
        wait_for(lambda: zap.turned_away(monitor))
        == "it does not know this key, or has too many connections"
    )
    assert served.serves()
    assert {text for _, text, _ in served.got} == {b"served"}
    assert not dealer.poll(0)
    served.until(lambda: served.gate.connections(domain) == 0, "the refused connection is closed")


def test_no_key_is_refused_and_logged(served, caplog):
    dealer, monitor = served.connect(None, watched=True)
    served.until(lambda: warned(caplog, "refused a client from"), "the refusal is logged")
    assert wait_for(lambda: zap.turned_away(monitor))
    assert served.serves()
    assert {text for _, text, _ in served.got} == {b"served"}
    assert not dealer.poll(0)


def test_no_key_is_logged_with_the_address(served, caplog):
    port = int(served.addresses[REPLICAS].rpartition(":")[2])
    with sockets.create_connection(("127.0.0.1", port)) as raw:
        served.until(lambda: served.gate.connections(REPLICAS) == 1, "the connection is counted")
        raw.sendall(
            b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
        )
        served.until(
            lambda: warned(caplog, "refused a replica from 127.0.0.1: it has no key"),
            "it is logged",
        )
    served.until(lambda: served.gate.connections(REPLICAS) == 0, "the connection is closed")


def test_who_expects_another_server_says_nothing_to_this_one(served, caplog):
    dealer, monitor = served.connect(CLIENT, server=OTHER[0], watched=True)
    served.until(
        lambda: warned(caplog, "refused a client from", "server's key"), "the refusal is logged"
    )
    assert "may not be those of that Flow" in wait_for(lambda: zap.turned_away(monitor))
    assert served.serves()
    assert {text for _, text, _ in served.got} == {b"served"}
    assert not dealer.poll(0)


def test_a_public_key_without_its_secret_is_of_no_use(served, caplog):
    dealer = served.connect((CLIENT[0], STRANGER[1]))
    served.until(
        lambda: warned(caplog, "refused a client from", "not the secret of its own"),
        "the refusal is logged",
    )
    assert served.serves()
    assert {text for _, text, _ in served.got} == {b"served"}
    assert not dealer.poll(0)


def test_a_key_taken_off_the_list_connects_no_more_but_what_is_open_stays(served, caplog):
    with served.connect(CLIENT) as before:
        served.until(lambda: before.poll(0))
        before.recv()
        served.lists = {**served.lists, CLIENTS: frozenset()}
        after = served.connect(CLIENT, text=b"after")
        served.until(lambda: warned(caplog, "its key is not on the list"), "the refusal is logged")
        before.send(b"still here")
        served.until(lambda: before.poll(0), "the open connection is served")
        assert [text for _, text, _ in served.got] == [b"hello", b"still here"]
    assert not after.poll(0)


def test_a_user_name_and_a_password_are_no_key(served, caplog):
    dealer = served.peers.socket(zmq.DEALER)
    dealer.linger = 0
    dealer.plain_username, dealer.plain_password = b"client", b"client"
    dealer.sndtimeo = 0
    dealer.connect(served.addresses[CLIENTS])
    with suppress(zmq.Again):  # as in `connect`
        dealer.send(b"hello")
    served.until(lambda: warned(caplog, "refused a client from"), "the refusal is logged")
    assert served.serves()
    assert {text for _, text, _ in served.got} == {b"served"}


def test_who_says_nothing_is_hung_up_on(caplog, monkeypatch):
    monkeypatch.setattr(zap, "HANDSHAKE_MS", 200)
    served = Served(CURVE)
    try:
        port = int(served.addresses[CLIENTS].rpartition(":")[2])
        with sockets.create_connection(("127.0.0.1", port)) as silent:
            served.until(
                lambda: warned(caplog, "from 127.0.0.1: it did not say who it is"), "it is logged"
            )
            silent.settimeout(10)
            while silent.recv(64):  # the server's greeting, then the end
                pass
        assert served.gate.connections(CLIENTS) == 0
    finally:
        served.close()


def test_a_guarded_socket_without_a_gate_takes_nobody_in():
    with zmq.Context() as context:
        router = context.socket(zmq.ROUTER)
        zap.guard(router, CLIENTS, SERVER[1])
        port = router.bind_to_random_port("tcp://127.0.0.1")
        dealer = context.socket(zmq.DEALER)
        zap.secure(dealer, SERVER[0], *CLIENT)
        monitor = zap.watch(dealer)
        dealer.connect(f"tcp://127.0.0.1:{port}")
        dealer.send(b"hello")
        wait_for(lambda: zap.turned_away(monitor))
        assert not router.poll(0)
        zap.unwatch(dealer, monitor)
        dealer.close(0)
        router.close(0)


# -- without keys, and limits ----------------------------------------------------------------------


def test_without_keys_plain_connections_are_served_and_keys_are_not(plain):
    assert plain.serves(None)
    dealer, monitor = plain.connect(CLIENT, text=b"with a key", watched=True)
    assert "curve" in plain.until(lambda: zap.turned_away(monitor), "the client learns of it")
    assert plain.serves(None)
    assert [text for _, text, _ in plain.got] == [b"served", b"served"]
    assert not dealer.poll(0)


def test_sockets_that_are_not_guarded_are_served_beside_the_gate(served, tmp_path):
    router = served.routers["local"] = served.context.socket(zmq.ROUTER)
    served.addresses["local"] = f"ipc://{tmp_path}/front"
    router.bind(served.addresses["local"])
    assert served.serves(None, "local")


@pytest.mark.parametrize("secrets", [CURVE, PLAIN], ids=["curve", "plain"])
def test_connections_above_the_limit_are_refused_until_others_end(secrets, caplog):
    served = Served(secrets, limit=2)
    pair = CLIENT if secrets is CURVE else None
    try:
        first, second = served.connect(pair), served.connect(pair)
        served.until(lambda: first.poll(0) and second.poll(0), "two are served")
        third, monitor = served.connect(pair, text=b"third", watched=True)
        served.until(
            lambda: warned(
                caplog, "refused a client from 127.0.0.1: too many connections", "limit is 2"
            ),
            "it is logged",
        )
        assert "too many connections" in wait_for(lambda: zap.turned_away(monitor))
        served.until(lambda: served.gate.connections(CLIENTS) == 2)
        assert served.serves(REPLICA if pair else None, REPLICAS), (
            "each domain has a limit of its own"
        )
        first.close()
        served.until(lambda: served.gate.connections(CLIENTS) == 1)
        assert served.serves(pair)
        assert not third.poll(0)
    finally:
        served.close()


@pytest.mark.parametrize("can_rest", [True, False])
def test_that_nobody_can_connect_is_logged_where_it_is_so(caplog, monkeypatch, can_rest):
    monkeypatch.setattr(listener, "HALF_OPEN", 0)
    if not can_rest:
        monkeypatch.setattr(listener, "_ATTACH_FILTER", 0x7FFF)  # as where there is no such option
    served = Served(PLAIN, limit=2)
    try:
        first, second = served.connect(None), served.connect(None)
        served.until(lambda: first.poll(0) and second.poll(0), "both are served")
        assert (
            bool(warned(caplog, "a client cannot connect before others have gone: 2 connections"))
            is can_rest
        )
    finally:
        served.close()


def test_many_connections_that_nobody_reads_of_hold_nothing_up_and_are_counted_to_the_end(plain):
    port = int(plain.addresses[CLIENTS].rpartition(":")[2])
    # 3 events each, where a pipe of libzmq's takes 2000 and then holds up the thread that tells.
    for _ in range(1500):
        sockets.create_connection(("127.0.0.1", port)).close()
    assert plain.serves(None)
    plain.until(lambda: plain.gate.connections(CLIENTS) == 0, "all are counted as ended")


def test_a_list_that_cannot_be_read_just_then_costs_nobody_his_connection(caplog, monkeypatch):
    """Without an answer, the handler could not be asked about anybody any more."""
    monkeypatch.setattr(zap, "HANDSHAKE_MS", 200)  # after which it tries again
    fails = [True]

    def lists():
        if fails:
            raise OSError("no descriptor left")
        return {}

    context = zmq.Context()
    gate = Gate(context, lists, {CLIENTS: 10})
    server, client = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    for each in (server, client):
        each.set(zmq.LINGER, 0)
    client.set(zmq.RECONNECT_IVL, 10)
    gate.guard(server, CLIENTS)
    port = server.bind_to_random_port("tcp://127.0.0.1")
    client.connect(f"tcp://127.0.0.1:{port}")
    client.send(b"here")
    wait_for(
        lambda: (
            gate.serve(),
            "failed to judge a connection, which may try again" in caplog.messages,
        )[1]
    )
    fails.clear()
    wait_for(lambda: (gate.serve(), server.poll(10))[1])
    gate.close()
    context.destroy(linger=0)
