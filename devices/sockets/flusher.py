"""Messages that wait for those to come, but not for user code: should that take long,
a thread sends them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Flusher:
    """Sends what waits when whoever is to send it has not come back from user code in time.

    Args:
        flush: sends what waits; only called by a thread whose turn it is.
        patience: the seconds that something waits, about.

    Attributes:
        turn: whose turn it is to use the sockets: that of the thread that made this,
            until it is released.
    """

    def __init__(self, flush: Callable[[], object], patience: float) -> None:
        self.turn = threading.Lock()
        self.turn.acquire()
        self._flush = flush
        self._patience = patience
        self._waits = threading.Event()  # something may wait
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def hold(self) -> None:
        """Something waits from now on; who calls this is about to release the turn."""
        if not self._waits.is_set():
            self._waits.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="zflow flusher", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._waits.wait()
            self._closed.wait(self._patience)
            with self.turn:
                self._waits.clear()
                if not self._closed.is_set():
                    self._flush()

    def close(self) -> None:
        """End the thread, in which nothing is sent any more; who calls this has the turn,
        and keeps it.
        """
        self._closed.set()
        if self._thread is not None:
            self._waits.set()
            self.turn.release()
            self._thread.join()
            self.turn.acquire()
