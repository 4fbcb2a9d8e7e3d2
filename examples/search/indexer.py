"""The fast Executor of the search example: it keeps vectors and finds the nearest by cosine.

It takes the embeddings as they come, of length 1, and knows nothing of how they were made.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from zflow import Document, DocumentArray, Executor, requests

DEFAULT_TOP = 10


class Indexer(Executor):
    """Keeps the Documents of `/index` and gives those of `/search` their best `matches`."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._entries: dict[str, tuple[str, NDArray[np.float32]]] = {}  # id -> text, embedding
        self._matrix: NDArray[np.float32] | None = None  # all embeddings, stacked when a search needs them

    @requests(on="/index")
    def index(self, docs: DocumentArray, **kwargs: Any) -> DocumentArray:
        """Keep text and embedding under the Document's id, in place of an older one; nothing is sent back."""
        for doc in docs:
            self._entries[doc.id] = (doc.text, doc.embedding)
        self._matrix = None
        return DocumentArray()

    @requests(on="/search")
    def search(self, docs: DocumentArray, parameters: dict[str, Any], **kwargs: Any) -> None:
        """Set `matches`, the best first, with `scores['cosine']`; at most `parameters['top_k']` (10) of them.

        Raises:
            ValueError: `top_k` is not a whole number from 1.
        """
        top = parameters.get("top_k", DEFAULT_TOP)
        if not isinstance(top, int) or isinstance(top, bool) or top < 1:
            raise ValueError(f"top_k must be a whole number from 1, not {top!r}")
        names = list(self._entries)
        for doc in docs:
            cosines = self._cosines(doc.embedding)
            best = np.argsort(-cosines, kind="stable")[:top]
            doc.matches = DocumentArray(self._match(names[at], float(cosines[at])) for at in best if cosines[at] > 0)
            doc.embedding = None

    def _cosines(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self._entries:
            return np.zeros(0, dtype=np.float32)
        if self._matrix is None:
            self._matrix = np.stack([embedding for _, embedding in self._entries.values()])
        return self._matrix @ vector

    def _match(self, name: str, cosine: float) -> Document:
        match = Document(id=name, text=self._entries[name][0])
        match.scores["cosine"] = cosine
        return match
