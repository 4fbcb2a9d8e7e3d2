"""`@requests(each=True)`: a method that gets one Document at a time."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import pytest

from zflow import Document, DocumentArray, Executor, requests
from zflow.errors import InvalidExecutor
from zflow.executors.each import SomeFailed
from zflow.executors.handlers import handlers


class Each(Executor):
    @requests(each=True)
    def work(self, doc: Document, parameters: dict[str, Any]) -> Document | None:
        if doc.text == "bad":
            raise ValueError("too bad")
        if doc.text == "other":
            return Document(id="new", text=parameters["as"])
        doc.text += "!"
        return 7 if doc.text == "seven!" else None  # type: ignore[return-value]

    @requests(on="/async", each=True)
    async def later(self, doc: Document) -> None:
        await asyncio.sleep(0)
        if doc.text == "bad":
            raise ValueError("too bad")
        doc.text += "?"


class Heir(Each):
    def work(self, doc: Document, **kwargs: Any) -> None:  # type: ignore[override]
        doc.text += "heir"


def call(*texts: str, on: str = "/default", executor: Executor | None = None) -> Any:
    executor = executor or Each()
    docs = DocumentArray(Document(id=f"d{n}", text=text) for n, text in enumerate(texts))
    bound = handlers(executor)[on].bind(executor)
    value = bound(docs=docs, parameters={"as": "x"}, docs_matrix=None, docs_map=None)
    return asyncio.run(value) if on == "/async" else value


@pytest.mark.parametrize("on", ["/default", "/async"])
def test_a_method_is_called_for_each_document(on: str) -> None:
    mark = "?" if on == "/async" else "!"
    assert call("a", "b", on=on).texts == [f"a{mark}", f"b{mark}"]
    assert call(on=on).texts == []


def test_what_it_returns_takes_the_documents_place() -> None:
    assert call("a", "other", "b").ids == ["d0", "new", "d2"]


def test_an_heir_that_says_nothing_else_gets_one_at_a_time_too() -> None:
    assert call("a", executor=Heir()).texts == ["aheir"]


@pytest.mark.parametrize("on", ["/default", "/async"])
def test_the_others_are_done_where_some_fail(on: str) -> None:
    with pytest.raises(SomeFailed, match=r"^Document 1 \('d1'\), 3 \('d3'\)$") as raised:
        call("a", "bad", "b", "bad", on=on)
    assert raised.value.failed == [(1, "d1"), (3, "d3")]
    assert isinstance(raised.value.__cause__, ValueError)
    assert [doc.id for doc in raised.value.docs] == ["d0", "d2"]
    with pytest.raises(SomeFailed, match=r"'d9'\) and 2 more$") as raised:
        call(*["bad"] * 12, on=on)
    assert list(raised.value.docs) == []


class Exits(Executor):
    @requests(each=True)
    def work(self, doc: Document) -> None:
        if doc.text == "exit":
            sys.exit(3)
        if doc.text == "fork":
            self.child = os.fork()
            if not self.child:
                raise SystemExit
        doc.text += "!"

    @requests(on="/async", each=True)
    async def later(self, doc: Document) -> None:
        self.work(doc)


@pytest.mark.parametrize("on", ["/default", "/async"])
def test_one_that_exits_has_failed_like_any_other(on: str) -> None:
    with pytest.raises(SomeFailed) as raised:
        call("a", "exit", "b", on=on, executor=Exits())
    assert raised.value.failed == [(1, "d1")]
    assert isinstance(raised.value.__cause__, SystemExit)
    assert [doc.text for doc in raised.value.docs] == ["a!", "b!"]


def test_a_process_that_it_has_forked_does_nothing_for_the_others() -> None:
    parent = os.getpid()
    executor = Exits()
    try:
        docs = call("fork", "b", executor=executor)
    except BaseException as error:
        if os.getpid() != parent:
            os._exit(isinstance(error, SystemExit))
        raise
    assert docs.texts == ["fork!", "b!"]
    assert os.waitstatus_to_exitcode(os.waitpid(executor.child, 0)[1]) == 1


def test_it_returns_nothing_but_a_document() -> None:
    with pytest.raises(SomeFailed) as raised:
        call("seven")
    assert "returned int; with each=True" in str(raised.value.__cause__)


def test_what_it_cannot_take_is_told_when_the_class_is_made() -> None:
    with pytest.raises(InvalidExecutor, match=r"requires 'docs'.*doc, parameters"):

        class Wrong(Executor):
            @requests(each=True)
            def work(self, docs: DocumentArray) -> None: ...

    with pytest.raises(InvalidExecutor, match=r"one Document at a time .* batches"):

        class Both(Executor):
            @requests(each=True, batch_size=3)
            def work(self, doc: Document) -> None: ...
