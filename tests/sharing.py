"""What the tests of shared memory share: arrays that tell whether they are right,
and how much memory there is.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers import wait_for

from zflow import Document, DocumentArray, Executor, Flow, requests
from zflow.clients import member

SIZE = 16 * 1024  # numbers in an array: more bytes than a leak could hide among the tables
LITTLE = 96 * 1024  # bytes that the tables of an arena may take when there is nothing in them


class Add(Executor):
    """Adds a number to each array; the results are the Documents it was given, changed in place."""

    def __init__(self, number: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.number = number
        self.calls = 0

    @requests
    def add(self, docs: DocumentArray, **kwargs: Any) -> None:
        for doc in docs:
            doc.tensor += self.number
            doc.tags["pid"] = os.getpid()

    @requests(on="/nothing")
    def nothing(self, docs: DocumentArray, **kwargs: Any) -> DocumentArray:
        self.calls += len(docs)
        return DocumentArray()

    @requests(on="/slow")
    def slow(self, docs: DocumentArray, **kwargs: Any) -> None:
        time.sleep(0.002)
        self.add(docs)

    @requests(on="/fail")
    def fail(self, docs: DocumentArray, **kwargs: Any) -> None:
        raise ValueError("does not like it")


class Shard(Executor):
    """Adds what its shard has to each array, in place."""

    @requests(on="/search")
    def search(self, docs: DocumentArray, **kwargs: Any) -> None:
        for doc in docs:
            doc.tensor += 10.0 ** (1 + self.runtime_args.shard_id)
            doc.matches.append(Document(tensor=doc.tensor.copy()))


def arrays(count: int, size: int = SIZE) -> DocumentArray:
    return DocumentArray(
        Document(text=str(number), tensor=np.full(size, float(number))) for number in range(count)
    )


def right(docs: DocumentArray, count: int, more: float = 1.0) -> bool:
    """Whether the results are all there, in order and with the right numbers in them."""
    return len(docs) == count and all(
        bool((doc.tensor == at + more).all()) for at, doc in enumerate(docs)
    )


def resident(flow: Flow) -> int:
    """The bytes of memory that the Flow's arena takes."""
    descriptor = flow._launched.sharing.descriptor if flow._launched is not None else None
    assert descriptor is not None
    return os.fstat(descriptor).st_blocks * 512


def comes_back(flow: Flow) -> None:
    """Nothing is under way: the memory is free soon, but for tables."""
    wait_for(
        lambda: resident(flow) <= LITTLE,
        what=f"all memory comes back, not {resident(flow)} bytes left",
    )


@pytest.fixture(autouse=True)
def the_client_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that whatever memory is left is one that something has lost."""
    monkeypatch.setattr(member, "KEPT", 0)


@pytest.fixture(autouse=True)
def no_file() -> Iterator[None]:
    """There is never anything in /dev/shm, whatever happens."""
    before = os.listdir("/dev/shm")
    yield
    assert [name for name in os.listdir("/dev/shm") if name not in before and "zflow" in name] == []
