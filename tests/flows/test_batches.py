"""Requests that share a call: what users say, what an Executor is given,
and what each request gets back.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import PATIENCE, Append, begun, in_background, let_go, pid_of, wait_for

from zflow import (
    Client,
    Document,
    DocumentArray,
    Executor,
    Flow,
    dynamic_batching,
    errors,
    requests,
)
from zflow.documents import codec
from zflow.replicas.call import Miscounted
from zflow.replicas.link import Assignment
from zflow.replicas.seat import Seat
from zflow.replicas.service import Service
from zflow.topology.topology import ExecutorSpec


class Batches(Executor):
    """Tells each Document with how many others it was, and in which call."""

    def __init__(self, folder: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder = Path(folder)
        self.calls = 0

    def told(self, docs: DocumentArray) -> None:
        self.calls += 1
        for doc in docs:
            doc.tags.update(together=len(docs), call=self.calls)

    @requests(on="/hold")
    def hold(self, docs: DocumentArray, **kwargs: Any) -> None:
        """Occupy the replica until the test says so."""
        for doc in docs:
            (self.folder / f"{doc.text}.begun").write_text(f"{os.getpid()}\n")
            while not (self.folder / f"{doc.text}.go").exists():
                time.sleep(0.001)

    @requests(on="/in_place", batch_size=8)
    def in_place(self, docs: DocumentArray, **kwargs: Any) -> None:
        self.told(docs)
        docs.texts = [text.upper() for text in docs.texts]

    @requests(on="/new")
    @dynamic_batching(preferred_batch_size=8)
    def new(self, docs: DocumentArray, **kwargs: Any) -> DocumentArray:
        self.told(docs)
        return DocumentArray(Document(text=doc.text + "!", tags=doc.tags) for doc in docs)

    @requests(on="/async", batch_size=8)
    async def later(self, docs: DocumentArray, **kwargs: Any) -> None:
        await asyncio.sleep(0.001)
        self.told(docs)

    @requests(on="/dict", batch_size=8)
    def tell(
        self, docs: DocumentArray, parameters: dict[str, Any], **kwargs: Any
    ) -> dict[str, Any]:
        return {"together": len(docs), "saw": sorted(parameters)}

    @requests(on="/set", batch_size=8)
    def change(self, docs: DocumentArray, parameters: dict[str, Any], **kwargs: Any) -> None:
        self.told(docs)
        parameters["limit"] = parameters.get("limit", 0) + 1

    @requests(on="/fewer", batch_size=8)
    def fewer(self, docs: DocumentArray, **kwargs: Any) -> DocumentArray:
        self.told(docs)
        return docs[:1]

    @requests(on="/bad", batch_size=8)
    def bad(self, docs: DocumentArray, **kwargs: Any) -> None:
        """Something has happened to all of them already when the bad one shows."""
        self.told(docs)
        for doc in docs:
            if doc.embedding is not None:
                doc.embedding += 1
            with open(self.folder / f"{doc.text}.tried", "a", encoding="utf-8") as file:
                file.write(f"{len(docs)}\n")
        if "bad" in docs.texts:
            raise ValueError("one of them is bad")
        if "deadly" in docs.texts:
            os._exit(3)
        if "endless" in docs.texts:
            time.sleep(1000)

    @requests(on="/patient", batch_size=2, batch_timeout=1_000_000)
    def patient(self, docs: DocumentArray, **kwargs: Any) -> None:
        self.told(docs)

    @requests(on="/hesitant", batch_size=2, batch_timeout=10)
    def hesitant(self, docs: DocumentArray, **kwargs: Any) -> None:
        self.told(docs)


def make(folder: Path, **options: Any) -> Flow:
    flow: Flow = Flow(timeout_close=2000)
    return flow.add(name="batches", uses=Batches, uses_with={"folder": str(folder)}, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("batches")


@pytest.fixture(scope="module")
def flow(folder: Path) -> Iterator[Flow]:
    with make(folder) as running:
        yield running


Posted = list[Future[DocumentArray]]
Queue = Callable[..., Posted]


@pytest.fixture
def queue(folder: Path) -> Queue:
    """A function that posts requests which all wait until the only replica is let go."""
    names = iter(f"{time.monotonic_ns()}-{number}" for number in range(100))

    def put(flow: Flow, *posts: tuple[str, list[Document]], **options: Any) -> Posted:
        name, client = next(names), Client(port=flow.port)
        first = in_background(flow.post, "/hold", Document(text=name))
        begun(folder, name)
        posted: Posted = []
        for endpoint, docs in posts:
            posted.append(in_background(flow.post, endpoint, docs, **options))
            wait_for(
                lambda: client.info()["executors"]["batches"]["queued"] == len(posted),
                what="it waits",
            )
        let_go(folder, name)
        first.result(PATIENCE)
        return posted

    return put


def some(*texts: str) -> list[Document]:
    return [Document(text=text) for text in texts]


def together(posted: Posted) -> list[list[int]]:
    """With how many each Document of each request was."""
    return [[doc.tags["together"] for doc in each.result(PATIENCE)] for each in posted]


class TestSharing:
    @pytest.mark.parametrize(
        ("endpoint", "results"), [("/in_place", ["A", "B", "C"]), ("/new", ["a!", "b!", "c!"])]
    )
    def test_what_waits_together_shares_a_call_and_each_gets_its_own_part(
        self, flow: Flow, queue: Queue, endpoint: str, results: list[str]
    ) -> None:
        posted = queue(flow, (endpoint, some("a", "b")), (endpoint, some("c")))
        assert [text for each in posted for text in each.result(PATIENCE).texts] == results
        assert together(posted) == [[3, 3], [3]]

    def test_async_endpoints_share_calls_too(self, flow: Flow, queue: Queue) -> None:
        assert together(queue(flow, ("/async", some("a")), ("/async", some("b", "c")))) == [
            [3],
            [3, 3],
        ]

    def test_a_request_alone_waits_for_nothing(self, flow: Flow) -> None:
        (doc,) = flow.post("/in_place", Document(text="a"))
        assert (doc.text, doc.tags["together"]) == ("A", 1)

    def test_sizes_count_documents_and_a_large_request_is_never_cut(
        self, flow: Flow, queue: Queue
    ) -> None:
        sizes = [5, 3, 1, 20, 2]
        posted = queue(
            flow, *(("/in_place", some(*map(str, range(size)))) for size in sizes), request_size=100
        )
        assert [counts[0] for counts in together(posted)] == [8, 8, 1, 20, 2]

    def test_endpoints_that_are_mixed_form_batches_of_their_own(
        self, flow: Flow, queue: Queue
    ) -> None:
        posted = queue(
            flow, *((("/in_place", "/new")[number % 2], some(str(number))) for number in range(6))
        )
        assert together(posted) == [[3]] * 6

    def test_requests_with_other_parameters_do_not_share_a_call(
        self, flow: Flow, queue: Queue, folder: Path
    ) -> None:
        client = Client(port=flow.port)
        held = in_background(flow.post, "/hold", Document(text="parameters"))
        begun(folder, "parameters")
        posted = []
        for limit in (1, 2, 1, 1.0):
            post = in_background(
                client.post, "/set", Document(), {"limit": limit}, return_responses=True
            )
            posted.append(post)
            wait_for(lambda: client.info()["executors"]["batches"]["queued"] == len(posted))
        let_go(folder, "parameters")
        held.result(PATIENCE)
        responses = [each.result(PATIENCE)[0] for each in posted]
        assert [response.parameters["limit"] for response in responses] == [2, 3, 2, 2.0]
        assert [response.docs[0].tags["together"] for response in responses] == [2, 1, 2, 1]

    def test_large_arrays_come_back_to_whom_they_belong(self, flow: Flow, queue: Queue) -> None:
        arrays = [np.full((200, 200), number, dtype=np.float64) for number in range(4)]
        posted = queue(
            flow,
            *(
                ("/in_place", [Document(text=str(n), tensor=array)])
                for n, array in enumerate(arrays)
            ),
        )
        for array, each in zip(arrays, posted, strict=True):
            np.testing.assert_array_equal(each.result(PATIENCE)[0].tensor, array)
        assert together(posted) == [[4]] * 4

    def test_a_dict_goes_to_the_results_of_every_request(self, flow: Flow, queue: Queue) -> None:
        posted = queue(flow, ("/dict", some("a")), ("/dict", some("b", "c")), return_responses=True)
        for each in posted:
            (response,) = each.result(PATIENCE)
            (result,) = response.parameters["__results__"].values()
            assert result == {"together": 3, "saw": []}

    def test_results_of_executors_before_are_kept_for_each_request(self, folder: Path) -> None:
        class Before(Executor):
            @requests
            def tell(self, docs: DocumentArray, **kwargs: Any) -> dict[str, Any]:
                return {"text": docs[0].text}

        class After(Executor):
            @requests(batch_size=4, batch_timeout=1_000_000)
            def tell(
                self, docs: DocumentArray, parameters: dict[str, Any], **kwargs: Any
            ) -> dict[str, Any]:
                return {"together": len(docs), "saw": sorted(parameters)}

        with Flow().add(name="before", uses=Before).add(name="after", uses=After) as flow:
            docs = some("a", "b", "c", "d")
            responses = flow.post("/", docs, {"limit": 3}, request_size=1, return_responses=True)
            found = [response.parameters["__results__"] for response in responses]
        assert [each["before/rep-0"] for each in found] == [{"text": text} for text in "abcd"]
        assert [each["after/rep-0"] for each in found] == [{"together": 4, "saw": ["limit"]}] * 4

    def test_a_join_is_batched_after_it_was_reduced(self) -> None:
        class Count(Executor):
            @requests(batch_size=4, batch_timeout=1_000_000)
            def count(self, docs: DocumentArray, **kwargs: Any) -> None:
                for doc in docs:
                    doc.tags["together"] = len(docs)

        flow: Flow = Flow().add(name="a", uses=Append).add(name="b", uses=Append, needs="gateway")
        with flow.add(uses=Count, needs=["a", "b"]) as running:
            found = running.post("/", some("1", "2", "3", "4"), request_size=1)
        assert [doc.tags["together"] for doc in found] == [4] * 4
        assert found.texts == ["1x", "2x", "3x", "4x"]


class TestTimeout:
    def test_a_batch_that_is_not_full_waits_and_a_full_one_does_not(self, flow: Flow) -> None:
        first = in_background(flow.post, "/patient", Document(text="a"))
        wait_for(lambda: Client(port=flow.port).info()["executors"]["batches"]["queued"] == 1)
        # Others do not wait behind it.
        assert flow.post("/in_place", Document(text="b")).texts == ["B"]
        assert not first.done()
        assert flow.post("/patient", Document(text="c"))[0].tags["together"] == 2
        assert first.result(PATIENCE)[0].tags["together"] == 2

    def test_it_waits_no_longer_than_it_may(self, flow: Flow) -> None:
        assert flow.post("/hesitant", Document(text="a"))[0].tags["together"] == 1

    def test_one_whose_time_is_over_leaves_the_batch(self, flow: Flow) -> None:
        with pytest.raises(errors.DeadlineExceeded):
            flow.post("/patient", Document(text="late"), timeout=20)
        posted = [in_background(flow.post, "/patient", Document(text=text)) for text in "ab"]
        assert together(posted) == [[2], [2]]


class TestBadOnes:
    def test_one_bad_request_fails_alone_and_the_others_as_if_nothing_had_been(
        self, flow: Flow, queue: Queue, folder: Path
    ) -> None:
        size = 10_000  # an array of a frame of its own, that the Executor changes in place
        good = [Document(text=f"good{number}", embedding=np.zeros(size)) for number in range(2)]
        posted = queue(flow, ("/bad", [good[0]]), ("/bad", some("bad")), ("/bad", [good[1]]))
        with pytest.raises(errors.ExecutorError, match="one of them is bad"):
            posted[1].result(PATIENCE)
        for each in (posted[0], posted[2]):
            (doc,) = each.result(PATIENCE)
            assert doc.tags["together"] == 1
            np.testing.assert_array_equal(doc.embedding, np.ones(size))
        assert [
            (folder / f"{name}.tried").read_text().split() for name in ("good0", "bad", "good1")
        ] == [["3", "1"]] * 3

    def test_what_cannot_be_told_apart_again_is_called_one_by_one(
        self, folder: Path, queue: Queue
    ) -> None:
        with make(folder) as flow:
            posted = queue(flow, ("/fewer", some("a", "b")), ("/fewer", some("c", "d")))
            found = [each.result(PATIENCE)[0] for each in posted]
        assert [(doc.text, doc.tags["together"], doc.tags["call"]) for doc in found] == [
            ("a", 2, 2),
            ("c", 2, 3),
        ]

    def test_why_it_is_so_is_said_once(self, caplog: pytest.LogCaptureFixture) -> None:
        spec = ExecutorSpec("batches", ("gateway",), uses=Batches, uses_with={"folder": "x"})
        service = Service(Seat(spec, 0, 0, 0, "", None, None, 2**20))
        tasks = [
            Assignment(number, "/fewer", None, codec.pack(DocumentArray(some("a"))))
            for number in range(2)
        ]
        for _ in range(2):
            (job,) = service.jobs(tasks)
            working = service.begin(*job)
            value = working.made.start()
            with pytest.raises(Miscounted):
                service.end(working, value)
        (record,) = caplog.records
        assert "Batches.fewer: 1 Documents came back for 2 of 2 requests" in record.getMessage()

    def test_what_cannot_be_decoded_is_no_part_of_a_batch(self) -> None:
        spec = ExecutorSpec("batches", ("gateway",), uses=Batches, uses_with={"folder": "x"})
        service = Service(Seat(spec, 0, 0, 0, "", None, None, 2**20))
        frames = [
            codec.pack(DocumentArray(some("a"))),
            [b"?"],
            codec.pack(DocumentArray(some("b"))),
        ]
        tasks = [Assignment(number, "/new", None, each) for number, each in enumerate(frames)]
        jobs = service.jobs(tasks)
        assert [([task.id for task in some], len(calls)) for some, calls in jobs] == [
            ([1], 0),
            ([0, 2], 2),
        ]

    def test_a_result_that_cannot_be_sent_fails_alone(self, folder: Path, queue: Queue) -> None:
        class Wrong(Batches):
            @requests(on="/in_place", batch_size=8)
            def in_place(self, docs: DocumentArray, **kwargs: Any) -> None:
                for doc in docs:
                    doc.tags["value"] = object() if doc.text == "bad" else len(docs)

        with Flow(timeout_close=2000).add(
            name="batches", uses=Wrong, uses_with={"folder": str(folder)}
        ) as flow:
            good, bad = queue(flow, ("/in_place", some("a")), ("/in_place", some("bad")))
            assert good.result(PATIENCE)[0].tags["value"] == 2
            with pytest.raises(errors.SerializationError):
                bad.result(PATIENCE)

    def test_with_retries_0_no_request_is_called_twice_so_all_of_the_batch_fail(
        self, tmp_path: Path
    ) -> None:
        with make(tmp_path, retries=0) as flow:
            client = Client(port=flow.port)
            held = in_background(flow.post, "/hold", Document(text="x"))
            begun(tmp_path, "x")
            posted = []
            for text in ("a", "bad"):
                posted.append(in_background(flow.post, "/bad", Document(text=text)))
                wait_for(lambda: client.info()["executors"]["batches"]["queued"] == len(posted))
            let_go(tmp_path, "x")
            held.result(PATIENCE)
            for each in posted:
                with pytest.raises(errors.ExecutorError, match="called for 2 requests at once"):
                    each.result(PATIENCE)
        assert [(tmp_path / f"{text}.tried").read_text() for text in ("a", "bad")] == ["2\n", "2\n"]

    def test_a_request_that_kills_replicas_fails_alone(self, folder: Path, queue: Queue) -> None:
        with make(folder, retries=1) as flow:
            posted = queue(flow, ("/bad", some("a")), ("/bad", some("deadly")), ("/bad", some("b")))
            assert [posted[at].result(PATIENCE).texts for at in (0, 2)] == [["a"], ["b"]]
            with pytest.raises(errors.ReplicaCrashed, match="retries=1"):
                posted[1].result(PATIENCE)

    def test_a_request_that_takes_too_long_fails_alone(self, folder: Path, queue: Queue) -> None:
        with make(folder, timeout_run=500) as flow:
            posted = queue(
                flow, ("/bad", some("c")), ("/bad", some("endless")), ("/bad", some("d"))
            )
            assert [posted[at].result(PATIENCE).texts for at in (0, 2)] == [["c"], ["d"]]
            with pytest.raises(errors.DeadlineExceeded, match="timeout_run"):
                posted[1].result(PATIENCE)


class TestSaying:
    def test_a_flow_says_it_over_the_decorators(self, folder: Path) -> None:
        said = {
            "/in_place": {"preferred_batch_size": 2, "timeout": 1_000_000},
            "/new": {"preferred_batch_size": 1},
        }
        with make(folder, uses_dynamic_batching=said) as flow:
            assert Client(port=flow.port).info()["executors"]["batches"]["batching"] == {
                "/in_place": [2, 1_000_000.0],
                "/async": [8, 0.0],
                "/dict": [8, 0.0],
                "/set": [8, 0.0],
                "/fewer": [8, 0.0],
                "/bad": [8, 0.0],
                "/patient": [2, 1_000_000.0],
                "/hesitant": [2, 10.0],
            }
            found = flow.post("/in_place", some("a", "b", "c", "d"), request_size=1)
            assert [doc.tags["together"] for doc in found] == [2] * 4

    def test_yaml_of_a_flow_and_of_an_executor_say_it(self, tmp_path: Path) -> None:
        (tmp_path / "count.py").write_text(
            "from zflow import Executor, requests\n\n\n"
            "class Count(Executor):\n"
            "    @requests(on=['/a', '/b'])\n"
            "    def count(self, docs, **kwargs):\n"
            "        for doc in docs:\n"
            "            doc.tags['together'] = len(docs)\n"
        )
        (tmp_path / "count.yaml").write_text(
            "jtype: Count\npy_modules: [count.py]\n"
            "uses_dynamic_batching:\n  /a: {preferred_batch_size: 2, timeout: 1000000}\n"
        )
        (tmp_path / "flow.yaml").write_text(
            "jtype: Flow\nexecutors:\n- uses: count.yaml\n"
            "  uses_dynamic_batching:\n    /b:\n      preferred_batch_size: 4\n      timeout: "
            "1000000\n"
        )
        with Flow.load_config(tmp_path / "flow.yaml") as flow:
            for endpoint, size in (("/a", 2), ("/b", 4)):
                found = flow.post(endpoint, some("a", "b", "c", "d"), request_size=1)
                assert [doc.tags["together"] for doc in found] == [size] * 4

    def test_replicas_can_change_while_batches_are_under_way(self, folder: Path) -> None:
        with make(folder, replicas=2) as flow:
            posted = in_background(
                flow.post, "/in_place", some(*map(str, range(3000))), request_size=1
            )
            flow.restart("batches")
            flow.scale("batches", 1)
            assert sorted(posted.result(PATIENCE).texts) == sorted(map(str, range(3000)))

    def test_a_replica_that_is_killed_at_a_batch_costs_no_request(self, folder: Path) -> None:
        flow: Flow = Flow(timeout_close=2000)
        with flow.add(name="killed", uses=Batches, uses_with={"folder": str(folder)}, replicas=2):
            posted = in_background(
                flow.post, "/in_place", some(*map(str, range(2000))), request_size=1
            )
            os.kill(pid_of("killed/rep-0"), 9)
            assert len(posted.result(PATIENCE)) == 2000

    def test_no_reduce_and_batches_do_not_go_together(self) -> None:
        flow: Flow = Flow().add(name="a").add(name="b", needs="gateway")
        flow.add(uses=Batches, uses_with={"folder": "x"}, needs=["a", "b"], no_reduce=True)
        with pytest.raises(errors.InvalidExecutor, match="docs_matrix"):
            flow.start()
