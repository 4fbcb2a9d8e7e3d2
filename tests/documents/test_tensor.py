"""Arrays: what is read as one, when two are the same, and their way through raw memory."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from zflow.documents import tensor
from zflow.documents.codec import pack, unpack
from zflow.documents.document import Document, DocumentArray

DTYPES = ["|b1", "<i2", ">i8", "|u1", "<f4", ">f8", "<c8", "|S3", "<U2", "<M8[s]", "<m8[25s]"]
SHAPES = [(), (0,), (3,), (1, 1), (2, 3), (3, 2), (0, 3), (2, 0), (2, 3, 2)]


def made(dtype: str, shape: tuple[int, ...], order: Literal["C", "F"], seed: int) -> Any:
    """An array with bytes of its own."""
    count = int(np.prod(shape, dtype=int)) * np.dtype(dtype).itemsize
    data = bytes(
        (seed + number) % 2 if dtype == "|b1" else (seed + number) % 100 for number in range(count)
    )
    data = (
        data
        if dtype != "<U2"
        else b"".join((65 + n % 26).to_bytes(4, "little") for n in range(count // 4))
    )
    return np.ndarray(shape, dtype, bytearray(data) or bytearray(1), order=order)


ARRAYS = st.builds(
    made,
    st.sampled_from(DTYPES),
    st.sampled_from(SHAPES),
    st.sampled_from(["C", "F"]),
    st.integers(0, 99),
)


def alike(left: Any, right: Any) -> bool:
    """Whether two arrays agree in all that is promised to travel."""
    return (left.dtype.str, left.shape, left.flags.fnc, left.tobytes()) == (
        right.dtype.str,
        right.shape,
        right.flags.fnc,
        right.tobytes(),
    )


def received(frames: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """What ZeroMQ gives: frame 0 as bytes, the others as writable memory."""
    return [bytes(frames[0]), *(memoryview(bytearray(frame)) for frame in frames[1:])]


def sent(*docs: Document, **parameters: Any) -> DocumentArray:
    return unpack(received(pack(DocumentArray(docs), parameters)))[0]


class Subclass(np.ndarray):
    """As numpy.memmap is one."""


class TestAsArray:
    @pytest.mark.parametrize(
        "value", [[[1, 2], [3, 4]], ((1, 2), (3, 4)), np.array([[1, 2], [3, 4]]).view(Subclass)]
    )
    def test_what_numpy_can_read_becomes_an_array(self, value: Any) -> None:
        again = sent(Document(tensor=value, embedding=[1.5]))[0]
        assert type(again.tensor) is np.ndarray
        assert again.tensor.tolist() == [[1, 2], [3, 4]]
        assert again.embedding.dtype == np.float64

    def test_tensors_of_other_libraries(self) -> None:
        class OnGpu:
            """As torch has them: numpy only reads what was detached and brought to the CPU."""

            dtype, shape, ready = "torch.float32", (2,), False

            def detach(self) -> OnGpu:
                return self

            def cpu(self) -> OnGpu:
                again = OnGpu()
                again.ready = True
                return again

            def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
                if not self.ready:
                    raise TypeError("can't convert cuda:0 device type tensor to numpy")
                return np.array([1, 2], "f4")

        again = sent(Document(tensor=OnGpu(), tags={"x": OnGpu()}))[0]
        assert again.tensor.tolist() == again.tags["x"].tolist() == [1, 2]

    def test_numpy_arrays_are_not_copied(self) -> None:
        array = np.arange(6)
        assert tensor.as_array(array) is array
        assert np.shares_memory(tensor.as_array(array.view(Subclass)), array)
        arrays = [array, array[1:]]
        assert tensor.as_arrays(arrays)[1] is arrays[1]
        assert [each.tolist() for each in tensor.as_arrays([array, [1, 2]])] == [
            list(range(6)),
            [1, 2],
        ]

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (
                np.array([None, 1]),
                "arrays of Python objects cannot be sent: convert it to numbers (ragged lists, and",
            ),
            ({1: 2}, "arrays of Python objects cannot be sent"),
            (
                np.zeros(2, [("a", "f4")]),
                "structured arrays cannot be sent ([('a', '<f4')]): use one array per column",
            ),
            (
                np.zeros(2, "V4"),
                "arrays of dtype |V4 cannot be sent: convert it, as in array.astype('float32')",
            ),
            (
                np.ma.masked_array([1, 2], [False, True]),
                "a masked array would lose its mask: use array.filled(...)",
            ),
        ],
        ids=repr,
    )
    def test_others_are_refused_with_the_way_out(self, value: Any, message: str) -> None:
        for read in (tensor.as_array, lambda value: tensor.as_arrays([value, value])):
            with pytest.raises(TypeError) as caught:
                read(value)
            assert str(caught.value).startswith(message)

    def test_ragged_lists_are_refused(self) -> None:
        with pytest.raises(
            (TypeError, ValueError), match=r"^list is not an array: |^arrays of Python objects"
        ):
            tensor.as_array([[1], [2, 3]])


class TestScalars:
    def test_a_scalar_is_told_from_an_array(self) -> None:
        for scalar in (np.float32(1), np.bool_(True), np.str_("x"), np.datetime64("2020")):
            assert tensor.is_scalar(scalar)
        for other in (1, 1.0, True, "x", None, np.zeros(()), np.zeros(3), [np.float32(1)]):
            assert not tensor.is_scalar(other)
        assert [tensor.is_array(value) for value in (np.zeros(()), np.zeros(3), [1], 1, None)] == [
            1,
            1,
            0,
            0,
            0,
        ]

    @pytest.mark.parametrize("kind", ["?", "b", "B", "h", "i", "q", "Q", "e", "f", "d", "g"])
    def test_numbers_become_pythons(self, kind: str) -> None:
        value = np.dtype(kind).type(1)
        assert tensor.plain(value) == value
        assert (
            type(tensor.plain(value))
            is {"b": bool, "i": int, "u": int, "f": float}[value.dtype.kind]
        )

    @pytest.mark.parametrize(
        "value", [np.complex64(1), np.datetime64("2020"), np.timedelta64(1, "s"), np.void(b"x")]
    )
    def test_others_are_refused(self, value: Any) -> None:
        with pytest.raises(
            TypeError, match=r"^cannot send a single \w+; use str\(value\) or an array$"
        ):
            tensor.plain(value)


class TestComparing:
    @pytest.mark.parametrize(
        ("left", "right", "equal"),
        [
            (np.array([1.0, np.nan]), np.array([1.0, np.nan]), True),
            (np.array([1.0]), np.array([1.0], "f4"), False),
            (np.zeros((2, 3)), np.zeros((3, 2)), False),
            (np.zeros(3), np.zeros((2, 3), order="F")[0], True),
            (np.array(["a"]), np.array(["a"]), True),
            (np.array(["NaT"], "M8[s]"), np.array(["NaT"], "M8[s]"), True),
            ([1, 2], np.array([1, 2]), True),
            (np.zeros(0), None, False),
        ],
    )
    def test_arrays_by_dtype_shape_and_values(
        self, left: object, right: object, equal: bool
    ) -> None:
        assert (Document(id="a", tensor=left) == Document(id="a", tensor=right)) is equal
        assert (
            Document(id="a", tags={"x": [left]}) == Document(id="a", tags={"x": [right]})
        ) is equal

    def test_nan_in_tags(self) -> None:
        assert Document(id="a", tags={"x": float("nan")}) == Document(
            id="a", tags={"x": float("nan")}
        )

    @settings(max_examples=50)
    @given(ARRAYS, ARRAYS)
    def test_the_same_are_those_with_one_dtype_shape_and_values(
        self, left: Any, right: Any
    ) -> None:
        assert tensor.same(left, np.array(left, order="K"))
        both = (left.dtype, left.shape, left.tolist()) == (right.dtype, right.shape, right.tolist())
        assert tensor.same(left, right) is tensor.same(right, left) is both

    @pytest.mark.parametrize(
        ("left", "right", "equal"),
        [
            ({"a": [1, (2, 3)]}, {"a": (1, [2, 3])}, True),
            ({"a": 1}, {"a": 1, "b": 2}, False),
            ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
            ([1], [1, 2], False),
            ([1], {0: 1}, False),
            ([float("nan")], [float("nan")], True),
            ([float("nan")], [0.0], False),
            ({"a": np.zeros(2)}, {"a": np.zeros(2)}, True),
            ({"a": np.zeros(2)}, {"a": np.ones(2)}, False),
            ([np.zeros(2)], [[0.0, 0.0]], True),
            (np.zeros(2), None, False),
            ("1", 1, False),
        ],
    )
    def test_plain_values_with_arrays_in_them(self, left: Any, right: Any, equal: bool) -> None:
        assert tensor.same_value(left, right) is tensor.same_value(right, left) is equal

    def test_what_cannot_be_read_equals_only_itself(self) -> None:
        assert not tensor.same(np.array([None]), np.array([None]))
        ragged = [[1], [2, 3]]
        assert tensor.same(ragged, ragged)
        assert not tensor.same(ragged, [[1], [2, 3]])


def test_arrays_are_described_in_a_word() -> None:
    assert [
        tensor.describe(value) for value in (np.zeros((3, 4), "f4"), np.zeros(3), np.zeros(()))
    ] == [
        "float32(3, 4)",
        "float64(3,)",
        "float64()",
    ]
    assert [tensor.describe(value) for value in ([1, 2], (), {1}, None)] == [
        "list(2)",
        "tuple(0)",
        "set",
        "NoneType",
    ]


class TestStacking:
    @settings(max_examples=50)
    @given(st.lists(ARRAYS, min_size=1, max_size=4))
    def test_alike_arrays_become_a_new_one_and_others_stay_a_list(self, arrays: list[Any]) -> None:
        stacked = tensor.stacked(arrays)
        if len({(array.dtype, array.shape) for array in arrays}) > 1:
            assert isinstance(stacked, list)
            assert all(one is other for one, other in zip(stacked, arrays, strict=True))
            return
        assert stacked.dtype == arrays[0].dtype
        assert stacked.shape == (len(arrays), *arrays[0].shape)
        assert stacked.tolist() == [array.tolist() for array in arrays]
        assert not any(np.shares_memory(stacked, array) for array in arrays)

    def test_without_values_there_is_none(self) -> None:
        assert tensor.stacked([]) is tensor.stacked([None, None]) is None

    @pytest.mark.parametrize(
        "other", [None, [[1], [2, 3]], {1: 2}, np.array([None, None]), np.ma.zeros(2)]
    )
    def test_what_does_not_stack_stays_what_it_is(self, other: Any) -> None:
        values = [np.zeros(2), other]
        assert tensor.stacked(values)[1] is other
        assert tensor.stacked(values) is not values

    @pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 4), (0,), (0, 2)])
    def test_rows_are_views(self, shape: tuple[int, ...]) -> None:
        block = np.arange(np.prod(shape, dtype=int)).reshape(shape)
        rows = tensor.rows(block)
        assert [row.shape for row in rows] == [shape[1:]] * shape[0]
        assert [row.tolist() for row in rows] == block.tolist()
        assert tensor.are_rows(rows, block) is bool(rows)
        for number, row in enumerate(rows):
            row[...] = number
        assert [np.unique(row).tolist() for row in block] == [
            [number] for number in range(shape[0])
        ]

    def test_a_row_of_another_form_is_none(self) -> None:
        block = np.zeros((3, 4))
        for other in (np.zeros(3), np.zeros(4, "f4"), np.zeros(8)[::2]):
            assert not tensor.are_rows([block[0], other, block[2]], block)

    @pytest.mark.parametrize(
        ("value", "is_one"),
        [
            *(
                (np.zeros((2, 2)), True),
                (np.zeros((0, 2)), True),
                (np.zeros(2), False),
                (np.zeros(()), False),
            ),
            *(
                (np.full((2, 2), None), False),
                (np.ma.zeros((2, 2)), False),
                ([[1, 2]], False),
                (None, False),
            ),
            *((np.zeros((1,) * 16), True), (np.zeros((1,) * 17), False)),
        ],
        ids=repr,
    )
    def test_a_block_is_an_array_of_arrays(self, value: Any, is_one: bool) -> None:
        assert tensor.is_block(value) is is_one


class TestMemory:
    @given(ARRAYS)
    def test_one_array_there_and_back(self, array: Any) -> None:
        memory = tensor.memory([array])
        assert alike(tensor.from_memory(*tensor.header(array), bytearray(memory.tobytes())), array)
        assert array.nbytes == 0 or np.shares_memory(memory, array)

    @settings(max_examples=50)
    @given(arrays_of.arrays("<i2", arrays_of.array_shapes(max_dims=4, max_side=4)), st.data())
    def test_an_array_of_any_strides_there_and_back(self, array: Any, data: st.DataObject) -> None:
        array = array.transpose(data.draw(st.permutations(range(array.ndim))))
        array = array[
            tuple(
                slice(None, None, data.draw(st.sampled_from([1, -1, 2]))) for _ in range(array.ndim)
            )
        ]
        again = tensor.from_memory(
            *tensor.header(array), bytearray(tensor.memory([array]).tobytes())
        )
        assert again.tolist() == array.tolist()

    @settings(max_examples=50)
    @given(ARRAYS, st.integers(1, 4))
    def test_alike_arrays_are_one_memory(self, array: Any, count: int) -> None:
        memory = bytearray(tensor.memory([array] * count).tobytes())
        block = tensor.block_from_memory(count, *tensor.header(array), memory)
        assert [alike(row, array) for row in tensor.rows(block)] == [True] * count
        assert bytes(tensor.block_memory(block)) == memory
        assert not memory or np.shares_memory(
            tensor.block_memory(block), np.frombuffer(memory, "u1")
        )

    @settings(max_examples=50)
    @given(st.lists(ARRAYS, min_size=1, max_size=6), st.integers(0, 9))
    def test_groups_hold_each_array_once(self, arrays: list[Any], first: int) -> None:
        numbers = list(range(first, first + len(arrays)))
        found: dict[int, Any] = {}
        for in_group, header, memory in tensor.groups(numbers, arrays):
            block = tensor.block_from_memory(len(in_group), *header, bytearray(memory.tobytes()))
            assert not set(in_group) & set(found)
            found.update(zip(in_group, tensor.rows(block), strict=True))
        assert sorted(found) == numbers
        assert all(
            alike(found[number], array) for number, array in zip(numbers, arrays, strict=True)
        )

    def test_alike_arrays_are_one_group_wherever_they_stand(self) -> None:
        arrays = [np.zeros(2), np.zeros(3), np.ones(2), np.zeros(2, "f4"), np.zeros(3)]
        assert [group[0] for group in tensor.groups([0, 1, 2, 3, 4], arrays)] == [
            [0, 2],
            [1, 4],
            [3],
        ]
        assert [group[0] for group in tensor.groups([5, 7], [np.zeros(2), np.ones(2)])] == [[5, 7]]

    def test_arrays_of_different_orders_are_different_groups(self) -> None:
        c, fortran = np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3))
        assert [group[:2] for group in tensor.groups([0, 1, 2], [c, fortran, c])] == [
            ([0, 2], ("<i8", (2, 3), "C")),
            ([1], ("<i8", (2, 3), "F")),
        ]

    def test_arrays_with_very_many_dimensions_are_groups_of_their_own(self) -> None:
        assert [group[0] for group in tensor.groups([0, 1], [np.zeros((1,) * 16)] * 2)] == [
            [0],
            [1],
        ]

    @pytest.mark.parametrize(
        "others",
        [
            (np.zeros(3),),
            (np.zeros(2, "f4"),),
            (np.zeros((2, 1)),),
            (np.zeros(2), np.zeros(2, ">f8")),
        ],
    )
    def test_arrays_that_differ_have_no_memory_in_common(self, others: tuple[Any, ...]) -> None:
        with pytest.raises((TypeError, ValueError)):
            tensor.memory([np.zeros(2), *others])

    def test_an_array_is_a_view_of_memory_that_can_be_written_if_that_can(self) -> None:
        memory = bytearray(16)
        array = tensor.from_memory("<f8", [2], "C", memory)
        array[1] = 5
        assert np.frombuffer(memory).tolist() == [0.0, 5.0]
        assert not tensor.from_memory("<f8", [2], "C", bytes(16)).flags.writeable

    def test_memory_at_an_odd_address_is_copied(self) -> None:
        data = memoryview(bytearray(17))[1:]
        for array in (
            tensor.from_memory("<f8", [2], "C", data),
            tensor.block_from_memory(2, "<f8", [1], "F", data),
        ):
            assert array.flags.aligned
            assert array.flags.writeable

    @pytest.mark.parametrize(
        ("said", "message"),
        [
            (("|O8", [1], "C", b"x" * 8), "an array cannot have dtype '|O8' and order 'C'"),
            (("f4,f4", [1], "C", b"x" * 8), "an array cannot have dtype 'f4,f4'"),
            (("<f8\n", [1], "C", b"x" * 8), "an array cannot have dtype '<f8\\n'"),
            (("<f8", [1], "K", b"x" * 8), "an array cannot have dtype '<f8' and order 'K'"),
            ((8, [1], "C", b"x" * 8), "an array cannot have dtype 8"),
            (("<f8", [-1], "C", b"x" * 8), "an array cannot have shape [-1]"),
            (("<f8", [-1, -1], "C", b"x" * 8), "an array cannot have shape [-1, -1]"),
            (("<f8", [True], "C", b"x" * 8), "an array cannot have shape [True]"),
            (("<f8", [1.0], "C", b"x" * 8), "an array cannot have shape [1.0]"),
            (("<f8", [2], "C", b"x" * 8), "8 bytes cannot be 1 arrays of dtype <f8 and shape [2]"),
            (
                ("<f8", [2**62, 2**62], "C", b""),
                "0 bytes cannot be 1 arrays of dtype <f8 and shape [46116860",
            ),
        ],
    )
    def test_what_is_malformed_is_refused_before_numpy_sees_it(
        self, said: tuple[Any, ...], message: str
    ) -> None:
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            tensor.from_memory(*said)
        assert str(caught.value).startswith(message)
        with pytest.raises(ValueError):  # noqa: PT011
            tensor.block_from_memory(1, *said)

    def test_a_block_needs_the_memory_of_all_its_rows(self) -> None:
        with pytest.raises(
            ValueError, match=r"^16 bytes cannot be 3 arrays of dtype <f8 and shape \[1\]$"
        ):
            tensor.block_from_memory(3, "<f8", [1], "C", bytes(16))

    @pytest.mark.parametrize("data", [3, 10**12, "text", None, [1]])
    def test_memory_is_bytes(self, data: Any) -> None:
        with pytest.raises(
            ValueError, match=f"^the memory of an array is bytes, not {type(data).__name__}$"
        ):
            tensor.writable(data)
        assert tensor.writable(b"xy") == bytearray(b"xy")
