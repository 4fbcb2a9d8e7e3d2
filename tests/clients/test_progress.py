"""`show_progress=True`: what is seen of it, on a terminal and elsewhere."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from helpers import texts, wait_for
from tqdm.auto import tqdm

from zflow import DocumentArray, Response, errors
from zflow.clients.progress import bar, shown


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], str]]:
    """Make stderr a terminal inside; gives what has been shown there so far."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    os.set_blocking(ours, False)
    so_far: list[str] = []

    def read() -> str:
        with contextlib.suppress(BlockingIOError):
            so_far.append(os.read(ours, 10_000).decode())
        return "".join(so_far)

    with open(theirs, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stream)
        patch.setattr(tqdm, "monitor_interval", 0)  # no thread of its own
        yield read
    os.close(ours)


def responses(*sizes: int) -> list[Response]:
    return [Response(DocumentArray(texts(size))) for size in sizes]


def test_a_terminal_shows_how_many_documents_of_all_have_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = responses(3, 0, 4)
    with terminal(monkeypatch) as so_far:
        assert list(shown(given, DocumentArray(texts(7)))) == given
        wait_for(lambda: so_far().endswith("\n"), what="the bar is closed")
        assert all(word in so_far() for word in ("0/7", "7/7", "doc/s"))


def test_inputs_without_a_length_are_counted_without_a_total(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with terminal(monkeypatch) as so_far:
        assert len(list(shown(responses(2, 3), texts(5)))) == 2
        wait_for(lambda: so_far().endswith("\n"), what="the bar is closed")
        assert "5doc" in so_far()
        assert "%" not in so_far()


def test_a_failure_leaves_the_count_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing() -> Iterator[Response]:
        yield from responses(2)
        raise LookupError

    with terminal(monkeypatch) as so_far:
        with pytest.raises(LookupError):
            list(shown(failing(), DocumentArray(texts(9))))
        wait_for(lambda: so_far().endswith("\n"), what="the bar is closed")
        assert "2/9" in so_far()


def test_responses_are_passed_on_as_they_come() -> None:
    asked: list[int] = []

    def one_by_one() -> Iterator[Response]:
        for number, response in enumerate(responses(1, 1)):
            asked.append(number)
            yield response

    passed = shown(one_by_one(), None)
    assert asked == []
    next(passed)
    assert asked == [0]
    assert len(list(passed)) == 1


@pytest.mark.parametrize(
    "inputs", [None, DocumentArray(texts(3)), iter(())], ids=["none", "array", "iterator"]
)
def test_elsewhere_nothing_is_shown(inputs: Any, capfd: pytest.CaptureFixture[str]) -> None:
    list(shown(responses(3), inputs))
    assert capfd.readouterr() == ("", "")


def test_without_tqdm_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(
        errors.MissingExtra, match="show_progress=True needs tqdm: pip install tqdm"
    ):
        bar(None)
