"""Ways into Documents that are written as text: `'tags__x'`, what is nested in a field, and
`'c,m'`, what Documents are nested in others.

It knows Documents by their attributes only, and must not know arrays of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from zflow.documents.fields import FIELDS, NESTED, NamedScore, Row, Scores
from zflow.suggest import short

Item = TypeVar("Item")

# -- into fields -------------------------------------------------------------------------------

_INTO = ("tags", "scores", *NESTED)


def is_inner(name: str) -> bool:
    """Say whether this leads to something within a field: `'tags__x'`, `'chunks__0__text'`."""
    field, *parts = name.split("__")
    return field in _INTO and bool(parts) and all(parts)


def read(doc: object, name: str) -> object:
    """Return a field of a Document, or what is within one by its path; None where nothing is."""
    if "__" not in name:
        return getattr(doc, name)
    field, *parts = name.split("__")
    value: object = doc.__dict__.get(field)
    for part in parts:
        value = _inside(value, part)
    return value


def _inside(value: object, part: str) -> object:
    if isinstance(value, Mapping):
        return value.get(_key(value, part))
    if part.isdecimal() and isinstance(value, Sequence):
        return value[int(part)] if int(part) < len(value) else None
    # Of other objects only what is a field: numbers have attributes too.
    return getattr(value, part, None) if part in FIELDS or isinstance(value, NamedScore) else None


def _key(value: Mapping[object, object], part: str) -> object:
    return int(part) if part.isdecimal() and part not in value else part


def write(doc: object, name: str, value: object) -> None:
    """Set a field of a Document, or what is within one by its path; dicts on the way are made.

    None unsets it, and makes nothing.

    Raises:
        TypeError: something on the way has nothing within.
        IndexError: there is no such Document, or item of a list.
    """
    if "__" not in name:
        setattr(doc, name, value)
        return
    *way, last = name.split("__")
    holder = doc
    for part in way:
        inner = getattr(doc, part) if holder is doc else _inside(holder, part)
        if inner is None:
            if value is None:
                return
            inner = _made(holder, part, name)
        holder = inner
    if isinstance(holder, dict):
        if value is None:
            holder.pop(_key(holder, last), None)
        else:
            holder[_key(holder, last)] = value
    elif isinstance(holder, list):
        holder[int(last)] = value
    elif last in FIELDS or isinstance(holder, NamedScore):
        setattr(holder, last, value)
    else:
        raise TypeError(f"{name!r}: what has no {last!r} is {type(holder).__name__}")


def _made(holder: object, part: str, name: str) -> object:
    """Put something where there is nothing yet, for more to be put within."""
    if isinstance(holder, Scores):
        return holder[part]
    if isinstance(holder, dict):
        return holder.setdefault(part, {})
    if isinstance(holder, Sequence) and part.isdecimal():
        return holder[int(part)]  # raises
    raise TypeError(f"{name!r}: what has no {part!r} is {type(holder).__name__}")


# -- into nested Documents ---------------------------------------------------------------------

# Which Documents of those at one step: all, one by its number, or a slice.
_Part = int | slice
_STEP = re.compile(r"([rcm])(?:\[(-?\d+)\]|\[(-?\d*):(-?\d*)(?::(-?[1-9]\d*)?)?\])?", re.ASCII)
_KINDS = {"c": "chunks", "m": "matches"}


def is_way(key: str) -> bool:
    """Say whether a key is a way to nested Documents, such as `'@c'`, rather than an id."""
    if not key.startswith("@"):
        return False
    try:
        _ways(key[1:])
    except ValueError:
        return False
    return True


def follow(docs: Sequence[Item], ways: str) -> list[Item]:
    """Return the Documents to which ways lead: `'c'` to the chunks, `'m'` to the matches, `'r'` to
    the Documents themselves, `'cm'` to the matches of the chunks; all of one way before the next.

    Raises:
        ValueError: that is no such text.
    """
    found: list[Item] = []
    for steps in _ways(ways):
        at = list(docs)
        for kind, part in steps:
            groups = [at] if kind == "r" else [_nested(doc, _KINDS[kind]) for doc in at]
            at = [doc for group in groups for doc in _picked(group, part)]
        found += at
    return found


def _nested(doc: Item, name: str) -> Sequence[Item]:
    row: Row = doc.__dict__
    return row.get(name) or ()


def _picked(docs: Sequence[Item], part: _Part) -> Iterable[Item]:
    if isinstance(part, slice):
        return docs[part]
    return [docs[part]] if -len(docs) <= part < len(docs) else ()


def _ways(text: str) -> list[list[tuple[str, _Part]]]:
    if isinstance(text, str):
        ways = [way.strip() for way in text.split(",")]
        if all(re.fullmatch(f"(?:{_STEP.pattern})+", way, re.ASCII) for way in ways):
            return [[_step(found) for found in _STEP.finditer(way)] for way in ways]
    raise ValueError(
        f"{short(text)} is no path: write r (the Documents themselves), c (their chunks) or m "
        "(their matches), one after the other, and [0] or [:5] behind one for some of them: 'c,m', "
        "'r[:5]cm'"
    )


def _step(found: re.Match[str]) -> tuple[str, _Part]:
    kind, number, *bounds = found.groups()
    if number is not None:
        return kind, int(number)
    return kind, slice(*(int(bound) if bound else None for bound in bounds))
