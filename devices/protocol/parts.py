"""Parts: several payloads in one message, where branches of the graph meet. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zflow.devices.protocol.messages import SMALL, Malformed, Parts
from zflow.devices.protocol.references import Frame, Payload, Reference

# (predecessor, or shard of one, or each of its shards, and payloads).
Inputs = list[tuple[str, list[Payload]]]
EACH_SHARD = "/shard-*"  # after a name: the payloads are those of its shards, all of them, in order
# Instead of a name, without payloads: the result will meet others, which whoever reduces them will
# want to compare, so it is to say what has changed.
MEETS = "/meets"
LONGEST_NAME = 255  # characters of a predecessor's; Executors' are shorter. Each shard repeats it


def split(parts: Parts, frames: Sequence[Any]) -> list[tuple[str, list[Sequence[Any]]]]:
    """Cut `frames` into `(predecessor, [payload, ...])` as `parts` says;
    where all shards are meant, one for each.

    Raises:
        Malformed: the counts do not add up to the frames that are there.
    """
    result: list[tuple[str, list[Sequence[Any]]]] = []
    try:
        bundled = any(type(count) is int and count < 0 for _, counts in parts for count in counts)
        bundle = bytes(frames[0]) if bundled and frames else b""
        at, offset = int(bundled), 0
        for name, counts in parts:
            payloads: list[Sequence[Any]] = []
            for count in counts:
                if type(count) is not int or not count or at + count > len(frames):
                    raise Malformed("parts do not fit the frames")
                if count > 0:
                    if type(frames[at]) is Reference:
                        raise Malformed("a payload that begins with a reference")
                    payloads.append(frames[at : at + count])
                    at += count
                else:
                    payloads.append([bundle[offset : offset - count]])
                    offset -= count
            if type(name) is not str or len(name) > LONGEST_NAME:
                raise Malformed("parts are not a list of pairs")
            if name.endswith(EACH_SHARD):
                result.extend(
                    (f"{name[:-1]}{shard}", [payload]) for shard, payload in enumerate(payloads)
                )
            else:
                result.append((name, payloads))
    except (TypeError, ValueError):
        raise Malformed("parts are not a list of pairs") from None
    if at != len(frames) or offset != len(bundle):
        raise Malformed("parts do not fit the frames")
    return result


def is_single(inputs: Inputs) -> bool:
    """Whether they are the single payload of a whole Executor."""
    # A shard's name has a slash.
    return len(inputs) == 1 and len(inputs[0][1]) == 1 and "/" not in inputs[0][0]


def flat(inputs: Inputs) -> tuple[Parts | None, Payload]:
    """Return inputs as `parts` and frames; the single payload of a whole Executor needs no
    parts.
    """
    if is_single(inputs):
        return None, list(inputs[0][1][0])
    parts: Parts = []
    bundle: list[bytes] = []  # a frame for each would cost more than copying what is in it
    frames: list[Frame | Reference] = []
    for name, payloads in inputs:
        counts = []
        for payload in payloads:
            first = payload[0]
            if len(payload) == 1 and type(first) is bytes and 0 < len(first) <= SMALL:
                counts.append(-len(first))
                bundle.append(first)
            else:
                counts.append(len(payload))
                frames.extend(payload)
        parts.append([name, counts])
    if bundle:
        frames.insert(0, b"".join(bundle))
    return parts, frames
