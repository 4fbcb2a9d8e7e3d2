"""`Flow`: building one, and its life cycle."""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from helpers import Append, Upper, in_background, replicas, texts

from zflow import Client, Document, DocumentArray, Executor, Flow, errors, requests


class AsyncUpper(Executor):
    """Takes its time on an event loop."""

    @requests
    async def upper(self, docs: DocumentArray, **kwargs: Any) -> None:
        await asyncio.sleep(0)
        docs.texts = [f"{text}!" for text in docs.texts]


@pytest.fixture(scope="module")
def flow() -> Iterator[Flow]:
    with Flow().add(name="upper", uses=Upper) as running:
        yield running


# -- building --------------------------------------------------------------------------------------


def test_add_returns_the_flow_and_counts_names() -> None:
    flow = Flow()
    assert flow.add(uses=Upper) is flow
    flow.add(name="middle", uses=Upper, replicas=2).add(uses=Upper).needs_all()
    assert [spec.name for spec in flow.executors] == [
        "executor0",
        "middle",
        "executor2",
        "executor3",
    ]
    assert repr(flow) == "<Flow [executor0, middle x 2, executor2, executor3]>"


def test_arguments_of_the_flow_are_defaults_of_each_executor() -> None:
    flow = Flow(replicas=2, env={"A": "1"}).add(name="a").add(name="b", replicas=3)
    assert [(spec.replicas, spec.env) for spec in flow.executors] == [
        (2, {"A": "1"}),
        (3, {"A": "1"}),
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "1st"}, ["name", "'1st'"]),
        ({"name": "gateway"}, ["'gateway'"]),
        ({"name": "a"}, ["'a'", "taken"]),
        ({"replicas": 0}, ["replicas", "0"]),
        ({"replicas": -1}, ["replicas", "-1"]),
        ({"replicas": 1.5}, ["replicas", "1.5"]),
        ({"replicas": True}, ["replicas", "True"]),
        ({"needs": 3}, ["needs", "3"]),
        ({"uses": 42}, ["uses", "42"]),
        ({"uses": object}, ["uses", "object"]),
        ({"timeout_send": 0}, ["timeout_send", "0"]),
        ({"retries": -2}, ["retries", "-2"]),
        ({"replica": 2}, ["'replica'", "'replicas'"]),
    ],
)
def test_wrong_arguments_of_add_are_named_and_nothing_is_added(
    arguments: dict[str, Any], words: list[str]
) -> None:
    flow = Flow().add(name="a")
    with pytest.raises((errors.InvalidFlow, errors.InvalidExecutor)) as caught:
        flow.add(**arguments)
    assert all(word in str(caught.value) for word in words), caught.value
    assert [spec.name for spec in flow.executors] == ["a"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"port": 0}, ["port", "0"]),
        ({"port": "5555"}, ["port", "'5555'"]),
        ({"port": True}, ["port", "True"]),
        ({"host": ""}, ["host"]),
        ({"timeout_close": -1}, ["timeout_close", "-1"]),
        ({"max_message_bytes": 10}, ["max_message_bytes", "10"]),
        ({"prot": 5555}, ["'prot'", "'port'"]),
        ({"name": "flow"}, ["name", "add"]),
    ],
)
def test_wrong_arguments_of_the_flow_are_named(arguments: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(errors.InvalidFlow) as caught:
        Flow(**arguments)
    assert caught.value.key == tuple(arguments)
    assert all(word in str(caught.value) for word in words), caught.value


def test_add_changes_the_flow_and_returns_it() -> None:
    flow = Flow()
    assert flow.add(name="a") is flow
    assert flow.add(name="b", copy_flow=False) is flow
    assert flow.needs_all() is flow
    assert [spec.name for spec in flow.executors] == ["a", "b", "executor2"]
    with pytest.raises(errors.InvalidFlow, match="copy_flow"):
        flow.add(copy_flow=True)


def test_what_this_version_leaves_out_is_refused_and_not_ignored() -> None:
    with pytest.raises(errors.NotSupported, match=r"gpus is not supported.*CUDA_VISIBLE_DEVICES"):
        Flow().add(gpus=1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"external": True}, ["external=True", "host=", "port="]),
        ({"host": "elsewhere:5555"}, ["host", "external=True"]),
        ({"port": 5555, "host": "elsewhere"}, ["host", "external=True"]),
        ({"curve": "keys"}, ["curve", "external=True"]),
        ({"external": "yes", "host": "elsewhere:5555"}, ["external", "'yes'"]),
        ({"external": True, "host": "elsewhere"}, ["'elsewhere'", "port"]),
        ({"external": True, "host": []}, ["host", "[]"]),
        ({"external": True, "host": "elsewhere", "port": 0}, ["port", "0"]),
        ({"external": True, "port": []}, ["port", "[]"]),
        ({"external": True, "host": "a:1", "port": 2}, ["'a:1'", "port=2"]),
        (
            {"external": True, "host": ["a", "b"], "port": [1, 2, 3]},
            ["same length", "2 hosts", "3 ports"],
        ),
        ({"external": True, "host": ["a:1", "a:1"]}, ["'a:1'", "more than once"]),
        ({"external": True, "port": 5555, "uses": Upper}, ["uses", "external"]),
        ({"external": True, "port": 5555, "replicas": 2}, ["replicas", "external"]),
        ({"external": True, "port": 5555, "shards": 2}, ["shards", "external"]),
        ({"external": True, "port": 5555, "curve": 5}, ["curve", "5"]),
    ],
)
def test_what_does_not_fit_an_external_executor_is_named(
    arguments: dict[str, Any], words: list[str]
) -> None:
    flow = Flow()
    with pytest.raises(errors.InvalidFlow) as caught:
        flow.add(name="encoder", **arguments)
    assert all(word in str(caught.value) for word in [*words, "'encoder'"]), caught.value
    assert flow.executors == []


def test_a_flow_starts_again_after_it_was_closed() -> None:
    flow = Flow().add(name="again", uses=Upper)
    for _ in range(3):
        assert flow.start() is flow
        assert flow.post("/", Document(text="a")).texts == ["A"]
        flow.close()
        flow.close()
        assert replicas("again") == {}


def test_executors_are_added_before_start_or_after_close() -> None:
    flow = Flow().add(name="first", uses=Append, uses_with={"letter": "a"})
    with flow, pytest.raises(errors.FlowNotRunning, match="add Executors before"):
        flow.add(uses=Append)
    flow.add(name="second", uses=Append, uses_with={"letter": "b"})
    with flow:
        assert flow.post("/", Document(text="")).texts == ["ab"]


def test_starting_twice_is_an_error_and_harms_nothing(flow: Flow) -> None:
    with pytest.raises(errors.FlowNotRunning, match="already started"):
        flow.start()
    assert flow.post("/", Document(text="still here")).texts == ["STILL HERE"]


@pytest.mark.parametrize("what", ["post", "block"])
def test_using_a_flow_that_is_not_started_or_was_closed(what: str) -> None:
    flow = Flow().add(uses=Upper)
    arguments = ("/",) if what == "post" else ()
    with pytest.raises(errors.FlowNotRunning, match="not started"):
        getattr(flow, what)(*arguments)
    with flow:
        pass
    with pytest.raises(errors.FlowNotRunning, match="closed"):
        getattr(flow, what)(*arguments)


def test_port_and_host(flow: Flow) -> None:
    assert Flow().port is None
    assert flow.host == "127.0.0.1"
    assert isinstance(flow.port, int)
    assert repr(flow) == f"<Flow [upper] at 127.0.0.1:{flow.port}>"
    assert Client(host="localhost", port=flow.port).post("/", Document(text="a")).texts == ["A"]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_a_chosen_port_is_listened_on_each_time() -> None:
    port = free_port()
    flow = Flow(port=port).add(uses=Upper)
    assert flow.port == port
    for _ in range(2):
        with flow, Client(port=port) as client:
            assert client.post("/", Document(text="a")).texts == ["A"]
    assert flow.port == port


def test_ipv6_loopback() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with Flow(host="::1").add(uses=Upper) as flow, Client(host="::1", port=flow.port) as client:
        assert client.post("/", Document(text="a")).texts == ["A"]


def test_a_flow_without_executors_gives_back_what_it_gets() -> None:
    with Flow() as flow:
        assert flow.post("/", Document(text="a")).texts == ["a"]


def test_an_executor_without_uses_passes_requests_on() -> None:
    with Flow().add(replicas=2).add(uses=Upper) as flow:
        assert flow.post("/", Document(text="a")).texts == ["A"]


def test_two_flows_at_once_and_one_within_the_other() -> None:
    outer, inner = Flow().add(uses=Append), Flow().add(uses=Append, uses_with={"letter": "y"})
    with outer:
        with inner:
            assert outer.post("/", inner.post("/", Document(text="a"))).texts == ["ayx"]
        assert outer.post("/", Document(text="a")).texts == ["ax"]


def test_an_exception_inside_with_closes_the_flow() -> None:
    flow = Flow().add(name="left", uses=Upper)
    with pytest.raises(ZeroDivisionError), flow:
        1 / 0  # noqa: B018
    assert replicas("left") == {}


def test_a_flow_started_and_closed_in_other_threads() -> None:
    flow = Flow().add(uses=Upper)
    in_background(flow.start).result(30)
    assert in_background(flow.post, "/", Document(text="a")).result(30).texts == ["A"]
    in_background(flow.close).result(30)


def test_a_flow_inside_a_running_event_loop() -> None:
    async def main() -> list[str]:
        with Flow().add(uses=AsyncUpper) as flow:
            return [doc.text for doc in flow.post("/", texts(3))]

    assert asyncio.run(main()) == ["0!", "1!", "2!"]


@pytest.mark.parametrize("module", [threading, multiprocessing])
def test_block_until_an_event_is_set(module: Any) -> None:
    event = module.Event()
    with Flow().add(uses=Upper) as flow:
        blocking = in_background(flow.block, event)
        assert flow.post("/", Document(text="served")).texts == ["SERVED"]
        assert not blocking.done()
        event.set()
        blocking.result(30)


def test_close_from_another_thread_ends_block() -> None:
    flow = Flow().add(uses=Upper).start()
    blocking = in_background(flow.block)
    assert flow.post("/", Document(text="a")).texts == ["A"]
    flow.close()
    assert isinstance(blocking.exception(30), errors.FlowNotRunning | None)
