"""An Executor that works Document by Document: one bad Document says which it is, and the results
of the others are there.
"""

from __future__ import annotations

import pickle

import pytest

from zflow import Document, DocumentArray, Executor, Flow, requests
from zflow.errors import ExecutorError


class Half(Executor):
    @requests(each=True)
    def work(self, doc: Document) -> None:
        doc.tags["half"] = 10 // doc.tags["n"]

    @requests(on="/whole")
    def whole(self, docs: DocumentArray) -> None:
        raise KeyError("all of it")


def test_a_bad_document_is_named_and_the_others_results_are_there() -> None:
    docs = [Document(id=f"d{n}", tags={"n": n}, blob=b"x" * 20_000) for n in (5, 0, 2)]
    with Flow(max_message_bytes=100_000).add(name="first").add(name="half", uses=Half) as flow:
        with pytest.raises(ExecutorError) as raised:
            flow.post("/", docs)
        error = raised.value
        assert error.message == (
            "half/rep-0 raised at '/' for Document 1 ('d0'): "
            "ZeroDivisionError: integer division or modulo by zero"
        )
        assert error.failed == [(1, "d0")]
        assert (error.failed[0].index, error.failed[0].id) == (1, "d0")
        assert isinstance(error.docs, DocumentArray)
        assert [(doc.id, doc.tags["half"], doc.blob) for doc in error.docs] == [
            ("d5", 2, b"x" * 20_000),
            ("d2", 5, b"x" * 20_000),
        ]
        assert "doc.tags" in error.traceback
        assert "zflow/executors" not in error.traceback
        assert pickle.loads(pickle.dumps(error)).failed == error.failed

        with pytest.raises(ExecutorError) as raised:
            flow.post("/whole", docs)
        assert (list(raised.value.failed), list(raised.value.docs)) == ([], [])
        assert flow.post("/", Document(tags={"n": 1}))[0].tags["half"] == 10
