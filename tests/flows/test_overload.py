"""More than a Flow can do: what has no room is refused or held back, clients take turns,
what takes too long ends.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import Gate, begun, in_background, let_go, texts, wait_for

from zflow import AsyncClient, Client, Document, DocumentArray, Executor, Flow, requests
from zflow.errors import BadRequest, DeadlineExceeded, InvalidFlow, Overloaded, ReplicaCrashed

pytestmark = pytest.mark.slow


class Work(Executor):
    """Works for a moment, or for as long as the parameters say; or dies of it."""

    @requests
    def work(self, docs: DocumentArray, parameters: dict[str, Any], **kwargs: Any) -> None:
        time.sleep(parameters.get("seconds", 0.001))
        if "log" in parameters:
            with open(parameters["log"], "a") as log:
                log.write("begun\n")
            os._exit(3)
        for doc in docs:
            doc.tags["pid"] = os.getpid()


def requests_in(flow: Flow) -> int:
    with Client(port=flow.port) as client:
        return int(client.info()["requests"])


# -- room ------------------------------------------------------------------------------------------


def test_what_has_no_room_is_refused_at_once_and_the_rest_is_served(tmp_path: Path) -> None:
    with Flow().add(
        name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}, max_queue=3
    ) as flow:
        held = in_background(flow.post, "/hold", Document(text="held"))
        begun(tmp_path, "held")
        refused: list[Any] = []
        done: list[Any] = []
        posted = in_background(
            flow.post,
            "/",
            texts(10),
            request_size=1,
            on_error=refused.append,
            on_done=done.append,
            prefetch=10,
        )
        wait_for(lambda: requests_in(flow) == 4, what="three wait, and one is worked on")
        let_go(tmp_path, "held")
        held.result(30)
        posted.result(30)
        assert (len(refused), len(done)) == (7, 3)
        assert all(isinstance(response.error, Overloaded) for response in refused)
        assert "3 requests wait for Executor 'gate', and no more are taken (max_queue=3)" in str(
            refused[0].error
        )
        assert flow.post("/", Document(text="later")).texts == ["later"]


def test_with_wait_the_client_holds_back_and_nothing_fails() -> None:
    with Flow(max_queue=2).add(uses=Work, replicas=2) as flow:
        docs = flow.post("/", texts(300), request_size=1, prefetch=100, on_overload="wait")
        assert docs.texts == [str(number) for number in range(300)]

        async def post() -> Any:
            async with AsyncClient(port=flow.port) as client:
                return await client.post(
                    "/", texts(300), request_size=1, prefetch=100, on_overload="wait"
                )

        assert asyncio.run(post()).texts == [str(number) for number in range(300)]
        with pytest.raises(Overloaded):
            flow.post("/", texts(300), request_size=1, prefetch=100)


def test_what_waits_in_the_client_has_its_deadline_too() -> None:
    with Flow(max_queue=1).add(uses=Work) as flow:
        failed: list[Any] = []
        options: dict[str, Any] = {
            "request_size": 1,
            "prefetch": 20,
            "timeout": 300,
            "on_overload": "wait",
        }
        flow.post(
            "/",
            texts(20),
            {"seconds": 0.2},
            on_error=failed.append,
            on_done=lambda r: None,
            **options,
        )
        assert len(failed) > 10
        assert all(isinstance(response.error, DeadlineExceeded) for response in failed)


def test_the_bytes_of_requests_are_limited_too(tmp_path: Path) -> None:
    with Flow(max_queue_bytes=100_000).add(
        name="gate", uses=Gate, uses_with={"folder": str(tmp_path)}
    ) as flow:
        held = in_background(flow.post, "/hold", Document(text="held"))
        begun(tmp_path, "held")
        large = Document(blob=bytes(60_000))
        one = in_background(flow.post, "/", large)
        wait_for(lambda: requests_in(flow) == 2, what="the first large one waits")
        with pytest.raises(Overloaded, match="max_queue_bytes=100000"):
            flow.post("/", Document(blob=bytes(60_000)))
        let_go(tmp_path, "held")
        held.result(30)
        one.result(30)
        assert len(flow.post("/", Document(blob=bytes(300_000)))) == 1  # one alone always has room


def test_shards_that_are_all_asked_have_a_queue_too() -> None:
    with Flow().add(uses=Work, shards=2, polling="ALL", max_queue=2) as flow:
        refused: list[Any] = []
        flow.post(
            "/",
            texts(30),
            {"seconds": 0.02},
            request_size=1,
            prefetch=30,
            on_error=refused.append,
            on_done=lambda response: None,
        )
        assert 10 < len(refused) < 30


@pytest.mark.parametrize(
    "said", [{"max_queue": 0}, {"max_queue_bytes": "3"}, {"timeout_run": 0}, {"idempotent": 1}]
)
def test_what_cannot_be_is_said_at_once(said: dict[str, Any]) -> None:
    with pytest.raises(InvalidFlow, match=next(iter(said))):
        Flow().add(name="work", **said)
    with (
        Flow().add(uses=Work) as flow,
        pytest.raises(BadRequest, match="on_overload must be 'fail' or 'wait'"),
    ):
        flow.post("/", on_overload="later")


# -- turns -----------------------------------------------------------------------------------------


def test_a_client_that_floods_does_not_starve_another() -> None:
    with Flow().add(uses=Work) as flow:
        flood = in_background(flow.post, "/", texts(3000), request_size=1, prefetch=3000)
        wait_for(lambda: requests_in(flow) > 1000, what="the queue is long")
        with Client(port=flow.port) as client:
            for number in range(5):
                assert client.post("/", Document(text=str(number))).texts == [str(number)]
            assert not flood.done(), "the flood is still there: nobody has waited for it"
        assert flood.result(60).texts == [str(number) for number in range(3000)]


# -- too long --------------------------------------------------------------------------------------


def test_a_replica_that_is_at_a_request_for_too_long_is_started_anew_and_the_request_fails() -> (
    None
):
    with Flow().add(name="work", uses=Work, replicas=2, timeout_run=300) as flow:
        before = {doc.tags["pid"] for doc in flow.post("/", texts(50), request_size=1)}
        with pytest.raises(
            DeadlineExceeded, match=r"work/rep-\d was at this request for 0\.3.* timeout_run=300 ms"
        ):
            flow.post("/", Document(), {"seconds": 60})
        assert len(flow.post("/", texts(50), request_size=1)) == 50
        wait_for(
            lambda: (
                len({doc.tags["pid"] for doc in flow.post("/", texts(50), request_size=1)} - before)
                == 1
            ),
            what="its successor serves",
        )


def test_a_shard_that_takes_too_long_is_ended_too() -> None:
    with Flow().add(name="work", uses=Work, shards=2, polling="ALL", timeout_run=300) as flow:
        with pytest.raises(DeadlineExceeded, match="timeout_run=300 ms"):
            flow.post("/", Document(), {"seconds": 60})
        assert flow.post("/", Document(text="again"), timeout=20_000).texts == ["again"]


# -- once ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [{"idempotent": False}, {"retries": 0}])
def test_what_must_not_begin_twice_does_not(said: dict[str, Any], tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Flow().add(name="work", uses=Work, replicas=3, **said) as flow:
        with pytest.raises(
            ReplicaCrashed, match=r"1 replica.*work/rep-\d \(exit code 3\).*retries=0"
        ):
            flow.post("/", Document(), {"log": str(log)})
        assert log.read_text() == "begun\n"


def test_how_replicas_died_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with Flow().add(name="work", uses=Work, replicas=2, retries=1) as flow:
        with pytest.raises(
            ReplicaCrashed, match=r"work/rep-\d \(exit code 3\), work/rep-\d \(exit code 3\)"
        ):
            flow.post("/", Document(), {"log": str(log)})
        assert log.read_text() == "begun\n" * 2
