"""`is_flow_ready`: whether a Flow answers and all its Executors are there, never an error;
what it tells.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import PATIENCE, Gate, Upper, begun, in_background, let_go, wait_for

from zflow import (
    AsyncClient,
    Client,
    Document,
    DocumentArray,
    Executor,
    Flow,
    errors,
    remote,
    requests,
)

Ask = Callable[..., bool]


def _sync(host: str, port: int | None, **options: Any) -> bool:
    with Client(host, port) as client:
        return bool(client.is_flow_ready(**options))


def _async(host: str, port: int | None, **options: Any) -> bool:
    async def ask() -> bool:
        async with AsyncClient(host, port) as client:
            return await client.is_flow_ready(**options)

    return asyncio.run(ask())


@pytest.fixture(params=[_sync, _async])
def ask(request: pytest.FixtureRequest) -> Ask:
    found: Ask = request.param
    return found


@pytest.fixture(scope="module")
def flow() -> Iterator[Flow]:
    with Flow().add(uses=Upper, replicas=2).add(uses=Upper, shards=2).needs_all() as running:
        yield running


def test_a_running_flow_is_ready(ask: Ask, flow: Flow) -> None:
    assert ask("127.0.0.1", flow.port)
    assert ask(f"localhost:{flow.port}", None, timeout=30_000)
    assert ask(f"tcp://127.0.0.1:{flow.port}", None)
    assert flow.is_flow_ready()
    assert flow.is_flow_ready(timeout=30_000)


def test_a_flow_that_is_not_running_is_not_ready() -> None:
    flow = Flow().add(uses=Upper)
    assert not flow.is_flow_ready()
    with flow:
        assert flow.is_flow_ready()
    assert not flow.is_flow_ready()


def test_where_nobody_answers_is_no_flow_that_is_ready(ask: Ask) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, but not listening
        assert not ask("127.0.0.1", nobody.getsockname()[1], timeout=100)
        nobody.listen()  # takes connections, and says nothing
        assert not ask("127.0.0.1", nobody.getsockname()[1], timeout=100)
    assert not ask("no such host", 5555, timeout=100)


def test_a_flow_that_was_closed_is_not_ready_and_one_in_its_place_is(flow: Flow) -> None:
    with Client(port=flow.port) as client, Flow().add(uses=Upper) as other:
        port = other.port
        assert port is not None
        with Client(port=port) as mine:
            assert mine.post("/", Document(text="a")).texts == ["A"]
            other.close()
            assert not mine.is_flow_ready(timeout=100)
            with Flow(port=port).add(uses=Upper):
                assert mine.is_flow_ready()
        assert client.is_flow_ready(), "the one is no business of the other"


def test_a_busy_flow_is_ready(ask: Ask, tmp_path: Path) -> None:
    with Flow().add(uses=Gate, uses_with={"folder": str(tmp_path)}) as flow:
        held = in_background(flow.post, "/hold", Document(text="a"))
        begun(tmp_path, "a")
        assert ask("127.0.0.1", flow.port)
        let_go(tmp_path, "a")
        held.result()


@pytest.mark.parametrize("timeout", [0, -1, "1", True, float("inf"), float("nan"), None])
def test_a_timeout_is_a_number_of_ms(ask: Ask, timeout: Any) -> None:
    with pytest.raises(errors.BadRequest, match="timeout must be a number of ms above 0"):
        ask("127.0.0.1", 5555, timeout=timeout)


def test_a_timeout_in_seconds_is_refused_with_the_unit(ask: Ask) -> None:
    with pytest.raises(
        errors.BadRequest,
        match=r"timeout is in milliseconds: 0\.5 is less than one; 500 is half a second",
    ):
        ask("127.0.0.1", 5555, timeout=0.5)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_address_must_name_a_port(kind: Any) -> None:
    with pytest.raises(errors.BadRequest, match="needs the port of a Flow"):
        kind("localhost")
    with pytest.raises(
        errors.BadRequest, match="names no port, or its IPv6 host is not in brackets"
    ):
        kind("::1")
    with pytest.raises(
        errors.BadRequest, match="port must be a number from 1 to 65535, not '99999'"
    ):
        kind("localhost:99999")


# -- what Executors bind ---------------------------------------------------------------------------

LONG = [f"/{number}/{'x' * 1000}" for number in range(40)]


class Wide(Executor):
    @requests(on=LONG)
    def work(self, docs: DocumentArray, **kwargs: Any) -> None:
        docs.texts = [text + "." for text in docs.texts]


class TooWide(Executor):
    @requests(on=[f"/{number}/{'x' * 1000}" for number in range(80)])
    def work(self, docs: DocumentArray, **kwargs: Any) -> None:
        """Never called."""


def test_a_flow_with_long_names_and_many_long_endpoints_serves_all_kinds_of_clients() -> None:
    """They fill more than a header may hold."""

    async def post(port: int | None) -> list[str]:
        async with AsyncClient(port=port) as client:
            return list((await client.post(LONG[-1], Document(text="a"))).texts)

    with Flow(replica_port=0).add(name="a" * 100, uses=Wide).add(name="b" * 100, uses=Wide) as flow:
        assert flow.post(LONG[-1], Document(text="a")).texts == ["a.."]
        with Client(port=flow.port) as client:
            assert client.post(LONG[0], Document(text="a")).texts == ["a.."]
            assert client.info()["executors"]["a" * 100]["endpoints"] == sorted(LONG)
        assert asyncio.run(post(flow.port)) == ["a.."]
        with Flow().add(external=True, port=flow.port) as over:
            assert over.post(LONG[0], Document(text="a")).texts == ["a.."]
        stop = threading.Event()
        joined = in_background(
            remote.join, f"localhost:{flow.replica_port}", "a" * 100, Wide, stop_event=stop
        )
        with Client(port=flow.port) as client:
            wait_for(
                lambda: len(client.info()["executors"]["a" * 100]["replicas"]) == 2,
                what="the replica has joined",
            )
        stop.set()
        joined.result(PATIENCE)


def test_an_executor_that_binds_more_than_a_replica_can_say_is_told_so_at_the_start() -> None:
    with pytest.raises(
        errors.StartupFailed,
        match=r"not taken in.*its 80 endpoints, with what it says of batching, take 80\d\d\d bytes",
    ):
        Flow().add(uses=TooWide).start()
