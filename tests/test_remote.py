"""Replicas of other machines: processes of their own here, which join over TCP, compete,
leave and come back.
"""

from __future__ import annotations

import signal
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from helpers import PATIENCE, Work, free_port, in_background, joined, texts, under_way, wait_for

from zflow import Client, DocumentArray, Executor, Flow, remote, requests
from zflow.errors import FlowUnreachable, InvalidFlow, StartupFailed


def names(flow: Flow) -> list[str]:
    with Client(port=flow.port) as client:
        found: list[str] = client.info()["executors"]["work"]["replicas"]
        return found


def by(flow: Flow, count: int = 100) -> Counter[str]:
    return Counter(doc.tags["by"] for doc in flow.post("/", texts(count), request_size=1))


def test_they_compete_with_those_of_the_flow_and_leave_in_good_order(tmp_path: Path) -> None:
    with Flow(replica_port=0).add(name="work", uses=Work) as flow:
        with joined(flow, tmp_path, "--replicas", "2") as process:
            # How large their shares are depends on whom the machine holds up just then.
            wait_for(lambda: len(by(flow)) == 3, what="each of the three gets requests")
            posted = in_background(flow.post, "/", texts(500), request_size=1)
            under_way(flow.port, posted)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
            assert posted.result(60).texts == [str(number) for number in range(500)]
            assert names(flow) == ["work/rep-0"]
        with joined(flow, tmp_path):
            assert len(by(flow)) == 2


def test_one_that_is_killed_loses_nothing_and_is_started_again(tmp_path: Path) -> None:
    import psutil

    with (
        Flow(replica_port=0).add(name="work", uses=Work) as flow,
        joined(flow, tmp_path) as process,
    ):
        posted = in_background(flow.post, "/", texts(500), request_size=1)
        under_way(flow.port, posted)
        (replica,) = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if child.cmdline()[:1] and "work/rep-0@" in child.cmdline()[0]
        ]
        replica.kill()
        assert posted.result(60).texts == [str(number) for number in range(500)]
        wait_for(lambda: len(by(flow)) == 2, what="it competes again")


def test_it_waits_for_a_flow_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    port = free_port()
    with ExitStack() as running:
        with Flow(replica_port=port).add(name="work", uses=Work) as flow:
            running.enter_context(joined(flow, tmp_path))
            assert len(by(flow)) == 2
        with Flow(replica_port=port).add(name="work", uses=Work) as flow:
            wait_for(lambda: len(names(flow)) == 2, what="it joins the new one")
            assert len(by(flow)) == 2


def test_a_replica_of_one_shard_takes_its_part(tmp_path: Path) -> None:
    flow = Flow(replica_port=0).add(
        name="work", uses=Work, shards=2, polling={"/any": "ANY", "*": "ALL"}
    )
    with flow, joined(flow, tmp_path, "--shard", "1") as process:
        remote_name = next(name for name in names(flow) if "@" in name)
        assert remote_name.startswith("work/shard-1/rep-0@")
        docs = flow.post("/any", texts(100), request_size=1)
        assert remote_name in {doc.tags["by"] for doc in docs}
        assert len(flow.post("/", texts(50), request_size=1)) == 50
        local = [name for name in names(flow) if name == "work/shard-1/rep-0"]
        assert local
        process.terminate()
        process.wait(PATIENCE)
        assert len(flow.post("/", texts(50), request_size=1)) == 50


def test_none_joins_a_flow_that_does_not_allow_it() -> None:
    with Flow().add(name="work", uses=Work) as flow:
        assert flow.replica_port is None
        with pytest.raises(
            InvalidFlow,
            match=r"is where clients of the Flow connect: replicas join at the port that",
        ):
            remote.join(f"localhost:{flow.port}", "work", Work)


@pytest.mark.parametrize(
    ("executor", "options", "message"),
    [
        ("wrok", {}, "no Executor 'wrok' that replicas could join; did you mean 'work'?"),
        ("work", {"shard": 1}, "shard must be from 0 to 0, not 1"),
        ("work", {"polling": "ALL"}, "unknown keyword 'polling' is the Flow's business"),
        ("work", {"replicas": 0}, "replicas must be a whole number of 1 or more, not 0"),
        ("far", {}, "no Executor 'far'"),
    ],
)
def test_what_cannot_join_is_told_why(executor: str, options: dict[str, Any], message: str) -> None:
    with Flow().add(uses=Work) as far:
        flow = (
            Flow(replica_port=0)
            .add(name="work", uses=Work)
            .add(name="far", external=True, port=far.port)
        )
        with flow, pytest.raises(InvalidFlow, match=message):
            remote.join(f"localhost:{flow.replica_port}", executor, Work, **options)


class Index(Executor):
    """What the Flow runs; elsewhere somebody has another version of it."""

    @requests(on=["/index", "/search"])
    def sign(self, docs: DocumentArray, **kwargs: Any) -> None:
        for doc in docs:
            doc.tags["by"] = "index"


class Search(Executor):
    @requests(on="/search")
    def sign(self, docs: DocumentArray, **kwargs: Any) -> None:
        pass


class Together(Index):
    @requests(on="/search", batch_size=5, batch_timeout=86_400_000)
    def search(self, docs: DocumentArray, **kwargs: Any) -> None:
        pass


def test_one_that_differs_from_those_of_the_flow_is_refused_and_changes_nothing() -> None:
    with Flow(replica_port=0).add(name="work", uses=Index) as flow:
        where = f"localhost:{flow.replica_port}"
        both = (
            r"binds \['/search'\], but the Executor's replicas in its Flow \['/index', "
            r"'/search'\]: run the same"
        )
        with pytest.raises(StartupFailed, match=both):
            remote.join(where, "work", Search)
        with pytest.raises(
            StartupFailed,
            match=r"in batches \{'/search': \[5, 86400000 ms\]\}, but .* \{\}: run the",
        ):
            remote.join(where, "work", Together)
        assert {doc.tags["by"] for doc in flow.post("/index", texts(20), request_size=1)} == {
            "index"
        }
        assert {doc.tags["by"] for doc in flow.post("/search", texts(20), request_size=1)} == {
            "index"
        }


def test_what_add_says_of_the_endpoints_of_an_external_executor_counts_over_what_that_says() -> (
    None
):
    with Flow().add(name="far", uses=Index) as far:
        near = Flow().add(name="near", external=True, port=far.port, endpoints=["/search"])
        with near:
            assert "by" in near.post("/search", texts(1))[0].tags
            assert "by" not in near.post("/index", texts(1))[0].tags


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zflow.clients.wire.CONNECTING", 0.5)
    with pytest.raises(FlowUnreachable, match=r"no Flow takes replicas at tcp://127\.0\.0\.1:"):
        remote.join(f"localhost:{free_port()}", "work", Work)


def test_one_that_cannot_start_says_so(tmp_path: Path) -> None:
    class Broken(Executor):
        def __init__(self, **kwargs: Any) -> None:
            raise RuntimeError("no model here")

    with Flow(replica_port=0).add(name="work", uses=Work) as flow:
        with pytest.raises(StartupFailed, match="no model here"):
            remote.join(f"localhost:{flow.replica_port}", "work", Broken)
        assert names(flow) == ["work/rep-0"]
