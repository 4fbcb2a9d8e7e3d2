"""Log lines that say which process they come from.

A replica is forked from the user's process and inherits how that one logs, if it configured
anything; then the replica's name is put before each line. If it configured nothing,
warnings go to stderr in the same form.
"""

from __future__ import annotations

import logging


class Named(logging.Formatter):
    """Puts a process's name before what another formatter makes."""

    def __init__(self, name: str, inner: logging.Formatter | None) -> None:
        super().__init__()
        self._name = name
        self._inner = inner or logging.Formatter("%(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        return f"{self._name}: {self._inner.format(record)}"


def name_lines(name: str) -> None:
    """Put `name` before every line that this process logs from now on."""
    root = logging.getLogger()
    loggers = [
        root,
        *(
            each
            for each in logging.Logger.manager.loggerDict.values()
            if isinstance(each, logging.Logger)
        ),
    ]
    handlers = {handler for logger in loggers for handler in logger.handlers}
    if not root.handlers:
        stderr = logging.StreamHandler()
        root.addHandler(stderr)
        handlers.add(stderr)
    for handler in handlers:
        inner = handler.formatter
        while isinstance(inner, Named):  # inherited from the process manager, which has a name too
            inner = inner._inner
        handler.setFormatter(Named(name, inner))
