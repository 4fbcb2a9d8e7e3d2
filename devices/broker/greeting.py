"""What a Flow says about itself to whoever greets it."""

from __future__ import annotations

import msgpack

from zflow.devices.protocol.messages import MAX_GREETING, Info


def fitting(info: Info) -> Info:
    """Return it as it may be said: if it is too long, without what Executors bind,
    as if they might bind anything.
    """
    if len(msgpack.packb(info)) <= MAX_GREETING:
        return info
    executors = info["executors"].items()
    return {
        **info,
        "executors": {name: {**one, "endpoints": None, "batching": {}} for name, one in executors},
    }
