"""Headers: what is said comes back as it was, and nothing else comes through."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zflow.devices.protocol import messages
from zflow.devices.protocol.messages import (
    FROM_CLIENT,
    FROM_REPLICA,
    MAX_HEADER,
    TO_CLIENT,
    TO_REPLICA,
    VERSION,
    Malformed,
    WrongVersion,
    decode,
    encoder,
)

DIRECTIONS = {
    "from client": FROM_CLIENT,
    "from replica": FROM_REPLICA,
    "to client": TO_CLIENT,
    "to replica": TO_REPLICA,
}
SAID_TWICE = {  # a client and a replica may ask who is there, and are told
    messages.HELLO: {"from client", "from replica"},
    messages.WELCOME: {"to client", "to replica"},
}
SETTINGS = settings(deadline=None, max_examples=200, derandomize=True)

ids = st.integers(-(2**63), 2**64 - 1)
scalars = st.none() | st.booleans() | ids | st.floats() | st.text(max_size=20) | st.binary(max_size=20)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
by_type: dict[type, st.SearchStrategy[Any]] = {
    int: ids,
    str: st.text(max_size=50),
    list: st.lists(anything, max_size=4),
    dict: st.dictionaries(st.text(max_size=5), anything, max_size=4),
    type(None): st.none(),
}


@st.composite
def headers(draw: st.DrawFn) -> tuple[str, list[Any]]:
    """A direction, and something that may be said in it."""
    direction = draw(st.sampled_from(sorted(DIRECTIONS)))
    kind = draw(st.sampled_from(sorted(DIRECTIONS[direction])))
    shape = draw(st.sampled_from(sorted(DIRECTIONS[direction][kind], key=str)))
    return direction, [VERSION, kind, *(draw(by_type[field]) for field in shape[2:])]


def read(frame: bytes, direction: str = "from client") -> list[Any] | None:
    """The header, or None if it is refused; any other exception is a failure."""
    try:
        return decode(frame, DIRECTIONS[direction])
    except Malformed:
        return None


class TestDecode:
    @SETTINGS
    @given(headers())
    def test_whatever_may_be_said_comes_back(self, case: tuple[str, list[Any]]) -> None:
        direction, header = case
        frame = encoder()(header)
        assert repr(decode(frame, DIRECTIONS[direction])) == repr(header)  # by their text: nan is not equal to itself
        for other in DIRECTIONS:
            if other != direction:
                assert (read(frame, other) is not None) == ({other, direction} <= SAID_TWICE.get(header[1], set()))

    @pytest.mark.parametrize(
        ("direction", "header"),
        [
            ("from client", [VERSION, messages.HELLO, 7]),
            ("from client", [VERSION, messages.REQUEST, 7, "/index", None, None, 0, 3]),
            ("from client", [VERSION, messages.REQUEST, 7, "/index", ["encoder"], None, 1500, 3]),
            ("from client", [VERSION, messages.REQUEST, 7, "/index", None, [["a", [1]], ["b", [2, -5]]], 0, 3]),
            ("from client", [VERSION, messages.REQUEST, 7, "/index", ["encoder"], [["a", [1]]], 1500, 3]),
            ("from client", [VERSION, messages.CANCEL, 7]),
            ("to client", [VERSION, messages.WELCOME, 7]),
            ("to client", [VERSION, messages.REPLY, 7, None, None, 1500]),
            ("to client", [VERSION, messages.REPLY, 7, [["a", [1]], ["b", [2, -5]]], {"a": {}}, 1500]),
            ("to client", [VERSION, messages.FAILED, 7, 1500]),
            ("from replica", [VERSION, messages.HELLO, 7]),
            ("from replica", [VERSION, messages.READY, "encoder", ["/index"], 1, 2, 0, {}]),
            ("from replica", [VERSION, messages.READY, "encoder", None, 32, 0, 1, {"/index": [32, 0]}]),
            ("from replica", [VERSION, messages.DONE, 7, 1500, 3]),
            ("from replica", [VERSION, messages.ERROR, 7, 1500]),
            ("from replica", [VERSION, messages.APART, [7, 8], 1500]),
            ("from replica", [VERSION, messages.LEAVE]),
            ("from replica", [VERSION, messages.MISSED, 3, 5]),
            ("to replica", [VERSION, messages.WELCOME, 7]),
            ("to replica", [VERSION, messages.ACCEPTED, 4]),
            ("to replica", [VERSION, messages.REFUSED, "there is no shard 7"]),
            ("to replica", [VERSION, messages.TASK, 7, "/index", None]),
            ("to replica", [VERSION, messages.TASK, 7, "/index", [["a", [1]], ["b", [2, 1]]]]),
            ("to replica", [VERSION, messages.TOGETHER, 3]),
            ("to replica", [VERSION, messages.RECALL, 7]),
            ("to replica", [VERSION, messages.FANOUT, 5, 70, "/search", None, [1]]),
            ("to replica", [VERSION, messages.BEACON, 5]),
        ],
    )
    def test_all_that_is_said(self, direction: str, header: list[Any]) -> None:
        assert decode(encoder()(header), DIRECTIONS[direction]) == header

    def test_every_other_kind_is_said_in_one_direction_only(self) -> None:
        for kind in {kind for shapes in DIRECTIONS.values() for kind in shapes}:
            said = {direction for direction, shapes in DIRECTIONS.items() if kind in shapes}
            assert said == SAID_TWICE.get(kind, said)
            assert kind in SAID_TWICE or len(said) == 1

    @SETTINGS
    @given(st.binary(max_size=200), st.sampled_from(sorted(DIRECTIONS)))
    def test_random_bytes(self, frame: bytes, direction: str) -> None:
        assert read(frame, direction) is None

    @SETTINGS
    @given(headers(), st.data())
    def test_a_header_with_bytes_changed_or_cut_off(self, case: tuple[str, list[Any]], data: st.DataObject) -> None:
        direction, header = case
        frame = bytearray(encoder()(header))
        cut = bytes(frame[: data.draw(st.integers(0, len(frame) - 1))])
        assert read(cut, direction) is None
        assert read(bytes(frame) + data.draw(st.binary(min_size=1, max_size=5)), direction) is None
        for _ in range(data.draw(st.integers(1, 3))):
            frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
        changed = read(bytes(frame), direction)
        assert changed is None or tuple(map(type, changed)) in DIRECTIONS[direction][changed[1]]

    @SETTINGS
    @given(anything, st.sampled_from(sorted(DIRECTIONS)))
    def test_msgpack_of_anything(self, value: Any, direction: str) -> None:
        assert read(msgpack.packb(value), direction) is None

    @SETTINGS
    @given(headers(), anything, st.data())
    def test_a_field_of_another_type(self, case: tuple[str, list[Any]], value: Any, data: st.DataObject) -> None:
        direction, header = case
        at = data.draw(st.integers(0, len(header) - 1))
        result = read(encoder()([*header[:at], value, *header[at + 1 :]]), direction)
        assert result is None or tuple(map(type, result)) in DIRECTIONS[direction][result[1]]

    @pytest.mark.parametrize("version", [0, 2, 255, -1, 2**64 - 1, "1", None, [], {}, b"1", 1.5])
    @pytest.mark.parametrize("direction", sorted(DIRECTIONS))
    def test_another_version(self, version: Any, direction: str) -> None:
        for kind in sorted(DIRECTIONS[direction]):
            with pytest.raises(WrongVersion):
                decode(msgpack.packb([version, kind, 7]), DIRECTIONS[direction])

    @pytest.mark.parametrize(
        ("frame", "reason"),
        [
            (b"", "header is not msgpack"),
            (b"\xc1", "header is not msgpack"),
            (b"\x91\x01", "header is not an array"),
            (b"\x07", "header is not an array"),
            (b"\x80", "header is not an array"),
            (b"\x92\x01\x63", "unknown kind of message"),
            (b"\x92\x01\xa5HELLO", "unknown kind of message"),
            (b"\x92\x01\xc3", "unknown kind of message"),
            (b"\x92\x01\x01", "wrong fields in header"),
            (b"\x93\x01\x01\xc3", "wrong fields in header"),
            (b"\x93\xc3\x01\x07", "wrong fields in header"),  # true is no version 1
            (b"\x94\x01\x01\x07\x07", "wrong fields in header"),
            (b"\x93\x01\x01\x07" + b"\x00" * MAX_HEADER, "header too long"),
            (b"\xdd\xff\xff\xff\xff\x01", "header is not msgpack"),  # says it has four thousand million elements
            (b"\xdf\xff\xff\xff\xff\x01", "header is not msgpack"),
            (b"\xdb\xff\xff\xff\xff\x01", "header is not msgpack"),
            (b"\x93\x01\x01\xd6\xff\xff\xff\xff\xff\xff", "header is not msgpack"),
            (b"\x91" * 60_000, "header is not msgpack"),
            (b"\x92\x01\x81\xc0\xc0", "header is not msgpack"),  # a dict with a key that is no text
            (b"\x93\x01\x01\xa2\xff\xff", "header is not msgpack"),  # text that is not UTF-8
        ],
    )
    def test_the_reason_is_a_fixed_phrase(self, frame: bytes, reason: str) -> None:
        with pytest.raises(Malformed) as caught:
            decode(frame, FROM_CLIENT)
        assert caught.value.args == (reason,)

    def test_the_longest_header_that_is_read(self) -> None:
        endpoint = "x" * (MAX_HEADER - 11)
        frame = encoder()([VERSION, messages.REQUEST, 1, endpoint, None, None, 0, 1])
        assert len(frame) == MAX_HEADER
        assert decode(frame, FROM_CLIENT)[3] == endpoint

    def test_an_encoder_goes_on_after_what_it_could_not_encode(self) -> None:
        encode = encoder()
        with pytest.raises(TypeError):
            encode([VERSION, object()])
        assert encode([VERSION, messages.HELLO, 7]) == b"\x93\x01\x01\x07"
