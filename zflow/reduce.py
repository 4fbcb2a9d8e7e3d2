"""How the results of several branches or shards become one DocumentArray.

It must not know where they came from; the order of the arguments is all it goes by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from zflow.fields import NESTED, is_empty

if TYPE_CHECKING:
    from zflow.document import Document, DocumentArray


def reduce(arrays: Sequence[DocumentArray]) -> DocumentArray:
    """Return one DocumentArray of all; the first is changed in place and returned, the others may share its Documents.

    Documents with the same id become one: what is set on the left stays, what is empty there is taken from the
    right, and `matches` and `chunks` reduce in the same way, at every level. Documents that are only on the right
    are appended, in their order. An id that occurs several times within one array stays several Documents: its
    first occurrence meets the first one of the others, its second the second.

    Raises:
        ValueError: there is nothing to reduce.

    >>> from zflow.document import Document, DocumentArray
    >>> left, right = DocumentArray(Document(id="a", text="x")), DocumentArray(Document(id="a", uri="y"))
    >>> doc = reduce([left, right])["a"]
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


def _numbered(docs: DocumentArray) -> Iterator[tuple[tuple[str, int], Document]]:
    """Yield each Document with its id and how many of that id came before it."""
    seen: dict[str, int] = {}
    for doc in docs:
        count = seen.get(doc.id, 0)
        seen[doc.id] = count + 1
        yield (doc.id, count), doc


def _reduce_into(left: DocumentArray, known: dict[tuple[str, int], Document], right: DocumentArray) -> None:
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
