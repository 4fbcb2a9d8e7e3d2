"""What a Flow says about itself to whoever greets it."""

from __future__ import annotations

from typing import Any

import msgpack

from zflow.devices.protocol.messages import MAX_GREETING

MOST_NAMED = 50  # replicas of an Executor that are told by name where there is no room


def fitting(info: dict[str, Any]) -> dict[str, Any]:
    """Return it as it may be said: if it is too long, without what Executors bind,
    as if they might bind anything; and with the names of few replicas, if those are too long.
    """
    if len(msgpack.packb(info)) <= MAX_GREETING:
        return info
    executors = info["executors"].items()
    without = {name: {**one, "endpoints": None, "batching": {}} for name, one in executors}
    if len(msgpack.packb({**info, "executors": without})) > MAX_GREETING:
        for one in without.values():
            one["replicas"] = one["replicas"][:MOST_NAMED]
    return {**info, "executors": without}
