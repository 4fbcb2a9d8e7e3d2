"""Which Document, and which of its fields, is to blame: for what cannot be sent,
and for what is too large.

Only used once something has gone wrong, or just before it would. It must not know frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from zflow.documents import tensor, values
from zflow.documents.fields import ARRAYS, FIELDS, NESTED, Scores, is_empty, plain
from zflow.suggest import short

if TYPE_CHECKING:
    from zflow.documents.document import Document

#: How many levels of matches and chunks can be sent; the recursion of either end allows for more.
DEEPEST_DOCUMENTS = 100
# msgpack stops at 511 levels of lists and dicts, or at 1024 in newer versions.
_DEEPEST_VALUE = 500


class WrongNesting(ValueError):
    """Documents that contain themselves, or too many levels of others."""


def explain(docs: Iterable[Document] | None, parameters: object, error: Exception) -> str:
    """Return the message for a request that cannot be packed: the first value that cannot,
    and why.
    """
    if isinstance(error, WrongNesting):
        return str(error)
    try:
        found = next(_in_parameters(parameters), None) or next(
            _in_documents(docs or (), "Document ", ""), None
        )
    except RecursionError:
        found = None
    return found or f"these Documents cannot be sent: {error}"


def _in_parameters(parameters: object) -> Iterator[str]:
    if isinstance(parameters, dict):
        for where, reason in _in_value(parameters, "parameters"):
            yield f"{where}: {reason}"


def _in_documents(docs: Iterable[Document], before: str, after: str) -> Iterator[str]:
    """Yield a message for every value that cannot be sent;
    a Document's number is shown between the two texts.
    """
    for number, doc in enumerate(docs):
        name = f"{before}{number}{after} (id {short(doc.id, 40)})"
        for field, value in doc.__dict__.items():
            if is_empty(field, value):
                continue
            if field in NESTED:
                yield from _in_documents(value, f"{name} {field}[", "]")
                continue
            if field in ARRAYS:
                found = _in_array(value)
            else:
                found = _in_scores(value) if isinstance(value, Scores) else _in_value(value, field)
            for where, reason in found:
                yield f"{name} field {where or field}: {reason}"


def _plain(value: object) -> object:
    return plain(value) if isinstance(value, Scores) else value


def _in_scores(scores: Scores) -> Iterator[tuple[str, str]]:
    for name, score in scores.items():
        where = f"scores[{short(name, 40)}]"
        try:
            found = plain(Scores({name: score}))
        except TypeError as error:
            yield where, str(error)
        else:
            yield from _in_value(found[name], where)


def _in_array(value: object) -> Iterator[tuple[str, str]]:
    try:
        tensor.header(tensor.as_array(value))
    except Exception as error:  # a foreign tensor may raise anything
        yield "", f"{error}"


def _in_value(value: object, where: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield place and reason of everything in a value that cannot be sent."""
    if depth > _DEEPEST_VALUE:
        yield where[:80] + "...", "nested too deeply, or contains itself"
    elif isinstance(value, dict):
        for key, item in value.items():
            if _reason(key):
                yield f"{where} key {short(key, 40)}", _reason(key)
            yield from _in_value(item, f"{where}[{short(key, 40)}]", depth + 1)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _in_value(item, f"{where}[{number}]", depth + 1)
    elif _reason(value):
        yield where, _reason(value)


def _reason(value: object) -> str:
    try:
        values.dump(value)
    except RecursionError:
        raise
    except Exception as error:  # a foreign tensor may raise anything
        return str(error) or type(error).__name__
    return ""


def refuse_wrong_nesting(docs: Iterable[Document]) -> None:
    """Raise if a Document contains itself through matches and chunks, or too many levels of others.

    Raises:
        WrongNesting: one does; the message names it.
    """
    below: dict[int, int] = {}
    for doc in docs:
        _levels_below(doc, set(), below)


def _levels_below(doc: Document, above: set[int], below: dict[int, int]) -> int:
    """Return how many levels there are below a Document; `below` remembers it,
    for it may stand in several places.
    """
    if id(doc) in above:
        raise WrongNesting(
            f"Document {short(doc.id, 40)} contains itself through its matches or chunks; give "
            "copies"
        )
    levels = below.get(id(doc))
    if len(above) + (levels or 0) > DEEPEST_DOCUMENTS:
        raise WrongNesting(
            f"matches and chunks are nested too deeply: at most {DEEPEST_DOCUMENTS} levels can be "
            "sent"
        )
    if levels is None:
        above.add(id(doc))
        nested = [doc.__dict__.get(name) or () for name in NESTED]
        levels = max(
            (1 + _levels_below(one, above, below) for some in nested for one in some), default=0
        )
        above.discard(id(doc))
        below[id(doc)] = levels
    return levels


def largest(docs: Sequence[Document]) -> str:
    """Return a phrase that names the largest Document, its largest field and that field's size.

    >>> from zflow import Document
    >>> largest([Document(id="a", text="x"), Document(id="b", blob=bytes(2_000_000))])
    "Document 'b' (field 'blob', 2.0 MB)"
    """
    sized = [(_sizes(doc), doc) for doc in docs]
    if not sized:
        return "no Document"
    sizes, doc = max(sized, key=lambda pair: sum(pair[0].values()))
    field = max(sizes, key=lambda name: sizes[name])
    return f"Document {short(doc.id, 40)} (field {field!r}, {_bytes(sizes[field])})"


def _sizes(doc: Document) -> dict[str, int]:
    """Return the bytes that each field takes on the wire, to about one percent."""
    return {
        name: _size(name, doc.__dict__[name])
        for name in FIELDS
        if not is_empty(name, doc.__dict__.get(name))
    }


def _size(name: str, value: Any) -> int:
    try:
        if name in NESTED:
            return sum(sum(_sizes(doc).values()) for doc in value)
        if isinstance(value, (str, bytes)):
            return (
                len(value.encode("utf-8", "surrogatepass"))
                if isinstance(value, str)
                else len(value)
            )
        return (
            int(tensor.as_array(value).nbytes)
            if name in ARRAYS
            else len(values.dump(_plain(value)))
        )
    except Exception:  # what cannot be sent has no size on the wire
        return 0


def _bytes(size: int) -> str:
    for unit, step in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= step:
            return f"{size / step:.1f} {unit}"
    return f"{size} bytes"
