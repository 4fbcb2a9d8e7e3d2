"""Endpoints: what their names may be, wherever one is written."""

from __future__ import annotations

from typing import Final

from zflow.errors import ZflowError
from zflow.suggest import short

LONGEST: Final = 1024  # characters; more are not sent


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
