"""`index`, `search`, `update` and `delete`: `post` to the endpoints that are used most."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zflow.documents.values import Parameters


class Shortcuts:
    """For a class with a `post`; each takes what that takes after `on`,
    and returns what it returns.
    """

    post: Callable[..., object]

    def index(
        self, inputs: object = None, parameters: Parameters | None = None, **options: object
    ) -> Any:
        """`post('/index', ...)`."""
        return self.post("/index", inputs, parameters, **options)

    def search(
        self, inputs: object = None, parameters: Parameters | None = None, **options: object
    ) -> Any:
        """`post('/search', ...)`."""
        return self.post("/search", inputs, parameters, **options)

    def update(
        self, inputs: object = None, parameters: Parameters | None = None, **options: object
    ) -> Any:
        """`post('/update', ...)`."""
        return self.post("/update", inputs, parameters, **options)

    def delete(
        self, inputs: object = None, parameters: Parameters | None = None, **options: object
    ) -> Any:
        """`post('/delete', ...)`."""
        return self.post("/delete", inputs, parameters, **options)
