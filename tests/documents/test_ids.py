"""Ids of Documents that are given none: never the same twice,
in whatever thread or process they are drawn.
"""

from __future__ import annotations

import os
import threading

from zflow.documents.ids import random_id


def test_they_are_32_hex_digits() -> None:
    assert all(
        len(name) == 32 and set(name) <= set("0123456789abcdef")
        for name in (random_id() for _ in range(600))
    )


def test_threads_never_draw_the_same() -> None:
    drawn: list[str] = []

    def draw() -> None:
        drawn.extend(random_id() for _ in range(5000))

    threads = [threading.Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(drawn) == len(set(drawn)) == 20_000


def test_forks_never_draw_the_same() -> None:
    random_id()
    reading, writing = os.pipe()
    for _ in range(2):
        process = os.fork()
        if not process:
            os.write(writing, "".join(random_id() for _ in range(20)).encode())
            os._exit(0)
        os.waitpid(process, 0)
    os.close(writing)
    with open(reading) as pipe:
        digits = pipe.read() + "".join(random_id() for _ in range(20))
    names = [digits[at : at + 32] for at in range(0, len(digits), 32)]
    assert len(names) == len(set(names)) == 60
