"""Endpoints: how their names are spelt, and what they may be, wherever one is written."""

from __future__ import annotations

from typing import Final

from zflow.errors import ZflowError
from zflow.suggest import short

LONGEST: Final = 1024  # characters; more are not sent

#: The endpoint of a bare `@requests`: it gets every request that no other method is bound to.
DEFAULT: Final = "/default"


def spelt(endpoint: object) -> str | None:
    """Return an endpoint as requests name it: `'foo'` is `'/foo'`, and `'*'` is `DEFAULT`.

    None where it is no text, or an empty one.

    >>> spelt("foo"), spelt("/foo"), spelt("*")
    ('/foo', '/foo', '/default')
    """
    if not isinstance(endpoint, str) or not endpoint:
        return None
    if endpoint == "*":
        return DEFAULT
    return endpoint if endpoint.startswith("/") else f"/{endpoint}"


def check_sendable(endpoint: str, owner: str, error: type[ZflowError]) -> None:
    """Check that a request can name an endpoint.

    Raises:
        error: it is too long, or no text that can be sent.
    """
    if len(endpoint) > LONGEST:
        raise error(
            f"an endpoint has at most {LONGEST} characters, not {len(endpoint)}: {short(endpoint)} "
            f"({owner})"
        )
    try:
        endpoint.encode()
    except UnicodeEncodeError:
        raise error(
            f"an endpoint is a text that can be sent as UTF-8, not {short(endpoint)} ({owner})"
        ) from None
