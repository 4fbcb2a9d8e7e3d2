"""What a Flow says about itself to whoever greets it."""

from __future__ import annotations

from typing import Any

import msgpack

from zflow.devices.protocol.messages import MAX_GREETING


def fitting(info: dict[str, Any]) -> dict[str, Any]:
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
