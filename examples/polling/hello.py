"""One request to an Executor with two replicas or two shards: who gets it?

python examples/polling/hello.py replicas|shards ANY|ALL
"""

from __future__ import annotations

import sys
from typing import Any

from zflow import Document, DocumentArray, Executor, Flow, requests

scale, polling = sys.argv[1:]


class MyExec(Executor):
    """Says what it gets."""

    @requests
    def foo(self, docs: DocumentArray, **kwargs: Any) -> None:
        """Print the texts."""
        print(f"inside: {docs.texts}")


f = (
    Flow()
    .add(
        uses=MyExec,
        replicas=2 if scale == "replicas" else 1,
        shards=2 if scale == "shards" else 1,
        polling=polling,
    )
    .needs_all()
)

with f:
    r = f.post("/", Document(text="hello"))
    print(f"return: {r.texts}")
