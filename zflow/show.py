"""How Documents and DocumentArrays look in a prompt and in a notebook.

It shows arrays by dtype and shape only, never raises for what a field holds, and never imports numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from zflow.fields import ARRAYS, FIELDS, NESTED, is_empty
from zflow.tensor import describe

if TYPE_CHECKING:
    from zflow.document import Document, DocumentArray

_LONGEST = 40  # characters of one value
_ROWS = 10  # Documents in an HTML table


def document(doc: Document) -> str:
    """Return one line: the id's beginning and the fields that are set."""
    values = doc.__dict__
    parts = [f"{name}={_short(name, values[name])}" for name in _in_use([doc]) if name != "id"]
    return f"<Document {' '.join([f'id={_short_id(doc.id)}', *parts])}>"


def array(docs: DocumentArray) -> str:
    """Return one line: how many Documents, and which fields are in use."""
    count = f"{len(docs)} Document{'s' * (len(docs) != 1)}"
    return f"<DocumentArray of {count}{': ' if docs else ''}{', '.join(_in_use(docs))}>"


def summary(docs: DocumentArray) -> str:
    """Return a table of the fields in use: in how many Documents, and the first value."""
    rows = [("field", "set in", "first value")]
    for name in _in_use(docs):
        found = [doc.__dict__[name] for doc in docs if not is_empty(name, doc.__dict__.get(name))]
        rows.append((name, f"{len(found)} of {len(docs)}", _short(name, found[0])))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"{name:{widths[0]}}  {count:{widths[1]}}  {value}" for name, count, value in rows]
    return "\n".join([array(docs), *(f"  {line}" for line in lines)])


def document_html(doc: Document) -> str:
    """Return a table of the fields that are set, one a row."""
    return _table((), [(name, _short(name, doc.__dict__[name])) for name in _in_use([doc])], "Document")


def array_html(docs: DocumentArray) -> str:
    """Return a table of the first Documents, one a row, with the fields in use as columns."""
    names = _in_use(docs)
    rows = []
    for doc in docs[:_ROWS]:
        values = doc.__dict__
        rows.append([("" if is_empty(name, values.get(name)) else _short(name, values[name])) for name in names])
    count = f"{len(docs)} Document{'s' * (len(docs) != 1)}"
    return _table(names, rows, count if len(docs) <= _ROWS else f"{count}, the first {_ROWS} shown")


def _in_use(docs: Iterable[Document]) -> list[str]:
    used = {name for doc in docs for name, value in doc.__dict__.items() if not is_empty(name, value)}
    return [name for name in FIELDS if name in used]


def _short(name: str, value: Any) -> str:
    if name in ARRAYS:
        return describe(value)
    if name in NESTED:
        return str(len(value))
    if name == "id":
        return str(value)
    if name == "scores":
        return _cut("{" + ", ".join(f"{key}: {score.value}" for key, score in value.items()) + "}")
    if name == "tags":
        return _cut("{" + ", ".join(f"{key!r}: {_tag(tag)}" for key, tag in value.items()) + "}")
    if isinstance(value, (str, bytes)):
        return repr(value) if len(value) <= _LONGEST else f"{value[:_LONGEST]!r}..."
    return repr(value)


def _tag(value: Any) -> str:
    if isinstance(value, (str, bytes)):
        return repr(value[:_LONGEST])
    return repr(value) if value is None or isinstance(value, (bool, int, float)) else describe(value)


def _short_id(name: str) -> str:
    return name[:8] if len(name) == 32 else name


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    import html

    lines = ["<table>", f"<caption>{html.escape(caption)}</caption>"]
    if head:
        lines.append("<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>")
    lines += ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join([*lines, "</table>"])
