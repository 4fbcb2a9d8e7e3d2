"""The same on two hosts: network namespaces joined by a cable,
the far one with an address of the open internet.

python examples/external/namespaces.py

It needs Linux, and the right to make namespaces: to be root, or unprivileged user namespaces. Where
that is not allowed it says so and ends with status 77. Namespaces, cable and processes go when it
ends; nothing else on the machine sees them.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import outage

NOT_ALLOWED = 77  # the exit status by which test suites know that something was skipped
NEAR_ADDRESS, FAR_ADDRESS = "91.198.174.1", "91.198.174.192"
INSIDE = "--inside"  # this program, in the near namespace


def give_up(reason: str) -> None:
    """End, and say why."""
    print(f"skipped: {reason}", file=sys.stderr)
    sys.exit(NOT_ALLOWED)


def way_in() -> list[str]:
    """The command that runs another one in a network namespace of its own: as root,
    or as root in there only.
    """
    for tool in ("unshare", "nsenter", "ip"):
        if shutil.which(tool) is None:
            give_up(f"there is no command {tool!r}; install util-linux and iproute2")
    said = ""
    for command in (["unshare", "--net"], ["unshare", "--map-root-user", "--net"]):
        # The cable is tried too: a kernel may have namespaces and no veth.
        trial = subprocess.run(
            [*command, "ip", "link", "add", "try0", "type", "veth", "peer", "name", "try1"],
            capture_output=True,
            text=True,
        )
        if trial.returncode == 0:
            return command
        said = trial.stderr.strip() or said
    give_up(f"no network namespace can be made here: {said}; run it as root")
    raise AssertionError


@contextlib.contextmanager
def far_namespace() -> Iterator[list[str]]:
    """A second namespace, with a cable between the two;
    gives the command that runs another one there.
    """
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "echo; exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        holder.stdout.readline()  # now it is in there
        there = ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]
        ip("link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(holder.pid))
        ip("address", "add", f"{NEAR_ADDRESS}/24", "dev", "near")
        ip("address", "add", f"{FAR_ADDRESS}/24", "dev", "far", within=there)
        for device, within in (("near", []), ("lo", []), ("far", there), ("lo", there)):
            ip("link", "set", device, "up", within=within)
        yield there
    finally:
        holder.stdin.close()  # which ends it, and the namespace with it
        holder.wait()


def ip(*words: str, within: list[str] | None = None) -> None:
    """Run `ip`."""
    subprocess.run([*(within or []), "ip", *words], check=True)


def inside() -> None:
    """What runs in the near namespace."""
    with far_namespace() as there:
        near, far = outage.NEAR, f"{FAR_ADDRESS}:12346"
        servers = [outage.Server(near), outage.Server(far, there)]
        try:
            for server in servers:
                server.wait_until_ready()
            subprocess.run(
                [sys.executable, str(Path(__file__).with_name("flow.py")), FAR_ADDRESS], check=True
            )
        finally:
            for server in servers:
                server.stop()
        outage.main(near, far, there)


def main() -> int:
    """Start anew in the near namespace, or say why that cannot be."""
    return subprocess.run([*way_in(), sys.executable, __file__, INSIDE]).returncode


if __name__ == "__main__":
    if sys.argv[1:] == [INSIDE]:
        inside()
    else:
        sys.exit(main())
