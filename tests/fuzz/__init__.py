"""The fuzzing harness: hostile peers at every port of a running Flow,
while others use it and are to notice nothing.

`python -m tests.fuzz --messages 10000000 --seed 7` runs it by hand;
a short run is part of the tests.

- `mutations`: messages that are nearly right, drawn from a seed. Pure logic.
- `hostile`: a process that sends them, and looks for others' data in whatever it hears.
- `rig`: a whole run: the Flow, those who use it, the hostile processes, and what came of it.
"""

import sys
from pathlib import Path

# The helpers of the tests are modules beside this package, also where it is run as `tests.fuzz`.
sys.path.append(str(Path(__file__).resolve().parent.parent))
