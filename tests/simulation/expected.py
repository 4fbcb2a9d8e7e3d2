"""What a request should meet on its walk, worked out from the graph alone:
the plainest way there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zflow.devices.protocol.parts import EACH_SHARD
from zflow.devices.routing.walk import DEFAULT, Node

Key = tuple[int, int]  # whose result: node, shard; the request itself is (-1, 0)
Shape = list[tuple[str, list[Key]]]  # what arrives: (from whom, whose results)
END = -2  # stands for the answer


def visited(node: Node, endpoint: str, targets: frozenset[str] | None) -> bool:
    """Whether a replica of the node gets the request."""
    if not node.process or (targets is not None and node.name not in targets):
        return False
    if node.endpoints is None or endpoint in node.endpoints or DEFAULT in node.endpoints:
        return True
    return node.no_reduce and len(node.needs) > 1


def shapes(
    nodes: Sequence[Node],
    endpoint: str,
    targets: frozenset[str] | None,
    failed: Mapping[int, frozenset[int]],
) -> dict[int, Shape]:
    """Return what each visited node gets, by its number, and under `END` what the client gets.

    Args:
        nodes: the graph.
        endpoint: the request's.
        targets: the only nodes that are meant, or None.
        failed: by node, the shards that failed, where that does not end the request.
    """
    leaves: dict[str, Shape] = {"gateway": [("gateway", [(-1, 0)])]}  # what goes on from each
    found: dict[int, Shape] = {}
    for number, node in enumerate(nodes):
        arrives = [entry for need in node.needs for entry in leaves[need]]
        if not visited(node, endpoint, targets):
            leaves[node.name] = [
                (node.name, list(dict.fromkeys(key for _, keys in arrives for key in keys)))
            ]
            continue
        found[number] = arrives
        if node.shards > 1 and (node.polling.get(endpoint) or node.polling.get("*")) == "ALL":
            alive = [shard for shard in range(node.shards) if shard not in failed.get(number, ())]
            if len(alive) == node.shards:
                leaves[node.name] = [(node.name + EACH_SHARD, [(number, shard) for shard in alive])]
            else:
                leaves[node.name] = [
                    (f"{node.name}/shard-{shard}", [(number, shard)]) for shard in alive
                ]
        else:
            leaves[node.name] = [(node.name, [(number, 0)])]
    needed = {need for node in nodes for need in node.needs}
    found[END] = [entry for node in nodes if node.name not in needed for entry in leaves[node.name]]
    return found
