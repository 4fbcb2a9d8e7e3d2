"""The time that waiting takes, on a clock that goes on also where tests in the
process make `time` stand still.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Final

monotonic: Final = partial(time.clock_gettime, time.CLOCK_MONOTONIC)
