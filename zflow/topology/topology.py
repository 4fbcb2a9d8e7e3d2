"""The plan of a Flow: which Executors there are, what each one needs, and whether that can run.

Everything a user says about an Executor is checked here, when it is said. The plan is plain data:
this module starts nothing, loads no user code and knows nothing of processes, sockets or YAML.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from zflow.errors import InvalidFlow
from zflow.executors import batching
from zflow.executors.batching import Batching
from zflow.suggest import did_you_mean, listed
from zflow.topology import external
from zflow.topology.kinds import GATEWAY
from zflow.topology.options import FIELDS, check_known, checked
from zflow.topology.polling import Polling
from zflow.topology.polling import by_endpoint as by_polling
from zflow.topology.scaling import ReplicaRange

if TYPE_CHECKING:
    from zflow.executors.description import Uses


@dataclass(frozen=True)
class ExecutorSpec:
    """One Executor of a Flow, checked: every field has its final type, and `needs` is resolved.

    Attributes:
        name: unique in the Flow.
        needs: the names whose results it waits for; `'gateway'` is the entrance.
        replicas: how many there are at the start.
        autoscale: how many there may be later, and when, if that goes by the load.
        host, port: of an external Executor, as they were given.
        folder: what relative paths in `uses` and `py_modules` are relative to; None for the working
            directory.
        pure_join: it only waits for what it needs and reduces: no Executor, no process.

    The other attributes are those of `FIELDS`.
    """

    name: str
    needs: tuple[str, ...]
    uses: Uses = FIELDS["uses"].default
    replicas: int = FIELDS["replicas"].default
    shards: int = FIELDS["shards"].default
    polling: Polling = FIELDS["polling"].default
    on_shard_failure: str = FIELDS["on_shard_failure"].default
    endpoints: tuple[str, ...] = FIELDS["endpoints"].default
    uses_with: dict[str, Any] = field(default_factory=dict)
    uses_metas: dict[str, Any] = field(default_factory=dict)
    uses_requests: dict[str, str] = field(default_factory=dict)
    uses_dynamic_batching: dict[str, Batching] = field(default_factory=dict)
    py_modules: tuple[str, ...] = FIELDS["py_modules"].default
    install_requirements: bool = FIELDS["install_requirements"].default
    env: dict[str, str] = field(default_factory=dict)
    workspace: str | None = FIELDS["workspace"].default
    seed: int | None = FIELDS["seed"].default
    timeout_send: int = FIELDS["timeout_send"].default
    timeout_run: int = FIELDS["timeout_run"].default
    timeout_ready: int = FIELDS["timeout_ready"].default
    retries: int = FIELDS["retries"].default
    idempotent: bool = FIELDS["idempotent"].default
    max_queue: int = FIELDS["max_queue"].default
    max_queue_bytes: int = FIELDS["max_queue_bytes"].default
    no_reduce: bool = FIELDS["no_reduce"].default
    external: bool = FIELDS["external"].default
    host: tuple[str, ...] = FIELDS["host"].default
    port: tuple[int, ...] = FIELDS["port"].default
    curve: str | None = FIELDS["curve"].default
    autoscale: ReplicaRange | None = None
    folder: str | None = None
    pure_join: bool = False

    @property
    def local(self) -> bool:
        """Whether it has processes in this Flow."""
        return not (self.pure_join or self.external)

    @property
    def addresses(self) -> tuple[str, ...]:
        """`'host:port'` of each replica of an external Executor."""
        return (
            external.addresses(self.host, self.port, f"executor {self.name!r}")
            if self.external
            else ()
        )


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

    def add(
        self, defaults: Mapping[str, Any], folder: str | None = None, /, **kwargs: object
    ) -> ExecutorSpec:
        """Add an Executor and return its checked description.

        Args:
            defaults: keywords that hold where `kwargs` leaves them out or says None; `env` holds
                variable by variable.
            folder: what relative paths are relative to; None for the working directory.
            kwargs: any of `FIELDS`.

        Raises:
            InvalidFlow: an unknown keyword, or a value that cannot be.
            InvalidExecutor: `uses` is nothing that could name an Executor.
            NotSupported: an option that this version does not carry out.
        """
        name = self._free_name(kwargs.get("name"))
        owner = f"executor {name!r}"
        kwargs = _in_our_words(kwargs, owner)
        check_known(kwargs, owner)
        given = {
            **defaults,
            **{key: value for key, value in kwargs.items() if value is not None},
            "name": name,
        }
        given.setdefault("needs", (next(reversed(self._specs), GATEWAY),))
        options = checked(FIELDS, given, owner)
        options["env"] = {**defaults.get("env", {}), **options.get("env", {})}
        if isinstance(limits := options.get("replicas"), ReplicaRange):
            options |= {"replicas": limits.min, "autoscale": limits}
        spec = ExecutorSpec(folder=folder, **options)
        said = [key for key, value in kwargs.items() if value is not None]
        external.check(said, spec.external, spec.needs, bool(kwargs.get("no_reduce")), owner)
        polled = by_polling(spec.polling)
        batching.check_fits(spec.uses_dynamic_batching, polled, spec.shards, spec.no_reduce, owner)
        _ = spec.addresses  # raises if they are none
        return self._keep(spec)

    def needs(
        self, defaults: Mapping[str, object], folder: str | None = None, /, **kwargs: object
    ) -> ExecutorSpec:
        """Add a node that waits for all of `needs`, and return its description.

        With no more than `needs` and `name` it has no process (`pure_join`); with any other keyword
        of `add` it is an Executor like others, and `defaults` hold for it.

        Raises: as `add`.
        """
        if {key for key, value in kwargs.items() if value is not None} - {"name", "needs"}:
            return self.add(defaults, folder, **kwargs)
        name = self._free_name(kwargs.get("name"))
        waits_for = FIELDS["needs"].check("needs", kwargs.get("needs") or (), f"executor {name!r}")
        return self._keep(ExecutorSpec(name=name, needs=waits_for, folder=folder, pure_join=True))

    def needs_all(
        self, defaults: Mapping[str, object], folder: str | None = None, /, **kwargs: object
    ) -> ExecutorSpec:
        """Add a node that waits for every Executor that nothing waits for yet;
        otherwise as `needs`.

        Raises:
            InvalidFlow: nothing was added before, or as `add`.
        """
        if "needs" in kwargs:
            message = (
                "needs_all() finds by itself what it needs: leave needs= out, or call "
                "needs() instead"
            )
            raise InvalidFlow(message, key=("needs",))
        if not self._specs:
            raise InvalidFlow("needs_all() has nothing to wait for: add() an Executor first")
        return self.needs(defaults, folder, needs=self.leaves(), **kwargs)

    def leaves(self) -> list[str]:
        """Return the names that nothing needs, in the order of adding:
        where results leave the Flow.
        """
        needed = {need for spec in self._specs.values() for need in spec.needs}
        return [name for name in self._specs if name not in needed]

    def order(self) -> list[ExecutorSpec]:
        """Return the Executors so that each comes after what it needs,
        otherwise in the order of adding.

        Raises:
            InvalidFlow: something needed was never added,
                or Executors wait for each other in a cycle.
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
                    f"needs names {need!r}, but there is no Executor of that name{hint} (executor "
                    f"{spec.name!r})",
                    key=("needs",),
                )

    def _keep(self, spec: ExecutorSpec) -> ExecutorSpec:
        self._specs[spec.name] = spec
        return spec

    def _free_name(self, name: object) -> str:
        if name is None:
            position = len(self._specs)
            while f"executor{position}" in self._specs:
                position += 1
            return f"executor{position}"
        free: str = FIELDS["name"].check("name", name, "")
        if free in self._specs:
            message = f"name {free!r} is taken by another Executor of this Flow: choose another one"
            raise InvalidFlow(message, key=("name",))
        return free

    def _cycle(self, waiting: Collection[str]) -> str:
        path = [next(name for name in self._specs if name in waiting)]
        while path.count(path[-1]) == 1:
            path.append(next(need for need in self._specs[path[-1]].needs if need in waiting))
        circle = path[path.index(path[-1]) :]
        steps = ", ".join(f"{name!r} needs {need!r}" for name, need in pairwise(circle))
        return (
            f"needs form a cycle: {steps}; let one of them need {GATEWAY!r} or something "
            "outside the cycle"
        )


def _in_our_words(given: dict[str, Any], owner: str) -> dict[str, Any]:
    """Return keywords of `add` with `no_reduce` for what later versions of Jina call
    `disable_reduce`.
    """
    if given.get("disable_reduce") is None:
        return {key: value for key, value in given.items() if key != "disable_reduce"}
    if given.get("no_reduce") is not None:
        message = f"no_reduce and disable_reduce are the same: give one of them ({owner})"
        raise InvalidFlow(message, key=("disable_reduce",))
    said = FIELDS["no_reduce"].check("disable_reduce", given["disable_reduce"], owner)
    return {
        **{key: value for key, value in given.items() if key != "disable_reduce"},
        "no_reduce": said,
    }
