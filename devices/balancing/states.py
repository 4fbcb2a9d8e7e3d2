"""The states of a request at an Executor, or of its part for one shard,
and what brings it from one to the next.

Nobody stores a state: where a task stands says it. The simulator follows each task through this
table and sees nothing else; docs/architecture.md shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class State(Enum):
    """Where a request is; nothing follows the last four."""

    NEW = "not here yet"
    UNPUBLISHED = "a part of a fan-out that waits for a group"
    QUEUED = "waits for a replica with room, of its shard if it is for one"
    SUSPECT = "may have killed a replica, and waits for one that holds nothing"
    GIVEN = "a replica has it, and may begin it at any time, or has"
    AHEAD = "a busy replica has it, and begins it if it gets its ticket"
    ANSWERED = "a replica has answered, be it with an error"
    FAILED = "given up: it expired, took too long, or killed too many replicas"
    CANCELLED = "nobody wants it any more"
    REFUSED = "not taken: too many wait, or it may have been begun before"


# By what: a small word is what a pool is told, one with a capital what it says is to be done.
TRANSITIONS: Mapping[tuple[State, State], tuple[str, ...]] = {
    (State.NEW, State.QUEUED): ("submit",),
    (State.NEW, State.UNPUBLISHED): ("submit",),
    (State.NEW, State.REFUSED): ("submit",),
    (State.UNPUBLISHED, State.GIVEN): ("Publish",),
    (State.UNPUBLISHED, State.QUEUED): ("Publish",),  # its member is not there
    (State.UNPUBLISHED, State.FAILED): ("Fail",),
    (State.UNPUBLISHED, State.CANCELLED): ("cancel",),
    (State.QUEUED, State.GIVEN): ("Send", "SendBatch"),
    (State.QUEUED, State.AHEAD): ("SendAhead",),
    # It was taken back from a replica that had begun it after all.
    (State.QUEUED, State.ANSWERED): ("answered",),
    (State.QUEUED, State.FAILED): ("Fail",),
    (State.QUEUED, State.CANCELLED): ("cancel",),
    (State.SUSPECT, State.GIVEN): ("Send",),
    (State.SUSPECT, State.ANSWERED): ("answered",),  # as above
    (State.SUSPECT, State.FAILED): ("Fail",),
    (State.SUSPECT, State.CANCELLED): ("cancel",),
    # Crash: of an address.
    (State.GIVEN, State.QUEUED): ("Recall", "apart", "crash", "join", "leave", "lose"),
    (State.GIVEN, State.SUSPECT): ("crash", "join", "leave", "lose"),
    (State.GIVEN, State.ANSWERED): ("answered",),
    (State.GIVEN, State.FAILED): ("Fail",),
    (State.GIVEN, State.CANCELLED): ("cancel",),
    (State.AHEAD, State.QUEUED): ("Recall", "join", "leave", "lose"),
    (State.AHEAD, State.SUSPECT): ("crash",),
    (State.AHEAD, State.ANSWERED): ("answered",),
    (State.AHEAD, State.FAILED): ("Fail",),
    (State.AHEAD, State.CANCELLED): ("cancel",),
}
