"""Whatever stands where an option is said: it is taken, or refused by an error of zflow's,
and nothing is started.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import Upper, children, socket_folders

from zflow import Flow
from zflow.errors import InvalidConfig, InvalidFlow, StartupFailed, ZflowError
from zflow.processes import plan
from zflow.topology.kinds import MOST, MOST_REPLICAS
from zflow.topology.options import DEFAULTS, FIELDS


class Bytes:
    """A path that is none of text."""

    def __fspath__(self) -> bytes:
        return b"bytes"


ODD: list[Any] = [
    *(True, 0, -1, -2, 5, 2**31, 2**53 + 1, 2**63, 10**21, -(10**21), 10**400, 10**5000),
    *(0.5, math.nan, math.inf, 1e300, 1j),
    *("", "\0", "\ud800", "x" * 100_000, "\x1b[2J", "٣", "RR", "RR0:10000000000", "1" * 5000),
    *(
        [],
        [[]],
        {},
        {"": ""},
        {"/": []},
        {"/": {"preferred_batch_size": 10**400}},
        {"a": 10**5000},
        {"\ud800": "1"},
    ),
    *(
        {"min": 1, "max": 10**30},
        {"min": 1, "max": 2, "wait": 10**400},
        (),
        set(),
        b"x",
        object(),
        np.int64(7),
    ),
    *(Bytes(), Path("\ud800"), Path("\0")),
]


@contextlib.contextmanager
def unharmed() -> Iterator[None]:
    """Nothing is started within, and no folder is left."""
    folders, before = socket_folders(), children()
    yield
    assert (socket_folders(), children()) == (folders, before)


def planned(**options: Any) -> None:
    """Go as far as one can with a Flow of one Executor without starting anything."""
    own = {key: value for key, value in options.items() if key in DEFAULTS and key not in FIELDS}
    flow = Flow(**own).add(
        **{"uses": Upper, **{key: value for key, value in options.items() if key not in own}}
    )
    made = plan.make(flow._topology, flow._options, "")
    os.rmdir(made.folder)


@pytest.mark.parametrize("key", sorted(FIELDS.keys() | DEFAULTS.keys()))
def test_an_odd_value_is_taken_or_refused(key: str) -> None:
    with unharmed():
        for value in ODD:
            with contextlib.suppress(ZflowError):
                planned(**{key: value})
            if key in DEFAULTS and key in FIELDS:
                with contextlib.suppress(ZflowError):
                    os.rmdir(
                        plan.make(
                            Flow(**{key: value})._topology, {**DEFAULTS, key: value}, ""
                        ).folder
                    )


@pytest.mark.parametrize("key", sorted(DEFAULTS))
def test_an_odd_value_in_yaml_is_refused_with_its_place(key: str, tmp_path: Path) -> None:
    path = tmp_path / "flow.yml"
    refused: list[str] = []
    for value in ODD:
        with contextlib.suppress(TypeError, ValueError):
            path.write_text(f"jtype: Flow\nwith:\n  {key}: {json.dumps(value)}\nexecutors: []\n")
            try:
                Flow.load_config(path)
            except InvalidConfig as error:
                refused.append(error.message)
    assert refused
    assert [
        message for message in refused if not message.startswith(f"{path}:3: with: {key} ")
    ] == []


@pytest.mark.parametrize(
    ("key", "most"),
    [
        *((key, MOST_REPLICAS) for key in ("replicas", "shards")),
        *(
            (key, MOST)
            for key in ("timeout_send", "timeout_run", "timeout_ready", "retries", "max_queue")
        ),
    ],
)
def test_what_is_counted_has_an_end(key: str, most: int) -> None:
    Flow().add(uses=Upper, **{key: most})
    with pytest.raises(InvalidFlow, match=f"^{key} must be {most} or less, not {most + 1} "):
        Flow().add(uses=Upper, **{key: most + 1})


@pytest.mark.parametrize(
    ("key", "most"),
    [
        *((key, MOST) for key in ("timeout_close", "max_message_bytes", "shared_memory")),
        ("max_requests_per_client", 10**9),
    ],
)
def test_a_flow_starts_with_the_most_of_what_is_counted_and_with_no_more(
    key: str, most: int
) -> None:
    with pytest.raises(InvalidFlow, match=f"^{key} must be {most} or less, not {most + 1} "):
        Flow(**{key: most + 1})  # type: ignore[arg-type]
    with Flow(**{key: most}).add(uses=Upper) as flow:  # type: ignore[arg-type]
        assert flow.post("/").texts == []


def test_what_there_are_too_few_descriptors_for_is_said() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    replicas = min(MOST_REPLICAS, 1 + most // 6)
    shards = 1 + most // 6 // replicas
    with unharmed(), pytest.raises(InvalidFlow) as refused:
        Flow().add(uses=Upper, replicas=replicas, shards=shards).start()
    assert refused.value.message == (
        f"a process may have {most} file descriptors here, too few for {replicas * shards} "
        "replicas and one connection"
        " over TCP: choose fewer replicas, or raise the hard limit (ulimit -Hn)"
    )


def test_where_there_can_be_no_folder_the_way_out_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(
        StartupFailed,
        match=r"no folder for sockets can be made .*; set TMPDIR to a folder that can",
    ):
        Flow().add(uses=Upper).start()
    assert children() == []
