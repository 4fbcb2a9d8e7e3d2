"""What it costs to decode Documents goes by the bytes that came,
whatever a stranger puts into them.
"""

from __future__ import annotations

import time
import tracemalloc
from typing import Any

import msgpack
import pytest

from zflow.documents.codec import WIRE_VERSION, pack, unpack
from zflow.documents.document import Document, DocumentArray
from zflow.errors import BadRequest

MANY = 20_000
DEEPER_THAN_CALLS = 80  # a level takes several calls


def nested(count: int, levels: int, name: str = "matches") -> dict[str, Any]:
    """Documents with one of their own each, and so on: a level of each takes two bytes."""
    columns: dict[str, Any] = {"id": [""] * count}
    return {**columns, name: [[1] * count, nested(count, levels - 1, name)]} if levels else columns


HOSTILE: dict[str, dict[str, Any]] = {
    "matches": nested(MANY, 1),
    "matches of matches": nested(MANY, 2),
    "twenty levels": nested(MANY // 20, 20),
    "matches and chunks": {**nested(MANY, 1), **nested(MANY, 1, "chunks")},
    "matches and empty ones": {
        "id": [""] * MANY,
        "matches": [[1, 0] * (MANY // 2), nested(MANY // 2, 0)],
    },
    "empty scores": {"id": [""] * MANY, "scores": [{}] * MANY},
    "scores": {"id": [""] * MANY, "scores": [{"": [1, "", ""]}] * MANY},
}


def message(columns: dict[str, Any]) -> bytes:
    return msgpack.packb([WIRE_VERSION, {}, columns])


@pytest.mark.parametrize("kind", HOSTILE)
def test_memory_goes_by_the_bytes(kind: str) -> None:
    """An array for each Document took 140 to 190 times as much."""
    data = message(HOSTILE[kind])
    tracemalloc.start()
    try:
        unpack([data])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= 64 * len(data)


@pytest.mark.parametrize(
    "kind", [kind for kind in HOSTILE if "matches" in kind or "levels" in kind]
)
def test_time_goes_by_the_bytes(kind: str) -> None:
    """It took 40 times as long as texts of as many bytes do."""
    data = message(HOSTILE[kind])
    count = len(data) // 2
    plain = message({"id": [""] * count, "text": [""] * count})
    best = {data: float("inf"), plain: float("inf")}
    for _ in range(5):
        for frame in best:
            begin = time.process_time()
            unpack([frame])
            best[frame] = min(best[frame], time.process_time() - begin)
    assert best[data] < 15 * best[plain]


def test_matches_that_nobody_looks_at_pass_through() -> None:
    docs = DocumentArray(
        Document(
            id=f"{n}",
            matches=[Document(id=f"{n}{m}", chunks=[Document(text="x")] * m) for m in range(n % 3)],
        )
        for n in range(10)
    )
    frames = pack(docs)
    arrived = unpack(frames)[0]
    assert pack(arrived) == frames
    assert [pack(arrived._part(n, n + 5)) for n in (0, 5)] == [
        pack(DocumentArray(docs[n : n + 5])) for n in (0, 5)
    ]
    assert arrived == docs


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("levels", [3, 4, DEEPER_THAN_CALLS, 240])
def test_any_level_can_be_looked_at(count: int, levels: int) -> None:
    try:
        docs = unpack([message(nested(count, levels))])[0]
    except BadRequest:
        assert levels > DEEPER_THAN_CALLS
        return
    for _ in range(levels):
        assert len(docs) in (1, count)
        docs = docs[-1].matches
    assert len(docs) == 1
    assert len(docs[0].matches) == 0
