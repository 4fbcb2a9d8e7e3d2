"""The chaos harness on the command line: `python -m tests.chaos --minutes 30 --seed 7`."""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from . import disk, rig, schedule

QUICK = rig.Options(seconds=10.0, seed=0, rate=200.0, pace=3.0)


def main() -> int:
    """Run it; the exit status is 0 if nothing is wrong."""
    given = _arguments()
    if disk.VARIABLE not in os.environ:
        reason = disk.unavailable()
        if not reason:
            return disk.run_inside([sys.executable, "-m", "tests.chaos", *sys.argv[1:]])
        print(f"the disk will not be filled: {reason}", flush=True)
    events = None
    if given.replay:
        written, events = schedule.read(Path(given.replay).read_text(encoding="utf-8").splitlines())
        options = rig.Options(**written)
    else:
        seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
        chosen = QUICK if given.quick else rig.Options(given.minutes * 60, 0)
        rate = given.requests_per_second or chosen.rate
        options = rig.Options(chosen.seconds, seed, rate, chosen.pace, given.soak)
    # Not on the small disk.
    folder = Path(
        tempfile.mkdtemp(
            prefix="zflow-chaos.", dir="/var/tmp" if os.path.isdir("/var/tmp") else "/tmp"
        )
    )
    print(f"seed {options.seed}; notes and log in {folder}", flush=True)
    account = rig.run(options, folder, Path(given.log) if given.log else None, events)
    print("\n".join(account.lines()), flush=True)
    if not account.wrong:
        shutil.rmtree(folder)
    return 1 if account.wrong else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0, help="of load (default 1)")
    parser.add_argument("--seed", type=int, help="of load and failures; any when left out")
    parser.add_argument(
        "--requests-per-second",
        type=float,
        help=f"of all clients together (default {rig.RATE:.0f})",
    )
    parser.add_argument(
        "--soak", action="store_true", help="no failures, half of the capacity; nothing may grow"
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK.seconds:.0f} s, with failures close together"
    )
    parser.add_argument(
        "--replay",
        metavar="LOG",
        help="inject what this log of another run says, into the same load",
    )
    parser.add_argument("--log", help="where to write the log; where it is printed when left out")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
