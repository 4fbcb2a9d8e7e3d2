"""What became of each request: it ends once, as it should, with what it should carry.
Knows nothing of replicas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zflow.devices.protocol.parts import MEETS, Inputs
from zflow.devices.routing.walk import Node, Walk

from .expected import END, shapes

OUTCOMES = ("answered", "crashed", "expired", "overran", "overloaded", "raised", "cancelled")
Targets = frozenset[str] | None
# A shape, each key as the end of the payload that it stands for.
Suffixes = list[tuple[str, list[bytes]]]


class Violation(AssertionError):
    """Something that must hold does not."""


def payload(number: int, node: int, shard: int) -> bytes:
    """What a replica returns for a request, and by node -1 what the client sends."""
    return b"%d.%d.%d" % (number, node, shard)


class Request:
    """One request, as the client that posted it sees it."""

    __slots__ = (
        "again",
        "awaited",
        "client",
        "endpoint",
        "failed",
        "number",
        "open",
        "outcome",
        "raised",
        "replies",
        "targets",
    )

    def __init__(
        self, number: int, client: int, endpoint: str, targets: Targets, again: bool
    ) -> None:
        self.number = number
        self.client = client
        self.endpoint = endpoint
        self.targets = targets
        self.again = again  # may have been begun before
        self.awaited = True  # by its client
        self.open = 0  # tasks under way for it
        self.raised = False  # a replica has answered with an exception
        # Shards, by node, that failed without ending it.
        self.failed: dict[int, frozenset[int]] | None = None
        self.outcome = ""
        self.replies = 0


class Ledger:
    """All requests.

    Args:
        nodes: the graph.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.requests: list[Request] = []
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self._nodes = nodes
        self._shapes: dict[tuple[str, Targets], dict[int, Suffixes]] = {}

    @property
    def ended(self) -> int:
        """How many requests have ended."""
        return sum(self.outcomes.values())

    def of(self, walk: Walk) -> Request:
        """The request that a walk is for."""
        (request,) = self.all_of(walk)
        return request

    def all_of(self, walk: Walk) -> list[Request]:
        """The requests that a walk is for: several, if it is a bulk."""
        number: int = walk.origin[2]
        return self.requests[number : number + walk.count]

    def each(self, walk: Walk, inputs: Inputs) -> list[tuple[Request, Inputs]]:
        """The requests that a walk is for, each with its own inputs."""
        requests = self.all_of(walk)
        if len(requests) == 1:
            return [(requests[0], inputs)]
        ((name, (frames,)),) = inputs
        return [
            (request, [(name, [[frame]])]) for request, frame in zip(requests, frames, strict=True)
        ]

    def post(self, client: int, endpoint: str, targets: Targets, again: bool) -> Request:
        """A client posts a request."""
        request = Request(len(self.requests), client, endpoint, targets, again)
        self.requests.append(request)
        return request

    def visit(self, request: Request, node: int, inputs: Inputs) -> None:
        """The request comes to a node, with these inputs."""
        if request.outcome:
            raise Violation(
                f"request {request.number} was {request.outcome}, and goes on to node {node}"
            )
        self._compare(request, node, inputs)

    def answered(self, request: Request, inputs: Inputs) -> None:
        """The request is answered with these inputs."""
        self._compare(request, END, inputs)
        self.end(request, "answered")

    def end(self, request: Request, outcome: str) -> None:
        """The request has ended."""
        if request.outcome:
            raise Violation(f"request {request.number} was {request.outcome}, and then {outcome}")
        if outcome == "raised" and not request.raised:
            raise Violation(
                f"request {request.number} failed as if its Executor had raised something"
            )
        request.outcome = outcome
        self.outcomes[outcome] += 1

    def closed(self, request: Request) -> None:
        """The broker has cleared away what was under way for the request."""
        if request.open:
            raise Violation(
                f"request {request.number} was {request.outcome}, but {request.open} of its tasks "
                "go on"
            )

    def reply(self, request: Request, outcome: str) -> None:
        """The client has got a reply."""
        if not request.outcome and outcome == "Overloaded":  # it was refused at the door
            self.end(request, "overloaded")
        request.replies += 1
        if request.replies > 1:
            raise Violation(f"request {request.number} was answered {request.replies} times")
        if (request.outcome == "answered") != (outcome == "answered"):
            raise Violation(
                f"request {request.number} was {request.outcome}, but the client was told {outcome}"
            )

    def finish(self) -> None:
        """Nothing more will happen."""
        for request in self.requests:
            if not request.outcome:
                raise Violation(f"request {request.number} ({request.endpoint}) never ended")
            if request.replies != (request.outcome != "cancelled"):
                raise Violation(
                    f"request {request.number} was {request.outcome}, with {request.replies} "
                    "replies"
                )

    def _compare(self, request: Request, node: int, inputs: Inputs) -> None:
        expected = self._expected(request).get(node)
        if expected is None:
            raise Violation(
                f"request {request.number} ({request.endpoint}) should pass by node {node}"
            )
        inputs = [named for named in inputs if named[0] != MEETS]
        begin = b"%d" % request.number
        if len(inputs) == len(expected):
            for (name, payloads), (wanted, suffixes) in zip(inputs, expected, strict=True):
                if name != wanted or [part[0] for part in payloads] != [
                    begin + suffix for suffix in suffixes
                ]:
                    break
            else:
                return
        raise Violation(
            f"request {request.number} ({request.endpoint}) at {node}: {inputs} instead of "
            f"{expected}"
        )

    def _expected(self, request: Request) -> dict[int, Suffixes]:
        if request.failed:
            return self._suffixes(request, request.failed)
        key = request.endpoint, request.targets
        if key not in self._shapes:
            self._shapes[key] = self._suffixes(request, {})
        return self._shapes[key]

    def _suffixes(
        self, request: Request, failed: Mapping[int, frozenset[int]]
    ) -> dict[int, Suffixes]:
        found = shapes(self._nodes, request.endpoint, request.targets, failed)
        return {
            node: [(name, [b".%d.%d" % key for key in keys]) for name, keys in shape]
            for node, shape in found.items()
        }
