"""zflow scales Python Executors out: replicas that compete for requests, joined by a ZeroMQ broker.

Example:
    from zflow import Document, Executor, Flow, requests

    class Shout(Executor):
        @requests
        def shout(self, docs, **kwargs):
            docs.texts = [text.upper() for text in docs.texts]

    with Flow().add(uses=Shout, replicas=3) as flow:
        print(flow.post("/", Document(text="hello")).texts)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zflow import serve as _serve  # noqa: F401  # puts Executor.serve in place
from zflow.documents.document import Document, DocumentArray, NamedScore
from zflow.errors import ZflowError
from zflow.executors.batching import dynamic_batching
from zflow.executors.executor import BaseExecutor, Executor, requests
from zflow.flow import Flow
from zflow.version import __version__ as __version__

if TYPE_CHECKING:
    from zflow.clients.async_client import AsyncClient
    from zflow.clients.client import Client
    from zflow.clients.response import Response
    from zflow.documents.merging import reduce

__all__ = [
    "AsyncClient",
    "BaseExecutor",
    "Client",
    "Document",
    "DocumentArray",
    "Executor",
    "Flow",
    "NamedScore",
    "Response",
    "ZflowError",
    "dynamic_batching",
    "reduce",
    "requests",
]

# Imported when they are first asked for: pyzmq and asyncio, which they need, are larger than
# everything else together.
_LAZY = {
    "AsyncClient": "zflow.clients.async_client",
    "Client": "zflow.clients.client",
    "Response": "zflow.clients.response",
    "reduce": "zflow.documents.merging",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'zflow' has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(_LAZY[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
