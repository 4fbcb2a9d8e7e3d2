"""What processes say to each other over pipes."""

from __future__ import annotations

from multiprocessing.connection import Pipe

import pytest

from zflow.system.line import failure, hear, say


def test_what_is_said_is_heard_in_its_order():
    ours, theirs = Pipe()
    say(ours, "ready")
    say(ours, "bound", ["tcp://127.0.0.1:1"], None)
    assert hear(theirs) == ["ready"]
    assert hear(theirs) == ["bound", ["tcp://127.0.0.1:1"], None]


def test_a_failure_is_told_whatever_is_in_its_text():
    ours, theirs = Pipe()
    say(ours, "failed", failure("no file \udcff.bin", "PortInUse"))
    assert hear(theirs) == ["failed", {"type": "PortInUse", "message": "no file \\udcff.bin"}]


def test_a_closed_line_is_an_error():
    ours, theirs = Pipe()
    ours.close()
    with pytest.raises(EOFError):
        hear(theirs)
    with pytest.raises(OSError, match="Broken pipe"):
        say(theirs, "ready")
