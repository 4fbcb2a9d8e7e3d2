"""Changes while the Flow runs: more or fewer replicas, and new processes for old ones, one after the other.

They are made because somebody says so or, where `replicas` is a range, because of the load.

Each change is a generator that yields what it waits for, so that it reads in the order in which it happens. The process
manager's loop calls `step` whenever something has happened.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from zflow.processes.autoscaler import Autoscaler
from zflow.processes.children import Child, Children
from zflow.replicas.seat import Seat
from zflow.suggest import did_you_mean, listed, short

log = logging.getLogger("zflow.manager")

MOST = 10_000  # replicas of one shard

Change = Generator[Callable[[], bool], None, dict[str, Any]]


class Refused(Exception):
    """A change that cannot be made; `args[0]` says why."""


@dataclass
class _Running:
    """A change that is being made, and whom to tell when it is."""

    command: str
    arguments: Any
    change: Change
    done: list[Callable[[dict[str, Any]], None]]
    ready: Callable[[], bool] = lambda: True  # whether what it waits for has come


class Changes:
    """The changes that are being made.

    Args:
        children: the replicas.
        devices: by Executor, the devices that are dealt out to its replicas, if any are.
    """

    def __init__(self, children: Children, devices: Mapping[str, Sequence[str]]) -> None:
        self._children = children
        self._devices = devices
        self._running: dict[str, _Running] = {}
        specs = {child.executor: child.seat.spec for child in children}
        self._scalers = {name: Autoscaler(spec.autoscale) for name, spec in specs.items() if spec.autoscale is not None}

    def begin(self, command: str, arguments: Any, done: Callable[[dict[str, Any]], None]) -> None:
        """Begin a change; `done` is called with what came of it: `{'error': why}`, or what there is to say.

        Args:
            command: `'scale'` or `'restart'`.
            arguments: of the command; `executor` names whose replicas are meant.
        """
        executor = arguments.get("executor") if isinstance(arguments, dict) else None
        running = self._running.get(str(executor))
        if running is not None and (running.command, running.arguments) == (command, arguments):
            running.done.append(done)  # asked for again, because the broker that was asked is gone
            return
        try:
            change = self._change(command, executor, arguments)
        except Refused as refusal:
            done({"error": refusal.args[0]})
            return
        self._running[str(executor)] = _Running(command, arguments, change, [done])
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
        else:  # nobody waits for their end, which may take as long as a request: more may be needed before
            self._retire_from(executor, wanted)

    def _change(self, command: str, executor: Any, arguments: Any) -> Change:
        known = sorted({child.executor for child in self._children})
        if not isinstance(executor, str) or executor not in known:
            hint = did_you_mean(str(executor), known) or f"; there are {listed(known)}"
            raise Refused(f"no Executor of this Flow that has replicas here is called {short(executor)}{hint}")
        if executor in self._running:
            raise Refused(f"another change of {executor!r} is under way: wait until it is done")
        if command == "restart":
            return self._restart(executor)
        if command == "scale":
            replicas = arguments.get("replicas")
            if type(replicas) is not int or not 1 <= replicas <= MOST:
                raise Refused(f"replicas must be a whole number from 1 to {MOST}, not {short(replicas)}")
            limits = self._scalers[executor].limits if executor in self._scalers else None
            if limits is not None and not limits.min <= replicas <= limits.max:
                raise Refused(
                    f"{executor!r} has {limits} replicas, by its load, and {replicas} is not in that range: "
                    "start the Flow with another replicas={'min': ..., 'max': ...}"
                )
            return self._scale(executor, replicas)
        raise Refused(f"there is no command {short(command)}; there are 'scale' and 'restart'")

    def step(self) -> None:
        """Go on with every change that waits no longer."""
        for executor, running in list(self._running.items()):
            try:
                while running.ready():
                    running.ready = next(running.change)
            except StopIteration as end:
                self._end(executor, end.value)
            except Refused as refusal:
                self._end(executor, {"error": refusal.args[0]})

    def _end(self, executor: str, result: dict[str, Any]) -> None:
        for done in self._running.pop(executor).done:
            done(result)

    # -- the changes ----------------------------------------------------------------------------------------------

    def _scale(self, executor: str, replicas: int) -> Change:
        before = self._children.of(executor)
        count = max(child.seat.replica_id for child in before) + 1
        added: list[Child] = []
        for number in range(count, replicas):
            for shard in sorted({child.seat.shard_id for child in before}):
                added.append(self._children.add(self._seat(before[0].seat, shard, number, replicas)))
        yield lambda: all(child.ready or child.failed for child in added)
        failed = next((child.failed for child in added if child.failed), None)
        if failed:
            for child in added:
                if not child.failed:
                    self._children.retire(child)
            raise Refused(f"{executor!r} stays at {count} replicas: {failed['message']}")
        surplus = self._retire_from(executor, replicas)
        yield lambda: all(child.gone for child in surplus)
        if replicas != count:
            log.info("%s has %d replicas instead of %d", executor, replicas, count)
        return {"executor": executor, "replicas": replicas, "before": count}

    def _retire_from(self, executor: str, number: int) -> list[Child]:
        """Let its replicas of this number and above end; returns them."""
        surplus = [child for child in self._children.of(executor) if child.seat.replica_id >= number]
        for child in surplus:
            self._children.retire(child)
        return surplus

    def _restart(self, executor: str) -> Change:
        """A new one is ready before an old one is told to end."""
        replaced = 0
        for child in self._children.of(executor):
            successor = self._children.add(child.seat)
            yield lambda successor=successor: successor.ready or bool(successor.failed)  # type: ignore[misc]
            if successor.failed:
                raise Refused(
                    f"{child.seat.name} goes on as it is, its successor failed: {successor.failed['message']}"
                )
            self._children.retire(child)
            yield lambda child=child: child.gone  # type: ignore[misc]
            replaced += 1
        return {"executor": executor, "restarted": replaced}

    def _seat(self, like: Seat, shard: int, number: int, replicas: int) -> Seat:
        spec = replace(like.spec, replicas=replicas)
        return replace(like, spec=spec, shard_id=shard, replica_id=number, device=self._device(like.spec.name))

    def _device(self, executor: str) -> str | None:
        """The device with the fewest replicas on it."""
        devices = self._devices.get(executor)
        if not devices:
            return None
        used = Counter(child.seat.device for child in self._children.of(executor))
        return min(devices, key=lambda device: used[device])


def _warn(result: dict[str, Any]) -> None:
    if "error" in result:
        log.warning("%s", result["error"])
