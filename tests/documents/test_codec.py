"""Documents and parameters as frames: what comes back, what is copied, what is refused."""

from __future__ import annotations

import copy
import re
import threading
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from zflow.documents import codec
from zflow.documents.codec import INLINE, WIRE_VERSION, pack, unpack
from zflow.documents.document import Document, DocumentArray, NamedScore
from zflow.errors import BadRequest, SerializationError

LARGE = INLINE + 1


def received(frames: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """What ZeroMQ gives: frame 0 as bytes, the others as writable memory."""
    return [bytes(frames[0]), *(memoryview(bytearray(frame)) for frame in frames[1:])]


def sent(*docs: Document, **parameters: Any) -> DocumentArray:
    return unpack(received(pack(DocumentArray(docs), parameters)))[0]


def tag(value: Any) -> Any:
    """A value after its way through tags, which is the same as that through parameters."""
    docs, parameters = unpack(pack(DocumentArray(Document(tags={"x": value})), {"x": value}))
    assert repr(docs[0].tags["x"]) == repr(parameters["x"])
    return parameters["x"]


class TestFrames:
    def test_a_small_request_is_one_frame(self) -> None:
        docs = DocumentArray([Document(text="hello", blob=b"x", tensor=np.zeros(8)), Document()])
        frames = pack(docs, {"limit": 3})
        assert [type(frame) for frame in frames] == [bytes]
        assert unpack(frames) == (docs, {"limit": 3})

    def test_nothing_is_an_empty_array(self) -> None:
        for frames in (pack(None), pack(DocumentArray()), pack(None, {})):
            assert unpack(frames) == (DocumentArray(), {})
        assert unpack(pack(None, {"a": 1})) == (DocumentArray(), {"a": 1})

    def test_a_large_array_is_a_view_on_both_sides(self) -> None:
        array = np.arange(LARGE, dtype="u1")
        frames = pack(DocumentArray(Document(tensor=array)))
        array[0] = 77
        assert len(frames) == 2
        assert frames[1][0] == 77
        memory = bytearray(frames[1])
        again = unpack([frames[0], memoryview(memory)])[0][0].tensor
        again[1] = 88
        assert memory[1] == 88

    def test_alike_arrays_are_one_frame(self) -> None:
        matrix = np.random.default_rng(0).random((100, 64), "f4")
        docs = DocumentArray(Document(embedding=row) for row in matrix)
        frames = pack(docs)
        assert len(frames) == 2
        assert bytes(frames[1]) == matrix.tobytes()
        again = unpack(received(frames))[0]
        assert again == docs
        assert again[0].embedding.base is again[99].embedding.base
        again[0].embedding[0] = 5
        assert again[1].embedding[0] == matrix[1, 0]

    def test_other_shapes_dtypes_and_gaps_are_frames_of_their_own(self) -> None:
        arrays = [
            np.zeros(LARGE),
            None,
            np.ones(LARGE),
            np.zeros(LARGE, "f4"),
            np.zeros(2),
            np.zeros((2, LARGE)),
        ]
        docs = DocumentArray(Document(tensor=array) for array in arrays)
        frames = pack(docs)
        assert [len(frame) // LARGE for frame in frames[1:]] == [16, 4, 16]
        assert unpack(received(frames))[0] == docs

    def test_matches_of_all_documents_share_a_frame(self) -> None:
        docs = DocumentArray(
            Document(matches=[Document(embedding=np.full(LARGE, n + m, "u1")) for m in range(n)])
            for n in range(4)
        )
        frames = pack(docs)
        assert len(frames) == 2
        assert unpack(received(frames))[0] == docs

    def test_large_blobs_are_not_copied_and_come_as_bytes(self) -> None:
        blobs = [b"x" * LARGE, b"", b"y", b"z" * LARGE]
        frames = pack(DocumentArray(Document(blob=blob) for blob in blobs))
        assert frames[1] is blobs[0]
        assert len(frames) == 3
        again = unpack(received(frames))[0].blobs
        assert again == blobs
        assert {type(blob) for blob in again} == {bytes}
        assert unpack(frames)[0][0].blob is blobs[0]

    @pytest.mark.parametrize("size", [4, LARGE])
    def test_received_arrays_can_be_changed(self, size: int) -> None:
        array = sent(Document(tensor=np.zeros(size, "u1")))[0].tensor
        array += 1
        assert array.sum() == size

    def test_frames_that_cannot_be_written_give_views_that_cannot(self) -> None:
        frames = pack(DocumentArray(Document(tensor=np.zeros(LARGE))))
        again = unpack([bytes(frame) for frame in frames])[0][0].tensor
        assert not again.flags.writeable

    def test_any_address_will_do(self) -> None:
        frames = pack(DocumentArray(Document(tensor=np.arange(LARGE))))
        memory = memoryview(bytearray(len(frames[1]) + 1))[1:]
        memory[:] = frames[1]
        again = unpack([frames[0], memory])[0][0].tensor
        assert again.flags.aligned
        assert again.flags.writeable
        assert again.tolist() == list(range(LARGE))

    def test_many_threads_at_once(self) -> None:
        wrong: list[int] = []

        def work(number: int) -> None:
            docs = DocumentArray(
                Document(text=f"{number}", tags={"n": 2**70 + number}) for _ in range(20)
            )
            wrong.extend(1 for _ in range(50) if unpack(pack(docs))[0] != docs)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


class TestArrays:
    @pytest.mark.parametrize("count", [1, 3])
    @pytest.mark.parametrize(
        "array",
        [
            np.array(3.5),
            np.zeros((0, 3)),
            np.zeros((2, 0), "f4"),
            np.arange(12, dtype="i2").reshape(3, 4),
            np.asfortranarray(np.arange(12).reshape(3, 4)),
            np.arange(24, dtype="f4").reshape(2, 3, 4).transpose(2, 0, 1),
            np.arange(20)[::3],
            np.arange(20)[::-1],
            np.array([1, 2], ">f4"),
            np.array([True, False]),
            np.array([1 + 2j, np.nan], "c8"),
            np.array([1.5, np.inf, np.nan], "f2"),
            np.array(["a", "äö", ""]),
            np.array([b"a", b"a\0b"]),
            np.array(b"a\0", "S2"),
            np.zeros(3, "S0"),
            np.array(["2020-01-01", "NaT"], "M8[ns]"),
            np.array([1, 2], "m8[25s]"),
            np.array([2**64 - 1], "u8"),
            np.zeros((1,) * 32),
            np.zeros((60, 70), order="F"),
            np.full((70, 80), "x"),
            np.arange(5000).astype(">M8[s]"),
        ],
        ids=lambda array: f"{array.dtype}{array.shape}",
    )
    def test_dtype_shape_order_and_values_are_kept(self, array: Any, count: int) -> None:
        array.flags.writeable = False
        for again in sent(*(Document(tensor=array, embedding=array) for _ in range(count))):
            for result in (again.tensor, again.embedding):
                assert result.dtype == array.dtype
                assert result.dtype.str == array.dtype.str
                assert result.shape == array.shape
                assert result.flags.fnc == array.flags.fnc
                assert result.flags.writeable
                assert result.tobytes() == array.tobytes()
        again = tag({"a": [array]})["a"][0]
        assert (again.dtype, again.tobytes(), again.flags.fnc) == (
            array.dtype,
            array.tobytes(),
            array.flags.fnc,
        )

    def test_mixed_orders_keep_theirs(self) -> None:
        c, fortran = np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3))
        for arrays in ((c, fortran, c), (fortran, c, fortran), (fortran, fortran)):
            again = sent(*(Document(tensor=array) for array in arrays))
            assert [doc.tensor.flags.fnc for doc in again] == [array is fortran for array in arrays]
            assert all(doc.tensor.tolist() == c.tolist() for doc in again)


class TestValues:
    def test_every_field_comes_back(self) -> None:
        doc = Document(
            id="a",
            parent_id="p",
            text="t",
            blob=b"b",
            uri="u",
            mime_type="m",
            modality="o",
            tensor=np.arange(3),
            embedding=np.zeros(2),
            weight=0.5,
            granularity=1,
            adjacency=2**70,
            tags={"x": [1]},
            scores={"cos": NamedScore(0.5, "dot", "by hand"), "none": NamedScore(), "int": 3},
            matches=[Document(matches=[Document(text="deep")]), Document()],
            chunks=[Document(tensor=np.zeros(3))],
        )
        again = sent(doc, Document(id="empty"))
        assert again[0] == doc
        assert again[0].scores["cos"].op_name == "dot"
        assert again[1] == Document(id="empty")
        assert again["a"] is again[0]
        again[0].scores["new"] = 1
        again[0].matches.append(Document())

    def test_empty_containers_stay_empty(self) -> None:
        doc = Document(tags={}, matches=[], blob=b"", text="")
        assert sent(doc, doc)[1] == doc

    def test_parameters_are_a_dict(self) -> None:
        with pytest.raises(SerializationError, match="parameters must be a dict, not int"):
            pack(None, 3)  # type: ignore[arg-type]


def whole() -> list[bytes | memoryview]:
    docs = DocumentArray(
        [
            Document(
                id="a",
                text="x",
                tags={"n": [1, 2**70, np.zeros(2)]},
                embedding=np.zeros(LARGE),
                weight=0.5,
            ),
            Document(
                id="b", blob=b"x" * LARGE, tensor=np.zeros((2, 3), order="F"), scores={"cos": 0.3}
            ),
            Document(
                id="c",
                matches=[Document(id="m", blob=b"y", chunks=[Document(id="d", granularity=1)])],
            ),
        ]
    )
    return pack(docs, {"limit": 3, "deep": {"a": [None, True, 1.5, b"x"]}})


META = msgpack.unpackb(whole()[0], strict_map_key=False, ext_hook=msgpack.ExtType)


def refused(frames: Any) -> str:
    with pytest.raises(BadRequest, match=r"^malformed Documents received: .+") as caught:
        unpack(frames)
    return str(caught.value)


def meta(columns: Any, parameters: Any = None, version: Any = WIRE_VERSION) -> list[bytes]:
    return [msgpack.packb([version, {} if parameters is None else parameters, columns])]


class TestMalformed:
    def test_other_versions_say_so(self) -> None:
        assert "format version 99, but this zflow speaks 1" in refused(meta({}, version=99))

    def test_missing_and_extra_frames(self) -> None:
        frames = whole()
        assert len(frames) == 3
        assert "a frame is missing" in refused(frames[:2])
        assert "a frame is missing" in refused(frames[:1])
        assert "4 frames are more" in refused([*frames, b"more"])
        refused([])
        refused([frames[0], frames[2], frames[1]])

    @pytest.mark.parametrize(
        "columns",
        [
            *(
                3,
                "abc",
                [1],
                {"text": ["x"]},
                {"id": "abc"},
                {"id": [1]},
                {"id": [None]},
                {"id": ["a"], "nope": [1]},
            ),
            *(
                {"id": ["a"], "text": []},
                {"id": ["a"], "text": ["x", "y"]},
                {"id": ["a"], "text": [3]},
            ),
            *(
                {"id": ["a"], "text": "x"},
                {"id": ["a"], "granularity": [True]},
                {"id": ["a"], "weight": [1]},
            ),
            *({"id": ["a"], "tags": [[]]}, {"id": ["a"], "tags": {}}, {"id": ["a"], "blob": ["x"]}),
            *(
                {"id": ["a"], "blob": [None]},
                {"id": ["a"], "scores": [{"x": 1}]},
                {"id": ["a"], "scores": [3]},
            ),
            *(
                {"id": ["a"], "scores": [{1: [1, "", ""]}]},
                {"id": ["a"], "scores": [{"x": ["y", "", ""]}]},
            ),
            *(
                {"id": ["a"], "matches": [[1], {"id": []}]},
                {"id": ["a"], "matches": [[-1], {"id": []}]},
            ),
            *(
                {"id": ["a"], "matches": [[2**60], {"id": ["b"]}]},
                {"id": ["a"], "matches": [[1.0], {"id": ["b"]}]},
            ),
            *(
                {"id": ["a"], "matches": [[1, 0], {"id": ["b"]}]},
                {"id": ["a"], "matches": [[0], {"id": ["b"]}]},
            ),
            *({"id": ["a"], "matches": 3}, {"id": ["a"], 1: [2]}, {"id": ["a"], "content": ["x"]}),
        ],
        ids=repr,
    )
    def test_columns(self, columns: Any) -> None:
        refused(meta(columns))

    @pytest.mark.parametrize(
        "group",
        [
            *(
                [None, "|O8", [1], "C", b"x" * 8],
                [None, "O", [1], "C", b"x" * 8],
                [None, "V8", [1], "C", b"x" * 8],
            ),
            *(
                [None, "f4,f4", [1], "C", b"x" * 8],
                [None, "<f8", [2], "C", b"x" * 8],
                [None, "<f8", [], "C", b""],
            ),
            *(
                [None, "<f8", [-1, -1], "C", b"x" * 8],
                [None, "<f8", [1.0], "C", b"x" * 8],
                [None, "<f8", 1, "C", b""],
            ),
            *(
                [None, "<f8", [1], "K", b"x" * 8],
                [None, "<f8", [1], "C", 10**12],
                [None, "<f8", [1], "C", "x" * 8],
            ),
            *(
                [None, "<f7", [1], "C", b"x" * 7],
                [None, "<M8[parsec]", [1], "C", b"x" * 8],
                [None, 3, [1], "C", b"x"],
            ),
            *(
                [[1], "<f8", [1], "C", b"x" * 8],
                [[-1], "<f8", [1], "C", b"x" * 8],
                [["a"], "<f8", [1], "C", b"x" * 8],
            ),
            *(
                [3, "<f8", [1], "C", b"x" * 8],
                [[True], "<f8", [1], "C", b"x" * 8],
                [None, "<f8", [2**62] * 2, "C", b""],
            ),
            *(
                [None, "<f8", [0, 2**62, 2**62], "C", b""],
                [None, "<f8", [1] * 99, "C", b"x" * 8],
                [None],
                3,
            ),
            *([None, "<f8\n", [1], "C", b"x" * 8], [None, "S999999999", [2**40], "C", b""]),
        ],
        ids=repr,
    )
    def test_arrays(self, group: Any) -> None:
        refused(meta({"id": ["a"], "tensor": [group]}))
        if isinstance(group, list) and group[0] is None and len(group) == 5:
            refused(meta({}, {"x": msgpack.ExtType(2, msgpack.packb(group[1:]))}))

    @pytest.mark.parametrize(
        "frames",
        [
            *(
                meta({}, parameters=[1]),
                [msgpack.packb({})],
                [msgpack.packb([])],
                [msgpack.packb([1, {}])],
                [b""],
            ),
            *(
                [msgpack.packb(None)],
                [msgpack.packb([1, {}, {}, 4])],
                [b"\x93\x01\x80\x80more"],
                ["text"],
                [None],
                [3],
            ),
            *(meta({}, {"x": msgpack.ExtType(99, b"")}), meta({}, {"x": msgpack.ExtType(2, b"")})),
            *(
                [b"\xdd\xff\xff\xff\xff"],
                [b"\xdf\xff\xff\xff\xff"],
                [b"\xc6\xff\xff\xff\xff"],
                [b"\x91" * 10_000],
            ),
            *(
                [b"\x93\x01\x80\x81\xa2id\xdd\xff\xff\xff\xff"],
                [b"\x93\x01\x80\x81\xa2id\x91\xa1\xff"],
            ),
        ],
        ids=repr,
    )
    def test_frames(self, frames: Any) -> None:
        refused(frames)

    def test_lying_counts_take_no_memory(self) -> None:
        size = 1 << 20
        header = b"\xdd" + (size - 5000).to_bytes(4, "big")
        refused([(header * 900).ljust(size, b"\xc0")])

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.binary(max_size=60), max_size=3))
    def test_random_bytes(self, frames: list[bytes]) -> None:
        try:
            unpack(frames)
        except BadRequest:
            pass

    def test_truncation_anywhere(self) -> None:
        first, *rest = whole()
        for size in range(0, len(first), 7):
            refused([bytes(first)[:size], *rest])

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(
            st.tuples(st.integers(0, len(whole()[0]) - 1), st.integers(0, 255)),
            min_size=1,
            max_size=4,
        )
    )
    def test_flipped_bytes(self, changes: list[tuple[int, int]]) -> None:
        first, *rest = whole()
        changed = bytearray(first)
        for place, value in changes:
            changed[place] = value
        self.usable_or_refused([bytes(changed), *rest])

    @settings(max_examples=80, deadline=None)
    @given(st.data())
    def test_replaced_parts(self, data: st.DataObject) -> None:
        scalars = (
            st.none()
            | st.booleans()
            | st.integers(-3, 2**64 - 1)
            | st.floats()
            | st.text()
            | st.binary()
        )
        junk = st.recursive(
            scalars,
            lambda part: st.lists(part) | st.dictionaries(st.text() | st.integers(0, 9), part),
        )
        changed = copy.deepcopy(META)
        place: Any = changed
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = data.draw(st.sampled_from(keys))
            inner = place[key]
            if type(inner) not in (list, dict) or not inner or data.draw(st.booleans()):
                break
            place = inner
        place[key] = data.draw(junk)
        try:
            first = msgpack.packb(changed)
        except (ValueError, OverflowError):
            assume(False)
        self.usable_or_refused([first, *whole()[1:]])

    def usable_or_refused(self, frames: list[Any]) -> None:
        """What is accepted must be fields of the right types: they can be shown,
        compared and sent again.
        """
        try:
            docs, parameters = unpack(frames)
        except BadRequest:
            return
        assert repr(docs) + repr([repr(doc) for doc in docs])
        assert unpack(pack(docs, parameters))[0] == docs
        assert all(doc.id in docs for doc in docs)


def one(
    dtype: str,
    shape: Any,
    memory: bytes = b"",
    order: str = "C",
    where: Any = None,
    groups: int = 1,
) -> Any:
    return {"id": ["a"], "tensor": [[where, dtype, shape, order, memory]] * groups}


class TestHostile:
    """What costs a sender nothing must not cost much here, nor fail when it is used."""

    @pytest.mark.parametrize(
        ("columns", "words"),
        [
            (one("|S0", [10**18]), "cannot have dtype '|S0'"),
            (one("<U0", [5]), "cannot have dtype '<U0'"),
            (one("|S00", []), "cannot have dtype '|S00'"),
            (one("<M8[0s]", [1], bytes(8)), "cannot have dtype '<M8[0s]'"),
            (one("<M8", [1], bytes(8)), "a time without a unit is none"),
            (one(">M8", [2], b"\x80" + bytes(15)), "a time without a unit is none"),
            (one("|b1", [4], b"\1\0\xff\1"), "a bool is 0 or 1"),
            (one("<U1", [1], b"\0\0\x11\0"), "text has characters that are none"),
            (one(">U2", [1], bytes(4) + b"\0\x11\0\0"), "text has characters that are none"),
            (one("<f4", [10**18, 0]), "has more than 1048576 rows with nothing in them"),
            (
                one("<f4", [2**11, 2**11, 0], order="F"),
                "has more than 1048576 rows with nothing in them",
            ),
            (one("<f4", [-1]), "cannot have shape [-1]"),
            (one("<f4", [True], bytes(4)), "cannot have shape [True]"),
            (one("<f4", {"a": 1}, bytes(4)), "more than 64 dimensions"),
            (one("<f4", [2**63] * 50_000, bytes(4)), "more than 64 dimensions"),
            (one("<f4", [0], where=[]), "speaks of a Document twice, or of none"),
            (one("<f4", [0], where=[0] * 50_000), "speaks of a Document twice, or of none"),
            (one("<f4", [0], groups=1000), "speaks of a Document twice, or of none"),
        ],
    )
    def test_arrays(self, columns: Any, words: str) -> None:
        with pytest.raises(BadRequest, match=re.escape(words)):
            unpack([msgpack.packb([WIRE_VERSION, {}, columns])])
        _, dtype, shape, order, memory = columns["tensor"][0]
        if "twice" not in words:
            nested = msgpack.ExtType(2, msgpack.packb([dtype, shape, order, memory]))
            with pytest.raises(BadRequest, match=re.escape(words)):
                unpack([msgpack.packb([WIRE_VERSION, {"x": nested}, {"id": ["a"]}])])

    def test_what_is_rare_but_right_comes_back(self) -> None:
        never = np.array(["NaT"], "M8")
        for array in (
            never,
            never.astype(">M8"),
            np.array([True, False]),
            np.array(["\U0010ffff"]),
            np.empty((2**20, 0)),
        ):
            back = sent(Document(tensor=array))[0].tensor
            assert (back.dtype, back.shape) == (array.dtype, array.shape)

    @pytest.mark.parametrize("kind", ["S", "U"])
    def test_text_no_character_wide_is_sent_as_one_character_wide(self, kind: str) -> None:
        """So what it costs goes by its bytes; numpy does the same where it copies."""
        narrow = np.zeros(3, [("x", f"{kind}0")])["x"]  # numpy makes none otherwise
        assert narrow.dtype.itemsize == 0
        back = sent(*(Document(tensor=narrow, tags={"x": narrow}) for _ in range(2)), x=narrow)
        assert [doc.tensor.dtype.str[1:] for doc in back] == [f"{kind}1"] * 2
        assert [list(doc.tags["x"]) for doc in back] == [[narrow[0]] * 3] * 2
        docs = DocumentArray(Document() for _ in range(2))
        docs.tensors = np.zeros((2, 3), [("x", f"{kind}0")])["x"]
        assert unpack(received(pack(docs)))[0].tensors.shape == (2, 3)

    def test_too_many_rows_of_nothing_are_refused_where_they_are_sent(self) -> None:
        with pytest.raises(SerializationError, match=r"tensor.*rows with nothing in them"):
            pack(DocumentArray([Document(tensor=np.empty((2**20 + 1, 0)))]))


@pytest.mark.parametrize("where", ["parameters", "tags", "tuples", "both"])
def test_keys_that_were_chosen_to_collide_are_refused_soon(where: str) -> None:
    """20,000 of them took seconds."""
    large = [msgpack.ExtType(1, (i * (2**61 - 1)).to_bytes(20, "little")) for i in range(1, 20_000)]
    # Two different numbers of one hash, in tuples of many: as many as there are ways to choose one
    # of the two.
    pair = [msgpack.ExtType(1, (5 + i * (2**61 - 1)).to_bytes(20, "little")) for i in range(2)]
    tuples = [[pair[number >> bit & 1] for bit in range(12)] for number in range(4096)]
    keys = {"tuples": tuples, "both": [*tuples, *large]}.get(where, large)
    packer = msgpack.Packer(autoreset=False)
    packer.pack_map_header(len(keys))
    for key in keys:
        packer.pack(key)
        packer.pack(1)
    chosen, rest = packer.bytes(), msgpack.packb({"id": ["a"]})
    frame = b"\x93\x01\x81\xa1x" + chosen + rest
    if where == "tags":
        frame = b"\x93\x01\x80\x82\xa2id\x91\xa1a\xa4tags\x91" + chosen
    with pytest.raises(
        BadRequest, match="more than 100 keys of one dict have the hash of another one"
    ):
        unpack([frame])


def test_many_large_integers_and_tuples_that_do_not_collide_come_back() -> None:
    tags = {
        **{2**70 + number: number for number in range(2000)},
        **{(number, "x"): 1 for number in range(2000)},
    }
    assert sent(Document(tags=tags))[0].tags == tags
    assert sent(Document(tags={"x": [2**70] * 5000}))[0].tags == {"x": [2**70] * 5000}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.builds(
            Document,
            text=st.text(st.characters()),
            blob=st.binary(),
            weight=st.none() | st.floats(allow_nan=False),
            tags=st.dictionaries(
                st.text() | st.integers(),
                st.recursive(
                    st.none()
                    | st.booleans()
                    | st.integers()
                    | st.floats(allow_nan=False)
                    | st.text()
                    | st.binary(),
                    lambda inner: (
                        st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner)
                    ),
                    max_leaves=5,
                ),
            ),
            tensor=st.sampled_from(
                [None, np.zeros(3), np.ones(3), np.zeros((2, 2), "f4"), np.zeros(LARGE, "u1")]
            ),
            matches=st.lists(
                st.builds(Document, uri=st.text(), embedding=st.sampled_from([None, np.arange(3)]))
            ),
        ),
        max_size=6,
    )
)
def test_whatever_is_packed_comes_back(docs: list[Document]) -> None:
    array = DocumentArray(docs)
    assert unpack(received(pack(array)))[0] == array
    assert codec.WIRE_VERSION == 1
