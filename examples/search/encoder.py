"""The slow Executor of the search example: it turns texts into vectors, and runs as three replicas.

Replicas compete for requests, so two Documents may be encoded by different replicas and must still
be comparable. All of them learn how rare words are from the same corpus when they start, and
nothing from what they are sent.
"""

from __future__ import annotations

from typing import Any

import corpus
from tfidf import TfIdf

from zflow import DocumentArray, Executor, requests


class Encoder(Executor):
    """Sets `embedding` from `text`.

    Args:
        size: elements of an embedding.
    """

    def __init__(self, size: int = 2048, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._model = TfIdf((f"{name}\n\n{text}" for name, text in corpus.load().items()), size)

    @requests(on="/index")
    def encode_entries(self, docs: DocumentArray, **kwargs: Any) -> None:
        """Encode what can be found: the Document's id is its name,
        which tells as much as its text.
        """
        for doc in docs:
            doc.embedding = self._model.vector(doc.text, title=doc.id)

    @requests(on="/search")
    def encode_queries(self, docs: DocumentArray, **kwargs: Any) -> None:
        """Encode questions: their ids say nothing."""
        for doc in docs:
            doc.embedding = self._model.vector(doc.text)
