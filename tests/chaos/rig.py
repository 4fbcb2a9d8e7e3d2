"""A whole run: the Flow, its clients, what is injected, what is watched, and the account."""

from __future__ import annotations

import dataclasses
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cable import Cable
from helpers import wait_for

from zflow import Flow

from . import disk, executors, injector, schedule
from .account import Account
from .load import Load
from .usage import Watch

# Seconds within which all must be answered and whole again when nothing is injected any more.
PATIENCE = 60.0
CAPACITY_TAKES = 10.0  # seconds to measure how much the Flow can do
RATE = 300.0  # requests a second, of all clients together


@dataclass(frozen=True)
class Options:
    """What a run is to be.

    Args:
        seconds: of load.
        seed: of the load, and of what is injected.
        rate: requests a second.
        pace: how many times as often as usual failures are injected; 0 for none.
        soak: no failures, half of what the Flow can do, and nothing may grow.
        patience: seconds within which all must be answered at the end.
    """

    seconds: float
    seed: int
    rate: float = RATE
    pace: float = 1.0
    soak: bool = False
    patience: float = PATIENCE


def run(
    options: Options,
    folder: Path,
    log: Path | None = None,
    events: list[schedule.Event] | None = None,
) -> Account:
    """Do a whole run.

    Args:
        folder: for what Executors note; empty.
        log: where the events are written; in `folder` when left out.
        events: what to inject instead of what is drawn from the seed.
    """
    remarks = []
    small = disk.Disk(os.environ.get(disk.VARIABLE))
    if events is None:
        without = () if small else ("fill",)
        calm = options.soak or not options.pace
        events = [] if calm else schedule.draw(options.seed, options.seconds, options.pace, without)
    if any(event.kind == "fill" for event in events) and not small:
        events = [event for event in events if event.kind != "fill"]
        remarks.append(
            "the disk was not filled: it is none that could be (run it as `python -m tests.chaos`)"
        )
    if options.soak:
        capacity = _capacity(options, folder / "capacity")
        remarks.append(f"capacity {capacity:.0f} requests a second; half of that was asked for")
        options = dataclasses.replace(options, rate=capacity / 2)
    with executors.flow(folder) as flow:
        wait_until_whole(flow, options.patience)
        account = _maltreat(flow, options, events, small, folder, log or folder / "log")
        account.remarks += remarks
    if left := executors.their_children(folder):
        account.wrong.append(f"{len(left)} processes that replicas have started outlive the Flow")
    account.count(folder)
    if options.soak:
        account.judge_growth()
    return account


def _maltreat(
    flow: Flow,
    options: Options,
    events: list[schedule.Event],
    small: disk.Disk,
    folder: Path,
    log: Path,
) -> Account:
    watch = Watch(max(0.5, options.seconds / 120))
    watch.look()
    with Cable(port_of(flow)) as cable, open(log, "w", encoding="utf-8") as file:
        file.write(injector.header(dataclasses.asdict(options)) + "\n")
        load = Load(flow, cable.port, options.seed, options.rate)
        watch.notes = load.ledger.size
        account = Account(f"chaos, seed {options.seed}", load.ledger)
        injecting = injector.Injector(events, flow, cable, load, small, folder, file)
        time.sleep(options.seconds)
        injecting.end(options.patience)
        account.seconds, wrong = load.end(options.patience)
        account.wrong += injecting.wrong + wrong
        account.events = injecting.counts
        account.remarks.append(f"log: {log}")
        try:
            _put_back(flow, options.patience)
            wait_for(
                lambda: len(executors.their_children(folder)) == executors.REPLICAS["plain"],
                options.patience,
                "a child process for each replica of plain, not "
                f"{len(executors.their_children(folder))}",
            )
        except Exception as error:
            account.wrong.append(f"the Flow is not whole again: {error}")
    account.histories = watch.end()
    return account


def port_of(flow: Flow) -> int:
    """Where a started Flow listens."""
    assert flow.port is not None
    return flow.port


def _put_back(flow: Flow, patience: float) -> None:
    """As many replicas as at the beginning, and all of them serve."""
    for name, replicas in executors.REPLICAS.items():
        flow.scale(name, replicas)
    wait_until_whole(flow, patience)


def wait_until_whole(flow: Flow, patience: float) -> None:
    """Wait until all replicas take part."""
    from zflow import Client

    with Client(port=flow.port) as client:

        def missing() -> dict[str, Any]:
            known = client.info()["executors"]
            shards = {
                name: executors.SHARDS if name == "shards" else 1 for name in executors.REPLICAS
            }
            wanted = {
                name: replicas * shards[name] for name, replicas in executors.REPLICAS.items()
            }
            found = {name: len(set(known[name]["replicas"])) for name in wanted}
            return {
                name: (found[name], wanted[name]) for name in wanted if found[name] != wanted[name]
            }

        wait_for(lambda: not missing(), patience, "all replicas take part")


def _capacity(options: Options, folder: Path) -> float:
    """How many requests a second a Flow can do, when clients ask for as many as there can be."""
    with executors.flow(folder) as flow, Cable(port_of(flow)) as cable:
        load = Load(flow, cable.port, options.seed, 0.0)
        time.sleep(min(CAPACITY_TAKES, options.seconds))
        lasted, _ = load.end(options.patience)
    return len(load.ledger.state) / lasted
