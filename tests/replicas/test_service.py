"""An Executor between requests and answers: what it is called with, what becomes of results,
errors and its end.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import msgpack
import pytest

from zflow import Document, DocumentArray, Executor, errors, requests
from zflow.devices.local import arena
from zflow.devices.local.arena import Arena, Stale
from zflow.devices.protocol.parts import flat
from zflow.devices.protocol.references import Reference
from zflow.documents import codec
from zflow.executors.batching import Batching
from zflow.replicas.call import Miscounted
from zflow.replicas.link import Answer, Assignment
from zflow.replicas.seat import Seat
from zflow.replicas.service import ASYNC_SLOTS, BRIEF, Service, as_error
from zflow.topology.topology import ExecutorSpec

NAME = "work/shard-1/rep-2"
LIMIT = 10_000


class Worker(Executor):
    """Has an endpoint for one request at a time, one for several, and none for the rest."""

    def __init__(self, end: str = "!", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.end = end

    @requests(on="/one")
    def one(self, docs: DocumentArray, **kwargs: Any) -> None:
        docs.texts = [text + self.end for text in docs.texts]

    @requests(on="/many", batch_size=8)
    def many(self, docs: DocumentArray, **kwargs: Any) -> None:
        docs.texts = [text + self.end for text in docs.texts]

    @requests(on="/raise")
    def fail(self, **kwargs: Any) -> None:
        raise KeyError("a")


class Quiet(Executor):
    """Binds what nobody else does, on an event loop."""

    closed = False

    @requests
    async def rest(self, **kwargs: Any) -> None: ...

    async def close(self) -> None:  # type: ignore[override]
        await asyncio.sleep(0)
        self.closed = True


class CannotStart(Executor):
    def __init__(self, **kwargs: Any) -> None:
        raise LookupError("no weights")


class CannotClose(Executor):
    def close(self) -> None:
        raise SystemExit(3)


def service(uses: Any = Worker, memory: Arena | None = None, **changes: Any) -> Service:
    spec = ExecutorSpec("work", ("gateway",), uses, replicas=4, shards=3, **changes)
    return Service(Seat(spec, 0, 1, 2, "", None, None, LIMIT), memory)


def docs(*texts: str) -> DocumentArray:
    return DocumentArray(Document(id=text, text=text) for text in texts)


def task(*texts: str, endpoint: str = "/one", id: int = 1, **parameters: Any) -> Assignment:
    return Assignment(id, endpoint, None, codec.pack(docs(*texts), parameters))


def met(*branches: tuple[str, list[DocumentArray]], endpoint: str = "/one") -> Assignment:
    """A request in which branches meet."""
    parts, frames = flat(
        [(name, [codec.pack(each) for each in payloads]) for name, payloads in branches]
    )
    return Assignment(1, endpoint, parts, frames)


def texts(frames: Any) -> list[str]:
    return list(codec.unpack(frames)[0].texts)


def error_in(answer: Answer) -> dict[str, Any]:
    assert answer.docs is None
    return dict(msgpack.unpackb(answer.frames[0]))


# -- making the Executor ---------------------------------------------------------------------------


def test_the_executor_is_made_with_what_its_seat_says() -> None:
    made = service(uses_with={"end": "?"}, uses_metas={"colour": "red"}, workspace="/somewhere")
    args = vars(made.executor.runtime_args)
    seat = {
        "name": NAME,
        "shard_id": 1,
        "shards": 3,
        "replica_id": 2,
        "replicas": 4,
        "workspace": "/somewhere",
    }
    assert {name: args[name] for name in seat} == seat
    assert made.name == NAME
    assert vars(made.executor.metas) == {"colour": "red"}
    assert made.executor.end == "?"


def test_a_relative_workspace_stays_where_it_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "away").mkdir()
    (tmp_path / "wanders.py").write_text(
        "import os\nfrom zflow import Executor\nclass Wanders(Executor): ...\nos.chdir('away')\n"
    )
    uses = "jtype: wanders.py:Wanders\nmetas: {workspace: kept}"
    monkeypatch.chdir(tmp_path)
    made = service(uses=uses, folder=str(tmp_path))
    assert os.getcwd() == str(tmp_path / "away")
    assert made.executor.workspace == str(tmp_path / "kept" / "work" / "1")


def test_it_tells_what_the_executor_binds_and_how_much_it_does_at_once() -> None:
    worker, quiet = service(), service(Quiet)
    assert sorted(worker.endpoints) == ["/many", "/one", "/raise"]
    assert worker.batching == {"/many": Batching(8)}
    assert (worker.is_async, worker.slots) == (False, 1)
    assert quiet.endpoints == ["/default"]
    assert (quiet.is_async, quiet.slots) == (True, ASYNC_SLOTS)


def test_what_the_flow_says_of_endpoints_and_batches_counts_over_the_decorators() -> None:
    made = service(
        uses_requests={"/named": "one"}, uses_dynamic_batching={"/many": Batching(2, 0.5)}
    )
    assert "/named" in made.endpoints
    assert made.batching == {"/many": Batching(2, 0.5)}


def test_what_loading_or_making_it_raises_comes_through() -> None:
    with pytest.raises(errors.InvalidExecutor, match="executor 'work'"):
        service("nonsense")
    with pytest.raises(LookupError, match="no weights"):
        service(CannotStart)


# -- what it is called with ------------------------------------------------------------------------


def test_a_request_is_decoded() -> None:
    call = service().prepare(task("a", "b", n=3))
    assert call.handler is not None
    assert call.handler.method == "one"
    assert (list(call.docs.texts), call.parameters) == (["a", "b"], {"n": 3})
    assert (call.docs_matrix, call.docs_map) == (None, None)
    call.start()
    assert list(call.docs.texts) == ["a!", "b!"]


def test_what_nothing_is_bound_to_passes_through_unless_there_is_a_default() -> None:
    made = service()
    call = made.prepare(task("a", endpoint="/else"))
    assert call.handler is None
    assert texts(made.encode(call, call.start())[0]) == ["a"]
    default = service(Quiet).prepare(task("a", endpoint="/else"))
    assert default.handler is not None
    assert default.handler.method == "rest"


def test_where_branches_meet_their_documents_are_reduced() -> None:
    call = service().prepare(met(("left", [docs("a", "b")]), ("right", [docs("b", "c")])))
    assert list(call.docs.texts) == ["a", "b", "c"]
    assert (call.docs_matrix, call.docs_map) == (None, None)


def test_an_executor_that_wants_them_apart_gets_them_apart() -> None:
    apart = service(no_reduce=True, uses_dynamic_batching={"/many": Batching(1)})
    call = apart.prepare(met(("left", [docs("a", "b")]), ("right", [docs("b", "c")])))
    assert call.docs_matrix is not None
    assert call.docs_map is not None
    assert [list(each.texts) for each in call.docs_matrix] == [["a", "b"], ["b", "c"]]
    assert {name: list(each.texts) for name, each in call.docs_map.items()} == {
        "left": ["a", "b"],
        "right": ["b", "c"],
    }
    assert list(call.docs.texts) == ["a", "b", "b", "c"]


def test_parts_that_do_not_fit_are_a_bad_request() -> None:
    with pytest.raises(
        errors.BadRequest, match="a message cannot be decoded: parts do not fit the frames"
    ):
        service().prepare(Assignment(1, "/one", [["left", [3]]], task("a").frames))


def test_a_request_whose_memory_is_gone_is_stale() -> None:
    made = service(memory=Arena(arena_file := arena.create()))
    os.close(arena_file)
    with pytest.raises(Stale):
        made.prepare(Assignment(1, "/one", None, [b"first", Reference(1, 0, 0, 100, 5)]))


# -- several at once -------------------------------------------------------------------------------


def test_requests_that_are_alike_are_one_job_and_what_cannot_be_decoded_fails_alone() -> None:
    bad = Assignment(9, "/many", None, [b"\xc1"])
    tasks = [
        task(text, endpoint="/many", id=id, n=n)
        for id, (text, n) in enumerate([("a", 1), ("b", 2), ("c", 1)])
    ]
    jobs = service().jobs([tasks[0], bad, tasks[1], tasks[2]])
    assert [[each.id for each in some] for some, _ in jobs] == [[9], [0, 2], [1]]
    assert [len(calls) for _, calls in jobs] == [0, 2, 1], "it is still to be decoded, and to fail"


def test_a_single_request_is_decoded_when_it_is_its_turn() -> None:
    only = task("a")
    assert service().jobs([only]) == [([only], [])]


def test_of_a_call_for_several_requests_each_gets_its_own() -> None:
    made = service()
    ((tasks, calls),) = made.jobs(
        [task("a", "b", endpoint="/many", id=1), task("c", endpoint="/many", id=2)]
    )
    working = made.begin(tasks, calls)
    assert list(working.made.docs.texts) == ["a", "b", "c"]
    answers = made.end(working, working.made.start())
    assert [(answer.tasks[0].id, texts(answer.frames), answer.docs) for answer in answers] == [
        (1, ["a!", "b!"], 2),
        (2, ["c!"], 1),
    ]


def test_a_dict_is_the_result_of_each_of_them() -> None:
    made = service()
    ((tasks, calls),) = made.jobs([task(text, endpoint="/many") for text in "ab"])
    answers = made.end(made.begin(tasks, calls), {"n": 1})
    assert [codec.unpack(answer.frames)[1]["__results__"] for answer in answers] == [
        {NAME: {"n": 1}}
    ] * 2


def test_too_few_documents_for_several_requests_are_an_error_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = service()
    for _ in range(2):
        ((tasks, calls),) = made.jobs([task(text, endpoint="/many") for text in "ab"])
        with pytest.raises(Miscounted, match="1 Documents came back for 2 of 2 requests"):
            made.end(made.begin(tasks, calls), docs("a"))
    (said,) = caplog.messages
    assert said.startswith(
        "Worker.many: 1 Documents came back for 2 of 2 requests; a method that takes several"
    )


def test_a_result_that_cannot_be_sent_fails_its_request_only() -> None:
    made = service()
    ((tasks, calls),) = made.jobs([task(text, endpoint="/many") for text in "ab"])
    small, large = made.end(made.begin(tasks, calls), docs("a", "x" * LIMIT))
    assert texts(small.frames) == ["a"]
    assert error_in(large)["type"] == "RequestTooLarge"


# -- results and errors ----------------------------------------------------------------------------


def test_what_is_returned_is_the_result_and_none_keeps_the_documents() -> None:
    made = service()
    for value, expected in ((None, ["a"]), (docs("b", "c"), ["b", "c"]), (docs(), [])):
        frames, count = made.encode(made.prepare(task("a", n=3)), value)
        assert (texts(frames), count) == (expected, len(expected))
        assert codec.unpack(frames)[1] == {"n": 3}


def test_a_dict_goes_with_the_parameters_under_the_replicas_name() -> None:
    made = service()
    call = made.prepare(task("a", __results__={"before/rep-0": {"m": 2}}))
    frames, count = made.encode(call, {"n": 1})
    assert (texts(frames), count) == (["a"], 1)
    assert codec.unpack(frames)[1] == {"__results__": {"before/rep-0": {"m": 2}, NAME: {"n": 1}}}


def test_anything_else_is_refused_with_what_may_be_returned() -> None:
    made = service()
    may = "a handler returns a DocumentArray, a dict, or None to keep the docs as it changed them"
    with pytest.raises(TypeError) as caught:
        made.encode(made.prepare(task("a")), 42)
    assert str(caught.value) == f"Worker.one returned int; {may}"


def test_a_result_over_the_limit_names_the_largest_document() -> None:
    made = service()
    with pytest.raises(errors.RequestTooLarge) as caught:
        made.encode(made.prepare(task("a")), docs("small", "x" * LIMIT))
    text = str(caught.value)
    assert text.startswith(f"the result of {NAME} has ")
    assert f"over the limit of {LIMIT} (max_message_bytes); the largest is " in text


def test_an_error_says_who_raised_it_where_and_with_the_users_own_traceback() -> None:
    made = service()
    one = task("a", endpoint="/raise")
    with pytest.raises(KeyError) as caught:
        made.prepare(one).start()
    error = error_in(made.failure([one], caught.value))
    assert (error["type"], error["executor"], error["exception"]) == (
        "ExecutorError",
        NAME,
        "KeyError",
    )
    assert error["message"] == f"{NAME} raised at '/raise': KeyError: 'a'"
    assert 'raise KeyError("a")' in error["traceback"]
    assert error["traceback"].startswith("Traceback")


def test_the_error_of_a_call_for_several_says_for_how_many() -> None:
    answer = service().failure([task("a"), task("b")], ValueError("no"))
    assert (
        f"{NAME} raised at '/one' (called for 2 requests at once): " in error_in(answer)["message"]
    )
    assert len(answer.tasks) == 2


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (errors.BadRequest("broken"), errors.BadRequest, "me: broken"),
        (errors.SerializationError("a set"), errors.SerializationError, "me: a set"),
        (errors.InvalidExecutor("no such class"), errors.InvalidExecutor, "no such class"),
        (errors.NotSupported("not yet"), errors.NotSupported, "not yet"),
        (
            errors.FlowUnreachable("gone"),
            errors.ExecutorError,
            "me did: FlowUnreachable: gone (try)",
        ),
        (SystemExit(3), errors.ExecutorError, "me did: SystemExit: 3 (try)"),
        (ValueError(), errors.ExecutorError, "me did: ValueError (try)"),
    ],
)
def test_zflows_own_errors_stay_what_they_are_and_others_are_the_executors(
    error: BaseException, kind: type[errors.ZflowError], message: str
) -> None:
    told = as_error(error, "me", "did", " (try)")
    assert (type(told), told.message) == (kind, message)


def test_errors_that_are_endless_or_have_no_text_can_be_sent_all_the_same() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert len(as_error(ValueError("x" * 10**6), "me", "did").message) < 11_000
    assert len(as_error(ValueError("x" * 10**6), "me", "did").traceback) < 65_000
    assert as_error(Mute(), "me", "did").message == "me did: Mute: <its str() fails>"
    for half in ("\udcff", "\ud800"):
        assert (
            ascii(half)[1:-1].encode() in service().failure([task("a")], ValueError(half)).frames[0]
        )


# -- how long it takes -----------------------------------------------------------------------------


def test_an_endpoint_is_brief_when_its_last_requests_were() -> None:
    made = service()
    assert not made.is_brief("/one"), "nothing is known"
    made.took("/one", BRIEF / 2)
    assert made.is_brief("/one")
    assert not made.is_brief("/many")
    made.took("/one", BRIEF * 10)
    made.took("/one", BRIEF / 2)
    assert not made.is_brief("/one")
    for _ in range(50):
        made.took("/one", BRIEF / 2)
    assert made.is_brief("/one"), "one that was long is forgotten"


def test_endpoints_that_nothing_is_bound_to_are_one() -> None:
    made = service(Quiet)
    made.took("/a", BRIEF / 2)
    assert made.is_brief("/b")


# -- its end ---------------------------------------------------------------------------------------


def test_an_async_close_is_awaited_on_the_executors_loop() -> None:
    made = service(Quiet)
    made.loop = asyncio.new_event_loop()
    made.close()
    made.loop.close()
    assert made.executor.closed


def test_an_attribute_of_its_name_does_not_hide_close() -> None:
    made = service(Quiet)
    made.executor.close = True  # type: ignore[method-assign, assignment]
    made.close()
    assert made.executor.closed


def test_what_close_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "zflow.worker"):
        service(CannotClose).close()
    (record,) = caplog.records
    assert record.getMessage() == "CannotClose.close() failed"
    assert record.exc_info is not None
    assert record.exc_info[0] is SystemExit
