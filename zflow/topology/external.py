"""What a user says about an external Executor: its addresses,
and what cannot be said about it here.

Pure checks of values: nothing is looked up and nothing is connected to.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from zflow.errors import InvalidFlow
from zflow.network import address
from zflow.suggest import listed, short

#: The keywords of `Flow.add` that an external Executor takes. The others are its own Flow's
#: business.
TAKES: Final = (
    "name",
    "needs",
    "external",
    "host",
    "port",
    "curve",
    "endpoints",
    "timeout_send",
    "timeout_ready",
    "retries",
    "idempotent",
    "max_queue",
    "max_queue_bytes",
    "no_reduce",
)


def hosts(key: str, value: object, owner: str) -> tuple[str, ...]:
    """Return `host`, one or several texts, as a tuple."""
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not values or not all(isinstance(host, str) and host.strip() for host in values):
        raise InvalidFlow(
            f"{key} must be an address such as 'localhost:12345', or a list of them, not "
            f"{short(value)} ({owner})"
        )
    return tuple(host.strip() for host in values)


def ports(key: str, value: object, owner: str) -> tuple[int, ...]:
    """Return `port`, one or several numbers or texts of digits, as a tuple."""
    values = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not values:
        raise InvalidFlow(f"{key} must be a port or a list of ports, not {short(value)} ({owner})")
    return tuple(address.port_of(port, error=InvalidFlow, owner=owner) for port in values)


def addresses(host: tuple[str, ...], port: tuple[int, ...], owner: str) -> tuple[str, ...]:
    """Return `'host:port'` of each replica: hosts and ports pair up,
    and a single one goes with all of the others.

    Raises:
        InvalidFlow: they don't pair up, a port is missing or said twice,
            or an address is there twice.

    >>> addresses(("localhost", "example.org"), (12345, 12346), "")
    ('localhost:12345', 'example.org:12346')
    >>> addresses(("localhost:12345", "[::1]:12346"), (), "")
    ('localhost:12345', '[::1]:12346')
    """
    host = host or ("127.0.0.1",)
    if port:
        if len(host) != len(port) and 1 not in (len(host), len(port)):
            raise InvalidFlow(
                f"host and port must be lists of the same length, but there are {len(host)} hosts "
                f"and {len(port)} ports"
                f" ({owner})",
                key=("host",),
            )
        count = max(len(host), len(port))
        host, port = host * (count // len(host)), port * (count // len(port))
        found = tuple(
            _with_port(name, number, owner) for name, number in zip(host, port, strict=True)
        )
    else:
        found = tuple(address.spell(*_parse(name, None, owner)) for name in host)
    for one in found:
        if found.count(one) > 1:
            raise InvalidFlow(
                f"address {one!r} is there more than once: each is one replica ({owner})",
                key=("host",),
            )
    return found


def _with_port(host: str, port: int, owner: str) -> str:
    name, number = _parse(host, port, owner)
    if number != port:
        raise InvalidFlow(
            f"host {host!r} names a port, and port={port} another one: say it once ({owner})",
            key=("host",),
        )
    return address.spell(name, port)


def _parse(host: str, port: int | None, owner: str) -> tuple[str, int]:
    try:
        return address.parse(host, port, error=InvalidFlow, owner=owner)
    except InvalidFlow as error:
        raise InvalidFlow(f"host: {error.message}", key=("host",)) from None


def check(
    given: Collection[str], external: bool, needs: tuple[str, ...], no_reduce: bool, owner: str
) -> None:
    """Check that what was said of an Executor fits its being external, or its not being so.

    Args:
        given: the keywords that `add` was given.

    Raises:
        InvalidFlow: it does not fit; with the way out.
    """
    if not external:
        for key in ("host", "port", "curve"):
            if key in given:
                raise InvalidFlow(
                    f"{key} says where an external Executor runs: add external=True ({owner})",
                    key=(key,),
                )
        return
    others = [key for key in given if key not in TAKES]
    if others:
        raise InvalidFlow(
            f"{others[0]} is the business of the Flow where an external Executor runs; this one "
            f"takes {listed(TAKES)}"
            f" ({owner})",
            key=(others[0],),
        )
    if not {"host", "port"} & set(given):
        message = (
            "external=True needs to know where: host='localhost:12345', or host= and port= "
            f"({owner})"
        )
        raise InvalidFlow(message, key=("external",))
    if no_reduce and len(needs) > 1:
        raise InvalidFlow(
            "no_reduce=True is not for an external Executor with several predecessors: it gets "
            "their results reduced;"
            f" leave it out ({owner})",
            key=("no_reduce",),
        )
