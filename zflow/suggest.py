"""The ends of error messages: the nearest known name, and lists of names.

Used wherever a name that somebody typed is looked up. It knows nothing of what the names stand for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

LINES: Final = "\n\t"  # what a text of several lines has besides what is printable


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return `"; did you mean 'replicas'?"` for the nearest of the known names,
    or `""` when none is near.

    >>> did_you_mean("replica", ["replicas", "retries"])
    "; did you mean 'replicas'?"
    >>> did_you_mean("colour", ["replicas", "retries"])
    ''
    """
    import difflib

    lowered = {word.lower(): word for word in known}
    near = difflib.get_close_matches(str(name).lower(), lowered, n=1)
    return f"; did you mean {lowered[near[0]]!r}?" if near else ""


def listed(names: Iterable[str], limit: int = 10) -> str:
    """Return the names quoted and joined by commas, the first `limit` of them;
    `'none'` when there are none.

    >>> listed(["encoder", "indexer"])
    "'encoder', 'indexer'"
    """
    quoted = [repr(name) for name in names]
    shown = ", ".join(quoted[:limit]) or "none"
    return shown if len(quoted) <= limit else f"{shown} and {len(quoted) - limit} more"


def short(value: object, limit: int = 80) -> str:
    """Return `repr(value)` cut to `limit` characters, for a message that must stay readable.

    >>> short("x" * 100, limit=10)
    "'xxxxxx..."
    """
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__} whose repr() fails>"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def seconds_meant(milliseconds: float) -> str:
    """Return the way out for a time in ms that is so short that seconds were meant.

    >>> seconds_meant(0.5)
    '500 is half a second'
    >>> seconds_meant(0.005)
    '5 is 0.005 seconds'
    """
    words = "half a second" if milliseconds == 0.5 else f"{milliseconds:g} seconds"
    return f"{milliseconds * 1000:g} is {words}"


def printable(text: str, keep: str = "") -> str:
    """Return a text from elsewhere as it may be shown:
    what would move a cursor or begin a line is escaped.

    Args:
        keep: characters that are left as they are, such as line breaks in an error's text.

    >>> printable("rep-0\\nWARNING all is lost\\x1b[2J")
    'rep-0\\\\nWARNING all is lost\\\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text
    )
