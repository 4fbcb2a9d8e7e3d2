"""The table of all options of an Executor: each with its default, what it does, and how its value is checked.

It is the one source for `Flow.add`, YAML, the command line and the documentation. Pure checks of values: nothing is
looked up, and nothing is started."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

from zflow.errors import InvalidFlow, NotSupported
from zflow.executors import batching
from zflow.executors.batching import Batching
from zflow.executors.endpoints import check_sendable
from zflow.suggest import did_you_mean, listed, short
from zflow.system import cuda
from zflow.topology import external
from zflow.topology.polling import Polling
from zflow.topology.polling import check as check_polling
from zflow.topology.scaling import ReplicaRange

#: The characters that a name may have: it is part of the names of replicas, which libzmq takes up to 255 bytes of.
LONGEST_NAME: Final = 100

#: The name of the entrance: what the first Executor needs.
GATEWAY: Final = "gateway"

MOST_ENDPOINTS: Final = 1000  # of one Executor; the broker takes no more from a replica
MOST_REPLICAS: Final = 10_000  # of a shard, and shards of an Executor
MOST: Final = 2**53  # of bytes, ms and whatever else is counted: what a float still holds exactly


@dataclass(frozen=True)
class Field:
    """One keyword of `Flow.add`, which is also a key in YAML.

    Attributes:
        type: what it accepts, in words, for documentation and messages.
        default: what holds when it is left out (or None).
        about: what it does, in one line.
        check: `check(key, value, owner)` returns the value in its final type, or raises.
        shared: it can be given to `Flow(...)` too, as the default of every Executor.
    """

    type: str
    default: Any
    about: str
    check: Callable[[str, Any, str], Any]
    shared: bool = True


def check_defaults(defaults: Mapping[str, Any], also: Iterable[str] = ()) -> dict[str, Any]:
    """Check the keywords that `Flow(...)` takes as defaults for every Executor, and return them in final type.

    Args:
        defaults: what was given, without the Flow's own options.
        also: the names of the Flow's own options, to find the nearest known name for a wrong one.

    Raises:
        InvalidFlow, InvalidExecutor, NotSupported: as `Topology.add`.

    >>> check_defaults({"replicas": 2, "env": {"THREADS": 4}})
    {'replicas': 2, 'env': {'THREADS': '4'}}
    """
    for key in defaults:
        if key in FIELDS and not FIELDS[key].shared:
            raise InvalidFlow(f"{key} belongs to one Executor: give it to add({key}=...), not to Flow(...)")
    check_known(defaults, "Flow", also)
    return {key: FIELDS[key].check(key, value, "Flow") for key, value in defaults.items() if value is not None}


def check_known(given: Iterable[str], owner: str, also: Iterable[str] = ()) -> None:
    for key in given:
        if key in UNSUPPORTED:
            raise NotSupported(f"{key} is not supported by this version of zflow: {UNSUPPORTED[key]} ({owner})")
        if key not in FIELDS:
            known = [*FIELDS, *also]
            hint = did_you_mean(key, known) or f"; known are {listed(known, 40)}"
            raise InvalidFlow(f"unknown keyword {key!r}{hint} ({owner})")


def _name(key: str, value: Any, owner: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*", value):
        raise InvalidFlow(
            f"{key} must start with a letter or '_' and hold only letters, digits, '-' and '_', not {short(value)}"
        )
    if len(value) > LONGEST_NAME:
        raise InvalidFlow(f"{key} has at most {LONGEST_NAME} characters, not {len(value)}: {short(value)}")
    if value == GATEWAY:
        raise InvalidFlow(f"{key} {GATEWAY!r} is taken: it stands for the entrance of every Flow; choose another one")
    return value


def _needs(key: str, value: Any, owner: str) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise InvalidFlow(
            f"{key} must be the name of an Executor, {GATEWAY!r}, or a list of names, not {short(value)} ({owner})"
        )
    if not names:
        raise InvalidFlow(f"{key} must name at least one Executor, or {GATEWAY!r} ({owner})")
    for name in names:
        if names.count(name) > 1:
            raise InvalidFlow(f"{key} names {name!r} more than once: name it once ({owner})")
    return tuple(names)


def _whole(value: Any) -> int | None:
    # operator.index would take True for 1; numpy's whole numbers have __index__ and are welcome.
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return None
    try:
        return int(value.__index__())
    except TypeError:
        return None


def _said(value: Any) -> str:
    hint = " (a text: leave the quotes out)" if isinstance(value, str) and re.fullmatch(r"-?\d+", value) else ""
    return short(value) + hint


def at_most(key: str, number: int, owner: str, most: int = MOST) -> int:
    """Return the number; raises InvalidFlow if it is larger than it may be."""
    if number > most:
        raise InvalidFlow(f"{key} must be {most} or less, not {short(number)} ({owner})")
    return number


def _count(key: str, value: Any, owner: str, most: int = MOST_REPLICAS) -> int:
    number = _whole(value)
    if number is None or number < 1:
        raise InvalidFlow(f"{key} must be a whole number of 1 or more, not {_said(value)} ({owner})")
    return at_most(key, number, owner, most)


def _replicas(key: str, value: Any, owner: str) -> int | ReplicaRange:
    if isinstance(value, ReplicaRange):  # checked before, as a default of the Flow's
        return value
    if not isinstance(value, Mapping):
        return _count(key, value, owner)
    known = [field.name for field in fields(ReplicaRange)]
    for name in value:
        if name not in known:
            hint = did_you_mean(name, known) or f"; known are {listed(known)}"
            raise InvalidFlow(f"{key} has an unknown key {short(name)}{hint} ({owner})")
    mosts = {"min": MOST_REPLICAS, "max": MOST_REPLICAS, "wait": MOST, "idle": MOST}
    said = {name: _count(f"{key}[{name!r}]", number, owner, mosts[name]) for name, number in value.items()}
    if "max" not in said:
        raise InvalidFlow(f"{key} must say how many there may be, as in {{'min': 1, 'max': 8}}, not {value} ({owner})")
    limits = ReplicaRange(**{"min": 1, **said})
    if limits.max < limits.min:
        raise InvalidFlow(f"{key}['max'] must be {limits.min} or more, as 'min' is, not {limits.max} ({owner})")
    return limits


def _on_shard_failure(key: str, value: Any, owner: str) -> str:
    if value not in ("fail", "partial"):
        raise InvalidFlow(f"{key} must be 'fail' or 'partial', not {short(value)} ({owner})")
    return str(value)


def _milliseconds(key: str, value: Any, owner: str) -> int:
    number = _whole(value)
    if number is None or (number < 1 and number != -1):
        wanted = "a whole number of milliseconds of 1 or more, or -1 for no limit"
        raise InvalidFlow(f"{key} must be {wanted}, not {_said(value)} ({owner})")
    return at_most(key, number, owner)


def _most(key: str, value: Any, owner: str) -> int:
    number = _whole(value)
    if number is None or (number < 1 and number != -1):
        raise InvalidFlow(
            f"{key} must be a whole number of 1 or more, or -1 for no limit, not {_said(value)} ({owner})"
        )
    return at_most(key, number, owner)


def _retries(key: str, value: Any, owner: str) -> int:
    number = _whole(value)
    if number is None or number < -1:
        wanted = "a whole number of 0 or more, or -1 for max(3, replicas)"
        raise InvalidFlow(f"{key} must be {wanted}, not {_said(value)} ({owner})")
    return at_most(key, number, owner)


def _seed(key: str, value: Any, owner: str) -> int:
    number = _whole(value)
    if number is None or not 0 <= number < 2**64:
        raise InvalidFlow(f"{key} must be a whole number from 0 to 2**64 - 1, not {_said(value)} ({owner})")
    return number


def _flag(key: str, value: Any, owner: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidFlow(f"{key} must be True or False, not {short(value)} ({owner})")
    return value


def _dict(key: str, value: Any, owner: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidFlow(f"{key} must be a dict, not {short(value)} ({owner})")
    for name in value:
        if not isinstance(name, str):
            raise InvalidFlow(f"the keys of {key} must be texts, not {short(name)} ({owner})")
    return dict(value)


def _endpoints(key: str, value: Any, owner: str) -> dict[str, str]:
    checked = _dict(key, value, owner)
    for endpoint, method in checked.items():
        if not endpoint.startswith("/"):
            raise InvalidFlow(f"{key} goes by endpoints, which start with '/', not by {short(endpoint)} ({owner})")
        check_sendable(endpoint, f"{key}, {owner}", InvalidFlow)
        if not isinstance(method, str) or not method.isidentifier():
            raise InvalidFlow(f"{key}[{endpoint!r}] must be the name of a method, not {short(method)} ({owner})")
    return checked


def _bound(key: str, value: Any, owner: str) -> tuple[str, ...]:
    names = tuple(value) if isinstance(value, (list, tuple, set, frozenset)) else ()
    if not 0 < len(names) <= MOST_ENDPOINTS:
        wanted = f"a list of 1 to {MOST_ENDPOINTS} endpoints, as in ['/index', '/search']"
        raise InvalidFlow(f"{key} must be {wanted}, not {short(value)} ({owner})")
    for name in names:
        if not isinstance(name, str) or not name.startswith("/"):
            raise InvalidFlow(f"{key} must be texts that start with '/', not {short(name)} ({owner})")
        check_sendable(name, f"{key}, {owner}", InvalidFlow)
    return names


def _batching(key: str, value: Any, owner: str) -> dict[str, Batching]:
    return batching.by_endpoint(key, value, owner, InvalidFlow)


def _environment(key: str, value: Any, owner: str) -> dict[str, str]:
    return {name: _variable(f"{key}[{name!r}]", name, said, owner) for name, said in _dict(key, value, owner).items()}


def _variable(label: str, name: str, value: Any, owner: str) -> str:
    if not name or "=" in name or not _is_for_system(name):
        raise InvalidFlow(f"{label}: the name of an environment variable is a text without '=' ({owner})")
    text = None
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):  # a number of more digits than Python writes
            text = str(value)
    if text is None or not _is_for_system(text):
        raise InvalidFlow(f"{label} must be a text or a number, not {short(value)}: put it in quotes ({owner})")
    if name == cuda.VARIABLE and cuda.asks(text):
        cuda.parse(text, owner, label)
    return text


def _paths(key: str, value: Any, owner: str) -> tuple[str, ...]:
    paths = value if isinstance(value, (list, tuple)) else (value,)
    return tuple(path(key, one, owner) for one in paths)


def path(key: str, value: Any, owner: str) -> str:
    """Return a path as a text; raises InvalidFlow if it can be none."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or not text or not _is_for_system(text):
        raise InvalidFlow(f"{key} must be a path, not {short(value)} ({owner})")
    return text


def _is_for_system(text: str) -> bool:
    """Whether the system takes it, as a path or in an environment."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def _uses(key: str, value: Any, owner: str) -> Any:
    from zflow.executors.uses import check_kind

    return check_kind(value, owner)


def _polling(key: str, value: Any, owner: str) -> Polling:
    return check_polling(value, owner)


#: Every keyword of `Flow.add`, which is also every key of an Executor in YAML.
FIELDS: Final[Mapping[str, Field]] = {
    "name": Field(
        "text", None, "its name; `executor0`, `executor1`, ... by position when left out", _name, shared=False
    ),
    "uses": Field(
        "class, text or dict", None, "the Executor: a class, its name, a folder, a file, `module:Class` or YAML", _uses
    ),
    "replicas": Field(
        "whole number of 1 or more, or dict",
        1,
        "how many processes compete for its requests; `{min: 1, max: 8}`: as many as the load needs",
        _replicas,
    ),
    "shards": Field(
        "whole number of 1 or more", 1, "how many parts its data has, each with `replicas` processes", _count
    ),
    "polling": Field("`ANY`, `ALL` or dict", "ANY", "which shards get a request, also by endpoint", _polling),
    "on_shard_failure": Field(
        "`fail` or `partial`", "fail", "what an ALL request comes to of which some shards fail", _on_shard_failure
    ),
    "needs": Field(
        "text or list of texts", None, "what it waits for; the one added before when left out", _needs, shared=False
    ),
    "endpoints": Field(
        "list of texts",
        (),
        "what it binds as long as none of its replicas here has said so; of an external Executor, always",
        _bound,
        shared=False,
    ),
    "uses_with": Field("dict", {}, "keywords for the Executor's `__init__`", _dict),
    "uses_metas": Field("dict", {}, "what the Executor finds in `self.metas`", _dict),
    "uses_requests": Field("dict of endpoint to method name", {}, "endpoints over those of `@requests`", _endpoints),
    "uses_dynamic_batching": Field(
        "dict of endpoint to dict",
        {},
        "how requests are put together: `{/encode: {preferred_batch_size: 32, timeout: 0}}`, `timeout` in ms",
        _batching,
        shared=False,
    ),
    "py_modules": Field("path or list of paths", (), "Python files to load before `uses` is looked up", _paths),
    "install_requirements": Field(
        "True or False", False, "install the `requirements.txt` of the Executor's folder with pip first", _flag
    ),
    "env": Field("dict of text to text or number", {}, "environment variables of its processes", _environment),
    "workspace": Field("path", None, "folder under which its `self.workspace` lies", path),
    "seed": Field(
        "whole number of 0 or more",
        None,
        "for random numbers that are the same in each run; each replica's own follows from it",
        _seed,
    ),
    "timeout_send": Field(
        "ms of 1 or more, or -1", -1, "how long one request may take here; -1: any time", _milliseconds
    ),
    "timeout_run": Field(
        "ms of 1 or more, or -1", -1, "how long a replica may be at one request until it is killed", _milliseconds
    ),
    "timeout_ready": Field(
        "ms of 1 or more, or -1", 600_000, "how long a replica may take to get ready", _milliseconds
    ),
    "retries": Field(
        "whole number of 0 or more, or -1",
        -1,
        "how often a lost request is tried again; -1: max(3, replicas)",
        _retries,
    ),
    "idempotent": Field(
        "True or False", True, "False: a request that may have been begun is not sent again, as with retries=0", _flag
    ),
    "max_queue": Field(
        "whole number of 1 or more, or -1", 100_000, "how many requests may wait here until more are refused", _most
    ),
    "max_queue_bytes": Field(
        "whole number of 1 or more, or -1", -1, "how many bytes of requests may be here until more are refused", _most
    ),
    "no_reduce": Field("True or False", False, "hand over `docs_matrix` and `docs_map` instead of reduced docs", _flag),
    "external": Field("True or False", False, "it runs elsewhere, served by another Flow", _flag, shared=False),
    "host": Field("text or list of texts", (), "where it runs: `host` or `host:port`", external.hosts, shared=False),
    "port": Field("port or list of ports", (), "its ports, one for each host", external.ports, shared=False),
    "curve": Field("path", None, "the key folder that lets it in there", path, shared=False),
}


#: Those of them that `Flow(...)` takes too.
SHARED: Final = frozenset(key for key, field in FIELDS.items() if field.shared)

#: What Jina's `add` takes and this version does not carry out, with the way out.
UNSUPPORTED: Final[Mapping[str, str]] = {
    "gpus": "set env={'CUDA_VISIBLE_DEVICES': 'RR'} to deal them out to the replicas, or '0' to choose one",
}
