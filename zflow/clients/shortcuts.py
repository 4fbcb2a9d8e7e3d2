"""`index`, `search`, `update` and `delete`: `post` to the endpoints that are used most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Shortcuts:
    """For a class with a `post`; each takes what that takes after `on`,
    and returns what it returns.
    """

    post: Callable[..., Any]

    def index(
        self, inputs: Any = None, parameters: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        """`post('/index', ...)`."""
        return self.post("/index", inputs, parameters, **options)

    def search(
        self, inputs: Any = None, parameters: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        """`post('/search', ...)`."""
        return self.post("/search", inputs, parameters, **options)

    def update(
        self, inputs: Any = None, parameters: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        """`post('/update', ...)`."""
        return self.post("/update", inputs, parameters, **options)

    def delete(
        self, inputs: Any = None, parameters: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        """`post('/delete', ...)`."""
        return self.post("/delete", inputs, parameters, **options)
