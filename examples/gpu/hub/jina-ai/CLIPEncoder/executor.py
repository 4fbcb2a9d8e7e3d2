"""Stands in for an encoder that needs a GPU: says which one it was given,
and computes there if torch is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import zlib
from typing import Any

import numpy as np

from zflow import DocumentArray, Executor, requests


class CLIPEncoder(Executor):
    """Sets `embedding` from the letters of `text`, and `tags['device']`.

    Args:
        dimensions: the length of an embedding.
    """

    def __init__(self, dimensions: int = 64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # The same in all replicas: embeddings that different ones computed must be comparable.
        self.weights: Any = np.random.default_rng(0).standard_normal(
            (256, dimensions), dtype=np.float32
        )
        self.torch: Any = None
        computes = "with numpy: there is no torch"
        if importlib.util.find_spec("torch"):
            # Imported here and not above, so that it is this process's own, after its GPU was set.
            self.torch = importlib.import_module("torch")
            device = "cuda" if self.torch.cuda.is_available() else "cpu"
            self.weights = self.torch.from_numpy(self.weights).to(device)
            computes = f"with torch on {self._torch_device()}"
        visible = self.runtime_args.cuda_visible_devices
        self.device = "not set" if visible is None else visible
        print(f"{self.runtime_args.name}: CUDA_VISIBLE_DEVICES={self.device}, computes {computes}")

    def _torch_device(self) -> str:
        device = self.weights.device
        return (
            f"{device} ({self.torch.cuda.get_device_name(device)})"
            if device.type == "cuda"
            else str(device)
        )

    @requests
    def encode(self, docs: DocumentArray, **kwargs: Any) -> None:
        """Embed each text."""
        for doc in docs:
            doc.embedding = self._embed(_trigrams(doc.text))
            doc.tags["device"] = self.device

    def _embed(self, counts: np.ndarray[Any, Any]) -> Any:
        if self.torch is None:
            return counts @ self.weights
        with self.torch.no_grad():
            return (
                (self.torch.from_numpy(counts).to(self.weights.device) @ self.weights).cpu().numpy()
            )


def _trigrams(text: str) -> np.ndarray[Any, Any]:
    """How often each hash of three letters in a row occurs."""
    counts = np.zeros(256, dtype=np.float32)
    for start in range(len(text) - 2):
        counts[zlib.crc32(text[start : start + 3].encode()) % 256] += 1
    return counts
