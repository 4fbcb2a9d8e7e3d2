"""Replicas on another machine: they join a running Flow that allows it, compete with its own,
and may leave any time.

They are run by a process manager of their own, without a broker;
the Flow's broker only sees them come and go.
"""

from __future__ import annotations

import logging
import socket as network
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from zflow import errors
from zflow.clients.connection import ask
from zflow.network import address
from zflow.network.keys import Keys, keys_of
from zflow.processes import plan, preflight, spawn
from zflow.processes.launch import Launched
from zflow.processes.plan import Plan
from zflow.replicas.seat import Seat
from zflow.suggest import did_you_mean, listed
from zflow.topology.options import FIELDS
from zflow.topology.topology import ExecutorSpec, Topology

if TYPE_CHECKING:
    from zflow.system.termination import Event

log = logging.getLogger("zflow")

#: The keywords of `Flow.add` that are said where a replica runs; the others are the Flow's
#: business.
TAKES: Final = (
    "uses",
    "replicas",
    "uses_with",
    "uses_metas",
    "uses_requests",
    "uses_dynamic_batching",
    "py_modules",
    "install_requirements",
    "env",
    "workspace",
    "seed",
    "timeout_ready",
)
CLOSING = 10.0  # seconds that requests under way and the Executors' close() may take at the end


def join(
    broker: str,
    executor: str,
    uses: object,
    *,
    shard: int = 0,
    curve: str | None = None,
    stop_event: Event | None = None,
    started: Callable[[int], object] = lambda count: None,
    **options: Any,
) -> None:
    """Run replicas of a running Flow's Executor here, until Ctrl-C, SIGTERM,
    or until `stop_event` is set.

    A replica that dies is started anew; while the Flow is away they wait for it. At the end they
    finish what they are at, and what they have not begun goes to others.

    Args:
        broker: `'host:port'` where the Flow takes replicas (`Flow(replica_port=...)`).
        executor: the name of the Executor.
        uses: what the replicas run, as in `Flow.add`.
        shard: which shard they are replicas of, if the Executor has several.
        curve: the key folder that lets them in, if the Flow asks for keys.
        stop_event: an Event of threading or multiprocessing.
        started: called with the number of replicas here when they serve.
        options: any of `TAKES`; `replicas` is how many to run here, 1 when left out.

    Raises:
        FlowUnreachable: nobody answers there; AccessDenied: the Flow refuses the connection.
        InvalidFlow: the Flow has no such Executor or shard, or an option cannot be.
        StartupFailed: an Executor did not get ready, or the Flow does not take it.
    """
    host, port = address.parse(broker, error=errors.InvalidFlow)
    _check(options, executor)
    url = address.endpoint(host, port)
    keys = keys_of(curve, "replica")
    info = _told(url, keys)
    spec = _spec(executor, uses, options, info, shard)
    preflight.check([spec])
    preflight.install([spec])
    names = tuple(info["executors"])
    seats = [
        replace(seat, names=names)
        for seat in _seats(spec, url, shard, info["max_message_bytes"], keys)
    ]
    launched = Launched(Plan(None, seats, plan.private_folder(), grace=CLOSING), spawn.choose(None))
    try:
        log.info("%s of the Flow at %s: %d here", executor, address.spell(host, port), len(seats))
        started(len(seats))
        launched.wait(stop_event)
    except KeyboardInterrupt:
        pass
    finally:
        launched.close(CLOSING)


def _check(options: Mapping[str, object], executor: str) -> None:
    for key in options:
        if key not in TAKES:
            why = " is the Flow's business" if key in FIELDS else did_you_mean(key, TAKES)
            known = f"a replica takes {listed(TAKES)}"
            raise errors.InvalidFlow(
                f"unknown keyword {key!r}{why}; {known} (executor {executor!r})"
            )
    if isinstance(options.get("replicas"), Mapping):
        raise errors.InvalidFlow(
            "replicas must be how many to run here: only the Flow's own go by its load (executor "
            f"{executor!r})"
        )


def _told(url: str, keys: Keys | None) -> dict[str, Any]:
    try:
        info = ask(url, keys)
    except errors.AccessDenied:
        raise
    except errors.FlowUnreachable:
        about_keys = (
            "are the keys (curve=) those it knows" if keys else "does it ask for keys (curve=)"
        )
        raise errors.FlowUnreachable(
            f"no Flow takes replicas at {url}: is it running, with replica_port= set to this port,"
            f" and {about_keys}?"
        ) from None
    if not info.get("for_replicas"):
        raise errors.InvalidFlow(
            f"{url} is where clients of the Flow connect: replicas join at the port that "
            "Flow(replica_port=...) says"
        )
    return info


def _spec(
    executor: str, uses: object, options: Mapping[str, object], info: Mapping[str, Any], shard: int
) -> ExecutorSpec:
    told = {
        name: one for name, one in info.get("executors", {}).items() if not one.get("addresses")
    }
    if executor not in told:
        hint = did_you_mean(executor, told) or f"; there are {listed(told)}"
        raise errors.InvalidFlow(
            f"the Flow has no Executor {executor!r} that replicas could join{hint}"
        )
    shards = told[executor]["shards"]
    if shard not in range(shards):
        raise errors.InvalidFlow(
            f"shard must be from 0 to {shards - 1}, not {shard!r} (executor {executor!r})"
        )
    spec = Topology().add({}, None, name=executor, uses=uses, **options)
    return replace(spec, shards=shards, no_reduce=told[executor]["no_reduce"])


def _seats(spec: ExecutorSpec, url: str, shard: int, limit: int, keys: Keys | None) -> list[Seat]:
    spec = plan.placed(spec)
    here = [replace(spec, shards=1)]
    devices = plan.deal_devices(here, plan.choose_devices(here))[spec.name]
    machine = network.gethostname().split(".")[0] or "elsewhere"
    return [
        Seat(spec, 0, shard, number, url, None, None, limit, device, machine, keys)
        for number, device in enumerate(devices)
    ]
