"""The fuzzing harness on the command line: `python -m tests.fuzz --messages 1000000 --seed 7`."""

from __future__ import annotations

import argparse
import random
import sys

from . import rig


def main() -> int:
    """Run it; the exit status is 0 if nothing is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "--messages",
        type=int,
        default=100_000,
        help="of all hostile peers together (default 100000)",
    )
    parser.add_argument("--seed", type=int, help="of the messages; any when left out")
    parser.add_argument(
        "--rate", type=float, default=0.0, help="messages a second of each; as many as there can be"
    )
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    account = rig.run(given.messages, seed, given.rate)
    print("\n".join(account.lines()), flush=True)
    return 1 if account.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
