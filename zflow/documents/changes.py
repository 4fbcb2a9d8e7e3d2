"""Changes: what an Executor has changed in the Documents and parameters that it got, as writes.

A replica looks for them where the broker says that its result will meet others. This module must
not know frames, and not how values are merged.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

from zflow.documents.document import Document, DocumentArray
from zflow.documents.fields import NESTED, Scores, plain
from zflow.documents.tensor import same_value
from zflow.documents.values import Parameters
from zflow.documents.writes import Writes

#: The fields that are dicts, and merged key by key.
DICTS = ("tags", "scores")
#: As many keys lead to what is looked into, from the outermost Document on; what is in a dict that
#: lies deeper is one value.
DEEPEST = 32
Values = dict[Any, Any]  # tags, scores or parameters
#: What the writes of Documents and those of parameters stand under.
DOCS, PARAMETERS = "docs", "parameters"


def numbered(docs: Iterable[Document]) -> Iterator[tuple[str | bytes, Document]]:
    """Yield each Document with what it is known by: its id, and if others of that id came before
    it, how many.
    """
    seen: dict[str, int] = {}
    for doc in docs:
        count = seen.get(doc.id, 0)
        seen[doc.id] = count + 1
        yield (f"{count}:{doc.id}".encode(errors="surrogatepass") if count else doc.id), doc


def add(
    writes: Writes,
    before: tuple[DocumentArray, Parameters],
    after: tuple[DocumentArray, Parameters],
) -> None:
    """Mark what a visit has changed, added or removed.

    Args:
        writes: those that came with what it got.
        before: what it got.
        after: what it has made of that.
    """
    visit = _Visit()
    if after[0] is not before[0]:
        visit.docs([DOCS], before[0], after[0])
    visit.values([PARAMETERS], before[1], after[1])
    for path in visit.changed:
        writes.at(*path).by |= {visit.number}


class _Visit:
    """One visit, and the paths to all that it has changed."""

    def __init__(self) -> None:
        self.number = int.from_bytes(os.urandom(7), "big")
        self.changed: list[list[Hashable]] = []

    def docs(self, path: list[Hashable], before: Iterable[Document], after: DocumentArray) -> None:
        """Look at Documents; those that are new have changed in all that they have."""
        known = dict(numbered(before))
        for key, doc in numbered(after):
            was = known[key].__dict__ if key in known else {}
            now = doc.__dict__
            for field in DICTS:
                if field not in now:  # it is empty as a text is, which takes the others' value
                    continue
                one, other = was.get(field) or {}, now[field] or {}
                if one or other:
                    self.values([*path, key, field], _plain(one), _plain(other))
            for field in NESTED:
                if now.get(field):
                    self.docs([*path, key, field], was.get(field, ()), now[field])

    def values(self, path: list[Hashable], before: Values, after: Values) -> None:
        """Look at the keys of a dict."""
        deeper = len(path) < DEEPEST
        for key in dict.fromkeys((*before, *after)):
            was, now = before.get(key), after.get(key)
            both = key in before and key in after
            if not both or not (deeper and isinstance(was, dict) and isinstance(now, dict)):
                if both and _is_same(was, now):
                    continue
                self.changed.append([*path, key])
            if deeper and (isinstance(was, dict) or isinstance(now, dict)):
                inner = [value if isinstance(value, dict) else {} for value in (was, now)]
                self.values([*path, key], *inner)


def _plain(values: Values) -> Values:
    return plain(values) if isinstance(values, Scores) else values


def _is_same(was: object, now: object) -> bool:
    try:
        return type(was) is type(now) and same_value(was, now)
    except Exception:  # then it cannot be sent either, and whoever packs it says so
        return False
