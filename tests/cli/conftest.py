"""What the tests of the commands start from."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import ENCODER


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with an Executor in a file."""
    (tmp_path / "encoder.py").write_text(ENCODER, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path
