"""Headers, parts and sockets: what is said comes back as it was, and nothing else comes through."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from zflow.devices.protocol import bundles, messages
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
from zflow.devices.protocol.parts import flat, split
from zflow.devices.sockets.port import LARGE, Port, buffers

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
            ("to client", [VERSION, messages.WELCOME, 7, {"version": "1"}]),
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
            ("to replica", [VERSION, messages.WELCOME, 7, {"version": "1"}]),
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


said_in_one_go = st.lists(
    st.tuples(
        st.builds(lambda id, endpoint: [VERSION, messages.TASK, id, endpoint, None], ids, st.text(max_size=2000)),
        st.lists(st.binary(max_size=30) | st.integers(0, 8000).map(bytes) | st.just(memoryview(b"large")), max_size=3),
    ),
    max_size=200,
)


class TestTrains:
    @SETTINGS
    @given(said_in_one_go)
    def test_what_is_coupled_is_read_as_it_was_and_in_its_order(self, said: list[Any]) -> None:
        sent = list(bundles.frames_of(said, encoder()))
        heard = [message for frames in sent for message in bundles.read(frames, 0, TO_REPLICA)]
        assert [(header, list(payload)) for header, payload in heard] == [tuple(message) for message in said]
        assert all(len(frames[0]) <= MAX_HEADER for frames in sent)
        assert [header for header, _ in bundles.read([b"me", *sent[0]], 1, TO_REPLICA)] if sent else not said

    def test_small_messages_travel_together_and_large_ones_alone(self) -> None:
        def lengths(*sizes: int) -> list[int]:
            said = [([VERSION, messages.RECALL, at], [bytes(size)]) for at, size in enumerate(sizes)]
            return [len(bundles.read(frames, 0, TO_REPLICA)) for frames in bundles.frames_of(said, encoder())]

        assert lengths() == []
        assert lengths(*[10] * 5) == [5]
        assert lengths(10, 10, messages.SMALL + 1, 10, 10) == [2, 1, 2]
        assert lengths(*[1] * (2 * bundles.MAX_ENTRIES + 1)) == [bundles.MAX_ENTRIES, bundles.MAX_ENTRIES, 1]
        assert lengths(*[4096] * 20) == [8, 8, 4]

    @pytest.mark.parametrize(
        "bundle",
        [
            [],
            7,
            None,
            [7],
            [[]],
            [[b""]],
            [[[VERSION, messages.RECALL, 7], "text"]],
            [[[VERSION, messages.RECALL, 7], b"", "text"]],
            [[[VERSION, messages.RECALL, 7], None]],
            [[[VERSION, messages.RECALL, "7"]]],
            [[[VERSION, messages.RECALL, 7]], [[VERSION, messages.HELLO, 7]]],
            [[[VERSION, bundles.BUNDLE, [[[VERSION, messages.RECALL, 7]]]]]],
            [[[VERSION, messages.RECALL, 7]]] * (bundles.MAX_ENTRIES + 1),
        ],
    )
    def test_what_is_no_train(self, bundle: Any) -> None:
        with pytest.raises(Malformed):
            bundles.read([msgpack.packb([VERSION, bundles.BUNDLE, bundle])], 0, TO_REPLICA)

    def test_a_train_has_no_frames_behind_it(self) -> None:
        bundle = msgpack.packb([VERSION, bundles.BUNDLE, [[[VERSION, messages.RECALL, 7]]]])
        assert bundles.read([bundle], 0, TO_REPLICA) == [([VERSION, messages.RECALL, 7], [])]
        with pytest.raises(Malformed):
            bundles.read([bundle, b"payload"], 0, TO_REPLICA)

    @SETTINGS
    @given(anything)
    def test_anything_in_a_bundle(self, bundle: Any) -> None:
        try:
            heard = bundles.read([msgpack.packb([VERSION, bundles.BUNDLE, bundle])], 0, TO_REPLICA)
        except Malformed:
            return
        assert all(tuple(map(type, header)) in TO_REPLICA[header[1]] for header, _ in heard)


class TestSplit:
    def test_frames_are_dealt_out_in_order(self) -> None:
        parts = [["a", [1, 2]], ["b", [1]]]
        assert split(parts, [b"0", b"1", b"2", b"3"]) == [("a", [[b"0"], [b"1", b"2"]]), ("b", [[b"3"]])]
        assert split([], []) == []
        assert split([["a", []]], []) == [("a", [])]

    @SETTINGS
    @given(st.lists(st.tuples(st.text(max_size=5), st.lists(st.integers(1, 4), max_size=4)), max_size=4))
    def test_whatever_fits_comes_back(self, shape: list[tuple[str, list[int]]]) -> None:
        count = sum(sum(counts) for _, counts in shape)
        frames = [bytes([number]) for number in range(count)]
        result = split([list(part) for part in shape], frames)
        assert [(name, [len(payload) for payload in payloads]) for name, payloads in result] == shape
        assert [frame for _, payloads in result for payload in payloads for frame in payload] == frames
        for wrong in (frames[1:], [*frames, b"more"]):
            if wrong != frames:
                with pytest.raises(Malformed):
                    split([list(part) for part in shape], wrong)

    @SETTINGS
    @given(anything, st.lists(st.binary(max_size=3), max_size=6))
    def test_anything(self, parts: Any, frames: list[bytes]) -> None:
        try:
            result = split(parts, frames)
        except Malformed:
            return
        assert b"".join(frame for _, payloads in result for payload in payloads for frame in payload) == b"".join(
            frames
        )

    @SETTINGS
    @given(st.lists(st.tuples(st.text(max_size=5), st.lists(st.lists(st.binary(max_size=3), min_size=1), max_size=3))))
    def test_it_undoes_what_the_broker_did(self, inputs: list[tuple[str, list[list[bytes]]]]) -> None:
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


# -- real sockets -----------------------------------------------------------------------------------------------------

HUGE = bytes(random.Random(1).randbytes(3 * LARGE))


@pytest.fixture(params=["inproc", "ipc", "tcp"])
def ports(request: pytest.FixtureRequest) -> Iterator[tuple[Port, Port]]:
    """A ROUTER and a DEALER called `b'me'`, joined."""
    with tempfile.TemporaryDirectory() as folder, zmq.Context() as context:
        address = {
            "inproc": "inproc://ports",
            "ipc": f"ipc://{Path(folder) / 'socket'}",
            "tcp": "tcp://127.0.0.1:*",
        }[request.param]
        with context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as dealer:
            for socket in (router, dealer):
                socket.set(zmq.RCVTIMEO, 5000)
                socket.set(zmq.LINGER, 0)
            router.set(zmq.ROUTER_MANDATORY, 1)
            router.bind(address)
            dealer.set(zmq.ROUTING_ID, b"me")
            dealer.connect(router.get_string(zmq.LAST_ENDPOINT) if request.param == "tcp" else address)
            yield Port(router, 3), Port(dealer, 2)


def content(frames: list[Any]) -> list[bytes]:
    return [bytes(frame) for frame in frames]


class TestPort:
    @pytest.mark.parametrize(
        "frames",
        [
            [b""],
            [b"header"],
            [b"header", b"payload"],
            [b"header", b"", b"", b""],
            [b"header", b"meta", b"x" * (LARGE - 1), b"x" * LARGE],
            [b"header", b"meta", HUGE, b"small", HUGE[::-1]],
            [HUGE, HUGE, HUGE],
            [b"header", bytearray(b"small"), memoryview(HUGE), memoryview(bytearray(b"view"))],
        ],
        ids=lambda frames: "+".join(str(len(frame)) for frame in frames),
    )
    def test_there_and_back(self, ports: tuple[Port, Port], frames: list[Any]) -> None:
        router, dealer = ports
        dealer.send(frames)
        there = router.receive()
        assert content(there) == [b"me", *content(frames)]
        router.send(there)
        assert content(dealer.receive()) == content(frames)
        trackers = dealer.send_tracked(frames)
        assert content(router.receive()) == [b"me", *content(frames)]
        for tracker in trackers:
            tracker.wait(5)

    def test_the_first_frames_and_small_ones_come_as_bytes_others_uncopied(self, ports: tuple[Port, Port]) -> None:
        router, dealer = ports
        dealer.send([b"header", b"meta", HUGE, b"small"])
        frames = router.receive()
        assert [type(frame) for frame in frames] == [bytes, bytes, bytes, zmq.Frame, bytes]
        router.send(frames)
        frames = dealer.receive()
        assert [type(frame) for frame in frames] == [bytes, bytes, zmq.Frame, bytes]
        views = buffers(frames)
        assert [type(view) for view in views] == [bytes, bytes, memoryview, bytes]
        assert content(list(views)) == [b"header", b"meta", HUGE, b"small"]
        assert not views[2].readonly

    @pytest.mark.parametrize("ports", ["ipc", "tcp"], indirect=True)  # within a process the memory would be shared
    def test_memory_that_was_sent_may_be_written_to_when_its_tracker_is_done(self, ports: tuple[Port, Port]) -> None:
        router, dealer = ports
        array = bytearray(HUGE)
        (tracker,) = dealer.send_tracked([b"header", b"meta", memoryview(array)])
        received = router.receive()
        tracker.wait(5)
        array[:] = bytes(len(array))
        assert bytes(received[3]) == HUGE

    def test_bytes_need_no_tracker(self, ports: tuple[Port, Port]) -> None:
        router, dealer = ports
        assert dealer.send_tracked([b"header", HUGE]) == []
        assert content(router.receive()) == [b"me", b"header", HUGE]

    def test_readable_says_whether_receive_would_wait(self, ports: tuple[Port, Port]) -> None:
        router, dealer = ports
        assert not router.readable()
        dealer.send([b"one"])
        dealer.send([b"two"])
        assert router.socket.poll(5000)
        assert router.readable()
        assert router.receive()[1] == b"one"
        assert router.socket.poll(5000)
        assert router.receive()[1] == b"two"
        assert not router.readable()

    def test_receive_waits_no_longer_than_the_socket_says(self, ports: tuple[Port, Port]) -> None:
        ports[0].socket.set(zmq.RCVTIMEO, 1)
        with pytest.raises(zmq.Again):
            ports[0].receive()

    def test_a_peer_that_is_not_there_is_an_error_and_the_next_message_is_whole(self, ports: tuple[Port, Port]) -> None:
        router, dealer = ports
        dealer.send([b"hello"])
        router.receive()
        for frames in ([b"nobody", b"header", b"meta"], [b"nobody", HUGE, HUGE]):
            with pytest.raises(zmq.ZMQError) as caught:
                router.send(frames)
            assert caught.value.errno == zmq.EHOSTUNREACH
        router.send([b"me", b"header", HUGE])
        assert content(dealer.receive()) == [b"header", HUGE]

    def test_thousands_of_messages_of_all_sizes(self, ports: tuple[Port, Port]) -> None:
        router, dealer = ports
        draw = random.Random(2)
        sizes = [0, 1, 100, 5000, LARGE - 1, LARGE, LARGE + 1]
        for _ in range(300):
            frames = [os.urandom(draw.choice(sizes)) for _ in range(draw.randrange(1, 6))]
            dealer.send(frames)
            echo = router.receive()
            assert echo[0] == b"me"
            router.send(echo)
            assert content(dealer.receive()) == frames
