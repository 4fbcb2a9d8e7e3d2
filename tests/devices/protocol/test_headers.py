"""Headers: what is said comes back as it was, and nothing else comes through."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import anything

from zflow.devices.protocol import messages
from zflow.devices.protocol.bundles import message, read
from zflow.devices.protocol.messages import (
    FROM_CLIENT,
    FROM_REPLICA,
    KINDS,
    LISTED,
    MAX_HEADER,
    MOST_ID,
    MOST_TOGETHER,
    TO_CLIENT,
    TO_REPLICA,
    VERSION,
    Accepted,
    Beacon,
    Cancel,
    Control,
    Controlled,
    Done,
    Error,
    Failed,
    Fanout,
    Hello,
    Leave,
    Listed,
    Malformed,
    Message,
    Missed,
    Ready,
    Recall,
    Refused,
    Reply,
    Request,
    Task,
    Together,
    Welcome,
    WrongVersion,
    can_be_listed,
    encoder,
)

DIRECTIONS = {
    "from client": FROM_CLIENT,
    "from replica": FROM_REPLICA,
    "to client": TO_CLIENT,
    "to replica": TO_REPLICA,
}
SAID_TWICE = {  # a client and a replica may ask who is there, and are told
    KINDS[Hello]: {"from client", "from replica"},
    KINDS[Welcome]: {"to client", "to replica"},
}
SETTINGS = settings(deadline=None, max_examples=200, derandomize=True)
PARTS = [["a", [1]], ["b", [2, -5]]]
SAID: list[tuple[str, Message]] = [
    ("from client", Hello(7)),
    ("from client", Request(7, "/index", None, None, 0, False, [3], [b"a"])),
    ("from client", Request(7, "/index", ["encoder"], None, 1500, True, [3], [b"a", b"b"])),
    (
        "from client",
        Request(7, "/index", ["encoder"], PARTS, 1500, False, [3], [b"abcde", b"b", b"c"]),
    ),
    ("from client", Request(7, "/index", None, None, 0, False, [3, 1], [b"a", b"b"])),
    ("from client", Cancel(7)),
    ("from client", Control(7, "scale", {"replicas": 3})),
    ("to client", Welcome(7, {"pid": 1})),
    ("to client", Reply(7, 1, None, None, 1500, [b"a"])),
    ("to client", Reply(7, 1, PARTS, {"a": {}}, 1500, [b"abcde", b"b", b"c"])),
    ("to client", Reply(7, 2, None, None, 1500, [b"a", b"b"])),
    ("to client", Failed(7, 1500, [b"why"])),
    ("to client", Controlled(7, {"replicas": 3})),
    ("from replica", Hello(7)),
    ("from replica", Ready("encoder", ["/index"], 1, 2, 0, {})),
    ("from replica", Ready("encoder", None, 32, 0, 1, {"/index": [32, 0]})),
    ("from replica", Done(7, 1500, [3], [b"a"])),
    ("from replica", Done(7, 1500, [3], [bytes(messages.SMALL + 1)])),
    ("from replica", Done(7, 1500, [3, 0], [b"a", b"b"])),
    ("from replica", Error([7], 1500, [b"why"])),
    ("from replica", Error([7, 9], 1500, [b"why", b"more"])),
    ("from replica", Leave()),
    ("from replica", Missed(3, 5)),
    ("to replica", Welcome(7, {})),
    ("to replica", Accepted(4)),
    ("to replica", Refused("there is no shard 7")),
    ("to replica", Task(7, 1, "/index", None, 0, [b"a"])),
    ("to replica", Task(7, 1, "/index", PARTS, 9, [b"abcde", b"b", b"c"])),
    ("to replica", Task(7, 2, "/index", None, 0, [b"a", b"b"])),
    ("to replica", Together(3)),
    ("to replica", Recall(7)),
    ("to replica", Fanout(5, 70, "/search", None, [1], [b"a"])),
    ("to replica", Beacon(5)),
]
#: A header of each kind of list that says two of them, and where the payload and the numbers of
#: Documents stand.
LISTS: list[tuple[str, list[Any]]] = [
    ("from client", [VERSION, KINDS[Request], 7, "/", None, None, 0, False, [1, 1], [b"a", b"b"]]),
    ("to client", [VERSION, KINDS[Reply], 7, 2, None, None, 0, [b"a", b"b"]]),
    ("from replica", [VERSION, KINDS[Done], 7, 0, [1, 1], [b"a", b"b"]]),
    ("to replica", [VERSION, KINDS[Task], 7, 2, "/", None, 0, [b"a", b"b"]]),
]


def understood(
    frame: bytes, direction: str = "from client", *behind: bytes
) -> list[Message] | None:
    """What it says, or None if it is refused; any other exception is a failure."""
    try:
        return read([frame, *behind], 0, DIRECTIONS[direction])
    except Malformed:
        return None


def header_of(said: Message) -> tuple[list[Any], list[Any]]:
    """The fields of its header, and the frames behind it."""
    first, *frames = message(said, encoder())
    return msgpack.unpackb(first), frames


class TestRead:
    @pytest.mark.parametrize(("direction", "said"), SAID)
    def test_all_that_is_said(self, direction: str, said: Message) -> None:
        frames = message(said, encoder())
        assert read(frames, 0, DIRECTIONS[direction]) == [said]
        for other in DIRECTIONS.keys() - {direction}:
            found = understood(frames[0], other, *frames[1:])
            assert (found is not None) == (
                {other, direction} <= SAID_TWICE.get(KINDS[type(said)], set())
            )

    def test_every_kind_is_said_here(self) -> None:
        assert {type(said) for _, said in SAID} == KINDS.keys()
        assert len(set(KINDS.values())) == len(KINDS)

    def test_every_other_kind_is_said_in_one_direction_only(self) -> None:
        for kind in KINDS.values():
            said = {direction for direction, kinds in DIRECTIONS.items() if kind in kinds}
            assert said == SAID_TWICE.get(kind, said)
            assert kind in SAID_TWICE or len(said) == 1

    @pytest.mark.parametrize(("direction", "said"), SAID)
    def test_a_small_payload_stands_in_the_header(self, direction: str, said: Message) -> None:
        header, frames = header_of(said)
        payload: Any = getattr(said, "payload", None)
        if payload is None:
            assert len(frames) == isinstance(said, Welcome)
        elif (len(payload) == 1 and len(payload[0]) <= messages.SMALL) or (
            isinstance(said, LISTED) and said.total > 1
        ):
            assert (header[-1], frames) == (payload, [])
        else:
            assert (header[-1], frames) == (None, payload)

    @SETTINGS
    @given(
        st.sampled_from(["/", "/index"]),
        st.lists(st.integers(0, 2**63), min_size=1, max_size=MOST_TOGETHER),
        st.integers(0, MOST_ID - MOST_TOGETHER),
        st.data(),
    )
    def test_any_list(
        self, endpoint: str, docs: list[int], first: int, data: st.DataObject
    ) -> None:
        payload = [data.draw(st.binary(min_size=1, max_size=9)) for _ in docs]
        said: list[tuple[str, Message]] = [
            ("from client", Request(first, endpoint, None, None, 0, False, docs, payload)),
            ("to client", Reply(first, len(docs), None, None, 0, payload)),
            ("from replica", Done(first, 0, docs, payload)),
            ("to replica", Task(first, len(docs), endpoint, None, 0, payload)),
        ]
        for direction, one in said:
            assert read(message(one, encoder()), 0, DIRECTIONS[direction]) == [one]


class TestLists:
    @pytest.mark.parametrize(("direction", "header"), LISTS)
    @pytest.mark.parametrize(
        "payload",
        [
            *([], [b""], [b"a"], [b"a", b""], [b"a", "b"], [b"a", None], [b"."] * 3),
            *([b"."] * (MOST_TOGETHER + 1), [bytes(20_000)] * 2),
        ],
        ids=lambda payload: f"{len(payload)} of {len(payload[0]) if payload else 0}",
    )
    def test_another_payload(self, direction: str, header: list[Any], payload: list[Any]) -> None:
        assert understood(msgpack.packb(header), direction) is not None
        assert understood(msgpack.packb([*header[:-1], payload]), direction) is None

    @pytest.mark.parametrize(("direction", "header"), LISTS)
    @pytest.mark.parametrize("first", [-1, MOST_ID - 1, MOST_ID, 2**64 - 1])
    def test_an_id_that_others_cannot_follow(
        self, direction: str, header: list[Any], first: int
    ) -> None:
        assert understood(msgpack.packb([*header[:2], first, *header[3:]]), direction) is None

    @pytest.mark.parametrize(("direction", "header"), LISTS)
    def test_frames_behind_a_payload_in_the_header(self, direction: str, header: list[Any]) -> None:
        assert understood(msgpack.packb(header), direction, b"more") is None

    @pytest.mark.parametrize(("direction", "header"), LISTS)
    def test_a_payload_of_frames_is_that_of_one(self, direction: str, header: list[Any]) -> None:
        assert understood(msgpack.packb([*header[:-1], None]), direction, b"a", b"b") is None

    @pytest.mark.parametrize(("direction", "header"), [LISTS[0], LISTS[2]])
    @pytest.mark.parametrize("docs", [[], [1], [1, 1, 1], [1, None], [1, True], ["1", "1"]])
    def test_other_numbers_of_documents(
        self, direction: str, header: list[Any], docs: list[Any]
    ) -> None:
        assert understood(msgpack.packb([*header[:-2], docs, header[-1]]), direction) is None

    @pytest.mark.parametrize(("direction", "header"), [LISTS[1], LISTS[3]])
    @pytest.mark.parametrize("total", [-1, 0, 1, 3, 2**63])
    def test_another_total(self, direction: str, header: list[Any], total: int) -> None:
        assert understood(msgpack.packb([*header[:3], total, *header[4:]]), direction) is None

    @pytest.mark.parametrize(
        "said",
        [
            Request(7, "/", None, [["a", [1]]], 0, False, [1], [b"a"]),
            Request(7, "/", None, None, 0, True, [1], [b"a"]),
            Reply(7, 1, [["a", [1]]], None, 0, [b"a"]),
            Reply(7, 1, None, {}, 0, [b"a"]),
            Task(7, 1, "/", [["a", [1]]], 0, [b"a"]),
            Task(7, 1, "/", None, 9, [b"a"]),
        ],
    )
    def test_what_is_said_alone_is_in_no_list(self, said: Listed) -> None:
        assert not can_be_listed(said)
        number = KINDS[type(said)]
        (direction,) = (name for name, kinds in DIRECTIONS.items() if number in kinds)
        several = {
            "payload": [b"a", b"b"],
            **({"docs": [1, 1]} if hasattr(said, "docs") else {"total": 2}),
        }
        assert understood(msgpack.packb([VERSION, number, *said]), direction) == [said]
        assert (
            understood(msgpack.packb([VERSION, number, *said._replace(**several)]), direction)
            is None
        )

    @pytest.mark.parametrize("payload", [[], [b""], [b"a", b"b"], ["a"], [None]])
    def test_an_error_is_one(self, payload: list[Any]) -> None:
        for direction, header in (
            ("to client", [VERSION, KINDS[Failed], 7, 0]),
            ("from replica", [VERSION, KINDS[Error], [7], 0]),
        ):
            assert understood(msgpack.packb([*header, [b"a"]]), direction) is not None
            assert understood(msgpack.packb([*header, payload]), direction) is None

    @pytest.mark.parametrize("tasks", [[], [7, "8"], [None], [True]])
    def test_an_error_is_of_tasks(self, tasks: list[Any]) -> None:
        assert (
            understood(msgpack.packb([VERSION, KINDS[Error], tasks, 0, [b"a"]]), "from replica")
            is None
        )


class TestAnythingElse:
    @SETTINGS
    @given(st.binary(max_size=200), st.sampled_from(sorted(DIRECTIONS)))
    def test_random_bytes(self, frame: bytes, direction: str) -> None:
        assert understood(frame, direction) is None

    @SETTINGS
    @given(st.sampled_from(SAID), st.data())
    def test_a_header_with_bytes_changed_or_cut_off(
        self, case: tuple[str, Message], data: st.DataObject
    ) -> None:
        direction, said = case
        first, *behind = message(said, encoder())
        frame = bytearray(first)
        cut = bytes(frame[: data.draw(st.integers(0, len(frame) - 1))])
        assert understood(cut, direction, *behind) is None
        assert (
            understood(
                bytes(frame) + data.draw(st.binary(min_size=1, max_size=5)), direction, *behind
            )
            is None
        )
        for _ in range(data.draw(st.integers(1, 3))):
            frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
        self._is_sound(understood(bytes(frame), direction, *behind), direction)

    @SETTINGS
    @given(anything, st.sampled_from(sorted(DIRECTIONS)))
    def test_msgpack_of_anything(self, value: Any, direction: str) -> None:
        assert understood(msgpack.packb(value), direction) is None

    @SETTINGS
    @given(st.sampled_from(SAID), anything, st.data())
    def test_a_field_of_another_type(
        self, case: tuple[str, Message], value: Any, data: st.DataObject
    ) -> None:
        direction, said = case
        header, behind = header_of(said)
        at = data.draw(st.integers(0, len(header) - 1))
        changed = encoder()([*header[:at], value, *header[at + 1 :]])
        self._is_sound(understood(changed, direction, *behind), direction)

    def _is_sound(self, found: list[Message] | None, direction: str) -> None:
        """What is understood may be said there, and is what it says that it is."""
        for said in found or ():
            assert KINDS[type(said)] in DIRECTIONS[direction]
            assert read(message(said, encoder()), 0, DIRECTIONS[direction]) == [said]

    @pytest.mark.parametrize("version", [0, 1, 255, -1, 2**64 - 1, "2", None, [], {}, b"2", 1.5])
    @pytest.mark.parametrize("direction", sorted(DIRECTIONS))
    def test_another_version(self, version: Any, direction: str) -> None:
        for kind in sorted(DIRECTIONS[direction]):
            with pytest.raises(WrongVersion):
                read([msgpack.packb([version, kind, 7])], 0, DIRECTIONS[direction])

    @pytest.mark.parametrize(
        ("frame", "reason"),
        [
            (b"", "header is not msgpack"),
            (b"\xc1", "header is not msgpack"),
            (b"\x91\x02", "header is not an array"),
            (b"\x07", "header is not an array"),
            (b"\x80", "header is not an array"),
            (b"\x92\x02\x63", "unknown kind of message"),
            (b"\x92\x02\xa5HELLO", "unknown kind of message"),
            (b"\x92\x02\xc3", "unknown kind of message"),
            (b"\x92\x02\x01", "wrong fields in header"),
            (b"\x93\x02\x01\xc3", "wrong fields in header"),
            # 2.0.
            (
                b"\x93\xcb\x40\x00\x00\x00\x00\x00\x00\x00\x01\x07",
                "another version of the protocol",
            ),
            (b"\x94\x02\x01\x07\x07", "wrong fields in header"),
            (b"\x93\x02\x01\x07" + b"\x00" * MAX_HEADER, "header too long"),
            # Says it has four thousand million elements.
            (b"\xdd\xff\xff\xff\xff\x01", "header is not msgpack"),
            (b"\xdf\xff\xff\xff\xff\x01", "header is not msgpack"),
            (b"\xdb\xff\xff\xff\xff\x01", "header is not msgpack"),
            (b"\x93\x02\x01\xd6\xff\xff\xff\xff\xff\xff", "header is not msgpack"),
            (b"\x91" * 60_000, "header is not msgpack"),
            (b"\x92\x02\x81\xc0\xc0", "header is not msgpack"),  # a dict with a key that is no text
            (b"\x93\x02\x01\xa2\xff\xff", "header is not msgpack"),  # text that is not UTF-8
        ],
    )
    def test_the_reason_is_a_fixed_phrase(self, frame: bytes, reason: str) -> None:
        with pytest.raises(Malformed) as caught:
            read([frame], 0, FROM_CLIENT)
        assert caught.value.args == (reason,)

    def test_the_longest_header_that_is_read(self) -> None:
        fields = (None, None, 0, False, [1], None)
        endpoint = "x" * (MAX_HEADER - 14)
        frame = encoder()([VERSION, KINDS[Request], 1, endpoint, *fields])
        assert len(frame) == MAX_HEADER
        (said,) = read([frame, b"payload"], 0, FROM_CLIENT)
        assert isinstance(said, Request)
        assert said.endpoint == endpoint
        with pytest.raises(Malformed, match="header too long"):
            read(
                [encoder()([VERSION, KINDS[Request], 1, endpoint + "x", *fields]), b"payload"],
                0,
                FROM_CLIENT,
            )

    def test_an_encoder_goes_on_after_what_it_could_not_encode(self) -> None:
        encode = encoder()
        with pytest.raises(TypeError):
            encode([VERSION, object()])
        assert message(Hello(7), encode) == [b"\x93\x02\x01\x07"]
