"""Which dtypes can be sent, namely those of numpy that are plain memory; why others cannot.

It looks at arrays of any library without converting them, and must not know how they travel.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Hashable
from functools import lru_cache
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Kinds of dtype that are plain memory: no pointers (object) and no layout to agree on
#: (structured).
KINDS = "biufcSUmM"
# What other libraries call dtypes that numpy does not have, however they write it.
_NOT_NUMPYS = re.compile(
    r"bfloat|float[468](?!\d)|float8_|complex32|qu?int|int[1-7](?!\d)|bits\d|string|object|variant"
    "|resource"
)
MASKED = "a masked array would lose its mask: use array.filled(...)"
NO_UNIT = "a time without a unit cannot be sent: convert it, as in array.astype('M8[ns]')"


@lru_cache(maxsize=256)
def refusal(dtype: Hashable) -> str:
    """Say why arrays of this dtype, of numpy or of another library, cannot be sent, and the way
    out; `''` if they can, or if only numpy can tell.
    """
    import numpy as np

    if not isinstance(dtype, np.dtype):
        if not _NOT_NUMPYS.search(str(dtype)):
            return ""
        return (
            f"arrays of dtype {dtype} cannot be sent, for numpy has none such: convert it, as in "
            "tensor.float()"
        )
    if dtype.names:
        return f"structured arrays cannot be sent ({dtype}): use one array per column"
    if dtype.kind == "O":
        return (
            "arrays of Python objects cannot be sent: convert it to numbers (ragged lists, and "
            "sparse matrices too)"
        )
    # 2: registered by another package, such as ml_dtypes; the kind may be that of numpy's floats.
    if dtype.kind not in KINDS or dtype.isbuiltin == 2:
        way = "U" if dtype.kind == "T" else "float32"
        return f"arrays of dtype {dtype} cannot be sent: convert it, as in array.astype('{way}')"
    return ""


def objection(value: object) -> str:
    """Say what can be seen to be wrong with a value for a field of arrays without converting it;
    `''` if nothing can.
    """
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return ""
    try:
        why = refusal(dtype)
    except TypeError:  # no dtype at all: it cannot be hashed
        return ""
    if why or type(value) is not sys.modules["numpy"].ndarray:
        return why or (MASKED if is_masked(value) else "")
    times = dtype.kind == "M" and cast("NDArray[np.generic]", value)
    return NO_UNIT if times is not False and are_without_unit(times) else ""


def is_masked(value: object) -> bool:
    return hasattr(value, "filled") and hasattr(value, "mask")


def has_no_unit(dtype: np.dtype[np.generic]) -> bool:
    import numpy as np

    return dtype.kind == "M" and np.datetime_data(dtype.str)[0] == "generic"


def are_without_unit(array: NDArray[np.generic]) -> bool:
    """Say whether these are times that are counted in nothing: numpy cannot even show them."""
    import numpy as np

    return has_no_unit(array.dtype) and not bool(np.isnat(array).all())
