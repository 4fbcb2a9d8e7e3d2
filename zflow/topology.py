"""The plan of a Flow: which Executors there are, what each one needs, and whether that can run.

Everything a user says about an Executor is checked here, when it is said. The plan is plain data: this
module starts nothing, loads no user code and knows nothing of processes, sockets or YAML.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, Final

from zflow import batching, cuda, external
from zflow.autoscale import Limits
from zflow.batching import Batching
from zflow.errors import InvalidFlow, NotSupported
from zflow.polling import ANY, Polling
from zflow.polling import by_endpoint as by_polling
from zflow.polling import check as check_polling
from zflow.suggest import did_you_mean, listed, short

#: The name of the entrance: what the first Executor needs.
GATEWAY: Final = "gateway"


@dataclass(frozen=True)
class ExecutorSpec:
    """One Executor of a Flow, checked: every field has its final type, and `needs` is resolved.

    Attributes:
        name: unique in the Flow.
        needs: the names whose results it waits for; `'gateway'` is the entrance.
        replicas: how many there are at the start.
        autoscale: how many there may be later, and when, if that goes by the load.
        timeout_send: ms that a request may take here, -1 for any time.
        timeout_ready: ms that a replica may take to get ready, -1 for any time.
        timeout_run: ms that a replica may be at one request, -1 for any time.
        max_queue: how many requests may wait for a replica, -1 for any number.
        max_queue_bytes: how many bytes of requests may be here, -1 for any number.
        retries: how often a request is given to another replica, -1 for `max(3, replicas)`.
        host, port: of an external Executor, as they were given.
        folder: what relative paths in `uses` and `py_modules` are relative to; None for the working directory.
        pure_join: it only waits for what it needs and reduces: no Executor, no process.

    The other attributes are those of `FIELDS`.
    """

    name: str
    needs: tuple[str, ...]
    uses: Any = None
    replicas: int = 1
    shards: int = 1
    polling: Polling = ANY
    on_shard_failure: str = "fail"
    uses_with: dict[str, Any] = field(default_factory=dict)
    uses_metas: dict[str, Any] = field(default_factory=dict)
    uses_requests: dict[str, str] = field(default_factory=dict)
    uses_dynamic_batching: dict[str, Batching] = field(default_factory=dict)
    py_modules: tuple[str, ...] = ()
    install_requirements: bool = False
    env: dict[str, str] = field(default_factory=dict)
    workspace: str | None = None
    timeout_send: int = -1
    timeout_run: int = -1
    timeout_ready: int = 600_000
    retries: int = -1
    idempotent: bool = True
    max_queue: int = 100_000
    max_queue_bytes: int = -1
    no_reduce: bool = False
    external: bool = False
    host: tuple[str, ...] = ()
    port: tuple[int, ...] = ()
    curve: str | None = None
    autoscale: Limits | None = None
    folder: str | None = None
    pure_join: bool = False

    @property
    def local(self) -> bool:
        """Whether it has processes in this Flow."""
        return not (self.pure_join or self.external)

    @property
    def addresses(self) -> tuple[str, ...]:
        """`'host:port'` of each replica of an external Executor."""
        return external.addresses(self.host, self.port, f"executor {self.name!r}") if self.external else ()


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


class Topology:
    """The Executors of one Flow, in the order in which they were added.

    >>> topology = Topology()
    >>> topology.add({}, name="encoder", replicas=3).needs
    ('gateway',)
    >>> topology.add({}, name="indexer").needs
    ('encoder',)
    >>> topology.leaves()
    ['indexer']
    """

    def __init__(self) -> None:
        self._specs: dict[str, ExecutorSpec] = {}

    @property
    def specs(self) -> list[ExecutorSpec]:
        """The Executors in the order of adding."""
        return list(self._specs.values())

    def add(self, defaults: Mapping[str, Any], folder: str | None = None, /, **kwargs: Any) -> ExecutorSpec:
        """Add an Executor and return its checked description.

        Args:
            defaults: keywords that hold where `kwargs` leaves them out or says None; `env` holds variable by variable.
            folder: what relative paths are relative to; None for the working directory.
            kwargs: any of `FIELDS`.

        Raises:
            InvalidFlow: an unknown keyword, or a value that cannot be.
            InvalidExecutor: `uses` is nothing that could name an Executor.
            NotSupported: an option that this version does not carry out.
        """
        name = self._free_name(kwargs.get("name"))
        owner = f"executor {name!r}"
        _check_known(kwargs, owner)
        given = {**defaults, **{key: value for key, value in kwargs.items() if value is not None}, "name": name}
        given.setdefault("needs", (next(reversed(self._specs), GATEWAY),))
        checked = {key: FIELDS[key].check(key, value, owner) for key, value in given.items() if value is not None}
        checked["env"] = {**defaults.get("env", {}), **checked.get("env", {})}
        if isinstance(limits := checked.get("replicas"), Limits):
            checked |= {"replicas": limits.min, "autoscale": limits}
        spec = ExecutorSpec(folder=folder, **checked)
        said = [key for key, value in kwargs.items() if value is not None]
        external.check(said, spec.external, spec.needs, bool(kwargs.get("no_reduce")), owner)
        polled = by_polling(spec.polling)
        batching.check_fits(spec.uses_dynamic_batching, polled, spec.shards, spec.no_reduce, owner)
        _ = spec.addresses  # raises if they are none
        return self._keep(spec)

    def needs(self, defaults: Mapping[str, Any], folder: str | None = None, /, **kwargs: Any) -> ExecutorSpec:
        """Add a node that waits for all of `needs`, and return its description.

        With no more than `needs` and `name` it has no process (`pure_join`); with any other keyword of `add`
        it is an Executor like others, and `defaults` hold for it.

        Raises: as `add`.
        """
        if {key for key, value in kwargs.items() if value is not None} - {"name", "needs"}:
            return self.add(defaults, folder, **kwargs)
        name = self._free_name(kwargs.get("name"))
        waits_for = _needs("needs", kwargs.get("needs") or (), f"executor {name!r}")
        return self._keep(ExecutorSpec(name=name, needs=waits_for, folder=folder, pure_join=True))

    def needs_all(self, defaults: Mapping[str, Any], folder: str | None = None, /, **kwargs: Any) -> ExecutorSpec:
        """Add a node that waits for every Executor that nothing waits for yet; otherwise as `needs`.

        Raises:
            InvalidFlow: nothing was added before, or as `add`.
        """
        if "needs" in kwargs:
            raise InvalidFlow("needs_all() finds by itself what it needs: leave needs= out, or call needs() instead")
        if not self._specs:
            raise InvalidFlow("needs_all() has nothing to wait for: add() an Executor first")
        return self.needs(defaults, folder, needs=self.leaves(), **kwargs)

    def leaves(self) -> list[str]:
        """Return the names that nothing needs, in the order of adding: where results leave the Flow."""
        needed = {need for spec in self._specs.values() for need in spec.needs}
        return [name for name in self._specs if name not in needed]

    def order(self) -> list[ExecutorSpec]:
        """Return the Executors so that each comes after what it needs, otherwise in the order of adding.

        Raises:
            InvalidFlow: something needed was never added, or Executors wait for each other in a cycle.
        """
        for spec in self._specs.values():
            self.check_needs(spec)
        done = {GATEWAY}
        ordered: list[ExecutorSpec] = []
        waiting = self.specs
        while waiting:
            ready = next((spec for spec in waiting if done.issuperset(spec.needs)), None)
            if ready is None:
                raise InvalidFlow(self._cycle({spec.name for spec in waiting}))
            waiting.remove(ready)
            ordered.append(ready)
            done.add(ready.name)
        return ordered

    def check_needs(self, spec: ExecutorSpec) -> None:
        """Raise InvalidFlow if `spec` needs a name that was never added."""
        for need in spec.needs:
            if need != GATEWAY and need not in self._specs:
                known = [name for name in (GATEWAY, *self._specs) if name != spec.name]
                hint = did_you_mean(need, known) or f"; there are {listed(known)}"
                raise InvalidFlow(
                    f"needs names {need!r}, but there is no Executor of that name{hint} (executor {spec.name!r})"
                )

    def _keep(self, spec: ExecutorSpec) -> ExecutorSpec:
        self._specs[spec.name] = spec
        return spec

    def _free_name(self, name: Any) -> str:
        if name is None:
            position = len(self._specs)
            while f"executor{position}" in self._specs:
                position += 1
            return f"executor{position}"
        checked: str = _name("name", name, "")
        if checked in self._specs:
            raise InvalidFlow(f"name {checked!r} is taken by another Executor of this Flow: choose another one")
        return checked

    def _cycle(self, waiting: Collection[str]) -> str:
        path = [next(name for name in self._specs if name in waiting)]
        while path.count(path[-1]) == 1:
            path.append(next(need for need in self._specs[path[-1]].needs if need in waiting))
        circle = path[path.index(path[-1]) :]
        steps = ", ".join(f"{name!r} needs {need!r}" for name, need in pairwise(circle))
        return f"needs form a cycle: {steps}; let one of them need {GATEWAY!r} or something outside the cycle"


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
    _check_known(defaults, "Flow", also)
    return {key: FIELDS[key].check(key, value, "Flow") for key, value in defaults.items() if value is not None}


def _check_known(given: Iterable[str], owner: str, also: Iterable[str] = ()) -> None:
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


def _count(key: str, value: Any, owner: str) -> int:
    number = _whole(value)
    if number is None or number < 1:
        raise InvalidFlow(f"{key} must be a whole number of 1 or more, not {_said(value)} ({owner})")
    return number


def _replicas(key: str, value: Any, owner: str) -> int | Limits:
    if isinstance(value, Limits):  # checked before, as a default of the Flow's
        return value
    if not isinstance(value, Mapping):
        return _count(key, value, owner)
    known = [field.name for field in fields(Limits)]
    for name in value:
        if name not in known:
            hint = did_you_mean(name, known) or f"; known are {listed(known)}"
            raise InvalidFlow(f"{key} has an unknown key {short(name)}{hint} ({owner})")
    said = {name: _count(f"{key}[{name!r}]", number, owner) for name, number in value.items()}
    if "max" not in said:
        raise InvalidFlow(f"{key} must say how many there may be, as in {{'min': 1, 'max': 8}}, not {value} ({owner})")
    limits = Limits(**{"min": 1, **said})
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
    return number


def _most(key: str, value: Any, owner: str) -> int:
    number = _whole(value)
    if number is None or (number < 1 and number != -1):
        raise InvalidFlow(
            f"{key} must be a whole number of 1 or more, or -1 for no limit, not {_said(value)} ({owner})"
        )
    return number


def _retries(key: str, value: Any, owner: str) -> int:
    number = _whole(value)
    if number is None or number < -1:
        wanted = "a whole number of 0 or more, or -1 for max(3, replicas)"
        raise InvalidFlow(f"{key} must be {wanted}, not {_said(value)} ({owner})")
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
        if not isinstance(method, str) or not method.isidentifier():
            raise InvalidFlow(f"{key}[{endpoint!r}] must be the name of a method, not {short(method)} ({owner})")
    return checked


def _batching(key: str, value: Any, owner: str) -> dict[str, Batching]:
    return batching.by_endpoint(key, value, owner, InvalidFlow)


def _environment(key: str, value: Any, owner: str) -> dict[str, str]:
    return {name: _variable(f"{key}[{name!r}]", name, said, owner) for name, said in _dict(key, value, owner).items()}


def _variable(label: str, name: str, value: Any, owner: str) -> str:
    if not name or "=" in name or "\0" in name:
        raise InvalidFlow(f"{label}: the name of an environment variable is a text without '=' ({owner})")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or "\0" in str(value):
        raise InvalidFlow(f"{label} must be a text or a number, not {short(value)}: put it in quotes ({owner})")
    if name == cuda.VARIABLE and cuda.asks(str(value)):
        cuda.parse(str(value), owner, label)
    return str(value)


def _paths(key: str, value: Any, owner: str) -> tuple[str, ...]:
    paths = value if isinstance(value, (list, tuple)) else (value,)
    return tuple(_path(key, path, owner) for path in paths)


def _path(key: str, value: Any, owner: str) -> str:
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str) or not path or "\0" in path:
        raise InvalidFlow(f"{key} must be a path, not {short(value)} ({owner})")
    return path


def _uses(key: str, value: Any, owner: str) -> Any:
    from zflow.uses import check_kind

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
    "workspace": Field("path", None, "folder under which its `self.workspace` lies", _path),
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
    "curve": Field("path", None, "the key folder that lets it in there", external.curve, shared=False),
}

#: Those of them that `Flow(...)` takes too.
SHARED: Final = frozenset(key for key, field in FIELDS.items() if field.shared)

#: What Jina's `add` takes and this version does not carry out, with the way out.
UNSUPPORTED: Final[Mapping[str, str]] = {
    "gpus": "set env={'CUDA_VISIBLE_DEVICES': 'RR'} to deal them out to the replicas, or '0' to choose one",
}
