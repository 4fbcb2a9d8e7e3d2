"""What values options take: in words for documentation, as a check, and as a command line has them.

Pure checks of values: nothing is looked up, and nothing is started.
Which options there are is in `options`.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from zflow.endpoints import check_sendable, spelt
from zflow.errors import InvalidFlow, keyed
from zflow.executors import batching
from zflow.suggest import did_you_mean, listed, short
from zflow.system import cuda
from zflow.topology import external, polling
from zflow.topology.scaling import ReplicaRange

#: The characters that a name may have: it is part of the names of replicas, which libzmq takes up
#: to 255 bytes of.
LONGEST_NAME: Final = 100

#: The name of the entrance: what the first Executor needs.
GATEWAY: Final = "gateway"

MOST_ENDPOINTS: Final = 1000  # of one Executor; the broker takes no more from a replica
MOST_REPLICAS: Final = 10_000  # of a shard, and shards of an Executor
# Requests in flight: libzmq counts what waits for somebody in 32 bits.
MOST_OF_A_CLIENT: Final = 10**9
MOST: Final = 2**53  # of bytes, ms and whatever else is counted: what a float still holds exactly

#: `check(key, value, owner)` returns the value in its final type, or raises an error whose `key`
#: begins below `key`.
Check = Callable[[str, Any, str], Any]


@dataclass(frozen=True)
class Kind:
    """What values an option takes.

    Attributes:
        words: which they are, for documentation.
        check: how one is checked.
        written: how a command line has it: as a text, a value of YAML, a number; as a flag; several
            times, or several times with names (`NAME=VALUE`),
            before texts or before values of YAML.
    """

    words: str
    check: Check
    written: Literal["text", "value", "number", "flag", "texts", "named texts", "named values"] = (
        "value"
    )


# -- numbers ---------------------------------------------------------------------------------------


def _whole(value: object) -> int | None:
    # operator.index would take True for 1; numpy's whole numbers have __index__ and are welcome.
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return None
    try:
        return int(value.__index__())
    except TypeError:
        return None


def _between(words: str, least: float, most: float, also: int | None = None) -> Check:
    """Return a check of whole numbers in a range that the words tell; `also` is one beside it."""

    def check(key: str, value: object, owner: str) -> int:
        number = _whole(value)
        if number is None or not (least <= number <= most or number == also):
            is_text = isinstance(value, str) and re.fullmatch(r"-?\d+", value)
            hint = " (a text: leave the quotes out)" if is_text else ""
            raise InvalidFlow(f"{key} must be {words}, not {short(value)}{hint} ({owner})")
        return number

    return check


def _at_least(words: str, least: int, most: int = MOST, also: int | None = None) -> Check:
    """Return a check of whole numbers with an end that is far away, and not in the words."""
    from_least = _between(words, least, float("inf"), also)

    def check(key: str, value: object, owner: str) -> int:
        number: int = from_least(key, value, owner)
        if number > most:
            raise InvalidFlow(f"{key} must be {most} or less, not {short(number)} ({owner})")
        return number

    return check


def _counted(least: int, most: int = MOST) -> Check:
    return _at_least(f"a whole number of {least} or more", least, most)


def _replicas(key: str, value: object, owner: str) -> int | ReplicaRange:
    if isinstance(value, ReplicaRange):  # checked before, as a default of the Flow's
        return value
    if not isinstance(value, Mapping):
        return int(COUNT.check(key, value, owner))
    known = [field.name for field in fields(ReplicaRange)]
    said: dict[str, int] = {}
    for name, number in value.items():
        if name not in known:
            hint = did_you_mean(name, known) or f"; known are {listed(known)}"
            raise InvalidFlow(
                f"{key} has an unknown key {short(name)}{hint} ({owner})", key=(str(name),)
            )
        most = MOST_REPLICAS if name in ("min", "max") else MOST
        with keyed(name):
            said[name] = _counted(1, most)(f"{key}[{name!r}]", number, owner)
    if "max" not in said:
        raise InvalidFlow(
            f"{key} must say how many there may be, as in {{'min': 1, 'max': 8}}, not {value} "
            f"({owner})"
        )
    limits = ReplicaRange(**{"min": 1, **said})
    if limits.max < limits.min:
        wrong = (
            f"{key}['max'] must be {limits.min} or more, as 'min' is, not {limits.max} ({owner})"
        )
        raise InvalidFlow(wrong, key=("max",))
    return limits


# -- words -----------------------------------------------------------------------------------------


def _one_of(*words: str) -> Check:
    def check(key: str, value: object, owner: str) -> str:
        if not isinstance(value, str) or value not in words:
            raise InvalidFlow(
                f"{key} must be {' or '.join(map(repr, words))}, not {short(value)} ({owner})"
            )
        return value

    return check


def _flag(key: str, value: object, owner: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidFlow(f"{key} must be True or False, not {short(value)} ({owner})")
    return value


def _name(key: str, value: object, owner: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", value):
        raise InvalidFlow(
            f"{key} must start with a letter or '_' and hold only letters, digits, '-' and '_', "
            f"not {short(value)}"
        )
    if len(value) > LONGEST_NAME:
        raise InvalidFlow(
            f"{key} has at most {LONGEST_NAME} characters, not {len(value)}: {short(value)}"
        )
    if value == GATEWAY:
        raise InvalidFlow(
            f"{key} {GATEWAY!r} is taken: it stands for the entrance of every Flow; choose another "
            "one"
        )
    return value


def _needs(key: str, value: object, owner: str) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise InvalidFlow(
            f"{key} must be the name of an Executor, {GATEWAY!r}, or a list of names, not "
            f"{short(value)} ({owner})"
        )
    if not names:
        raise InvalidFlow(f"{key} must name at least one Executor, or {GATEWAY!r} ({owner})")
    for name in names:
        if names.count(name) > 1:
            raise InvalidFlow(f"{key} names {name!r} more than once: name it once ({owner})")
    return tuple(names)


def _host(key: str, value: object, owner: str) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise InvalidFlow(f"{key} must be the text of an address, not {short(value)} ({owner})")
    return value


def _bound(key: str, value: object, owner: str) -> tuple[str, ...]:
    names = tuple(value) if isinstance(value, (list, tuple, set, frozenset)) else ()
    if not 0 < len(names) <= MOST_ENDPOINTS:
        wanted = f"a list of 1 to {MOST_ENDPOINTS} endpoints, as in ['/index', '/search']"
        raise InvalidFlow(f"{key} must be {wanted}, not {short(value)} ({owner})")
    bound = []
    for said in names:
        name = spelt(said)
        if name is None:
            raise InvalidFlow(
                f"{key} must be texts that start with '/', not {short(said)} ({owner})"
            )
        check_sendable(name, f"{key}, {owner}", InvalidFlow)
        bound.append(name)
    return tuple(bound)


# -- dicts -----------------------------------------------------------------------------------------


def _dict(key: str, value: object, owner: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidFlow(f"{key} must be a dict, not {short(value)} ({owner})")
    for name in value:
        if not isinstance(name, str):
            raise InvalidFlow(f"the keys of {key} must be texts, not {short(name)} ({owner})")
    return dict(value)


def _methods(key: str, value: object, owner: str) -> dict[str, str]:
    checked = {}
    for said, method in _dict(key, value, owner).items():
        with keyed(said):
            endpoint = spelt(said)
            if endpoint is None:
                raise InvalidFlow(
                    f"{key} goes by endpoints, which start with '/', not by {short(said)} ({owner})"
                )
            check_sendable(endpoint, f"{key}, {owner}", InvalidFlow)
            if not isinstance(method, str) or not method.isidentifier():
                raise InvalidFlow(
                    f"{key}[{endpoint!r}] must be the name of a method, not {short(method)} "
                    f"({owner})"
                )
            checked[endpoint] = method
    return checked


def _batching(key: str, value: object, owner: str) -> dict[str, batching.Batching]:
    return batching.by_endpoint(key, value, owner, InvalidFlow)


def _environment(key: str, value: object, owner: str) -> dict[str, str]:
    checked = {}
    for name, said in _dict(key, value, owner).items():
        with keyed(name):
            checked[name] = _variable(f"{key}[{name!r}]", name, said, owner)
    return checked


def _variable(label: str, name: str, value: object, owner: str) -> str:
    if not name or "=" in name or not _is_for_system(name):
        raise InvalidFlow(
            f"{label}: the name of an environment variable is a text without '=' ({owner})"
        )
    text = None
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):  # a number of more digits than Python writes
            text = str(value)
    if text is None or not _is_for_system(text):
        raise InvalidFlow(
            f"{label} must be a text or a number, not {short(value)}: put it in quotes ({owner})"
        )
    if name == cuda.VARIABLE and cuda.asks(text):
        cuda.parse(text, owner, label)
    return text


# -- paths and Executors ---------------------------------------------------------------------------


def _path(key: str, value: object, owner: str) -> str:
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or not text or not _is_for_system(text):
        raise InvalidFlow(f"{key} must be a path, not {short(value)} ({owner})")
    return text


def _paths(key: str, value: object, owner: str) -> tuple[str, ...]:
    paths = value if isinstance(value, (list, tuple)) else (value,)
    return tuple(_path(key, one, owner) for one in paths)


def _is_for_system(text: str) -> bool:
    """Whether the system takes it, as a path or in an environment."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _uses(key: str, value: object, owner: str) -> object:
    from zflow.executors.uses import check_kind

    return check_kind(value, owner)


# -- the kinds -------------------------------------------------------------------------------------

NO_LIMIT: Final = "or -1 for no limit"

FLAG: Final = Kind("True or False", _flag, "flag")
COUNT: Final = Kind("whole number of 1 or more", _counted(1, MOST_REPLICAS))
CONNECTIONS: Final = Kind("whole number of 1 or more", _counted(1), "number")
IN_FLIGHT: Final = Kind("whole number of 1 or more", _counted(1, MOST_OF_A_CLIENT))
REPLICAS: Final = Kind("whole number of 1 or more, or dict", _replicas)
QUEUE: Final = Kind(
    "whole number of 1 or more, or -1",
    _at_least(f"a whole number of 1 or more, {NO_LIMIT}", 1, also=-1),
)
RETRIES: Final = Kind(
    "whole number of 0 or more, or -1",
    _at_least("a whole number of 0 or more, or -1 for max(3, replicas)", -1),
)
SEED: Final = Kind(
    "whole number of 0 or more",
    _between("a whole number from 0 to 2**64 - 1", 0, 2**64 - 1),
    "number",
)
LIMIT: Final = Kind(
    "ms of 1 or more, or -1",
    _at_least(f"a whole number of milliseconds of 1 or more, {NO_LIMIT}", 1, also=-1),
)
GRACE: Final = Kind("ms of 0 or more", _counted(0))
SIZE: Final = Kind("bytes of 1024 or more", _counted(1024))
SHARE: Final = Kind(
    "bytes of 0 or more, or -1",
    _at_least("a number of bytes, 0 for none, or -1 for an eighth of the machine's memory", -1),
)
PORT: Final = Kind("port", _between("a whole number from 1 to 65535", 1, 65535), "number")
FREE_PORT: Final = Kind("port, or 0", _between("a port, or 0 for any free one", 0, 65535), "number")
PORTS: Final = Kind("port or list of ports", external.ports, "texts")
HOST: Final = Kind("text", _host, "text")
HOSTS: Final = Kind("text or list of texts", external.hosts, "texts")
NAME: Final = Kind("text", _name, "text")
NEEDS: Final = Kind("text or list of texts", _needs, "text")
ENDPOINTS: Final = Kind("list of texts", _bound, "texts")
START_METHOD: Final = Kind("`fork` or `spawn`", _one_of("fork", "spawn"), "text")
UNKNOWN: Final = Kind("`refuse` or `pass`", _one_of("refuse", "pass"), "text")
SHARD_FAILURE: Final = Kind("`fail` or `partial`", _one_of("fail", "partial"))
POLLING: Final = Kind(
    "`ANY`, `ALL` or dict", lambda _key, value, owner: polling.check(value, owner)
)
DICT: Final = Kind("dict", _dict, "named values")
METHODS: Final = Kind("dict of endpoint to method name", _methods, "named texts")
BATCHING: Final = Kind("dict of endpoint to dict", _batching, "named values")
ENVIRONMENT: Final = Kind("dict of text to text or number", _environment, "named texts")
PATH: Final = Kind("path", _path, "text")
PATHS: Final = Kind("path or list of paths", _paths, "texts")
USES: Final = Kind("class, text or dict", _uses, "text")
