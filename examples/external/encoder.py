"""An Executor that can be served alone.

python examples/external/encoder.py HOST:PORT
"""

from __future__ import annotations

import hashlib
import os
import sys
from typing import Any

import numpy as np

from zflow import DocumentArray, Executor, requests


class Encoder(Executor):
    """Makes a vector of each text, and says which process did it."""

    @requests
    def encode(self, docs: DocumentArray, **kwargs: Any) -> None:
        """Set `embedding`, and `pid` among the tags."""
        for doc in docs:
            digest = hashlib.sha256(doc.text.encode()).digest()
            doc.embedding = np.frombuffer(digest, dtype=np.uint8).astype(np.float32) / 255
            doc.tags["pid"] = os.getpid()


if __name__ == "__main__":
    host, _, port = sys.argv[1].rpartition(":")
    Encoder.serve(host=host, port=int(port))
