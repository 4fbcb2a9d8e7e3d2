"""`show_progress=True`: a progress bar on a terminal, drawn by tqdm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from zflow.errors import MissingExtra

if TYPE_CHECKING:
    from zflow.clients.response import Response


def bar(inputs: object) -> Any:
    """A tqdm bar that counts Documents; its total is known if `inputs` has a length.

    Raises:
        MissingExtra: tqdm is not installed.
    """
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise MissingExtra(
            "show_progress=True needs tqdm: pip install tqdm (zflow's extra 'progress')"
        ) from None
    total = len(inputs) if hasattr(inputs, "__len__") else None
    # Disable=None: nothing where stderr is no terminal.
    return tqdm(total=total, unit="doc", disable=None)


def shown(responses: Iterable[Response], inputs: object) -> Iterator[Response]:
    """Pass responses on and show how many Documents have come back."""
    with bar(inputs) as progress:
        for response in responses:
            progress.update(len(response.docs))
            yield response
