"""Executors that do not start, get stuck, or leave something running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from zflow import DocumentArray, Executor, requests


class Start(Executor):
    """Fails to start in the way it is told, if the file `only_if` is there."""

    def __init__(
        self, way: str = "", only: int = 0, only_if: str = "/", closed: str = "", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.closed = closed
        if self.runtime_args.replica_id != only or not Path(only_if).exists():
            return
        if way == "raise":
            raise LookupError("no model at this path")
        if way == "odd":
            raise Odd
        if way == "exit":
            sys.exit("gives up")
        if way == "vanish":
            os._exit(3)
        if way == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if way == "hang":
            time.sleep(3600)
        if way == "busy":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            while True:
                pass

    @requests
    def pid(self, docs: DocumentArray, **kwargs: Any) -> None:
        for doc in docs:
            doc.tags["pid"] = os.getpid()

    def close(self) -> None:
        if self.closed:
            with open(self.closed, "a", encoding="utf-8") as file:
                file.write(f"{self.runtime_args.name}\n")


class Odd(Exception):
    """Cannot be printed."""

    def __str__(self) -> str:
        raise ValueError("not printable")


class Stuck(Executor):
    """Gets stuck where it is told to."""

    def __init__(self, where: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.where = where

    @requests
    def work(self, parameters: dict[str, Any], **kwargs: Any) -> None:
        Path(parameters["begun"]).touch()
        if self.where == "work":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(3600)

    def close(self) -> None:
        if self.where == "close":
            time.sleep(3600)


class Parent(Executor):
    """Has a program of its own running, in a session of its own."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.child = subprocess.Popen(["sleep", "3600"], start_new_session=True)

    @requests
    def pid(self, docs: DocumentArray, **kwargs: Any) -> None:
        docs[0].tags["pid"] = self.child.pid
