"""Calls of an Executor's methods: what one is called with, for a request or for several,
and whose each result is.

It knows Documents and parameters. What a request looks like on its way, and who is told what came
of it, is the worker's business.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from zflow.documents import values
from zflow.documents.document import DocumentArray
from zflow.documents.values import Parameters
from zflow.replicas.parameters import carried, view

if TYPE_CHECKING:
    from zflow.executors.handlers import Handler

RESULTS: Final = "__results__"  # of parameters: what Executors have returned as dicts, by replica


# By predecessor, or shard of one, its payloads.
Pieces = list[tuple[str, list[Sequence[Any]]]]


class Call(NamedTuple):
    """A decoded request: what to call, and what with.
    `handler` is None where the Executor has nothing for it. `pieces` is what it was decoded from,
    where the result will meet others.
    """

    handler: Handler | None
    function: Callable[..., object] | None
    docs: DocumentArray
    parameters: Parameters
    docs_matrix: list[DocumentArray] | None
    docs_map: dict[str, DocumentArray] | None
    pieces: Pieces | None = None
    # What the method is called with where some of the parameters are for one Executor alone, and a
    # copy of that from before the call.
    own: Parameters | None = None
    seen: Parameters | None = None

    def of(self, name: str, names: Collection[str]) -> Call:
        """Return the call with what the Executor of this name gets of the parameters."""
        seen = view(self.parameters, name, names)
        return self if seen is self.parameters else self._replace(own=dict(seen), seen=seen)

    def start(self) -> Any:
        """Call the Executor; what an async endpoint returns is still to be awaited."""
        if self.function is None:
            return None
        return self.function(
            docs=self.docs,
            parameters=self.parameters if self.own is None else self.own,
            docs_matrix=self.docs_matrix,
            docs_map=self.docs_map,
        )

    def carried(self) -> Parameters:
        """The parameters that go on after the call."""
        if self.own is None or self.seen is None:
            return self.parameters
        return carried(self.parameters, self.seen, self.own)


class Miscounted(ValueError):
    """A method has returned another number of Documents than it was given,
    so nobody knows whose each one is.
    """


def alike(calls: Sequence[Call]) -> list[list[int]]:
    """Return the positions of the calls that can be made as one, in order: of one method,
    with equal parameters.

    What Executors before have returned (`__results__`) does not count. As many as a method likes at
    once go together; the broker has seen to that,
    but what branches bring is counted only when it is reduced.
    """
    groups: dict[object, list[list[int]]] = {}
    sizes: dict[object, int] = {}
    for position, call in enumerate(calls):
        handler = call.handler
        key = handler and handler.method, _comparable(call.parameters) if call.parameters else b""
        most = handler.batching.size if handler and handler.batching else 1
        own = max(1, len(call.docs))
        size = sizes.get(key, most) + own
        if size > most:
            groups.setdefault(key, []).append([])
            size = own
        groups[key][-1].append(position)
        sizes[key] = size
    return [positions for some in groups.values() for positions in some]


def _comparable(parameters: Parameters) -> object:
    """As bytes 1, 1.0 and True differ, and arrays need no special care.
    What cannot be sent on is like nothing else.
    """
    compared = _without_results(parameters)
    try:
        return values.dump(compared) if compared else b""
    except Exception:  # nested too deeply, say: it will fail, but alone
        return object()


def join(calls: Sequence[Call]) -> Call:
    """Return the call to be made for these, which are alike.

    A method that takes several requests does not see what Executors before have returned
    (`__results__`), also if there is only one: it would be that of one of them.
    """
    first = calls[0]
    if first.handler is None or first.handler.batching is None:
        return first
    docs = (
        first.docs
        if len(calls) == 1
        else DocumentArray([doc for call in calls for doc in call.docs])
    )
    joined = first._replace(docs=docs, parameters=_without_results(first.parameters))
    if first.own is None:
        return joined
    own = _without_results(first.own)
    return joined._replace(own=own, seen=dict(own))


def _without_results(parameters: Parameters) -> Parameters:
    return {name: value for name, value in parameters.items() if name != RESULTS}


def share(
    calls: Sequence[Call], counts: Sequence[int], made: Call, value: object, name: str
) -> list[tuple[DocumentArray, Parameters]]:
    """Return the Documents and the parameters that each of the calls ends with.

    Args:
        counts: how many Documents each had.
        made: the call that was made for all of them.
        value: what came of it: a DocumentArray, a dict, or None for the Documents as they are now.
        name: whose `__results__` these are, if it is a dict.

    Raises:
        Miscounted: the Documents are more or fewer than those of several calls.
    """
    docs = value if isinstance(value, DocumentArray) else made.docs
    if len(calls) > 1 and len(docs) != sum(counts):
        raise Miscounted(
            f"{len(docs)} Documents came back for {sum(counts)} of {len(calls)} requests"
        )
    shares = []
    goes_on = made.carried()
    at = 0
    for call, count in zip(calls, counts, strict=True):
        parameters = goes_on
        if made is not call:
            before = {RESULTS: call.parameters[RESULTS]} if RESULTS in call.parameters else {}
            parameters = {**goes_on, **before}
        if isinstance(value, dict):
            parameters.setdefault(RESULTS, {})[name] = value
        shares.append((docs if len(calls) == 1 else docs[at : at + count], parameters))
        at += count
    return shares
