"""Nothing is lost where results are reduced: any graph of branches and shards, walked by the real
router, each Executor called by a real service, without processes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any, NamedTuple

import pytest

from zflow import Document, DocumentArray, Executor, requests
from zflow.devices.protocol.parts import MEETS, Inputs, flat, split
from zflow.devices.routing.router import Reply, Router, Visit
from zflow.devices.routing.walk import ENTRANCE, Node, Walk
from zflow.documents import codec
from zflow.documents.merging import gather, reduce
from zflow.replicas.link import Assignment
from zflow.replicas.seat import Seat
from zflow.replicas.service import Service
from zflow.topology.topology import ExecutorSpec

SEEDS = 150
KEYS = ("a", "b", "c")
Event = tuple[int, object]  # a visit, and what it has written; None: it has removed that


class Log(NamedTuple):
    """What happened in one walk."""

    seen: dict[int, frozenset[int]]  # by visit: those whose results it got, and theirs
    events: dict[tuple[str, ...], list[Event]]  # by where


class Hooked(Executor):
    """Does to Documents and parameters what the test says."""

    @requests
    def work(self, docs: DocumentArray, parameters: dict[str, Any], **kwargs: Any) -> None:
        self.hook(docs, parameters)


@pytest.fixture(scope="module")
def service() -> Service:
    spec = ExecutorSpec("hooked", ("gateway",), Hooked)
    return Service(Seat(spec, 0, 0, 0, "", None, None, 10_000_000))


def dicts(docs: DocumentArray, parameters: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    """All dicts that there are to write into, by where they are."""
    found: dict[tuple[str, ...], Any] = {("parameters",): parameters}

    def look(where: tuple[str, ...], docs: Iterable[Document]) -> None:
        for doc in docs:
            here = (*where, doc.id)
            found[(*here, "tags")] = doc.tags
            found[(*here, "tags", "in")] = doc.tags.setdefault("in", {})
            found[(*here, "scores")] = doc.scores
            look((*here, "matches"), doc.matches)
            look((*here, "chunks"), doc.chunks)

    look(("docs",), docs)
    return found


def values(docs: DocumentArray, parameters: dict[str, Any]) -> dict[tuple[str, ...], object]:
    return {
        (*where, key): value.op_name if where[-1] == "scores" else value
        for where, some in dicts(docs, parameters).items()
        for key, value in some.items()
        if key in KEYS
    }


class Walker:
    """Walks one request through one graph, in any order."""

    def __init__(self, seed: int, service: Service) -> None:
        self.random = random.Random(seed)
        self.service = service
        self.log = Log({}, {})
        self.router = Router(self.nodes())
        self.walk = Walk("me", "/")
        self.made: dict[int, int] = {}  # payload -> the visit that it comes from
        self.kept: list[Any] = []  # so that no two payloads are at one place

    def nodes(self) -> list[Node]:
        nodes: list[Node] = []
        names = [ENTRANCE]
        for number in range(self.random.randint(1, 7)):
            count = min(len(names), self.random.choice([1, 1, 2, 3]))
            near = names[-4:] if self.random.random() < 0.7 else names
            needs = tuple(self.random.sample(near, min(count, len(near))))
            endpoints = None if self.random.random() < 0.8 else frozenset({"/else"})
            shards, process = self.random.choice([1, 1, 1, 2, 3]), self.random.random() < 0.8
            shards = shards if process else 1
            nodes.append(
                Node(f"n{number}", needs, process, False, endpoints, shards, 1, {"*": "ALL"})
            )
            names.append(f"n{number}")
        return nodes

    def run(self) -> tuple[DocumentArray, dict[str, Any]]:
        docs = DocumentArray(Document(id=name, tags={"a": 0}) for name in "xy")
        docs["x"].matches.append(Document(id="m", tags={"a": 0}))
        start = codec.pack(docs, {"a": 0})
        self.events(-1, {}, values(docs, {"a": 0}))
        self.log.seen[-1] = frozenset()
        self.made[id(start)] = -1
        self.kept.append(start)
        todo = self.router.start(self.walk, start)
        while True:
            step = todo.pop(self.random.randrange(len(todo)))
            if isinstance(step, Reply):
                parts, frames = flat(step.inputs)
                if parts is None:
                    return codec.unpack(frames)
                found = gather(split(parts, frames))
                return reduce(list(found.docs.values())), found.parameters
            todo += self.visit(step)

    def visit(self, step: Visit) -> list[Visit | Reply]:
        node = self.router.nodes[step.node]
        if node.shards == 1:
            return self.router.done(self.walk, step.node, self.work(node, step.inputs))
        results = {shard: self.work(node, step.inputs) for shard in range(node.shards)}
        return self.router.gathered(self.walk, step.node, results)

    def work(self, node: Node, inputs: Inputs) -> list[Any]:
        visit = len(self.log.seen)
        before = {self.made[id(payload)] for _, payloads in inputs for payload in payloads}
        self.log.seen[visit] = frozenset(before).union(*(self.log.seen[one] for one in before))
        inputs = [*inputs, (MEETS, [])] if node.meets(self.walk) else inputs
        parts, frames = flat(inputs)
        self.service.executor.hook = lambda docs, parameters: self.change(visit, docs, parameters)
        call = self.service.prepare(Assignment(1, "/", parts, frames))
        payload = list(self.service.encode(call, call.start())[0])
        self.made[id(payload)] = visit
        self.kept.append(payload)
        return payload

    def change(self, visit: int, docs: DocumentArray, parameters: dict[str, Any]) -> None:
        chance = self.random
        if chance.random() < 0.2:
            return  # not even a look
        before = values(docs, parameters)
        for doc in docs:
            for nested in doc.matches, doc.chunks:
                new = chance.choice(["m", f"m{visit}"])
                if chance.random() < 0.4 and new not in nested:
                    nested.append(Document(id=new))
        for where, some in dicts(docs, parameters).items():
            for key in KEYS:
                if chance.random() < 0.2:
                    new = f"{visit}"
                    some[key] = {"value": 1, "op_name": new} if where[-1] == "scores" else new
                elif chance.random() < 0.1:
                    some.pop(key, None)
        self.events(visit, before, values(docs, parameters))

    def events(self, visit: int, before: dict[Any, Any], after: dict[Any, Any]) -> None:
        for where in before.keys() | after.keys():
            if before.get(where) != after.get(where):
                self.log.events.setdefault(where, []).append((visit, after.get(where)))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_key_is_lost_that_no_later_executor_has_removed(seed: int, service: Service) -> None:
    walker = Walker(seed, service)
    found = values(*walker.run())
    for where, events in walker.log.events.items():
        seen = {visit: walker.log.seen[visit] for visit, _ in events}
        last = [one for one in events if not any(one[0] in seen[visit] for visit, _ in events)]
        if len(last) == 1:  # it has seen all others
            assert found.get(where) == last[0][1], where
        if any(value is not None for _, value in last):
            assert found.get(where) in [value for _, value in events if value is not None], where
