"""Payloads that met: what several branches of the graph bring to a replica or to the client, decoded.

The broker carries payloads side by side without looking into them; here they become Documents again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zflow import wire
from zflow.devices import protocol
from zflow.devices.router import EACH_SHARD
from zflow.document import DocumentArray
from zflow.errors import BadRequest
from zflow.reduce import reduce


def gather(parts: Any, frames: Sequence[Any]) -> tuple[dict[str, DocumentArray], dict[str, Any]]:
    """Decode the payloads of several predecessors.

    Returns the Documents by predecessor, in the order of `needs`, and their merged parameters: where two differ the
    earlier one counts, and the `__results__` of all are kept.

    Raises:
        BadRequest: the payloads cannot be decoded.
    """
    docs_map: dict[str, DocumentArray] = {}
    parameters: dict[str, Any] = {}
    try:
        pieces = protocol.split(parts, frames)
    except protocol.Malformed as error:
        raise BadRequest(f"a message cannot be decoded: {error}") from None
    for name, payloads in pieces:
        arrays = []
        for payload in payloads:
            docs, some = wire.unpack(payload)
            _merge(parameters, some)
            arrays.append(docs)
        if name.endswith(EACH_SHARD):
            docs_map.update({f"{name[:-1]}{shard}": docs for shard, docs in enumerate(arrays)})
        else:
            docs_map[name] = reduce(arrays)
    return docs_map, parameters


def _merge(left: dict[str, Any], right: dict[str, Any]) -> None:
    for key, value in right.items():
        if key == "__results__" and isinstance(left.get(key), dict) and isinstance(value, dict):
            left[key] = {**left[key], **{name: result for name, result in value.items() if name not in left[key]}}
        else:
            left.setdefault(key, value)
