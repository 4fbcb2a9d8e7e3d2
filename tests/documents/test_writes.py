"""Writes: who has changed what, put together and sent."""

from __future__ import annotations

import pytest

from zflow.documents.codec import pack, unpack
from zflow.documents.document import Document, DocumentArray
from zflow.documents.writes import NONE, Writes
from zflow.errors import BadRequest


def made(**by: int) -> Writes:
    writes = Writes()
    for key, visit in by.items():
        writes.at("in", key).by |= {visit}
    return writes


def test_what_is_joined_has_the_writes_of_both() -> None:
    both = made(a=1, b=2).joined(made(a=3, c=4))
    assert both.of("in").of("a").by == {1, 3}
    assert both.all() == {1, 2, 3, 4}
    assert both.joined(NONE) is NONE.joined(both) is both


def test_what_nobody_has_changed_stays_so() -> None:
    writes = Writes(below={"x": NONE})
    writes.at("x", "y").by |= {1}
    assert (writes.all(), NONE.all(), NONE.below) == ({1}, set(), {})


def test_they_travel_beside_documents_and_nobody_sees_them() -> None:
    docs = DocumentArray(Document(id="a", tags={"x": 1}))
    there, parameters = unpack(pack(docs, {"n": 1}, made(a=1, b=2**55)))
    assert (there, parameters) == (docs, {"n": 1})
    assert there._writes.plain() == made(a=1, b=2**55).plain()


@pytest.mark.parametrize(
    "told",
    [7, [], [[1]], [[1], []], [["1"], {}], [[1], {"a": [1, {}]}], [[2**56], {}], [[1, -1], {}]],
)
def test_what_is_none_is_a_bad_request(told: object) -> None:
    class Told(Writes):
        def plain(self) -> list[object]:
            return told  # type: ignore[return-value]

    with pytest.raises(BadRequest, match="writes are malformed"):
        unpack(pack(DocumentArray(), {}, Told()))
