"""A request's walk through the graph of Executors: pure logic, no sockets.

The router knows the nodes and who needs whom. Given a request's payload it says which nodes to visit next and,
when the walk is over, what to answer. It carries payloads around but never looks into them.

- A *payload* is a list of frames. Where branches meet, several payloads travel on side by side, as the parts of
  one message: they are reduced by whoever decodes them anyway, the next replica or the client.
- A node is passed by without a visit if its Executor does not bind the request's endpoint, if it is not among the
  targets, or if it has no process (a mere join).
- Nodes that nobody needs are the loose ends; the answer joins them, in the order of the nodes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Payload = Sequence[Any]  # frames
Inputs = list[tuple[str, list[Payload]]]  # (predecessor, or shard of one, or each of its shards, and payloads)

ENTRANCE = "gateway"
EACH_SHARD = "/shard-*"  # after a name: the payloads are those of its shards, all of them, in order
DEFAULT = "/default"  # what an Executor binds that takes every endpoint


@dataclass
class Node:
    """One Executor in the graph.

    Args:
        name: its name.
        needs: the names of the nodes before it; `'gateway'` is the entrance. Its inputs come in this order.
        process: False for a join that only waits; it is never visited.
        no_reduce: its Executor wants the inputs apart; with several predecessors it is visited even for an
            endpoint that it does not bind, because only its replica knows how to put them together. Not among the
            targets it is passed by all the same: its code must not run then.
        endpoints: what its Executor binds; None as long as that is not known, which counts as everything.
        shards: how many shards it has.
        groups: how many replicas each shard has.
        polling: `'ANY'` or `'ALL'` by endpoint, and under `'*'` for the others; of effect with several shards.
        partial: the results of an ALL request go on although some shards have failed.
        addresses: where its Executor runs if it runs elsewhere; each is one replica.
        autoscaled: how many replicas it has goes by its load, which is to be told.
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


class Walk:
    """Where one request is, or a convoy of them.

    A convoy is several small requests that came together and are alike: each is one frame, and they walk as one payload
    of so many frames until something is to be done for one of them alone. Only on a graph without branches.

    Args:
        origin: the caller's business: whom to answer, and as what. Of a convoy the first one's: a tuple that ends with
            a number, which is one more for each of the others.
        endpoint: what it asks for.
        targets: the names of the nodes to visit, or None for all.
        timeout: the seconds that it may take, or None.
        count: how many requests it is.

    Attributes:
        client: whose request it is: clients take turns.
        size: how many bytes came in.
        blocks: the blocks of shared memory that results on its way are in, if there are any.
        docs: how many Documents it has at the moment; of a convoy, a list of that.
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
        origin: Any,
        endpoint: str,
        targets: frozenset[str] | None = None,
        timeout: float | None = None,
        count: int = 1,
    ) -> None:
        self.origin = origin
        self.count = count
        self.client: Any = None
        self.size = 0
        self.docs: Any = 0
        self.timeout = timeout
        self.over = False
        self.again = False  # it may have been begun before, by a broker that is gone
        self.begun = 0.0
        self.deadline = math.inf
        self.endpoint = endpoint
        self.targets = targets
        self.inputs: dict[int, dict[str, Inputs]] = {}  # of the nodes that still wait for others
        self.open: set[Any] = set()  # the caller's tasks for this request, to be ended if it fails
        self.visits = 0
        self.blocks: list[Any] | None = None
        self.notes: dict[str, Any] | None = None  # what the client is to know besides the result

    def note(self, name: str, note: Any) -> None:
        """The client is to know this of the Executor."""
        self.notes = {**(self.notes or {}), name: note}

    @property
    def origins(self) -> list[Any]:
        """The origins of all requests that it is."""
        if self.count == 1:
            return [self.origin]
        *whom, first = self.origin
        return [(*whom, id) for id in range(first, first + self.count)]

    def cut(self, count: int) -> Walk:
        """Return a walk of the first `count` of its requests; this one is that of the others from now on."""
        *whom, first = self.origin
        head = Walk(self.origin, self.endpoint, self.targets, self.timeout, count)
        head.client, head.begun, head.deadline, head.visits = self.client, self.begun, self.deadline, self.visits
        head.size = self.size * count // self.count
        head.docs = self.docs[0] if count == 1 else self.docs[:count]
        head.open = set(self.open)
        self.origin = (*whom, first + count)
        self.size -= head.size
        self.count -= count
        self.docs = self.docs[-1] if self.count == 1 else self.docs[count:]
        self.open = {(node, id + count) for node, id in self.open}
        return head


class Visit(NamedTuple):
    """Give these inputs to a replica of the node."""

    node: int
    inputs: Inputs


class Answer(NamedTuple):
    """The walk is over; these inputs are its result."""

    inputs: Inputs


class Router:
    """The graph, and how requests walk through it.

    Args:
        nodes: in an order in which each comes after those it needs.

    Attributes:
        is_chain: whether no branches meet anywhere.

    Raises:
        ValueError: a node needs none, or one twice, or one that does not come before it, or two have the same name.

    Example:
        >>> router = Router([Node("encoder"), Node("indexer", ("encoder",))])
        >>> walk = Walk("me", "/index")
        >>> router.start(walk, [b"docs"])
        [Visit(node=0, inputs=[('gateway', [[b'docs']])])]
        >>> router.done(walk, 0, [b"vectors"])
        [Visit(node=1, inputs=[('encoder', [[b'vectors']])])]
        >>> router.done(walk, 1, [b"stored"])
        [Answer(inputs=[('indexer', [[b'stored']])])]
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = list(nodes)
        at = {ENTRANCE: -1}
        for index, node in enumerate(self.nodes):
            unknown = [name for name in node.needs if name not in at]
            if unknown:
                raise ValueError(f"{node.name!r} needs {unknown}, which do not come before it")
            if not node.needs or len(set(node.needs)) < len(node.needs):
                raise ValueError(f"{node.name!r} needs {list(node.needs)}; there must be one at least, and none twice")
            if node.name in at:
                raise ValueError(f"two nodes are called {node.name!r}")
            at[node.name] = index
        needed = {name for node in self.nodes for name in node.needs}
        self._ends = tuple(node.name for node in self.nodes if node.name not in needed) or (ENTRANCE,)
        # _after[i + 1]: the nodes that need node i; the last index stands for the answer.
        self._after: list[list[int]] = [[] for _ in range(len(self.nodes) + 1)]
        for index, node in enumerate(self.nodes):
            for name in node.needs:
                self._after[at[name] + 1].append(index)
        for name in self._ends:
            self._after[at[name] + 1].append(len(self.nodes))
        # _only[i + 1]: the one that follows node i if it needs nothing else, as in a chain; else None.
        self._only = [
            after[0] if len(after) == 1 and len(self._needs(after[0])) == 1 else None for after in self._after
        ]
        self.is_chain = None not in self._only

    def _needs(self, index: int) -> tuple[str, ...]:
        return self._ends if index == len(self.nodes) else self.nodes[index].needs

    def start(self, walk: Walk, *payloads: Payload) -> list[Visit | Answer]:
        """The request has come in with this payload, or with several, still to be reduced."""
        steps: list[Visit | Answer] = []
        self._go_on(walk, -1, [(ENTRANCE, list(payloads))], steps)
        return steps

    def done(self, walk: Walk, node: int, *payloads: Payload) -> list[Visit | Answer]:
        """A replica of the node has returned this payload, or several, still to be reduced."""
        steps: list[Visit | Answer] = []
        self._go_on(walk, node, [(self.nodes[node].name, list(payloads))], steps)
        return steps

    def gathered(self, walk: Walk, node: int, results: Mapping[int, Payload]) -> list[Visit | Answer]:
        """Shards of the node have returned these payloads; the lower shard comes first."""
        steps: list[Visit | Answer] = []
        name, shards = self.nodes[node].name, range(self.nodes[node].shards)
        if len(results) == len(shards):
            output: Inputs = [(name + EACH_SHARD, [results[shard] for shard in shards])]
        else:
            output = [(f"{name}/shard-{shard}", [results[shard]]) for shard in sorted(results)]
        self._go_on(walk, node, output, steps)
        return steps

    def _go_on(self, walk: Walk, index: int, output: Inputs, steps: list[Visit | Answer]) -> None:
        while (only := self._only[index + 1]) is not None:
            if only == len(self.nodes):
                steps.append(Answer(output))
                return
            if self.nodes[only].visited(walk.endpoint, walk.targets):
                walk.visits += 1
                steps.append(Visit(only, output))
                return
            index, output = only, [(self.nodes[only].name, side_by_side(output))]
        name = self.nodes[index].name if index >= 0 else ENTRANCE
        for next_index in self._after[index + 1]:
            end = next_index == len(self.nodes)
            needs = self._needs(next_index)
            inputs = output
            if len(needs) > 1:
                arrived = walk.inputs.setdefault(next_index, {})
                arrived[name] = output
                if len(arrived) < len(needs):
                    continue
                del walk.inputs[next_index]
                inputs = [named for need in needs for named in arrived[need]]
            if end:
                steps.append(Answer(inputs))
            elif self.nodes[next_index].visited(walk.endpoint, walk.targets):
                walk.visits += 1
                steps.append(Visit(next_index, inputs))
            else:
                self._go_on(walk, next_index, [(self.nodes[next_index].name, side_by_side(inputs))], steps)


def side_by_side(inputs: Inputs) -> list[Payload]:
    """All payloads in one list, each once: branches that nobody visited bring the same one several times."""
    if len(inputs) == 1:
        return inputs[0][1]
    payloads: list[Payload] = []
    for _, some in inputs:
        payloads.extend(payload for payload in some if not any(payload is other for other in payloads))
    return payloads
