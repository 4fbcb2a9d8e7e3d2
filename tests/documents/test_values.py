"""Plain values as msgpack: which types are kept, which become others,
and which are refused with the way out.
"""

from __future__ import annotations

import datetime
import tracemalloc
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zflow.documents.codec import pack, unpack
from zflow.documents.document import Document, DocumentArray
from zflow.documents.values import dump, load

KEYS = st.text() | st.binary() | st.integers() | st.none() | st.booleans()
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
    max_leaves=5,
)


def tag(value: Any) -> Any:
    """A value after its way through tags, which is the same as that through parameters."""
    docs, parameters = unpack(pack(DocumentArray(Document(tags={"x": value})), {"x": value}))
    assert repr(docs[0].tags["x"]) == repr(parameters["x"])
    return parameters["x"]


class TestThereAndBack:
    @pytest.mark.parametrize(
        "value",
        [
            *(
                None,
                True,
                False,
                0,
                -1,
                2**63,
                2**64 - 1,
                2**64,
                -(2**63),
                -(2**63) - 1,
                2**1000,
                -(2**70),
            ),
            *(1.0, -0.0, float("inf"), 1e300, "", "äö\U0001f600\0", "\udcff", b"", b"\xff\0"),
            *(
                [],
                {},
                [1, [2, {"a": None}]],
                {"a": {1: "one", None: 0, False: 2, b"k": 3, 2.5: 4, 2**70: 5}},
            ),
        ],
        ids=lambda value: repr(value)[:30],
    )
    def test_types_are_kept(self, value: Any) -> None:
        again = tag(value)
        assert again == value
        assert type(again) is type(value)
        assert repr(again) == repr(value)

    def test_numpy_scalars_become_pythons(self) -> None:
        scalars = [
            np.int64(3),
            np.float32(0.5),
            np.bool_(True),
            np.longdouble(1.5),
            np.uint64(2**64 - 1),
            np.str_("x"),
        ]
        again = tag(scalars)
        assert again == [3, 0.5, True, 1.5, 2**64 - 1, "x"]
        assert [type(value) for value in again] == [int, float, bool, float, int, str]

    def test_tuples_become_lists_but_as_keys(self) -> None:
        assert tag((1, (2, 3))) == [1, [2, 3]]
        assert tag({(1, 2): (3, [4])}) == {(1, 2): [3, [4]]}

    @settings(max_examples=50)
    @given(VALUES)
    def test_whatever_is_dumped_is_loaded(self, value: Any) -> None:
        again = load(dump(value))
        assert again == value
        assert repr(again) == repr(value)

    @given(st.integers(1, 300), st.integers(-2, 2), st.sampled_from([1, -1]))
    def test_integers_may_have_any_size(self, bits: int, beside: int, sign: int) -> None:
        number = sign * 2**bits + beside
        assert load(dump({"n": [number]})) == {"n": [number]}
        assert type(load(dump(number))) is int

    def test_mappings_become_dicts(self) -> None:
        again = load(dump(MappingProxyType({"a": MappingProxyType({1: 2})})))
        assert again == {"a": {1: 2}}
        assert type(again["a"]) is dict

    @pytest.mark.parametrize("order", ["C", "F"])
    def test_arrays_stay_arrays_that_can_be_changed(self, order: Any) -> None:
        array = np.arange(6, dtype=">i2").reshape((2, 3), order=order)
        (again,) = load(dump([array]))
        assert (again.dtype.str, again.tolist(), again.flags.fnc) == (
            ">i2",
            array.tolist(),
            order == "F",
        )
        again += 1
        assert array[0, 0] == 0

    def test_any_bytes_will_do(self) -> None:
        data = dump({"a": 1})
        assert load(data) == load(bytearray(data)) == load(memoryview(data)) == {"a": 1}

    def test_keys_may_hold_tuples_deep_in_other_values(self) -> None:
        value = [{(1, (2, "x")): [{(3,): (4, 5)}]}]
        assert load(dump(value)) == [{(1, (2, "x")): [{(3,): [4, 5]}]}]


class TestRefused:
    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (set(), "cannot send a value of type set; use a list"),
            (frozenset({1}), "cannot send a value of type frozenset; use a list"),
            (1j, "cannot send a value of type complex; use [value.real, value.imag]"),
            (PurePosixPath("a"), "cannot send a value of type PurePosixPath; use str(value)"),
            (datetime.date(2020, 1, 1), "cannot send a value of type date; use value.isoformat()"),
            (datetime.datetime(2020, 1, 1), "cannot send a value of type datetime; use "
                                            "value.isoformat()"),
            (Document(), "cannot send a value of type Document; use value.to_dict()"),
            (len, "cannot send a value of type builtin_function_or_method; use None, bool, int, "
                  "float, str, bytes, "
             "list, dict or an array"),
            (np.complex128(1j), "cannot send a single complex128; use str(value) or an array"),
            (np.datetime64("2020-01-01"), "cannot send a single datetime64; use str(value) or an "
                                          "array"),
            (np.array([{}]), "arrays of Python objects cannot be sent: convert it to numbers "
                             "(ragged lists, and sparse "
             "matrices too)"),
        ],
    )  # fmt: skip
    def test_others_are_refused_with_the_way_out(self, value: Any, message: str) -> None:
        for inside in (value, [value], {"a": [{"b": value}]}):
            with pytest.raises(TypeError) as caught:
                dump(inside)
            assert str(caught.value) == message

    def test_what_was_refused_leaves_nothing_behind(self) -> None:
        before = dump({"a": [1, 2**70]})
        for wrong in ({"first": "x" * 1000, "then": {1}}, ["x", 1j], {"a": object()}):
            with pytest.raises(TypeError):
                dump(wrong)
            assert dump({"a": [1, 2**70]}) == before

    def test_what_was_large_leaves_no_memory_behind(self) -> None:
        before = dump({"a": 1})
        large = "x" * 10**7
        tracemalloc.start()
        try:
            assert len(dump(large)) > 10**7
            assert tracemalloc.get_traced_memory()[0] < 10**6
        finally:
            tracemalloc.stop()
        assert dump({"a": 1}) == before

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (["|u1", [3], "C", 3], "the memory of an array is bytes, not int"),
            (["|O8", [1], "C", b"x" * 8], "an array cannot have dtype '|O8' and order 'C'"),
            (["|u1", [3], "C", b"xy"], "2 bytes cannot be 1 arrays of dtype |u1 and shape [3]"),
        ],
    )
    def test_malformed_arrays_are_refused(self, array: list[Any], message: str) -> None:
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            load(msgpack.packb([msgpack.ExtType(2, msgpack.packb(array))]))
        assert str(caught.value) == message

    def test_unknown_extensions_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"^unknown msgpack extension type 99$"):
            load(msgpack.packb(msgpack.ExtType(99, b"x")))

    @settings(max_examples=30)
    @given(VALUES.filter(lambda value: len(dump(value)) > 1), st.data())
    def test_what_was_cut_short_is_refused(self, value: Any, data: st.DataObject) -> None:
        whole = dump(value)
        with pytest.raises(ValueError):  # noqa: PT011
            load(whole[: data.draw(st.integers(0, len(whole) - 1))])
