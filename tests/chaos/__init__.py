"""The chaos harness: load whose every answer is checked, failures injected from a seed,
and an account at the end.

`python -m tests.chaos --minutes 30 --seed 7` runs it by hand; a short run is part of the tests.

- `executors`: the Executors of the Flow that is maltreated, and what their answers must look like.
- `load`: the clients; they post, check what comes back and write it in the `Ledger`.
- `schedule`: what is to happen when, drawn from a seed or read from the log of another run. Pure
  logic.
- `injector`: makes it happen, and writes the log.
- `strangers`: who comes over TCP and means no good.
- `usage`: memory and descriptors of all processes.
- `disk`: a small disk for the sockets, which can be filled.
- `account`: what came of it all, and what is wrong with that.
- `rig`: a whole run, from the start of the Flow to the account.
"""

import sys
from pathlib import Path

# The helpers of the tests are modules beside this package, also where it is run as `tests.chaos`.
sys.path.append(str(Path(__file__).resolve().parent.parent))
