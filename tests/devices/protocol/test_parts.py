"""Parts: payloads that travel in one message are told apart as they were put together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import anything

from zflow.devices.protocol import messages
from zflow.devices.protocol.messages import Malformed
from zflow.devices.protocol.parts import (
    EACH_SHARD,
    LONGEST_NAME,
    MEETS,
    Inputs,
    flat,
    is_single,
    split,
)
from zflow.devices.protocol.references import Reference

SETTINGS = settings(deadline=None, max_examples=200, derandomize=True)


class TestSplit:
    def test_frames_are_dealt_out_in_order(self) -> None:
        parts = [["a", [1, 2]], ["b", [1]]]
        assert split(parts, [b"0", b"1", b"2", b"3"]) == [
            ("a", [[b"0"], [b"1", b"2"]]),
            ("b", [[b"3"]]),
        ]
        assert split([], []) == []
        assert split([["a", []]], []) == [("a", [])]

    @SETTINGS
    @given(
        st.lists(
            st.tuples(st.text(max_size=5), st.lists(st.integers(1, 4), max_size=4)), max_size=4
        )
    )
    def test_whatever_fits_comes_back(self, shape: list[tuple[str, list[int]]]) -> None:
        count = sum(sum(counts) for _, counts in shape)
        frames = [bytes([number]) for number in range(count)]
        result = split([list(part) for part in shape], frames)
        assert [
            (name, [len(payload) for payload in payloads]) for name, payloads in result
        ] == shape
        assert [
            frame for _, payloads in result for payload in payloads for frame in payload
        ] == frames
        for wrong in (frames[1:], [*frames, b"more"]):
            if wrong != frames:
                with pytest.raises(Malformed):
                    split([list(part) for part in shape], wrong)

    @pytest.mark.parametrize("name", ["x" * (LONGEST_NAME + 1), "x" * 30_000 + EACH_SHARD])
    def test_a_name_that_would_be_repeated_for_each_shard_is_short(self, name: str) -> None:
        with pytest.raises(Malformed):
            split([[name, [-1] * 3000]], [bytes(3000)])

    @SETTINGS
    @given(anything, st.lists(st.binary(max_size=3), max_size=6))
    def test_anything(self, parts: Any, frames: list[bytes]) -> None:
        try:
            result = split(parts, frames)
        except Malformed:
            return
        assert b"".join(
            frame for _, payloads in result for payload in payloads for frame in payload
        ) == b"".join(frames)

    @SETTINGS
    @given(
        st.lists(
            st.tuples(
                st.text(max_size=5),
                st.lists(st.lists(st.binary(max_size=3), min_size=1), max_size=3),
            )
        )
    )
    def test_it_undoes_what_the_broker_did(
        self, inputs: list[tuple[str, list[list[bytes]]]]
    ) -> None:
        large = b"x" * (messages.SMALL + 1)
        inputs = [(name, [*payloads, [large], [b"small"]]) for name, payloads in inputs]
        parts, frames = flat([("first", [[b"a", b"b"], [b"c"]]), *inputs])
        assert split(parts, frames) == [("first", [[b"a", b"b"], [b"c"]]), *inputs]
        assert len(flat([("first", [[b"a"]]), ("second", [[b"b"], [b"c"]])])[1]) == 1

    @pytest.mark.parametrize(
        "parts",
        [
            None,
            7,
            [7],
            [["a"]],
            [["a", [1], 2]],
            [["a", 1]],
            [["a", [0]]],
            [["a", [-2]]],
            [["a", [-1, -1]]],
            [["a", [-1, 1]]],
            [["a", [True]]],
            [["a", [1.0]]],
            [["a", ["1"]]],
            [["a", [2]]],
            [["a", [2**64 - 1]]],
            [["a", []]],
            [["a", [1, 1]]],
        ],
    )
    def test_what_does_not_fit_one_frame(self, parts: Any) -> None:
        with pytest.raises(Malformed):
            split(parts, [b"x"])

    def test_the_payloads_of_each_shard_are_told_apart(self) -> None:
        parts = [["index/shard-*", [1, -3, 2]], ["other", [1]]]
        assert split(parts, [b"one", b"a", b"b", b"c", b"d"]) == [
            ("index/shard-0", [[b"a"]]),
            ("index/shard-1", [[b"one"]]),
            ("index/shard-2", [[b"b", b"c"]]),
            ("other", [[b"d"]]),
        ]

    def test_a_name_that_is_no_text(self) -> None:
        for name in (7, None, b"a", ["a"]):
            with pytest.raises(Malformed):
                split([[name, [1]]], [b"x"])


class TestFlat:
    def test_the_single_payload_of_an_executor_needs_no_parts(self) -> None:
        assert flat([("a", [[b"1", b"2"]])]) == (None, [b"1", b"2"])

    @pytest.mark.parametrize("name", ["a/shard-0", "a/shard-*"])
    def test_that_of_a_shard_does(self, name: str) -> None:
        parts, frames = flat([(name, [[b"1", b"2"]])])
        assert parts == [[name, [2]]]
        assert frames == [b"1", b"2"]

    def test_that_its_result_meets_others_is_said_behind_it(self) -> None:
        inputs: Inputs = [("a", [[b"1"]]), (MEETS, [])]
        parts, frames = flat(inputs)
        assert split(parts, frames) == inputs
        assert is_single(inputs[:1])
        assert not is_single(inputs)

    def test_no_payloads_are_none(self) -> None:
        parts, frames = flat([("a", [])])
        assert (parts, frames) == ([["a", []]], [])
        assert split(parts, frames) == [("a", [])]

    @pytest.mark.parametrize(
        ("piece", "together"),
        [
            (b"x", True),
            (bytes(messages.SMALL), True),
            (bytes(messages.SMALL + 1), False),
            (b"", False),
            (memoryview(b"x"), False),
        ],
    )
    def test_small_payloads_lie_together_in_the_first_frame(
        self, piece: Any, together: bool
    ) -> None:
        inputs = [("a", [[b"1", b"2"], [piece]]), ("b", [[b"end"]])]
        parts, frames = flat(inputs)
        assert frames[0] == (bytes(piece) if together else b"") + b"end"
        assert len(frames) == 3 + (not together)
        assert split(parts, frames) == inputs

    def test_a_block_of_shared_memory_is_a_frame_behind_another(self) -> None:
        block = Reference(0, 0, 0, 1, 1)
        parts, frames = flat([("a", [[b"1", block]]), ("b", [[b"2"]])])
        assert (parts, frames) == ([["a", [2]], ["b", [-1]]], [b"2", b"1", block])
        assert split(parts, frames) == [("a", [[b"1", block]]), ("b", [[b"2"]])]
        with pytest.raises(Malformed, match="begins with a reference"):
            split([["a", [1, 1]]], [b"1", block])
