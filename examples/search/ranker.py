"""The last Executor of the sharded search: of the best matches of each
shard it keeps the best of all.

What the shards answer has been reduced before: their matches stand one shard's after the other's,
and of those with the same id there is one.
"""

from __future__ import annotations

from typing import Any

from zflow import Document, DocumentArray, Executor, requests

DEFAULT_TOP = 10


def top_k(parameters: dict[str, Any]) -> int:
    """Return how many matches a search is to have.

    Raises:
        ValueError: `parameters['top_k']` is not a whole number from 1.
    """
    top = parameters.get("top_k", DEFAULT_TOP)
    if not isinstance(top, int) or isinstance(top, bool) or top < 1:
        raise ValueError(f"top_k must be a whole number from 1, not {top!r}")
    return top


class Ranker(Executor):
    """Orders the `matches` of each Document of `/search` and cuts them
    to `parameters['top_k']` (10).
    """

    @requests(on="/search")
    def rank(self, docs: DocumentArray, parameters: dict[str, Any], **kwargs: Any) -> None:
        """Keep the matches of the highest `scores['cosine']`;
        of equal ones those with the lower ids.
        """
        top = top_k(parameters)
        for doc in docs:
            doc.matches = DocumentArray(sorted(doc.matches, key=_rank)[:top])


def _rank(match: Document) -> tuple[float, str]:
    return -(match.scores["cosine"].value or 0.0), match.id
