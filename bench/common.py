"""What the benchmarks measure with: the small request, samples of a call, percentiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from bench.inside import Request, encoder, pack, written
from zflow import Document, DocumentArray, Executor, requests

TEXT = "the quick brown fox jumps over the lazy dog"


class Echo(Executor):
    """Answers with what it was sent."""

    @requests
    def echo(self, docs: DocumentArray, **kwargs: Any) -> None:
        """Leave the Documents as they are."""


def small_documents(count: int) -> DocumentArray:
    """Return `count` Documents of one short text each."""
    return DocumentArray(Document(text=TEXT) for _ in range(count))


def same_bytes(docs: DocumentArray | None = None) -> list[bytes]:
    """Return the bytes of the request that zflow makes of these Documents, by default one small
    one: header and payload.

    In frames of their own, also where the payload of a small request stands in its header by now:
    a yardstick that changed with what it measures would be none.
    """
    docs = docs or small_documents(1)
    payload = [bytes(frame) for frame in pack(docs)]
    request = Request(1000, "/", None, None, 0, False, [len(docs)], payload)
    encode = encoder()
    fields, _ = written(request, encode)
    return [encode((*fields[:-1], None)), *payload]


def seconds_of(action: Callable[[], object]) -> float:
    """Return how many seconds `action()` takes."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def sample(call: Callable[[], object], count: int) -> list[float]:
    """Return the seconds of each of `count` calls."""
    clock = time.perf_counter
    samples = []
    for _ in range(count):
        begin = clock()
        call()
        samples.append(clock() - begin)
    return samples


def percentile(samples: Sequence[float], percent: float) -> float:
    """Return the smallest sample that at least `percent` of all samples do not exceed."""
    ordered = sorted(samples)
    at = -(-len(ordered) * percent // 100) - 1
    return ordered[max(0, int(at))]
