"""Merging: how the results of several branches or shards become one.

It must not know where they came from, and no messages;
the order in which they are given is all it goes by.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from zflow.documents.codec import Frame, unpack
from zflow.documents.document import Document, DocumentArray
from zflow.documents.fields import NESTED, is_empty
from zflow.documents.values import Parameters

Payload = Sequence[Frame]  # frames, as `codec.pack` makes them


def reduce(arrays: Sequence[DocumentArray]) -> DocumentArray:
    """Return one DocumentArray of all; the first is changed in place and returned,
    the others may share its Documents.

    Documents with the same id become one: what is set on the left stays, what is empty there is
    taken from the right, and `matches` and `chunks` reduce in the same way, at every level.
    Documents that are only on the right are appended, in their order. An id that occurs several
    times within one array stays several Documents: its first occurrence meets the first one of the
    others, its second the second.

    Raises:
        ValueError: there is nothing to reduce.

    >>> from zflow import Document, DocumentArray
    >>> left = DocumentArray(Document(id="a", text="x"))
    >>> doc = reduce([left, DocumentArray(Document(id="a", uri="y"))])["a"]
    >>> doc.text, doc.uri
    ('x', 'y')
    """
    if not arrays:
        raise ValueError("reduce needs at least one DocumentArray")
    left, *others = arrays
    if others:
        known = dict(_numbered(left))
        for right in others:
            _reduce_into(left, known, right)
    return left


reduce.__module__ = "zflow"


def _numbered(docs: DocumentArray) -> Iterator[tuple[tuple[str, int], Document]]:
    """Yield each Document with its id and how many of that id came before it."""
    seen: dict[str, int] = {}
    for doc in docs:
        count = seen.get(doc.id, 0)
        seen[doc.id] = count + 1
        yield (doc.id, count), doc


def _reduce_into(
    left: DocumentArray, known: dict[tuple[str, int], Document], right: DocumentArray
) -> None:
    new = []
    for key, doc in _numbered(right):
        mine = known.get(key)
        if mine is None:
            known[key] = doc
            new.append(doc)
        elif mine is not doc:
            _merge(mine, doc)
    left.extend(new)


def _merge(left: Document, right: Document) -> None:
    mine = left.__dict__
    for name, value in right.__dict__.items():
        if is_empty(name, value):
            continue
        if is_empty(name, mine.get(name)):
            mine[name] = value
        elif name in NESTED and mine[name] is not value:
            reduce([mine[name], value])


def gather(
    pieces: Iterable[tuple[str, Sequence[Payload]]],
) -> tuple[dict[str, DocumentArray], Parameters]:
    """Decode the payloads of several predecessors.

    The broker carries payloads side by side without looking into them;
    here they become Documents again.

    Args:
        pieces: the name of a predecessor, or of a shard of one, and its payloads.

    Returns the Documents by predecessor, in the order of `needs`, and their merged parameters:
    where two differ the earlier one counts, and the `__results__` of all are kept.

    Raises:
        BadRequest: the payloads cannot be decoded.
    """
    docs_map: dict[str, DocumentArray] = {}
    parameters: Parameters = {}
    for name, payloads in pieces:
        arrays = []
        for payload in payloads:
            docs, some = unpack(payload)
            _merge_parameters(parameters, some)
            arrays.append(docs)
        docs_map[name] = reduce(arrays)
    return docs_map, parameters


def _merge_parameters(left: Parameters, right: Parameters) -> None:
    for key, value in right.items():
        if key == "__results__" and isinstance(left.get(key), dict) and isinstance(value, dict):
            left[key] = {
                **left[key],
                **{name: result for name, result in value.items() if name not in left[key]},
            }
        else:
            left.setdefault(key, value)
