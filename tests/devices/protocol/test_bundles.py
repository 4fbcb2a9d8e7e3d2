"""Bundles and bulks: what is sent together is read as it was said, in its order, and nothing else comes through."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import (
    DONE,
    DONES,
    FROM_CLIENT,
    FROM_REPLICA,
    MAX_GREETING,
    MAX_HEADER,
    REPLIES,
    REPLY,
    REQUEST,
    REQUESTS,
    TASK,
    TASKS,
    TO_CLIENT,
    TO_REPLICA,
    VERSION,
    WELCOME,
    Malformed,
    encoder,
)

SETTINGS = settings(deadline=None, max_examples=200, derandomize=True)

ids = st.integers(-(2**63), 2**64 - 1)
scalars = st.none() | st.booleans() | ids | st.floats() | st.text(max_size=20) | st.binary(max_size=20)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)

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

    def test_one_alone_goes_as_it_is(self) -> None:
        (frames,) = bundles.frames_of([([VERSION, messages.RECALL, 7], [b"a", b"b"])], encoder())
        assert frames == [encoder()([VERSION, messages.RECALL, 7]), b"a", b"b"]

    def test_those_whose_headers_would_be_too_long_together_go_one_by_one(self) -> None:
        said = [([VERSION, TASK, id, "x" * (MAX_HEADER // 4), None], [b"."]) for id in (7, 9, 11, 13)]
        assert len(list(bundles.frames_of(said[:3], encoder()))) == 1
        assert len(list(bundles.frames_of(said, encoder()))) == 4

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


def request(id: int, docs: int = 1, endpoint: str = "/", parts: Any = None) -> tuple[Any, ...]:
    return VERSION, REQUEST, id, endpoint, ["encoder"], parts, 500, docs


ALIKE = [
    (FROM_CLIENT, request, (VERSION, REQUESTS, 7, "/", ["encoder"], 500, [1, 1, 1])),
    (TO_REPLICA, lambda id: (VERSION, TASK, id, "/", None), (VERSION, TASKS, 7, "/")),
    (FROM_REPLICA, lambda id: (VERSION, DONE, id, 10 * id, 1), (VERSION, DONES, 7, 80, [1, 1, 1])),
    (TO_CLIENT, lambda id: (VERSION, REPLY, id, None, None, 3), (VERSION, REPLIES, 7, 3)),
]
PAYLOADS = [b"x", b"yy", b"zzz"]


class TestMessages:
    @pytest.mark.parametrize(("shapes", "header", "folded"), ALIKE)
    def test_messages_that_are_alike_are_one(self, shapes: Any, header: Any, folded: Any) -> None:
        said = [(header(7 + at), [payload]) for at, payload in enumerate(PAYLOADS)]
        assert bundles.fold(said) == [((*folded, PAYLOADS), ())]
        (frames,) = bundles.frames_of(said, messages.encoder())
        heard = bundles.read(frames, 0, shapes)
        if folded[1] in (REQUESTS, DONES):
            assert heard == [([*folded, PAYLOADS], ())]
        else:
            assert [(tuple(one), payload) for one, payload in heard] == said

    @pytest.mark.parametrize(
        "other",
        [
            (request(9), [b"."]),
            (request(8, endpoint="/other"), [b"."]),
            (request(8), [b".", b"."]),
            (request(8), [bytes(messages.SMALL + 1)]),
            (request(8), [memoryview(b".")]),
            (request(8), [b""]),
            ((VERSION, messages.AGAIN, *request(8)[2:]), [b"."]),
            ((VERSION, messages.CANCEL, 8), ()),
        ],
    )
    def test_messages_that_are_not(self, other: Any) -> None:
        said = [(request(7), [b"."]), other]
        assert bundles.fold(said) == said

    def test_neither_are_those_with_parts_or_notes(self) -> None:
        for header in (
            lambda id: request(id, parts=[["a", [1]]]),
            lambda id: (VERSION, REPLY, id, None, {"a": {}}, 3),
            lambda id: (VERSION, TASK, id, "/", [["a", [1]]]),
        ):
            said = [(header(id), [b"."]) for id in (7, 8)]
            assert bundles.fold(said) == said

    def test_a_bulk_is_not_longer_than_a_train(self) -> None:
        said = [(request(id), [b"."]) for id in range(2 * bundles.MAX_ENTRIES + 1)]
        assert [len(header[-1]) if not frames else 1 for header, frames in bundles.fold(said)] == [64, 64, 1]
        said = [(request(id), [bytes(4096)]) for id in range(20)]
        assert [len(header[-1]) for header, _ in bundles.fold(said)] == [8, 8, 4]

    @pytest.mark.parametrize(
        "header",
        [
            [VERSION, REQUESTS, 7, "/", None, 0, [1], [b"."]],
            [VERSION, REQUESTS, 7, "/", None, 0, [1, 1], [b".", "."]],
            [VERSION, REQUESTS, 7, "/", None, 0, [1, 1], [b".", b""]],
            [VERSION, REQUESTS, 7, "/", None, 0, [1], [b".", b"."]],
            [VERSION, REQUESTS, 7, "/", None, 0, [1, None], [b".", b"."]],
            [VERSION, REQUESTS, 7, "/", None, 0, [1] * 65, [b"."] * 65],
            [VERSION, REQUESTS, 7, "/", None, 0, [1, 1], [bytes(20_000)] * 2],
            [VERSION, REQUESTS, 7, "/", None, 0, [], []],
            [VERSION, REQUESTS, 2**64 - 1, "/", None, 0, [1, 1], [b".", b"."]],
            [VERSION, REQUESTS, -1, "/", None, 0, [1, 1], [b".", b"."]],
        ],
    )
    def test_what_is_no_bulk(self, header: list[Any]) -> None:
        for frames in ([msgpack.packb(header)], [msgpack.packb([VERSION, bundles.BUNDLE, [[header]]])]):
            with pytest.raises(Malformed):
                bundles.read(frames, 0, FROM_CLIENT)

    def test_nothing_comes_behind_it(self) -> None:
        header = [VERSION, REQUESTS, 7, "/", None, 0, [1, 1], [b".", b"."]]
        assert bundles.read([msgpack.packb(header)], 0, FROM_CLIENT) == [(header, ())]
        with pytest.raises(Malformed):
            bundles.read([msgpack.packb(header), b"more"], 0, FROM_CLIENT)

    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.sampled_from("ab")), max_size=30))
    def test_whatever_is_folded_says_the_same(self, drawn: list[tuple[int, int, str]]) -> None:
        said: list[Any] = []
        id = 0
        for skip, frames, endpoint in drawn:
            id += 1 + (skip == 0)
            said.append((request(id, skip, endpoint), [b"%d" % id] * frames))
        heard: list[Any] = []
        for header, payload in bundles.fold(said):
            if header[1] != REQUESTS:
                heard.append((header, payload))
                continue
            _, _, first, endpoint, _, _, docs, payloads = header
            assert len(payloads) > 1
            heard += [(request(first + at, docs[at], endpoint), [one]) for at, one in enumerate(payloads)]
        assert heard == said

    def test_it_may_travel_with_other_messages_and_its_place_among_them_is_its_own(self) -> None:
        said = [((VERSION, TASK, id, "/", None), [b"%d" % id]) for id in (1, 2, 3)]
        said = [((VERSION, messages.RECALL, 9), []), *said, ((VERSION, messages.BEACON, 4), [])]
        (frames,) = bundles.frames_of(said, encoder())
        assert [header[1] for header, _ in bundles.fold(said)] == [messages.RECALL, TASKS, messages.BEACON]
        assert [(tuple(header), list(payload)) for header, payload in bundles.read(frames, 0, TO_REPLICA)] == said

    def test_an_id_that_others_cannot_follow_is_none(self) -> None:
        for first in (-2, bundles.MOST_ID):
            said = [((VERSION, TASK, id, "/", None), [b"."]) for id in (first, first + 1)]
            assert bundles.fold(said) == said

    def test_of_the_times_that_answers_took_the_middle_one_is_told(self) -> None:
        took = [10, 12, 5000, 11, 9]
        said = [((VERSION, DONE, id, micros, 1), [b"."]) for id, micros in enumerate(took)]
        (((_, kind, first, told, docs, _), _),) = bundles.fold(said)
        assert (kind, first, told, docs) == (DONES, 0, 11, [1] * 5)

    @pytest.mark.parametrize("kind", [TASKS, REPLIES])
    def test_what_is_no_bulk_for_others_either(self, kind: int) -> None:
        shapes, which = (TO_REPLICA, "/") if kind == TASKS else (TO_CLIENT, 3)
        assert len(bundles.read([msgpack.packb([VERSION, kind, 7, which, [b"a", b"b"]])], 0, shapes)) == 2
        for payloads in ([], [b"a"], [b"a", b""], [b"a", "b"], [b"."] * 65, [bytes(20_000)] * 2):
            with pytest.raises(Malformed):
                bundles.read([msgpack.packb([VERSION, kind, 7, which, payloads])], 0, shapes)


read, frames_of = bundles.read, bundles.frames_of


class TestGreeting:
    """What a Flow says about itself may be longer than a header, and is read as if it stood there."""

    @pytest.mark.parametrize("info", [{}, {"executors": {"a": {"endpoints": ["/" + "x" * 1000] * 200}}}])
    def test_it_is_a_field_of_the_header(self, info: dict[str, Any]) -> None:
        said = [((VERSION, WELCOME, 7), [encoder()(info)])]
        assert read(next(iter(frames_of(said, encoder()))), 0, TO_CLIENT) == [([VERSION, WELCOME, 7, info], [])]
        several = list(frames_of([*said, *said], encoder()))
        assert [one for frames in several for one in read(frames, 0, TO_CLIENT)] == [
            ([VERSION, WELCOME, 7, info], [])
        ] * 2

    @pytest.mark.parametrize(
        "payload",
        [[], [b"\x80", b"\x80"], [b"\x90"], [b"\xc1"], [b""], [msgpack.packb({"x": bytes(MAX_GREETING)})]],
        ids=["nothing", "two", "a list", "no msgpack", "empty", "too long"],
    )
    def test_one_that_is_none_is_malformed(self, payload: list[bytes]) -> None:
        with pytest.raises(Malformed):
            read([encoder()((VERSION, WELCOME, 7)), *payload], 0, TO_CLIENT)
