"""One request on its way through the graph of Executors, and the nodes of that graph:
plain data.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from zflow.devices.protocol.messages import Note
from zflow.devices.protocol.parts import Inputs
from zflow.devices.protocol.references import Frame, Reference

ENTRANCE = "gateway"
DEFAULT = "/default"  # what an Executor binds that takes every endpoint


class Sender(Protocol):
    """What a request has come in by, and its answer goes out by."""

    def send(self, frames: Sequence[Frame]) -> None: ...


Origin = tuple[Sender, bytes, int]  # the sender, its client, and the request's id


@dataclass
class Node:
    """One Executor in the graph.

    Args:
        name: its name.
        needs: the names of the nodes before it; `'gateway'` is the entrance. Its inputs come in
            this order.
        process: False for a join that only waits; it is never visited.
        no_reduce: its Executor wants the inputs apart; with several predecessors it is visited even
            for an endpoint that it does not bind, because only its replica knows how to put them
            together. Not among the targets it is passed by all the same: its code must not run
            then.
        endpoints: what its Executor binds; None as long as that is not known, which counts as
            everything.
        shards: how many shards it has.
        groups: how many replicas each shard has.
        polling: `'ANY'` or `'ALL'` by endpoint, and under `'*'` for the others; of effect with
            several shards.
        partial: the results of an ALL request go on although some shards have failed.
        addresses: where its Executor runs if it runs elsewhere; each is one replica.
        autoscaled: how many replicas it has goes by its load, which is to be told.
        declared: what its Flow says that it binds, if it says so:
            what addresses say does not count then.
        apart: whether its result goes on beside others, which it will be reduced with; the router
            finds out.
    """

    name: str
    needs: tuple[str, ...] = (ENTRANCE,)
    process: bool = True
    no_reduce: bool = False
    endpoints: frozenset[str] | None = None
    shards: int = 1
    groups: int = 1
    polling: Mapping[str, str] = field(default_factory=dict)
    partial: bool = False
    addresses: tuple[str, ...] = ()
    autoscaled: bool = False
    declared: frozenset[str] | None = None
    apart: bool = False

    def polls_all(self, endpoint: str) -> bool:
        """Whether a request for this endpoint goes to all shards."""
        return self.shards > 1 and (self.polling.get(endpoint) or self.polling.get("*")) == "ALL"

    def visited(self, endpoint: str, targets: frozenset[str] | None) -> bool:
        """Whether a request for this endpoint and these targets goes to a replica of this node."""
        if not self.process or (targets is not None and self.name not in targets):
            return False
        bound = self.endpoints
        if bound is None or endpoint in bound or DEFAULT in bound:
            return True
        return self.no_reduce and len(self.needs) > 1

    def meets(self, walk: Walk) -> bool:
        """Whether what a replica returns for this request will be reduced with other results."""
        return walk.meets or self.apart or (self.shards > 1 and self.polls_all(walk.endpoint))


class Walk:
    """Where one request is, or a bulk of them.

    A bulk is several small requests that came together and are alike: each is one frame, and they
    walk as one payload of so many frames until something is to be done for one of them alone.
    Only on a graph without branches.

    Args:
        origin: whom to answer, and as what. Of a bulk the first one's: the id is one more for each
            of the others.
        endpoint: what it asks for.
        targets: the names of the nodes to visit, or None for all.
        timeout: the seconds that it may take, or None.
        count: how many requests it is.

    Attributes:
        client: whose request it is: clients take turns.
        size: how many bytes came in.
        blocks: the blocks of shared memory that results on its way are in, if there are any.
        docs: how many Documents each request has at the moment.
        meets: its answer will be reduced with others, in the Flow that it comes from.
    """

    __slots__ = (
        "again",
        "begun",
        "blocks",
        "client",
        "count",
        "deadline",
        "docs",
        "endpoint",
        "inputs",
        "meets",
        "notes",
        "open",
        "origin",
        "over",
        "size",
        "targets",
        "timeout",
        "visits",
    )

    def __init__(
        self,
        origin: Origin,
        endpoint: str,
        targets: frozenset[str] | None = None,
        timeout: float | None = None,
        count: int = 1,
    ) -> None:
        self.origin = origin
        self.count = count
        self.client: bytes | None = None
        self.size = 0
        self.docs = [0] * count
        self.timeout = timeout
        self.over = False
        self.again = False  # it may have been begun before, by a broker that is gone
        self.begun = 0.0
        self.deadline = math.inf
        self.endpoint = endpoint
        self.targets = targets
        self.inputs: dict[int, dict[str, Inputs]] = {}  # of the nodes that still wait for others
        # Nodes and the ids of the tasks there that are for this request, to be ended if it fails.
        self.open: set[tuple[int, int]] = set()
        self.visits = 0
        self.meets = False
        self.blocks: list[Reference] | None = None
        self.notes: dict[str, Note] | None = None  # what the client is to know besides the result

    def note(self, name: str, note: Note) -> None:
        """The client is to know this of the Executor."""
        self.notes = {**(self.notes or {}), name: note}

    def has_open(self, tasks: Collection[int]) -> bool:
        """Whether one of these tasks is for it."""
        return any(id in tasks for _, id in self.open)

    @property
    def origins(self) -> list[Origin]:
        """The origins of all requests that it is."""
        if self.count == 1:
            return [self.origin]
        sender, client, first = self.origin
        return [(sender, client, id) for id in range(first, first + self.count)]

    def cut(self, count: int) -> Walk:
        """Return a walk of the first `count` of its requests;
        this one is that of the others from now on.
        """
        sender, client, first = self.origin
        head = Walk(self.origin, self.endpoint, self.targets, self.timeout, count)
        head.client, head.begun, head.deadline, head.visits = (
            self.client,
            self.begun,
            self.deadline,
            self.visits,
        )
        head.size = self.size * count // self.count
        head.docs = self.docs[:count]
        head.open = set(self.open)
        self.origin = (sender, client, first + count)
        self.size -= head.size
        self.count -= count
        self.docs = self.docs[count:]
        self.open = {(node, id + count) for node, id in self.open}
        return head
