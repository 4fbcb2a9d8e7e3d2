"""A request's walk through the graph of Executors: pure logic, no sockets.

The router knows the nodes and who needs whom. Given a request's payload it says which nodes to
visit next and, when the walk is over, what to answer.
It carries payloads around but never looks into them.

- A *payload* is a list of frames. Where branches meet, several payloads travel on side by side, as
  the parts of one message: they are reduced by whoever decodes them anyway, the next replica or the
  client.
- A node is passed by without a visit if its Executor does not bind the request's endpoint, if it is
  not among the targets, or if it has no process (a mere join).
- Nodes that nobody needs are the loose ends; the answer joins them, in the order of the nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from zflow.devices.protocol.parts import EACH_SHARD, Inputs
from zflow.devices.protocol.references import Payload
from zflow.devices.routing.walk import ENTRANCE, Node, Walk


class Visit(NamedTuple):
    """Give these inputs to a replica of the node."""

    node: int
    inputs: Inputs


class Reply(NamedTuple):
    """The walk is over; these inputs are its result."""

    inputs: Inputs


class Router:
    """The graph, and how requests walk through it.

    Args:
        nodes: in an order in which each comes after those it needs.

    Attributes:
        is_chain: whether no branches meet anywhere.

    Raises:
        ValueError: a node needs none, or one twice, or one that does not come before it,
            or two have the same name.

    Example:
        >>> router = Router([Node("encoder"), Node("indexer", ("encoder",))])
        >>> walk = Walk("me", "/index")
        >>> router.start(walk, [b"docs"])
        [Visit(node=0, inputs=[('gateway', [[b'docs']])])]
        >>> router.done(walk, 0, [b"vectors"])
        [Visit(node=1, inputs=[('encoder', [[b'vectors']])])]
        >>> router.done(walk, 1, [b"stored"])
        [Reply(inputs=[('indexer', [[b'stored']])])]
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = list(nodes)
        at = {ENTRANCE: -1}
        for index, node in enumerate(self.nodes):
            unknown = [name for name in node.needs if name not in at]
            if unknown:
                raise ValueError(f"{node.name!r} needs {unknown}, which do not come before it")
            if not node.needs or len(set(node.needs)) < len(node.needs):
                raise ValueError(
                    f"{node.name!r} needs {list(node.needs)}; there must be one at least, and none "
                    "twice"
                )
            if node.name in at:
                raise ValueError(f"two nodes are called {node.name!r}")
            at[node.name] = index
        needed = {name for node in self.nodes for name in node.needs}
        self._ends = tuple(node.name for node in self.nodes if node.name not in needed) or (
            ENTRANCE,
        )
        # _after[i + 1]: the nodes that need node i; the last index stands for the answer.
        self._after: list[list[int]] = [[] for _ in range(len(self.nodes) + 1)]
        for index, node in enumerate(self.nodes):
            for name in node.needs:
                self._after[at[name] + 1].append(index)
        for name in self._ends:
            self._after[at[name] + 1].append(len(self.nodes))
        # _only[i + 1]: the one that follows node i if it needs nothing else, as in a chain; else
        # None.
        self._only = [
            after[0] if len(after) == 1 and len(self._needs(after[0])) == 1 else None
            for after in self._after
        ]
        self.is_chain = None not in self._only
        for index in self._apart(at):
            self.nodes[index].apart = True

    def _apart(self, at: Mapping[str, int]) -> set[int]:
        """The nodes that are on the way to some of what meets somewhere, but not to all of it."""
        above = {-1: frozenset[int]()}  # by node: itself and all that come before it
        for index, node in enumerate(self.nodes):
            above[index] = frozenset({index}).union(*(above[at[name]] for name in node.needs))
        apart: set[int] = set()
        for needs in (*(node.needs for node in self.nodes), self._ends):
            ways = [above[at[name]] for name in needs]
            apart |= frozenset().union(*ways) - ways[0].intersection(*ways)
        return apart

    def _needs(self, index: int) -> tuple[str, ...]:
        return self._ends if index == len(self.nodes) else self.nodes[index].needs

    def start(self, walk: Walk, *payloads: Payload) -> list[Visit | Reply]:
        """The request has come in with this payload, or with several, still to be reduced."""
        steps: list[Visit | Reply] = []
        self._go_on(walk, -1, [(ENTRANCE, list(payloads))], steps)
        return steps

    def done(self, walk: Walk, node: int, *payloads: Payload) -> list[Visit | Reply]:
        """A replica of the node has returned this payload, or several, still to be reduced."""
        steps: list[Visit | Reply] = []
        self._go_on(walk, node, [(self.nodes[node].name, list(payloads))], steps)
        return steps

    def gathered(
        self, walk: Walk, node: int, results: Mapping[int, Payload]
    ) -> list[Visit | Reply]:
        """Shards of the node have returned these payloads; the lower shard comes first."""
        steps: list[Visit | Reply] = []
        name, shards = self.nodes[node].name, range(self.nodes[node].shards)
        if len(results) == len(shards):
            output: Inputs = [(name + EACH_SHARD, [results[shard] for shard in shards])]
        else:
            output = [(f"{name}/shard-{shard}", [results[shard]]) for shard in sorted(results)]
        self._go_on(walk, node, output, steps)
        return steps

    def _go_on(self, walk: Walk, index: int, output: Inputs, steps: list[Visit | Reply]) -> None:
        while (only := self._only[index + 1]) is not None:
            if only == len(self.nodes):
                steps.append(Reply(output))
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
                steps.append(Reply(inputs))
            elif self.nodes[next_index].visited(walk.endpoint, walk.targets):
                walk.visits += 1
                steps.append(Visit(next_index, inputs))
            else:
                self._go_on(
                    walk, next_index, [(self.nodes[next_index].name, side_by_side(inputs))], steps
                )


def side_by_side(inputs: Inputs) -> list[Payload]:
    """All payloads in one list, each once: branches that nobody visited
    bring the same one several times.
    """
    if len(inputs) == 1:
        return inputs[0][1]
    payloads: list[Payload] = []
    for _, some in inputs:
        payloads.extend(
            payload for payload in some if not any(payload is other for other in payloads)
        )
    return payloads
