"""Whether there are descriptors left."""

from __future__ import annotations

import pytest
from helpers import few_descriptors

from zflow.devices.sockets.descriptors import FEW, make_sure


def test_too_few_descriptors_are_an_error_and_none_is_kept() -> None:
    with few_descriptors(left=1):
        make_sure(1)
        for _ in range(2):
            with pytest.raises(OSError, match="Too many open files") as caught:
                make_sure(2)
            assert caught.value.errno in FEW
        make_sure(1)
