"""How Documents and DocumentArrays look in a prompt and in a notebook.

It knows Documents as rows, which are dicts of the fields that are set. It shows arrays by dtype and
shape only, never raises for what a field holds, and never imports numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from zflow.documents.fields import ARRAYS, FIELDS, NESTED, Row, is_empty
from zflow.documents.tensor import describe
from zflow.suggest import short

_LONGEST = 40  # characters of one value
_ROWS = 10  # Documents in an HTML table


def document(row: Row) -> str:
    """Return one line: the id's beginning and the fields that are set."""
    shown = [f"id={_short_id(row['id'])}"]
    shown += [f"{name}={_short(name, row[name])}" for name in _in_use([row]) if name != "id"]
    return f"<Document {' '.join(shown)}>"


def array(rows: Sequence[Row]) -> str:
    """Return one line: how many Documents, and which fields are in use."""
    return f"<DocumentArray of {_count(rows)}{': ' if rows else ''}{', '.join(_in_use(rows))}>"


def summary(rows: Sequence[Row]) -> str:
    """Return a table of the fields in use: in how many Documents, and the first value."""
    cells = [("field", "set in", "first value")]
    for name in _in_use(rows):
        found = [row[name] for row in rows if not is_empty(name, row.get(name))]
        cells.append((name, f"{len(found)} of {len(rows)}", _short(name, found[0])))
    widths = [max(len(line[column]) for line in cells) for column in (0, 1)]
    lines = [f"{name:{widths[0]}}  {count:{widths[1]}}  {value}" for name, count, value in cells]
    return "\n".join([array(rows), *(f"  {line}" for line in lines)])


def document_html(row: Row) -> str:
    """Return a table of the fields that are set, one a row."""
    return _table((), [(name, _short(name, row[name])) for name in _in_use([row])], "Document")


def array_html(rows: Sequence[Row]) -> str:
    """Return a table of the first Documents, one a row, with the fields in use as columns."""
    names = _in_use(rows)
    cells = [
        ["" if is_empty(name, row.get(name)) else _short(name, row[name]) for name in names]
        for row in rows[:_ROWS]
    ]
    count = _count(rows)
    return _table(
        names, cells, count if len(rows) <= _ROWS else f"{count}, the first {_ROWS} shown"
    )


def _count(rows: Sequence[Row]) -> str:
    return f"{len(rows)} Document{'s' * (len(rows) != 1)}"


def _in_use(rows: Iterable[Row]) -> list[str]:
    used = {name for row in rows for name, value in row.items() if not is_empty(name, value)}
    return [name for name in FIELDS if name in used]


def _short(name: str, value: Any) -> str:
    if name in ARRAYS:
        return describe(value)
    if name in NESTED:
        return str(len(value))
    if name == "id":
        return str(value)
    if name == "scores":
        return _cut(
            "{" + ", ".join(f"{key}: {short(score.value)}" for key, score in value.items()) + "}"
        )
    if name == "tags":
        return _cut(
            "{" + ", ".join(f"{short(key)}: {_tag(tag)}" for key, tag in value.items()) + "}"
        )
    if isinstance(value, (str, bytes)):
        return repr(value) if len(value) <= _LONGEST else f"{value[:_LONGEST]!r}..."
    return short(value)


def _tag(value: object) -> str:
    if isinstance(value, (str, bytes)):
        return repr(value[:_LONGEST])
    return (
        short(value) if value is None or isinstance(value, (bool, int, float)) else describe(value)
    )


def _short_id(name: str) -> str:
    return name[:8] if len(name) == 32 else name


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    import html

    lines = ["<table>", f"<caption>{html.escape(caption)}</caption>"]
    if head:
        lines.append("<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>")
    lines += [
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    ]
    return "\n".join([*lines, "</table>"])
