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

__version__ = "0.1.0"

from zflow.batching import dynamic_batching
from zflow.client import Client
from zflow.document import Document, DocumentArray
from zflow.errors import ZflowError
from zflow.exchange import Response
from zflow.executor import Executor, requests
from zflow.flow import Flow

if TYPE_CHECKING:
    from zflow.aclient import AsyncClient

__all__ = [
    "AsyncClient",
    "Client",
    "Document",
    "DocumentArray",
    "Executor",
    "Flow",
    "Response",
    "ZflowError",
    "dynamic_batching",
    "requests",
]


def __getattr__(name: str) -> Any:
    if name == "AsyncClient":  # asyncio is as large as everything else together: only for those who use it
        from zflow.aclient import AsyncClient

        return AsyncClient
    raise AttributeError(f"module 'zflow' has no attribute {name!r}")
