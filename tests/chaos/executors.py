"""The Flow under chaos: Executors that sign each request,
and what the signed answer to a request must look like.

    gateway -> plain ----> both -> shards -> last -> once -> answer
            -> waits ---->

Each Executor binds some endpoints only, so that most requests visit one of them and some visit
nearly all; two of them take several requests in one call. A signature is a chunk named after who
signed; it covers the whole content of the request. Before it works on a request, an Executor notes
the request's number in a file of its process, which outlives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from zflow import Document, DocumentArray, Executor, Flow, requests

SHARDS = 2
REPLICAS = {"plain": 3, "waits": 2, "shards": 2, "last": 1, "once": 2}  # of the shards: of each one
CHILD = ("sleep", "86400")  # what a replica of `plain` starts
SLOWNESS = 0.05  # seconds that a replica takes longer as long as it is slow

# Who signs a request, by endpoint. A request for any shard is signed by one of them, whichever it
# is.
ANY_SHARD = "shards"
SHARD_NAMES = tuple(f"shards/shard-{shard}" for shard in range(SHARDS))
SIGNERS: dict[str, tuple[str, ...]] = {
    "/plain": ("plain",),
    "/waits": ("waits",),
    "/any": (ANY_SHARD,),
    "/all": SHARD_NAMES,
    "/whole": ("plain", "waits", *SHARD_NAMES, "last"),
    "/once": ("once",),
}


def flow(folder: Path, **options: Any) -> Flow:
    """The Flow, not started; its Executors keep their files in `folder`."""
    (folder / "begun").mkdir(parents=True, exist_ok=True)
    (folder / "slow").mkdir(exist_ok=True)
    built = Flow(uses_with={"folder": str(folder)}, replica_port=0, **options)
    built.add(name="plain", uses=Plain, replicas=REPLICAS["plain"])
    built.add(name="waits", uses=Waits, replicas=REPLICAS["waits"], needs="gateway")
    built.needs(["plain", "waits"], name="both")
    built.add(
        name="shards",
        uses=Shard,
        shards=SHARDS,
        replicas=REPLICAS["shards"],
        polling={"/all": "ALL", "/whole": "ALL", "*": "ANY"},
    )
    built.add(name="last", uses=Last, replicas=REPLICAS["last"])
    built.add(name="once", uses=Once, replicas=REPLICAS["once"], retries=0)
    return built


def their_children(folder: Path) -> list[int]:
    """The process ids of what replicas have started, and what those have left that are gone."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == CHILD[0] and process.cwd() == str(folder):
                found.append(process.pid)
    return found


def signature(who: str, doc: Document) -> str:
    """What `who` makes of a request's content."""
    content = zlib.crc32(f"{who}:{doc.id}:{doc.text}".encode())
    if doc.tensor is not None:
        content = zlib.crc32(np.ascontiguousarray(doc.tensor).data, content)
    return f"{content:08x}"


def objection(sent: Document, answer: DocumentArray, endpoint: str) -> str:
    """Why this is not the answer to `sent`; empty if it is."""
    if len(answer) != 1 or answer[0].id != sent.id:
        return f"request {sent.id} got the Documents {[doc.id for doc in answer]}"
    (doc,) = answer
    if doc.text != sent.text or not _same(doc.tensor, sent.tensor):
        return f"request {sent.id} came back with another content"
    found = {chunk.id: chunk.text for chunk in doc.chunks}
    wanted: dict[str, str] = {}
    for who in SIGNERS[endpoint]:
        if who == ANY_SHARD:
            who = next((name for name in SHARD_NAMES if name in found), who)
        wanted[who] = signature(who, sent)
    if len(doc.chunks) != len(wanted) or found != wanted:
        return f"request {sent.id} at {endpoint} is signed {found}, not {wanted}"
    return ""


def _same(one: Any, other: Any) -> bool:
    return one is other is None or (
        one is not None and other is not None and np.array_equal(one, other)
    )


class _Signs(Executor):
    """What all of them do with a request; the endpoints are bound by each."""

    def __init__(self, folder: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.me = self.runtime_args.name.rpartition("/")[0]  # without the replica's number
        self._slow = Path(folder, "slow", self.runtime_args.name.replace("/", "."))
        path = Path(folder, "begun", f"{self.me.replace('/', '.')}+{os.getpid()}")
        self._notes = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def begin(self, doc: Document) -> float:
        """Note that this request is begun; returns the seconds that it takes."""
        os.write(self._notes, f"{doc.id}\n".encode())
        return float(doc.tags["seconds"]) + (SLOWNESS if self._slow.exists() else 0.0)

    def sign(self, doc: Document) -> None:
        """Add the signature."""
        doc.chunks.append(Document(id=self.me, text=signature(self.me, doc)))

    def work(self, docs: DocumentArray) -> None:
        for doc in docs:
            time.sleep(self.begin(doc))
            self.sign(doc)

    def close(self) -> None:
        """Close the notes."""
        os.close(self._notes)


class Plain(_Signs):
    """Some requests in one call, on several replicas. Each has a child process,
    in a session of its own.
    """

    def __init__(self, folder: str, **kwargs: Any) -> None:
        super().__init__(folder=folder, **kwargs)
        subprocess.Popen(CHILD, cwd=folder, start_new_session=True)

    @requests(on=["/plain", "/whole"], batch_size=4)
    def plain(self, docs: DocumentArray, **kwargs: Any) -> None:
        self.work(docs)


class Waits(_Signs):
    """Many requests at once, on an event loop."""

    @requests(on=["/waits", "/whole"])
    async def waits(self, docs: DocumentArray, **kwargs: Any) -> None:
        for doc in docs:
            await asyncio.sleep(self.begin(doc))
            self.sign(doc)


class Shard(_Signs):
    """One of several shards."""

    @requests(on=["/any", "/all", "/whole"])
    def shard(self, docs: DocumentArray, **kwargs: Any) -> None:
        self.work(docs)


class Last(_Signs):
    """Reduces what the shards say."""

    @requests(on="/whole")
    def last(self, docs: DocumentArray, **kwargs: Any) -> None:
        self.work(docs)


class Once(_Signs):
    """Begins a request once at most, alone or with others."""

    @requests(on="/once", batch_size=4)
    def once(self, docs: DocumentArray, **kwargs: Any) -> None:
        self.work(docs)
