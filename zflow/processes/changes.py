"""Changes while the Flow runs: more or fewer replicas, and new processes for old ones,
one after the other.

They are made because somebody says so or, where `replicas` is a range, because of the load.

Each change is a generator that yields what it waits for, so that it reads in the order in which it
happens. The process manager's loop calls `step` whenever something has happened.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from zflow.devices.broker import draining
from zflow.processes.autoscaler import Autoscaler
from zflow.processes.children import Child, Children
from zflow.replicas.seat import Seat
from zflow.suggest import did_you_mean, listed, short
from zflow.topology.kinds import MOST_REPLICAS

log = logging.getLogger("zflow.manager")

ARGUMENTS = {"scale": {"replicas"}, "restart": set[str]()}  # of each command; besides:
_OF_ALL = {"executor", "timeout", "force"}
_OTHERWISE = (
    "; that happens when it has finished what it is at, or with force=True: then it is killed"
)
_BY_FORCE = (
    "; with force=True each is killed {:g} s after it was told to: give it a longer timeout="
)


class Wait(NamedTuple):
    """What a change waits for."""

    ready: Callable[[], bool]
    missing: Callable[[], str]  # what has not happened, if it stops waiting
    otherwise: str = ""  # what follows from that


_NOTHING = Wait(lambda: True, lambda: "")

Result = dict[str, object]  # of a change: `{'error': why}`, or what there is to say
Change = Generator[Wait, None, Result]


class Refused(Exception):
    """A change that cannot be made; `args[0]` says why."""


@dataclass
class _Running:
    """A change that is being made, and whom to tell when it is."""

    command: str
    arguments: object
    change: Change
    done: list[Callable[[Result], None]]
    timeout: int | None  # ms
    begun: float
    wait: Wait = _NOTHING

    @property
    def ends_at(self) -> float:
        """When it has taken too long."""
        return math.inf if self.timeout is None else self.begun + self.timeout / 1000


class Changes:
    """The changes that are being made.

    Args:
        children: the replicas.
        devices: by Executor, the devices that are dealt out to its replicas, if any are.
        grace: seconds after which a replica is killed that was told to end,
            where force is to be used.
    """

    def __init__(
        self, children: Children, devices: Mapping[str, Sequence[str]], grace: float
    ) -> None:
        self._children = children
        self._devices = devices
        self._grace = grace
        self._running: dict[str, _Running] = {}
        specs = {child.executor: child.seat.spec for child in children}
        self._scalers = {
            name: Autoscaler(spec.autoscale)
            for name, spec in specs.items()
            if spec.autoscale is not None
        }

    def begin(self, command: str, arguments: object, done: Callable[[Result], None]) -> None:
        """Begin a change; `done` is called with what came of it.

        Args:
            command: `'scale'` or `'restart'`.
            arguments: of the command. `executor` names whose replicas are meant, `timeout` says in
                ms how long the change may take; with `force` who does not end is killed, and a
                change that is under way given up.
        """
        told = arguments if isinstance(arguments, dict) else {}
        executor = told.get("executor")
        running = self._running.get(str(executor))
        if running is not None and (running.command, running.arguments) == (command, told):
            running.done.append(done)  # asked for again, because the broker that was asked is gone
            return
        try:
            change = self._change(command, executor, told)
        except Refused as refusal:
            done({"error": refusal.args[0]})
            return
        if running is not None:
            self._give_up(str(executor), running, "when another change was made with force")
        self._running[str(executor)] = _Running(
            command, told, change, [done], told.get("timeout"), time.monotonic()
        )
        self.step()

    def follow(self, executor: str, queued: float, busy: float, work: float) -> None:
        """Change how many replicas an Executor has, if that is to follow from its load.

        Args: as `devices.pool.Load`.
        """
        scaler = self._scalers[executor]
        children = self._children.of(executor)
        replicas = max(child.seat.replica_id for child in children) + 1
        hold = executor in self._running or not any(child.ready for child in children)
        wanted = scaler.observe(time.monotonic(), queued, busy, replicas, work, hold)
        if hold or wanted == replicas:
            return
        log.info("%s: %d -> %d replicas, %s", executor, replicas, wanted, scaler.why)
        if wanted > replicas:
            self.begin("scale", {"executor": executor, "replicas": wanted}, _warn)
        # Nobody waits for their end, which may take as long as a request: more may be needed
        # before.
        else:
            self._retire_from(executor, wanted)

    def _change(self, command: str, executor: object, arguments: Mapping[str, object]) -> Change:
        known = sorted({child.executor for child in self._children})
        if not isinstance(executor, str) or executor not in known:
            hint = did_you_mean(str(executor), known) or f"; there are {listed(known)}"
            raise Refused(
                f"no Executor of this Flow that has replicas here is called {short(executor)}{hint}"
            )
        if command not in ARGUMENTS:
            raise Refused(f"there is no command {short(command)}; there are {listed(ARGUMENTS)}")
        _check(command, arguments)
        force = arguments.get("force") is True
        if executor in self._running and not force:
            raise Refused(
                f"another change of {executor!r} is under way: wait until it is done, or give it "
                "up with force=True"
            )
        if command == "restart":
            return self._restart(executor, force)
        replicas = arguments.get("replicas")
        if type(replicas) is not int or not 1 <= replicas <= MOST_REPLICAS:
            raise Refused(
                f"replicas must be a whole number from 1 to {MOST_REPLICAS}, not {short(replicas)}"
            )
        limits = self._scalers[executor].limits if executor in self._scalers else None
        if limits is not None and not limits.min <= replicas <= limits.max:
            raise Refused(
                f"{executor!r} has {limits} replicas, by its load, and {replicas} is not in that "
                "range: "
                "start the Flow with another replicas={'min': ..., 'max': ...}"
            )
        return self._scale(executor, replicas, force)

    @property
    def timers(self) -> list[float]:
        """When `step` is to be called, whatever happens."""
        return [running.ends_at for running in self._running.values()]

    def step(self) -> None:
        """Go on with every change that waits no longer, and end those that have taken too long."""
        for executor, running in list(self._running.items()):
            try:
                while running.wait.ready():
                    running.wait = next(running.change)
            except StopIteration as end:
                self._end(executor, end.value)
            except Refused as refusal:
                self._end(executor, {"error": refusal.args[0]})
            except Exception as error:
                log.exception("%s of %s failed", running.command, executor)
                why = (
                    f"{running.command} of {executor!r} failed ({type(error).__name__}): the "
                    "Flow's log says more"
                )
                self._end(executor, {"error": why})
            else:
                if running.ends_at <= time.monotonic():
                    self._give_up(executor, running, f"within timeout={running.timeout} ms")

    def _give_up(self, executor: str, running: _Running, why: str) -> None:
        why = f"{running.wait.missing()} {why}{running.wait.otherwise}"
        try:
            running.change.throw(Refused(why))
        except (Refused, StopIteration):
            self._end(executor, {"error": why})
        except Exception:
            log.exception("%s of %s failed as it was given up", running.command, executor)
            self._end(executor, {"error": why})

    def _end(self, executor: str, result: Result) -> None:
        for done in self._running.pop(executor).done:
            done(result)

    # -- the changes -------------------------------------------------------------------------------

    def _scale(self, executor: str, replicas: int, force: bool) -> Change:
        before = self._children.of(executor)
        count = max(child.seat.replica_id for child in before) + 1
        added: list[Child] = []
        for number in range(count, replicas):
            for shard in sorted({child.seat.shard_id for child in before}):
                added.append(
                    self._children.add(self._seat(before[0].seat, shard, number, replicas))
                )
        yield from self._readiness(added, f"{executor!r} stays at {count} replicas")
        self._retire_from(executor, replicas)
        surplus = [
            child for child in self._children.leaving(executor) if child.seat.replica_id >= replicas
        ]
        yield from self._ends(executor, surplus, force)
        if replicas != count:
            log.info("%s has %d replicas instead of %d", executor, replicas, count)
        return {"executor": executor, "replicas": replicas, "before": count}

    def _retire_from(self, executor: str, number: int) -> None:
        """Let its replicas of this number and above end."""
        for child in self._children.of(executor):
            if child.seat.replica_id >= number:
                self._children.retire(child)

    def _restart(self, executor: str, force: bool) -> Change:
        """A new one is ready before an old one is told to end."""
        replaced = 0
        for child in self._children.of(executor):
            successor = self._children.add(child.seat)
            yield from self._readiness(
                [successor], f"{child.seat.name} goes on as it is, its successor failed"
            )
            self._children.retire(child)
            yield from self._ends(executor, [child], force)
            replaced += 1
        return {"executor": executor, "restarted": replaced}

    def _readiness(self, added: list[Child], otherwise: str) -> Generator[Wait, None, None]:
        """Wait until they serve; if one fails, or is given up, none of them stays,
        and what holds otherwise is said.
        """

        def missing() -> str:
            return f"{otherwise}: {_were(child for child in added if not child.ready)} not ready"

        try:
            yield Wait(lambda: all(child.ready or child.failed for child in added), missing)
            failed = next((child.failed for child in added if child.failed), None)
            if failed:
                raise Refused(f"{otherwise}: {failed['message']}")
        except Refused:
            for child in added:
                if not child.failed:
                    # It has begun nothing.
                    self._children.retire(child, None if child.ready else self._grace)
            raise

    def _ends(
        self, executor: str, leaving: list[Child], force: bool
    ) -> Generator[Wait, None, None]:
        """Wait for the end of those that were told to;
        with force all that are still to end are killed in time.
        """
        if force:
            for child in self._children.leaving(executor):
                self._children.retire(child, self._grace)

        def missing() -> str:
            return (
                f"{_were(child for child in leaving if not child.gone)} told to end and did not end"
            )

        otherwise = _BY_FORCE.format(self._grace) if force else _OTHERWISE
        yield Wait(lambda: all(child.gone for child in leaving), missing, otherwise)

    def _seat(self, like: Seat, shard: int, number: int, replicas: int) -> Seat:
        spec = replace(like.spec, replicas=replicas)
        return replace(
            like, spec=spec, shard_id=shard, replica_id=number, device=self._device(like.spec.name)
        )

    def _device(self, executor: str) -> str | None:
        """The device with the fewest replicas on it."""
        devices = self._devices.get(executor)
        if not devices:
            return None
        used = Counter(child.seat.device for child in self._children.of(executor))
        return min(devices, key=lambda device: used[device])


def _check(command: str, arguments: Mapping[str, object]) -> None:
    known = ARGUMENTS[command] | _OF_ALL
    for name in arguments:
        if name not in known:
            raise Refused(
                f"{command} takes no {short(name)}{did_you_mean(name, known)}; it takes "
                f"{listed(known)}"
            )
    if why := draining.objection(arguments.get("timeout")):
        raise Refused(why)
    if type(arguments.get("force", False)) is not bool:
        raise Refused(f"force must be True or False, not {short(arguments['force'])}")


def _were(children: Iterable[Child]) -> str:
    names = [child.seat.name for child in children]
    return f"{listed(names)} {'was' if len(names) == 1 else 'were'}"


def _warn(result: Result) -> None:
    if "error" in result:
        log.warning("%s", result["error"])
