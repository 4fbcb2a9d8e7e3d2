"""What a Flow says about itself to whoever greets it, as a payload: it may be too long for a header."""

from __future__ import annotations

from typing import Any

import msgpack

from zflow.devices.protocol.messages import MAX_GREETING


def packed(info: dict[str, Any]) -> bytes:
    """Return it packed; what Executors bind is left out if it is too long with that, as if they might bind anything."""
    frame: bytes = msgpack.packb(info)
    if len(frame) > MAX_GREETING:
        executors = info["executors"].items()
        short = {name: {**executor, "endpoints": None, "batching": {}} for name, executor in executors}
        frame = msgpack.packb({**info, "executors": short})
    return frame
