"""Addresses as users write them, `'host:port'`, and as ZeroMQ wants them.

Pure text: nothing is looked up and nothing is connected to,
so a host's name need not be known anywhere.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from typing import Any, Final

from zflow.errors import BadRequest, ZflowError
from zflow.suggest import short

log = logging.getLogger("zflow")

_FORMS: Final = "'HOST:PORT', 'tcp://HOST:PORT' or '[IPV6]:PORT'"
_BRACKETED: Final = re.compile(r"\[([^\[\]]*)\](?::(.*))?", re.DOTALL)


def parse(
    text: str,
    default_port: int | None = None,
    *,
    default_host: str | None = None,
    error: type[ZflowError] = BadRequest,
    owner: str = "",
) -> tuple[str, int]:
    """Read an address.

    Args:
        text: `'host:port'`, `'tcp://host:port'` or `'[v6]:port'`; with a default the part that it
            stands for may be missing, and then an IPv6 address needs no brackets.
        default_port: the port where the text names none.
        default_host: the host where the text names none; then a bare `'5555'` is a port.
        error: the class of error to raise.
        owner: whose address it is, for messages: `"executor 'encoder'"`.

    Returns:
        The host, without brackets, and the port.

    Raises:
        error: it is no address; the message says what is wrong and how one is written.

    >>> parse("localhost:12345")
    ('localhost', 12345)
    >>> parse("tcp://[::1]:12345")
    ('::1', 12345)
    >>> parse("encoder.example", 12345)
    ('encoder.example', 12345)
    """
    where = f" ({owner})" if owner else ""
    if not isinstance(text, str):
        raise error(
            f"an address must be a text such as 'localhost:12345', not {short(text)}{where}"
        )
    scheme, separator, rest = text.partition("://")
    if separator and scheme != "tcp":
        raise error(f"address {short(text)}: only tcp:// is spoken: write {_FORMS}{where}")
    host, port = _split(rest if separator else text, default_host is not None)
    if not host and default_host is not None:
        host = default_host
    wrong = _objection(host, port, default_port)
    if wrong:
        raise error(f"address {short(text)} {wrong}: write {_FORMS}{where}")
    number = (
        default_port
        if port is None
        else port_of(port, error=error, owner=f"address {short(text)}{where}")
    )
    assert number is not None  # else there was an objection
    return host, number


def port_of(value: Any, *, error: type[ZflowError] = BadRequest, owner: str = "") -> int:
    """Return a port given as a number or as a text of digits.

    Raises:
        error: it is no number from 1 to 65535.

    >>> port_of("12345")
    12345
    """
    number = 0
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,5}", value):
        number = int(value)
    # Numpy's whole numbers are welcome.
    elif hasattr(value, "__index__") and not isinstance(value, bool):
        number = int(value.__index__())
    if not 0 < number < 65536:
        where = f" ({owner})" if owner else ""
        raise error(f"port must be a number from 1 to 65535, not {short(value)}{where}")
    return number


def spell(host: str, port: int | str | None) -> str:
    """Return `'host:port'`, an IPv6 host in brackets: what `parse` reads.

    >>> spell("::1", 12345)
    '[::1]:12345'
    """
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def endpoint(host: str, port: int | str) -> str:
    """Return what ZeroMQ listens on or connects to; the port may be `'*'`.

    `localhost` is 127.0.0.1: ZeroMQ tries one address of a name only, and with IPv6 switched on
    that would be ::1 on many machines, where nobody listens who listens on 127.0.0.1.

    >>> endpoint("localhost", 12345)
    'tcp://127.0.0.1:12345'
    """
    return f"tcp://{spell('127.0.0.1' if host.lower() == 'localhost' else host, port)}"


def _split(text: str, lone_number_is_port: bool) -> tuple[str, str | None]:
    """Return host and port as they stand there; None where there is no port."""
    bracketed = _BRACKETED.fullmatch(text)
    if bracketed is not None and ":" in bracketed[1]:
        return bracketed[1], bracketed[2]
    if text.count(":") > 1:
        return text, None  # an IPv6 address without brackets, or nothing that makes sense
    if lone_number_is_port and re.fullmatch(r"[0-9]+", text):
        return "", text
    host, colon, port = text.partition(":")
    return host, port if colon else None


def _objection(host: str, port: str | None, default_port: int | None) -> str:
    """Return what is wrong with a host, and with a port that is missing; '' if nothing is."""
    if not host:
        return "names no host"
    if ":" in host:
        if not _is_ip(host):
            return f"is none: {short(host)} is no IPv6 address"
        if port is None and default_port is None:
            return "names no port, or its IPv6 host is not in brackets"
    elif not re.fullmatch(r"[\w.-]+", host):
        return f"is none: {short(host)} cannot be a host"
    elif re.fullmatch(r"[0-9.]+", host) and not _is_ip(host):
        return f"is none: {short(host)} is no IPv4 address"
    return "names no port" if port is None and default_port is None else ""


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    # The part after '%' may be anything to the standard library.
    return re.search(r"[^\w.:%-]", text) is None


def address_of(host: str, port: int | str | None, kind: str = "Client") -> str:
    """The ZeroMQ address of a Flow: `tcp://127.0.0.1:5555`;
    without a port the host is to name it: `'127.0.0.1:5555'`, also as `'grpc://127.0.0.1:5555'`.

    Raises:
        BadRequest: there is no port or there are two, or it is no number from 1 to 65535; or TLS is
            asked for.
    """
    if not isinstance(host, str) or (port is None and ":" not in host):
        raise BadRequest(f"{kind} needs the port of a Flow: {kind}(port=...); zflow-run prints it")
    given = None if port is None else port_of(port)
    if given is not None and ":" not in host:
        return endpoint(host, given)
    name, number = parse(_without_scheme(host), given)
    if given not in (None, number):
        raise BadRequest(f"{short(host)} names port {number}, and port= is {given}: give one")
    return endpoint(name, number)


def _without_scheme(host: str) -> str:
    """Return an address without the name of another protocol, which is told of once."""
    scheme, separator, rest = host.partition("://")
    if not separator or scheme == "tcp":
        return host
    if scheme in ("grpcs", "https", "wss"):
        raise BadRequest(
            f"address {short(host)}: no TLS is spoken; keys keep what is sent secret: curve=, and "
            f"write {_FORMS}"
        )
    if scheme not in ("grpc", "http", "ws"):
        return host
    _note_once(f"{scheme}://")
    return rest.rstrip("/")


_noted: set[str] = set()


def check_protocol(protocol: str | None) -> None:
    """Take the name of a protocol that Jina speaks, and say once that it means nothing here.

    Raises:
        BadRequest: there is no such protocol.
    """
    if protocol is None:
        return
    known = ("grpc", "http", "websocket")
    if not isinstance(protocol, str) or protocol.lower() not in known:
        raise BadRequest(f"protocol must be one of {', '.join(known)}, not {short(protocol)}")
    _note_once(f"protocol={protocol.lower()!r}")


def _note_once(what: str) -> None:
    if what not in _noted:
        _noted.add(what)
        log.warning(
            "%s: zflow speaks ZeroMQ between all clients and Flows; this can be left out", what
        )
