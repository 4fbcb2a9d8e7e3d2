"""Merging: how the results of several branches or shards become one.

It must not know where they came from, and no messages;
the order in which they are given is all it goes by.
"""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

from zflow.documents import changes
from zflow.documents.changes import DEEPEST, DICTS, DOCS, PARAMETERS, Values, numbered
from zflow.documents.codec import Frame, unpack
from zflow.documents.document import Document, DocumentArray
from zflow.documents.fields import NESTED, Scores, is_empty
from zflow.documents.values import Parameters, refuse_colliding
from zflow.documents.writes import NONE, Writes
from zflow.errors import BadRequest

Payload = Sequence[Frame]  # frames, as `codec.pack` makes them


def reduce(arrays: Sequence[DocumentArray]) -> DocumentArray:
    """Return one DocumentArray of all; the first is changed in place and returned,
    the others may share its Documents.

    Documents with the same id become one: what is set on the left stays, what is empty there is
    taken from the right. `tags` and `scores` are put together key by key, and so are dicts in
    them; of a key that both have the left's value stays, unless, in a Flow, only the right's branch
    has changed it. `matches` and `chunks` reduce in the same way, at every level.
    Documents that are only on the right are appended, in their order. An id that occurs several
    times within one array stays several Documents: its first occurrence meets the first one of the
    others, its second the second.

    Raises:
        ValueError: there is nothing to reduce.

    >>> from zflow import Document, DocumentArray
    >>> left = DocumentArray(Document(id="a", text="x", tags={"n": 1}))
    >>> doc = reduce([left, DocumentArray(Document(id="a", uri="y", tags={"n": 2, "m": 3}))])["a"]
    >>> doc.text, doc.uri, doc.tags
    ('x', 'y', {'n': 1, 'm': 3})
    """
    if not arrays:
        raise ValueError("reduce needs at least one DocumentArray")
    left, *others = arrays
    if others:
        known = dict(numbered(left))
        writes = _writes_of(left)
        for right in others:
            writes = _reduce_into(left, known, right, writes, _writes_of(right))
        if writes is not NONE:
            left._writes = Writes(below={DOCS: writes})
    return left


reduce.__module__ = "zflow"


def _writes_of(docs: DocumentArray) -> Writes:
    found: Writes = getattr(docs, "_writes", NONE)
    return found.of(DOCS)


def _reduce_into(
    left: DocumentArray,
    known: dict[str | bytes, Document],
    right: DocumentArray,
    mine: Writes,
    theirs: Writes,
) -> Writes:
    """Reduce `right` into `left`, whose Documents are `known`; return the writes of both."""
    below = dict(mine.below)
    new = []
    for key, doc in numbered(right):
        own, other = mine.of(key), theirs.of(key)
        old = known.get(key)
        if old is None:
            known[key] = doc
            new.append(doc)
            below[key] = own.joined(other)
        elif old is not doc:
            below[key] = _merge(old, doc, own, other)
    left.extend(new)
    return NONE if mine is theirs is NONE else Writes(below=below)


def _merge(left: Document, right: Document, mine: Writes, theirs: Writes) -> Writes:
    own, other = left.__dict__, right.__dict__
    below: dict[Hashable, Writes] = {}
    for name, value in other.items():
        if is_empty(name, value):
            continue
        if name in NESTED:
            docs = own.setdefault(name, DocumentArray())
            if docs is not value:
                known = dict(numbered(docs))
                below[name] = _reduce_into(docs, known, value, mine.of(name), theirs.of(name))
        elif name not in DICTS and is_empty(name, own.get(name)):
            own[name] = value
    for name in DICTS:
        values, others = own.get(name) or {}, other.get(name) or {}
        if (others or theirs.below) and values is not others:
            merged, below[name] = _merged(values, others, mine.of(name), theirs.of(name))
            own[name] = Scores(merged) if name == "scores" else merged
    return NONE if mine is theirs is NONE else _with_others(mine, theirs, below)


def _with_others(mine: Writes, theirs: Writes, below: dict[Hashable, Writes]) -> Writes:
    """Return the writes of both, of which these are put together already: once is enough."""
    for key in (mine.below.keys() | theirs.below.keys()) - below.keys():
        below[key] = mine.of(key).joined(theirs.of(key))
    refuse_colliding(below.keys(), len(mine.below), theirs.below)
    return Writes(mine.by | theirs.by, below)


def _merged(
    left: Values, right: Values, mine: Writes, theirs: Writes, levels: int = DEEPEST
) -> tuple[Values, Writes]:
    """Return a dict of both, and its writes. Of each key that side counts which has got the other's
    value and changed it; if there is none, the left one, and what is there before what is not.
    Raises ValueError for keys that were chosen to collide. Writes of more levels than a replica
    looks into are a stranger's: each level is gone through again for the one above.
    """
    if not levels:
        mine = theirs = NONE
    if mine is theirs is NONE and not any(isinstance(value, dict) for value in right.values()):
        both = {**left, **{key: right[key] for key in right if key not in left}}
        refuse_colliding(both.keys(), len(left), right)
        return both, NONE
    merged: Values = {}
    below: dict[Hashable, Writes] = {}
    keys = dict.fromkeys((*left, *right))
    refuse_colliding(keys.keys(), len(left), right)
    for key in keys:
        own, other = mine.of(key), theirs.of(key)
        by, by_other = own.all(), other.all()
        one, two = left.get(key, right.get(key)), right.get(key, left.get(key))
        value = two if key not in left or (key in right and by < by_other) else one
        gone = (key not in right and by < by_other) or (key not in left and by_other < by)
        if isinstance(one, dict) and isinstance(two, dict):
            value, inner = _merged(
                left.get(key, {}), right.get(key, {}), own, other, levels and levels - 1
            )
            below[key] = Writes(own.by | other.by, inner.below)
        if not gone:
            merged[key] = value
    return merged, _with_others(mine, theirs, below)


class Gathered(NamedTuple):
    """What several predecessors have sent.

    Attributes:
        docs: the Documents by predecessor, in the order of `needs`.
        parameters: those of all.
        writes: who has changed what in the parameters.
    """

    docs: dict[str, DocumentArray]
    parameters: Parameters
    writes: Writes


def gather(pieces: Iterable[tuple[str, Sequence[Payload]]]) -> Gathered:
    """Decode the payloads of several predecessors.

    The broker carries payloads side by side without looking into them;
    here they become Documents again. Parameters are merged as tags are.

    Args:
        pieces: the name of a predecessor, or of a shard of one, and its payloads.

    Raises:
        BadRequest: the payloads cannot be decoded.
    """
    try:
        return _gathered(pieces)
    except BadRequest:
        raise
    except ValueError as error:
        raise BadRequest(f"malformed Documents received: {error}") from None


def _gathered(pieces: Iterable[tuple[str, Sequence[Payload]]]) -> Gathered:
    docs_map: dict[str, DocumentArray] = {}
    parameters: Parameters | None = None
    writes = NONE
    for name, payloads in pieces:
        arrays = []
        for payload in payloads:
            docs, some = unpack(payload)
            found = getattr(docs, "_writes", NONE).of(PARAMETERS)
            if parameters is None:
                parameters, writes = some, found
            else:
                parameters, writes = _merged(parameters, some, writes, found)
            arrays.append(docs)
        docs_map[name] = reduce(arrays)
    return Gathered(docs_map, parameters or {}, writes)


def changed(
    pieces: Iterable[tuple[str, Sequence[Payload]]],
    got: DocumentArray,
    docs: DocumentArray,
    parameters: Parameters,
) -> Writes:
    """Return the writes of an Executor's result, which is to be reduced with others.

    What it got is decoded once more to see what it has changed: it may have changed all of that in
    place. Not if the array that it got is still in columns: there are no tags to be had from those.

    Args:
        pieces: what it got, as `gather` takes it.
        got: the array that was made of it.
        docs, parameters: what it has made of that.
    """
    came = gather(pieces)
    before = reduce(list(came.docs.values()))
    writes = Writes(below={DOCS: _writes_of(before), PARAMETERS: came.writes})
    with contextlib.suppress(RecursionError):  # Documents in themselves: whoever packs them says so
        untouched = docs is got and docs._columns is not None
        after = before if untouched else docs
        changes.add(writes, (before, came.parameters), (after, parameters))
    return writes
