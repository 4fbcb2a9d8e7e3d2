"""Bundles and lists: what is sent together is read as it was said, in its order,
and nothing else comes through.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import anything

from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import (
    BUNDLE,
    FROM_CLIENT,
    FROM_REPLICA,
    KINDS,
    MAX_GREETING,
    MAX_HEADER,
    MOST_ID,
    MOST_TOGETHER,
    TO_CLIENT,
    TO_REPLICA,
    VERSION,
    Beacon,
    Cancel,
    Direction,
    Done,
    Failed,
    Hello,
    Listed,
    Malformed,
    Message,
    Recall,
    Reply,
    Request,
    Task,
    Welcome,
    can_be_listed,
    encoder,
    singles,
)

SETTINGS = settings(deadline=None, max_examples=200, derandomize=True)
RECALL, HELLO = [VERSION, KINDS[Recall], 7], [VERSION, KINDS[Hello], 7]


def request(
    id: int, docs: int = 1, endpoint: str = "/", payload: Any = (b".",), **changes: Any
) -> Request:
    return Request(id, endpoint, ["encoder"], None, 500, False, [docs], list(payload))._replace(
        **changes
    )


def task(id: int, endpoint: str = "/", payload: Any = (b".",)) -> Task:
    return Task(id, 1, endpoint, None, 0, list(payload))


frame = (
    st.binary(min_size=1, max_size=30)
    | st.integers(1, 8000).map(bytes)
    | st.just(memoryview(b"large"))
)
said_in_one_go = st.lists(
    st.builds(
        task,
        st.integers(0, 3) | st.integers(-(2**63), 2**63),
        st.sampled_from(["/", "/" * 2000]),
        st.lists(frame, min_size=1, max_size=3),
    ),
    max_size=200,
)


def sent(said: list[Any]) -> list[list[Any]]:
    return list(bundles.frames_of(said, encoder()))


def heard(frames: list[list[Any]], direction: Direction = TO_REPLICA) -> list[Any]:
    """A message for each request, whatever lists and bundles they came in."""
    found: list[Any] = []
    for message in (message for one in frames for message in bundles.read(one, 0, direction)):
        found += singles(message) if isinstance(message, messages.LISTED) else [message]
    return found


class TestBundles:
    @SETTINGS
    @given(said_in_one_go)
    def test_what_is_said_is_read_as_it_was_and_in_its_order(self, said: list[Task]) -> None:
        frames = sent(said)
        assert heard(frames) == said
        assert all(len(some[0]) <= MAX_HEADER for some in frames)
        assert bundles.read([b"me", *frames[0]], 1, TO_REPLICA) if frames else not said

    def test_small_messages_travel_together_and_large_ones_alone(self) -> None:
        def lengths(*sizes: int) -> list[int]:
            said = [task(2 * at, payload=[bytes(size), b"."]) for at, size in enumerate(sizes)]
            return [len(bundles.read(frames, 0, TO_REPLICA)) for frames in sent(said)]

        assert lengths() == []
        assert lengths(*[10] * 5) == [5]
        assert lengths(10, 10, messages.SMALL, 10, 10) == [2, 1, 2]
        assert lengths(*[1] * (2 * MOST_TOGETHER + 1)) == [MOST_TOGETHER, MOST_TOGETHER, 1]
        assert lengths(*[4095] * 20) == [8, 8, 4]

    def test_one_alone_goes_as_it_is(self) -> None:
        (frames,) = sent([task(7, payload=[b"a", b"b"])])
        assert frames == [encoder()([VERSION, KINDS[Task], 7, 1, "/", None, 0, None]), b"a", b"b"]
        assert sent([Recall(7)]) == [[encoder()(RECALL)]]

    def test_those_whose_headers_would_be_too_long_together_go_one_by_one(self) -> None:
        said = [task(id, "x" * (MAX_HEADER // 4)) for id in (7, 9, 11, 13)]
        assert len(sent(said[:3])) == 1
        assert len(sent(said)) == 4
        assert heard(sent(said)) == said

    @pytest.mark.parametrize("ids", [[7], [7, 8, 9], [7, 9]])
    def test_a_payload_goes_behind_a_header_that_would_be_too_long_with_it(
        self, ids: list[int]
    ) -> None:
        said = [request(id, endpoint="x" * (MAX_HEADER - 200), payload=[bytes(1000)]) for id in ids]
        frames = sent(said)
        assert [len(some) for some in frames] == [2] * len(ids)
        assert heard(frames, FROM_CLIENT) == said

    @pytest.mark.parametrize(
        "bundle",
        [
            [],
            7,
            None,
            [7],
            [[]],
            [[b""]],
            [[RECALL, "text"]],
            [[RECALL, b"", "text"]],
            [[RECALL, None]],
            [[[VERSION, KINDS[Recall], "7"]]],
            [[RECALL], [HELLO]],
            [[[VERSION, BUNDLE, [[RECALL]]]]],
            [[RECALL]] * (MOST_TOGETHER + 1),
        ],
    )
    def test_what_is_no_bundle(self, bundle: Any) -> None:
        with pytest.raises(Malformed):
            bundles.read([msgpack.packb([VERSION, BUNDLE, bundle])], 0, TO_REPLICA)

    def test_a_bundle_has_no_frames_behind_it(self) -> None:
        bundle = msgpack.packb([VERSION, BUNDLE, [[RECALL]]])
        assert bundles.read([bundle], 0, TO_REPLICA) == [Recall(7)]
        with pytest.raises(Malformed):
            bundles.read([bundle, b"payload"], 0, TO_REPLICA)

    @SETTINGS
    @given(anything)
    def test_anything_in_a_bundle(self, bundle: Any) -> None:
        try:
            found = bundles.read([msgpack.packb([VERSION, BUNDLE, bundle])], 0, TO_REPLICA)
        except Malformed:
            return
        assert all(KINDS[type(message)] in TO_REPLICA for message in found)


PAYLOADS = [b"x", b"yy", b"zzz"]
ALIKE: list[tuple[Direction, list[Listed], Listed]] = [
    (
        FROM_CLIENT,
        [request(7 + at, payload=[one]) for at, one in enumerate(PAYLOADS)],
        Request(7, "/", ["encoder"], None, 500, False, [1, 1, 1], PAYLOADS),
    ),
    (
        TO_REPLICA,
        [task(7 + at, payload=[one]) for at, one in enumerate(PAYLOADS)],
        Task(7, 3, "/", None, 0, PAYLOADS),
    ),
    (
        FROM_REPLICA,
        [Done(7 + at, 10 * at, [1], [one]) for at, one in enumerate(PAYLOADS)],
        Done(7, 10, [1, 1, 1], PAYLOADS),
    ),
    (
        TO_CLIENT,
        [Reply(7 + at, 1, None, None, 3, [one]) for at, one in enumerate(PAYLOADS)],
        Reply(7, 3, None, None, 3, PAYLOADS),
    ),
]


def folded_naively(said: list[Message]) -> list[Message]:
    """What `fold` returns, by trying for each message whether it fits behind those before it."""
    runs: list[list[Any]] = []
    for message in said:
        if runs and fits(runs[-1], message):
            runs[-1].append(message)
        else:
            runs.append([message])
    return [run[0] if len(run) == 1 else one_of(run) for run in runs]


def fits(run: list[Any], message: Any) -> bool:
    first, together = run[0], [*run, message]
    return (
        all(
            type(one) is type(first)
            and isinstance(one, messages.LISTED)
            and can_be_listed(one)
            and common_of(one) == common_of(first)
            and one.first == first.first + at
            and len(one.payload) == 1
            and type(one.payload[0]) is bytes
            and 0 < len(one.payload[0]) <= messages.SMALL
            for at, one in enumerate(together)
        )
        and 0 <= first.first <= MOST_ID - MOST_TOGETHER
        and len(together) <= MOST_TOGETHER
        and sum(len(one.payload[0]) for one in together) <= messages.MOST_SMALL
    )


def common_of(message: Listed) -> dict[str, Any]:
    """What must be the same: all that a list says once."""
    own = {"first", "total", "docs", "payload", *(["took"] if type(message) is Done else [])}
    return {name: value for name, value in message._asdict().items() if name not in own}


def one_of(run: list[Any]) -> Message:
    payload = [one.payload[0] for one in run]
    if hasattr(run[0], "docs"):
        changes: dict[str, Any] = {"docs": [one.docs[0] for one in run]}
    else:
        changes = {"total": len(run)}
    if type(run[0]) is Done:
        changes["took"] = sorted(one.took for one in run)[len(run) // 2]
    made: Message = run[0]._replace(**changes, payload=payload)
    return made


EDGES = (0, 7, MOST_ID - MOST_TOGETHER, MOST_ID - MOST_TOGETHER + 1, MOST_ID - 2, -2, 2**64 - 200)
ODD: list[list[Any]] = [
    *([], [b""], [b"."] * 2, [memoryview(b".")]),
    *([bytes(messages.SMALL)], [bytes(messages.SMALL + 1)]),
]


def some_alike(chance: random.Random) -> list[Message]:
    """Messages of one kind with ids that follow one another, some of which may be unlike."""
    kind = chance.choice(list(UNLIKE))
    id, count = chance.choice(EDGES), chance.choice([1, 2, 9, 64, 65, 130])
    size = chance.choice([1, 1, 512, 513, messages.SMALL])
    unlike = chance.choice([0.0, 0.03])
    found: list[Message] = []
    for at in range(count):
        payload = chance.choice(ODD) if chance.random() < unlike else [bytes(size)]
        one: Any = {
            Request: request(id, at, payload=payload),
            Task: task(id, payload=payload),
            Done: Done(id, chance.choice([5, 9]), [at], payload),
            Reply: Reply(id, 1, None, None, 3, payload),
            Cancel: Cancel(id),
        }[kind]
        if chance.random() < unlike:
            one = one._replace(**chance.choice(UNLIKE[kind]))
        found.append(one)
        id += chance.choice([0, 2]) if chance.random() < unlike else 1
    return found


UNLIKE: dict[type[Message], list[dict[str, Any]]] = {
    Request: [
        {"endpoint": "/other"},
        {"targets": None},
        {"parts": [["a", [1]]]},
        {"timeout": 0},
        {"again": True},
        {"docs": [2**64 - 1]},
    ],
    Task: [{"endpoint": "/other"}, {"parts": [["a", [1]]]}, {"ticket": 9}],
    Done: [{"took": 2**64 - 1}, {"docs": [-1]}],
    Reply: [{"took": 4}, {"notes": {}}, {"parts": []}],
    Cancel: [{}],
}


class TestLists:
    @pytest.mark.parametrize("seed", range(20))
    def test_it_is_what_one_after_the_other_would_be(self, seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(10):
            said = some_alike(chance)
            if chance.random() < 0.2:  # of several kinds, of one and the same ids
                pairs = itertools.zip_longest(said, some_alike(chance))
                said = [one for pair in pairs for one in pair if one is not None]
            assert bundles.fold(said) == folded_naively(said)

    @pytest.mark.parametrize(("direction", "said", "folded"), ALIKE)
    def test_messages_that_are_alike_are_one(
        self, direction: Direction, said: list[Listed], folded: Listed
    ) -> None:
        assert bundles.fold(said) == [folded]
        (frames,) = sent(said)
        assert len(frames) == 1
        assert bundles.read(frames, 0, direction) == [folded]

    @pytest.mark.parametrize(
        "other",
        [
            request(9),
            request(8, endpoint="/other"),
            request(8, payload=[b".", b"."]),
            request(8, payload=[bytes(messages.SMALL + 1)]),
            request(8, payload=[memoryview(b".")]),
            request(8, payload=[b""]),
            request(8, again=True),
            request(8, timeout=499),
            request(8, targets=None),
            Cancel(8),
        ],
    )
    def test_messages_that_are_not(self, other: Message) -> None:
        said = [request(7), other]
        assert bundles.fold(said) == said

    def test_neither_are_those_with_parts_or_notes(self) -> None:
        for said in (
            [request(id, parts=[["a", [1]]]) for id in (7, 8)],
            [Reply(id, 1, None, {"a": {}}, 3, [b"."]) for id in (7, 8)],
            [Task(id, 1, "/", [["a", [1]]], 0, [b"."]) for id in (7, 8)],
            [Task(id, 1, "/", None, 9, [b"."]) for id in (7, 8)],
            [Failed(id, 3, [b"."]) for id in (7, 8)],
        ):
            assert bundles.fold(said) == said

    def test_lists_that_follow_one_another_stay_two(self) -> None:
        said = [Task(7, 2, "/", None, 0, [b"a", b"b"]), Task(9, 2, "/", None, 0, [b"c", b"d"])]
        assert bundles.fold(said) == said
        (frames,) = sent(said)
        assert bundles.read(frames, 0, TO_REPLICA) == said

    def test_a_list_is_not_longer_than_a_bundle(self) -> None:
        folded = bundles.fold([task(id) for id in range(2 * MOST_TOGETHER + 1)])
        assert [message.total for message in folded if isinstance(message, Task)] == [64, 64, 1]
        folded = bundles.fold([task(id, payload=[bytes(4096)]) for id in range(20)])
        assert [message.total for message in folded if isinstance(message, Task)] == [8, 8, 4]

    @given(
        st.lists(
            st.tuples(st.integers(0, 5), st.integers(1, 2), st.sampled_from("ab")), max_size=30
        )
    )
    def test_whatever_is_folded_says_the_same(self, drawn: list[tuple[int, int, str]]) -> None:
        said: list[Message] = []
        id = 0
        for skip, frames, endpoint in drawn:
            id += 1 + (skip == 0)
            said.append(request(id, skip, endpoint, [b"%d" % id] * frames))
        assert [
            one
            for message in bundles.fold(said)
            for one in (
                singles(message)
                if isinstance(message, Request) and len(message.docs) > 1
                else [message]
            )
        ] == said

    def test_it_may_travel_with_other_messages_and_its_place_among_them_is_its_own(self) -> None:
        said = [Recall(9), *(task(id, payload=[b"%d" % id]) for id in (1, 2, 3)), Beacon(4)]
        assert [type(message) for message in bundles.fold(said)] == [Recall, Task, Beacon]
        (frames,) = sent(said)
        assert heard([frames]) == said

    def test_an_id_that_others_cannot_follow_is_none(self) -> None:
        for first in (-2, MOST_ID - 1, MOST_ID):
            said = [task(id) for id in (first, first + 1)]
            assert bundles.fold(said) == said

    def test_of_the_times_that_answers_took_the_middle_one_is_told(self) -> None:
        said = [Done(id, took, [1], [b"."]) for id, took in enumerate([10, 12, 5000, 11, 9])]
        assert bundles.fold(said) == [Done(0, 11, [1] * 5, [b"."] * 5)]


class TestGreeting:
    """What a Flow says about itself may be longer than a header,
    and is read as if it stood there.
    """

    @pytest.mark.parametrize(
        "info", [{}, {"executors": {"a": {"endpoints": ["/" + "x" * 1000] * 200}}}]
    )
    def test_it_is_a_field_of_the_message(self, info: dict[str, Any]) -> None:
        said = [Welcome(7, info)]
        assert heard(sent(said), TO_CLIENT) == said
        assert heard(sent(said * 2), TO_CLIENT) == said * 2

    @pytest.mark.parametrize(
        "payload",
        [
            [],
            [b"\x80", b"\x80"],
            [b"\x90"],
            [b"\xc1"],
            [b""],
            [msgpack.packb({"x": bytes(MAX_GREETING)})],
        ],
        ids=["nothing", "two", "a list", "no msgpack", "empty", "too long"],
    )
    def test_one_that_is_none_is_malformed(self, payload: list[bytes]) -> None:
        with pytest.raises(Malformed):
            bundles.read([encoder()((VERSION, KINDS[Welcome], 7)), *payload], 0, TO_CLIENT)
