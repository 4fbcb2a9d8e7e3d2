"""What is to happen when: drawn from a seed, or read from the log of another run. Pure logic;
injects nothing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

BROKER, MANAGER, WATCHDOG, CABLE, LOAD, DISK = (
    "broker",
    "manager",
    "watchdog",
    "cable",
    "load",
    "disk",
)
ALL = "all"  # processes but the user's
STRANGERS = "strangers"  # who come over TCP

LONGEST_STOP = 3.0  # seconds
# What keeps a client from hearing anything, and how long it may all together: one that connects
# gives up after 5 s.
SILENCING = ("kill-broker", "stop-broker", "stop-manager", "freeze", "cut", "fill")
LONGEST_SILENCE = 3.5  # seconds


@dataclass(frozen=True)
class Event:
    """One thing that is done to the Flow.

    Args:
        at: seconds since the start of the load.
        kind: what is done, see `KINDS`.
        target: whom it is done to, by name; empty for a replica or an Executor that is to be chosen
            when the time has come, by `draw`.
        seconds: after how many it is undone; 0 for what cannot be undone.
        draw: from 0 to 1; chooses what else there is to choose.
    """

    at: float
    kind: str
    target: str = ""
    seconds: float = 0.0
    draw: float = 0.0


@dataclass(frozen=True)
class Kind:
    """How often something is done, and for how long.

    Args:
        every: mean seconds between two of them.
        target: to whom; empty for any replica, or any Executor.
        longest: the most seconds that one lasts.
    """

    every: float
    target: str = ""
    longest: float = 0.0


KINDS = {
    "kill": Kind(1.0),
    "kill-broker": Kind(15.0, BROKER),
    "end": Kind(8.0),
    "end-all": Kind(20.0, ALL),
    "stop": Kind(4.0, "", LONGEST_STOP),
    "stop-broker": Kind(20.0, BROKER, LONGEST_STOP),
    "stop-manager": Kind(25.0, MANAGER, LONGEST_STOP),
    "freeze": Kind(15.0, CABLE, LONGEST_STOP),
    "cut": Kind(15.0, CABLE, LONGEST_STOP),
    "slow": Kind(10.0, "", 4.0),
    "skew": Kind(20.0, LOAD, 5.0),
    "scale": Kind(20.0),
    "restart": Kind(30.0),
    "drain": Kind(20.0, "", 3.0),
    "fill": Kind(25.0, DISK, 2.0),
    "hostile": Kind(20.0, STRANGERS, 5.0),
    "differ": Kind(15.0, STRANGERS),
}


def draw(seed: int, seconds: float, pace: float = 1.0, without: Iterable[str] = ()) -> list[Event]:
    """The events of a run of so many seconds, in order.

    Args:
        seed: the same one gives the same events.
        pace: above 1 everything happens so many times as often, and lasts as much shorter.
        without: kinds that cannot be injected here.
    """
    events = []
    for name, kind in KINDS.items():
        if name in without:
            continue
        luck = random.Random(f"{seed}/{name}")
        every = kind.every / pace
        at = every * luck.uniform(0.3, 0.7)
        while at < seconds:
            lasts = kind.longest / max(1.0, pace) * luck.uniform(0.05, 1.0)
            events.append(
                Event(round(at, 3), name, kind.target, round(lasts, 3), round(luck.random(), 4))
            )
            at += every * luck.uniform(0.5, 1.5)
    return sorted(events, key=lambda event: event.at)


def line(event: Event, outcome: str) -> str:
    """A line of the log: the event and what came of it."""
    return json.dumps({**asdict(event), "outcome": outcome})


def read(lines: Iterable[str]) -> tuple[dict[str, Any], list[Event]]:
    """The options of the run that wrote the log, and its events.

    Raises:
        ValueError: this is no such log.
    """
    rows = [json.loads(text) for text in lines if text.strip()]
    if not rows or "options" not in rows[0]:
        raise ValueError("this is no log of a run: its first line must hold the options")
    names = Event.__dataclass_fields__
    events = [
        Event(**{key: value for key, value in row.items() if key in names}) for row in rows[1:]
    ]
    return rows[0]["options"], sorted(events, key=lambda event: event.at)
