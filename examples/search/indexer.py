"""The fast Executor of the search example: it keeps vectors and finds the nearest by cosine.

It takes the embeddings as they come, of length 1, and knows nothing of how they were made. As a
shard it holds what happened to reach it, and finds the best of that.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ranker import top_k
from store import Entries, Log

from zflow import Document, DocumentArray, Executor, requests


class Indexer(Executor):
    """Keeps the Documents of `/index` and gives those of `/search` their best `matches`.

    With a workspace it finds there what its shard was given earlier,
    and what other replicas of the shard are given.

    Raises:
        ValueError: it has several replicas and no workspace,
            so they could not know of each other's entries.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.workspace is None and self.runtime_args.replicas > 1:
            raise ValueError(
                "replicas of an Indexer need a workspace, where each finds what the others were "
                "given"
            )
        self._entries: dict[str, tuple[str, NDArray[np.float32]]] = {}  # id -> text, embedding
        self._names: list[str] = []  # sorted, when a search needs them
        # The embeddings, stacked in the order of the names.
        self._matrix: NDArray[np.float32] | None = None
        self._log = Log(os.path.join(self.workspace, "entries.log")) if self.workspace else None
        self._catch_up()

    @requests(on="/index")
    def index(self, docs: DocumentArray, **kwargs: Any) -> DocumentArray:
        """Keep text and embedding under the Document's id, in place of an older one;
        nothing is sent back.
        """
        if docs:
            new = Entries(
                [doc.id for doc in docs], docs.texts, np.stack([doc.embedding for doc in docs])
            )
            for entries in [new] if self._log is None else self._log.append(new):
                self._keep(entries)
        return DocumentArray()

    @requests(on="/search")
    def search(self, docs: DocumentArray, parameters: dict[str, Any], **kwargs: Any) -> None:
        """Set `matches`, the best first, with `scores['cosine']`;
        at most `parameters['top_k']` (10) of them.

        Raises:
            ValueError: `top_k` is not a whole number from 1.
        """
        top = top_k(parameters)
        self._catch_up()
        for doc in docs:
            cosines = self._cosines(doc.embedding)
            best = np.argsort(-cosines, kind="stable")[:top]
            doc.matches = DocumentArray(
                self._match(at, float(cosines[at])) for at in best if cosines[at] > 0
            )
            doc.embedding = None

    @requests(on="/count")
    def count(self, **kwargs: Any) -> dict[str, int]:
        """Return how many entries there are."""
        self._catch_up()
        return {"entries": len(self._entries)}

    def close(self) -> None:
        """Close the file."""
        if self._log is not None:
            self._log.close()

    def _catch_up(self) -> None:
        if self._log is not None:
            for entries in self._log.read():
                self._keep(entries)

    def _keep(self, entries: Entries) -> None:
        for name, text, vector in zip(*entries, strict=True):
            self._entries[name] = (text, vector)
        self._matrix = None

    def _cosines(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self._entries:
            return np.zeros(0, dtype=np.float32)
        if self._matrix is None:
            # By which equals are ordered, however entries came and were dealt out.
            self._names = sorted(self._entries)
            self._matrix = np.stack([self._entries[name][1] for name in self._names])
        # Not `@`: there the last digits of a row's result depend on which other rows there are.
        cosines: NDArray[np.float32] = np.einsum("ij,j->i", self._matrix, vector)
        return cosines

    def _match(self, at: int, cosine: float) -> Document:
        name = self._names[at]
        match = Document(id=name, text=self._entries[name][0])
        match.scores["cosine"] = cosine
        return match
