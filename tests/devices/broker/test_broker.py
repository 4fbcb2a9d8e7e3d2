"""A broker in a thread, between clients, replicas and a process manager that all speak by hand."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import Pipe
from typing import Any

import msgpack
import pytest
import zmq
from helpers import PATIENCE, free_port, wait_for
from peers import PAYLOAD, dealer, said

from zflow.devices.broker import failures
from zflow.devices.broker.broker import Broker
from zflow.devices.broker.settings import Settings
from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import (
    Accepted,
    Cancel,
    Control,
    Controlled,
    Done,
    Error,
    Failed,
    Fanout,
    Hello,
    Leave,
    Message,
    Ready,
    Reply,
    Request,
    Task,
    Welcome,
)
from zflow.devices.routing.pool import Limits
from zflow.devices.routing.walk import Node

Peer = zmq.Socket[bytes]


class Running:
    """A broker that serves, and the manager's end of its line."""

    def __init__(
        self, folder: str, nodes: Sequence[Node], retries: int, limits: Limits, **changes: Any
    ) -> None:
        self.manager, self._control = Pipe()
        self.places = {
            name: f"ipc://{folder}/{name}" for name in ("front", "back", "fan", "collector")
        }
        each = len(nodes)
        settings = Settings(
            nodes,
            [retries] * each,
            [limits] * each,
            public="tcp://127.0.0.1:*",
            max_message_bytes=10**6,
            **{**self.places, **changes},
        )
        broker = Broker(settings, self._control)
        self._thread = threading.Thread(target=broker.run)
        self._thread.start()
        self._peers = ExitStack()

    def tell(self, *message: Any) -> None:
        """Be the manager."""
        self.manager.send_bytes(msgpack.packb(message))

    def heard(self, word: str) -> list[Any]:
        """What the manager is told next of this; other things may come before."""
        while True:
            assert self.manager.poll(PATIENCE), f"not told {word}"
            what, *about = msgpack.unpackb(self.manager.recv_bytes())
            if what == word:
                return about

    def client(self, identity: bytes = b"client") -> Peer:
        return self._peers.enter_context(dealer(self.places["front"], identity))

    def replica(self, identity: bytes = b"work/rep-0#41", **changes: Any) -> Peer:
        """A replica that is in its pool."""
        ready = Ready(identity.decode().partition("/")[0], ["/a"], 1, 0, 0, {})
        replica = self._peers.enter_context(dealer(self.places["back"], identity))
        say(replica, ready._replace(**changes))
        assert hears(replica) == Accepted(0)
        return replica

    def ended(self) -> bool:
        self._thread.join(PATIENCE)
        return not self._thread.is_alive()

    def close(self) -> None:
        self._peers.close()
        try:
            self.tell("stop")
        except OSError:  # it has ended
            pass
        assert self.ended()
        self.manager.close()
        self._control.close()


@contextmanager
def running(
    *nodes: Node, retries: int = 3, limits: Limits | None = None, **changes: Any
) -> Iterator[Running]:
    with tempfile.TemporaryDirectory() as folder:
        broker = Running(folder, nodes or [Node("work")], retries, limits or Limits(), **changes)
        try:
            yield broker
        finally:
            broker.close()


@pytest.fixture
def broker() -> Iterator[Running]:
    with running() as broker:
        yield broker


def say(peer: Peer, message: Message) -> None:
    peer.send_multipart(said(message))


def hears(peer: Peer) -> Message:
    """What a client or a replica hears next, where it is a single thing."""
    (heard,) = bundles.read(peer.recv_multipart(), 0, {**messages.TO_CLIENT, **messages.TO_REPLICA})
    return heard


def ask(client: Peer, first: int = 7, *payload: bytes, **changes: Any) -> None:
    say(
        client,
        Request(first, "/a", None, None, 0, False, [1], payload or [PAYLOAD])._replace(**changes),
    )


def given(replica: Peer) -> int:
    """The number of the task that a replica is given next."""
    return given_all(replica).first


def given_all(replica: Peer) -> Task:
    """What a replica is given next."""
    task = hears(replica)
    assert isinstance(task, Task)
    return task


def do(replica: Peer, task: int, payload: bytes = b"done") -> None:
    say(replica, Done(task, 100, [1], [payload]))


def answer_of(client: Peer) -> Reply:
    """What a client is answered next."""
    reply = hears(client)
    assert isinstance(reply, Reply)
    return reply


def error_of(client: Peer) -> tuple[int, str, str]:
    """Which request has failed, the type of the error, and its text."""
    failed = hears(client)
    assert isinstance(failed, Failed)
    (error,) = failed.payload
    told = msgpack.unpackb(error)
    return failed.first, told["type"], told["message"]


def info(client: Peer) -> dict[str, Any]:
    say(client, Hello(1))
    welcome = hears(client)
    assert isinstance(welcome, Welcome)
    return welcome.info


# -- beginning and end -----------------------------------------------------------------------------


def test_it_tells_where_it_listens_and_ends_when_it_is_told_to(broker: Running) -> None:
    (front, public), remote = broker.heard("bound")
    assert front == broker.places["front"]
    assert public.startswith("tcp://")
    assert remote == []
    broker.tell("stop")
    assert broker.ended()


def test_the_end_of_the_manager_is_its_end(broker: Running) -> None:
    broker.manager.close()
    assert broker.ended()


def test_what_the_flow_says_about_itself() -> None:
    with running(
        Node("work"), Node("join", process=False), instance="one", epoch=2, version="9.9"
    ) as broker:
        broker.replica(slots=3, batching={"/a": [32, 1500]})
        told = info(broker.client())
    pid = os.getpid()
    own = {
        "version": "9.9",
        "pid": pid,
        "instance": "one",
        "epoch": 2,
        "closing": False,
        "max_message_bytes": 10**6,
    }
    assert {name: told[name] for name in own} == own
    assert (told["requests"], told["malformed"]) == (0, {})
    assert list(told["executors"]) == ["work"], "what has no replicas is not shown"
    work = told["executors"]["work"]
    assert (work["replicas"], work["slots"], work["endpoints"]) == (["work/rep-0"], 3, ["/a"])
    assert (work["batching"], work["crashing"]) == ({"/a": [32, 1.5]}, [])


def test_a_flow_that_closes_takes_no_more_and_is_drained_when_all_is_answered(
    broker: Running,
) -> None:
    client, replica = broker.client(), broker.replica()
    ask(client, 1)
    task = given(replica)
    broker.tell("drain")
    wait_for(lambda: info(client)["closing"])
    ask(client, 2)
    assert error_of(client)[:2] == (2, "FlowNotRunning")
    assert not any(msgpack.unpackb(said)[0] == "drained" for said in iter_told(broker))
    do(replica, task)
    assert answer_of(client).first == 1
    broker.heard("drained")


def iter_told(broker: Running) -> Iterator[bytes]:
    """What the manager has been told so far."""
    while broker.manager.poll():
        yield broker.manager.recv_bytes()


def test_a_flow_without_requests_is_drained_at_once(broker: Running) -> None:
    broker.tell("drain")
    broker.heard("drained")


# -- requests --------------------------------------------------------------------------------------


def test_a_request_goes_to_a_replica_and_its_answer_back(broker: Running) -> None:
    client, replica = broker.client(), broker.replica()
    ask(client, 7, b"first", b"second")
    task = given_all(replica)
    assert task == Task(task.first, 1, "/a", None, 0, [b"first", b"second"])
    say(replica, Done(task.first, 100, [1], [b"third", b"fourth"]))
    reply = answer_of(client)
    assert reply == Reply(7, 1, None, None, reply.took, [b"third", b"fourth"])
    assert reply.took >= 0


def test_requests_wait_for_a_replica_to_come(broker: Running) -> None:
    client = broker.client()
    ask(client)
    wait_for(lambda: info(client)["executors"]["work"]["queued"] == 1)
    replica = broker.replica()
    do(replica, given(replica))
    assert answer_of(client).first == 7


def test_what_one_executor_makes_is_what_the_next_one_gets() -> None:
    with running(Node("one"), Node("two", ("one",))) as broker:
        client, one, two = (
            broker.client(),
            broker.replica(b"one/rep-0#1"),
            broker.replica(b"two/rep-0#2"),
        )
        ask(client)
        do(one, given(one), b"from one")
        task = given_all(two)
        assert task.payload == [b"from one"]
        do(two, task.first, b"from two")
        assert answer_of(client).payload == [b"from two"]


def test_where_branches_meet_the_parts_of_both_are_given() -> None:
    with running(Node("left"), Node("right"), Node("both", ("left", "right"))) as broker:
        client = broker.client()
        left, right, both = (
            broker.replica(b"%s/rep-0#1" % name) for name in (b"left", b"right", b"both")
        )
        ask(client)
        do(right, given(right), b"r")
        do(left, given(left), b"l")
        task = given_all(both)
        assert (task.parts, task.payload) == ([["left", [-1]], ["right", [-1]]], [b"lr"])
        do(both, task.first)
        assert answer_of(client).first == 7


def test_an_endpoint_that_nobody_binds_comes_back_as_it_went_in(
    broker: Running, caplog: pytest.LogCaptureFixture
) -> None:
    client = broker.client()
    broker.replica()
    assert broker.heard("endpoints") == ["work", ["/a"]]
    with caplog.at_level(logging.WARNING, "zflow.broker"):
        for id in (1, 2):
            ask(client, id, b"same", endpoint="/nobody")
            reply = answer_of(client)
            assert (reply.first, reply.payload) == (id, [b"same"])
    words = "no Executor asked for binds '/nobody': its requests come back as they went in"
    assert caplog.messages == [words], "said once"


def test_a_replicas_error_is_the_clients(broker: Running) -> None:
    client, replica = broker.client(), broker.replica()
    ask(client)
    say(replica, Error([given(replica)], 100, [failures.error("ExecutorError", "broken")]))
    assert error_of(client) == (7, "ExecutorError", "broken")
    assert info(client)["requests"] == 0


def test_a_request_out_of_time_says_where_it_was(broker: Running) -> None:
    client = broker.client()
    ask(client, timeout=30)
    id, kind, message = error_of(client)
    assert (id, kind) == (7, "DeadlineExceeded")
    assert message.startswith(
        "not answered within timeout=30 ms; it was queued for Executor 'work' for "
    )


def test_a_cancelled_request_is_forgotten(broker: Running) -> None:
    client, replica = broker.client(), broker.replica()
    for id in (1, 2):
        ask(client, id)
    task = given(replica)
    say(client, Cancel(2))
    say(client, Cancel(1))
    assert info(client)["requests"] == 0
    do(replica, task)
    ask(client, 3)
    do(replica, given(replica))
    assert answer_of(client).first == 3, "nothing else is answered"


def test_more_than_may_wait_are_refused() -> None:
    with running(limits=Limits(queue=1)) as broker:
        client = broker.client()
        ask(client, 1)
        ask(client, 2, endpoint="/b")
        assert error_of(client)[:2] == (2, "Overloaded")


# -- replicas --------------------------------------------------------------------------------------


def test_what_a_replica_that_died_had_is_given_to_another(broker: Running) -> None:
    client, first = broker.client(), broker.replica()
    ask(client)
    task = given(first)
    broker.tell("crash", b"work/rep-0#41", "SIGKILL")
    second = broker.replica(b"work/rep-1#42")
    assert given(second) == task
    do(second, task)
    assert answer_of(client).first == 7
    assert info(client)["executors"]["work"]["replicas"] == ["work/rep-1"]


def test_what_must_not_begin_twice_fails_with_the_replica_that_had_it() -> None:
    with running(retries=0) as broker:
        client, replica = broker.client(), broker.replica()
        ask(client)
        given(replica)
        broker.tell("crash", b"work/rep-0#41", "SIGKILL")
        _, kind, message = error_of(client)
    assert kind == "ReplicaCrashed"
    assert "work/rep-0 (SIGKILL)" in message


def test_one_that_leaves_has_begun_nothing_more(broker: Running) -> None:
    client, first, second = broker.client(), broker.replica(), broker.replica(b"work/rep-1#42")
    say(first, Leave())
    wait_for(lambda: info(client)["executors"]["work"]["replicas"] == ["work/rep-1"])
    ask(client)
    do(second, given(second))
    assert answer_of(client).first == 7


def test_a_replica_that_is_at_a_request_for_too_long_is_to_be_killed() -> None:
    with running(limits=Limits(run=0.03)) as broker:
        client, replica = broker.client(), broker.replica()
        ask(client)
        given(replica)
        assert broker.heard("kill") == [b"work/rep-0#41"]
        assert error_of(client)[1] == "DeadlineExceeded"


def test_replicas_that_die_again_and_again_are_shown(broker: Running) -> None:
    client = broker.client()
    broker.tell("crashing", "work", ["work/rep-0"])
    wait_for(lambda: info(client)["executors"]["work"]["crashing"] == ["work/rep-0"])


def test_the_load_of_an_executor_that_scales_by_it_is_told() -> None:
    with running(Node("still"), Node("work", autoscaled=True)) as broker:
        client, replica = broker.client(), broker.replica()
        assert broker.heard("load")[0] == "work"
        ask(client, targets=["work"])
        given(replica)
        wait_for(
            lambda: broker.heard("load")[1:3] == [0, 1], what="none is queued, and one is busy"
        )


def test_all_shards_get_a_request_for_all_and_their_results_are_one() -> None:
    with running(Node("work", shards=2, polling={"*": "ALL"})) as broker, zmq.Context() as context:
        client = broker.client()
        names = [b"work/shard-%d/rep-0#%d" % (shard, shard) for shard in (0, 1)]
        fans, collector = [context.socket(zmq.SUB) for _ in names], context.socket(zmq.PUSH)
        for name, fan in zip(names, fans, strict=True):
            fan.set(zmq.RCVTIMEO, int(PATIENCE * 1000))
            fan.subscribe(messages.topic(0, 0))
            fan.subscribe(messages.own_topic(name))
            fan.connect(broker.places["fan"])
        collector.connect(broker.places["collector"])
        for shard, name in enumerate(names):
            broker.replica(name, shard=shard)
        ask(client)
        for shard, (name, fan) in enumerate(zip(names, fans, strict=True)):
            fanout = published(fan)
            collector.send_multipart(
                [name, *said(Done(fanout.base + shard, 100, [1], [b"from %d" % shard]))]
            )
        reply = answer_of(client)
        for socket in (*fans, collector):
            socket.close(linger=0)
    assert reply == Reply(7, 1, [["work/shard-*", [-6, -6]]], None, reply.took, [b"from 0from 1"])


def published(fan: Peer) -> Fanout:
    """What a shard is to do next; beacons may come before."""
    while True:
        (message,) = bundles.read(fan.recv_multipart(), 1, messages.TO_REPLICA)
        if isinstance(message, Fanout):
            return message


def test_an_address_of_an_external_executor_is_a_replica() -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    context = zmq.Context()
    far = context.socket(zmq.ROUTER)
    far.set(zmq.PROBE_ROUTER, 1)
    far.set(zmq.RCVTIMEO, int(PATIENCE * 1000))
    far.bind(url)
    note = {"shards": 2, "succeeded": 1, "failed": {"0": "why"}}
    with running(Node("work", addresses=(url,))) as broker:
        client = broker.client()
        ask(client)
        while True:
            peer, *frames = far.recv_multipart()
            (message,) = bundles.read(frames, 0, messages.FROM_CLIENT)
            if isinstance(message, Request):
                break
            assert isinstance(message, Hello)
            far.send_multipart(
                [peer, *said(Welcome(message.token, {"executors": {"x": {"slots": 1}}}))]
            )
        assert message.payload == [PAYLOAD]
        note = {"shards": 2, "succeeded": 1, "failed": {"1": "why"}}
        far.send_multipart(
            [peer, *said(Reply(message.first, 1, None, {"x": note}, 100, [b"from afar"]))]
        )
        reply = answer_of(client)
        assert broker.heard("joined") == ["work", f"work@{url.removeprefix('tcp://')}"]
        context.destroy(linger=0)
    assert reply == Reply(7, 1, None, {"work/x": note}, reply.took, [b"from afar"])


# -- changing the Flow -----------------------------------------------------------------------------


def test_a_command_is_the_managers_and_what_came_of_it_the_clients(broker: Running) -> None:
    client = broker.client()
    say(client, Control(5, "scale", {"replicas": 3}))
    number, command, arguments = broker.heard("control")
    assert (command, arguments) == ("scale", {"replicas": 3})
    broker.tell("controlled", number + 1, {"to": "nobody"})  # a command of the broker before
    broker.tell("controlled", number, {"replicas": 3})
    assert hears(client) == Controlled(5, {"replicas": 3})


def test_a_replica_rests_and_competes_again(broker: Running) -> None:
    client, first = broker.client(), broker.replica()
    broker.replica(b"work/rep-1#42")
    for id, command, slots in ((1, "drain", 1), (2, "undrain", 2)):
        say(client, Control(id, command, {"replica": "work/rep-0"}))
        assert hears(client) == Controlled(id, {"replica": "work/rep-0"})
        assert info(client)["executors"]["work"]["slots"] == slots
    assert not first.poll(0)


# -- what is no message ----------------------------------------------------------------------------


def test_what_is_malformed_is_counted_and_logged_once_for_each_kind(
    broker: Running, caplog: pytest.LogCaptureFixture
) -> None:
    client, replica = broker.client(), broker.replica()
    with caplog.at_level(logging.WARNING, "zflow.broker"):
        for _ in range(3):
            client.send_multipart([b"\xc1", b"12345"])
            say(replica, Error([1], 1, []))
        counts = {"header is not msgpack": 3, "an answer without a payload": 3}
        wait_for(lambda: info(client)["malformed"] == counts)
    assert sorted(caplog.messages) == [
        "dropped a malformed message: an answer without a payload (frames of [7] bytes); more are "
        "only counted",
        "dropped a malformed message: header is not msgpack (frames of [1, 5] bytes); more are "
        "only counted",
    ]


def test_an_answer_of_one_that_is_not_known_is_counted_only(
    broker: Running, caplog: pytest.LogCaptureFixture
) -> None:
    client = broker.client()
    with (
        dealer(broker.places["back"]) as stranger,
        caplog.at_level(logging.WARNING, "zflow.broker"),
    ):
        do(stranger, 1)
        wait_for(lambda: info(client)["malformed"] == {"an answer from an unknown replica": 1})
    assert caplog.messages == []
