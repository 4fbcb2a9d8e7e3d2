"""Which endpoints reach one shard, and which reach all.

python examples/polling/endpoints.py
"""

from __future__ import annotations

from typing import Any

from zflow import Document, Executor, Flow, requests


class Answer(Executor):
    """Tells that it was asked."""

    @requests
    def answer(self, **kwargs: Any) -> dict[str, bool]:
        """Return a dict, which the client finds under the replica's name."""
        return {"asked": True}


flow = Flow().add(
    name="ExecutorWithShards",
    uses=Answer,
    shards=3,
    polling={"/custom": "ALL", "/search": "ANY", "*": "ANY"},
)

with flow:
    for endpoint in ("/index", "/search", "/custom", "/other"):
        response = flow.post(endpoint, Document(), return_responses=True)[0]
        print(f"{endpoint:8} {len(response.parameters['__results__'])} of 3 shards")
