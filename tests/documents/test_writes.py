"""Writes: who has changed what, put together and sent."""

from __future__ import annotations

import pytest

from zflow.documents.changes import DEEPEST
from zflow.documents.codec import pack, unpack
from zflow.documents.document import Document, DocumentArray
from zflow.documents.merging import gather
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


def test_writes_that_are_nested_deeply_are_gone_through_for_so_many_levels_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, joined = [], []
    all_of, joined_with = Writes.all, Writes.joined
    monkeypatch.setattr(Writes, "all", lambda self: asked.append(self) or all_of(self))
    monkeypatch.setattr(
        Writes, "joined", lambda self, other: joined.append(self) or joined_with(self, other)
    )
    tags: dict[str, object] = {"x": 1}
    writes = Writes(below={"x": Writes(frozenset({1}))})
    for _ in range(200):
        tags, writes = {"a": tags}, Writes(below={"a": writes})
    payload = pack(DocumentArray(), tags, Writes(below={"parameters": writes}))
    assert gather([("a", [payload, payload])]).parameters == tags
    assert sum(bool(one.below) for one in asked) <= 2 * DEEPEST
    assert len(joined) <= 200
    assert writes.all() == {1}


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
