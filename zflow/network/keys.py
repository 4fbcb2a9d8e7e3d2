"""A folder of CURVE keys: who a Flow is, whose clients and replicas may connect to it over TCP,
and who may change it.

    server.key       server.key_secret      the Flow's pair
    client.key       client.key_secret      a pair for clients; others are NAME.key ...
    admin.key        admin.key_secret       a pair for clients that may change the Flow
    replica.key      replica.key_secret     a pair for replicas on other machines
    clients/*.key    admins/*.key    replicas/*.key    the public keys that may connect, as what

The files are those of `zmq.auth`. A machine of clients needs no more than `server.key` and
`client.key_secret`. Keys are z85 text as bytes everywhere. A secret key never gets into a repr,
a message or a log.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import zmq

from zflow.errors import InvalidKeys
from zflow.suggest import listed, short

log = logging.getLogger("zflow")

KINDS: Final = ("clients", "replicas", "admins")

_OTHERS_MAY: Final = stat.S_IRWXG | stat.S_IRWXO
# Seconds after which a folder's time of change would differ if it changed again.
_SETTLED: Final = 1.0
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")

Folder = str | os.PathLike[str]
Keys = tuple[bytes, bytes, bytes]  # the Flow's public key, and an own pair


@dataclass(frozen=True)
class ServerKeys:
    """What a Flow needs: its own pair, and the public keys that may connect when it starts."""

    public: bytes
    secret: bytes = field(repr=False)
    clients: frozenset[bytes]
    replicas: frozenset[bytes]
    admins: frozenset[bytes]


@dataclass(frozen=True)
class PeerKeys:
    """What a client or a replica needs: the Flow's public key and its own pair."""

    server_public: bytes
    public: bytes
    secret: bytes = field(repr=False)


# -- making ----------------------------------------------------------------------------------------


def new(folder: Folder) -> None:
    """Make a key folder with the Flow's pair, and one for clients, admins and replicas each,
    all on their lists.

    Raises:
        InvalidKeys: there is something in the folder already, or it cannot be written,
            or libzmq has no CURVE.
    """
    _need_curve()
    path = Path(os.path.abspath(folder))
    try:
        if os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir())):
            raise InvalidKeys(
                f"{folder} exists already: name another folder, or remove it and what it lets in"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        # Nobody else may read it from the beginning.
        made = tempfile.mkdtemp(prefix=".keys-", dir=path.parent)
        try:
            for kind in KINDS:
                os.mkdir(os.path.join(made, kind), 0o700)
            _make_pair(Path(made), "server")
            for kind in KINDS:
                _make_pair(Path(made), kind.removesuffix("s"), kind)
            os.rename(made, path)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
    except OSError as error:
        raise InvalidKeys(
            f"cannot make the key folder {folder}: {error.filename}: {error.strerror}"
        ) from None


def add(folder: Folder, name: str, kind: str = "clients") -> None:
    """Make a further pair, `name.key` and `name.key_secret`, and put it on a list.

    Args:
        kind: `'clients'`, `'admins'` or `'replicas'`.

    Raises:
        InvalidKeys: no key folder, a name that is taken or cannot be, another kind.
    """
    _need_curve()
    path = _folder(folder)
    if kind not in KINDS:
        raise InvalidKeys(f"a key is for one of {listed(KINDS)}, not for {short(kind)}")
    if not _NAME.fullmatch(name):
        raise InvalidKeys(
            f"a key's name has 1 to 64 letters, digits, '_', '-' and '.', unlike {short(name)}"
        )
    taken = [
        path / f"{name}.key",
        path / f"{name}.key_secret",
        *(path / kind / f"{name}.key" for kind in KINDS),
    ]
    found = [file for file in taken if os.path.lexists(file)]
    if found:
        raise InvalidKeys(
            f"there is a key called {name!r} already, in {found[0]}: choose another name"
        )
    _own_pair(path, "server")  # else it is no key folder of a Flow's machine
    try:
        (path / kind).mkdir(0o700, exist_ok=True)
        _make_pair(path, name, kind)
    except OSError as error:
        raise InvalidKeys(
            f"cannot write keys to {folder}: {error.filename}: {error.strerror}"
        ) from None


def _make_pair(folder: Path, name: str, kind: str | None = None) -> None:
    """Make both files of a pair, then put the public one on a list."""
    from zmq.auth import create_certificates

    made = tempfile.mkdtemp(prefix=".pair-", dir=folder)
    try:
        public, secret = create_certificates(made, name)
        os.chmod(secret, 0o600)
        os.rename(secret, folder / f"{name}.key_secret")
        if kind is not None:
            listed_key = os.path.join(made, "listed")
            shutil.copyfile(public, listed_key)
            # At once whole: a running Flow may be reading.
            os.rename(listed_key, folder / kind / f"{name}.key")
        os.rename(public, folder / f"{name}.key")
    finally:
        shutil.rmtree(made, ignore_errors=True)


# -- reading ---------------------------------------------------------------------------------------


def server_keys(folder: Folder) -> ServerKeys:
    """Read what a Flow needs.

    Raises:
        InvalidKeys: a folder or a file is missing, unreadable or no key,
            or a client's key is a replica's too.
    """
    _need_curve()
    path = _folder(folder)
    public, secret = _own_pair(path, "server")
    lists, problems = _read_lists(path)
    if problems:
        raise InvalidKeys(problems[0])
    return ServerKeys(public, secret, *(lists[kind.encode()] for kind in KINDS))


def client_keys(folder: Folder, name: str = "client") -> PeerKeys:
    """Read what a client needs: `server.key` and `name.key_secret`; nothing else need be there.

    Raises:
        InvalidKeys: the folder or a file is missing, unreadable or no key.
    """
    _need_curve()
    path = _folder(folder)
    return PeerKeys(_public_key(path / "server.key"), *_own_pair(path, name))


def replica_keys(folder: Folder, name: str = "replica") -> PeerKeys:
    """Read what a replica on another machine needs: `server.key` and `name.key_secret`.

    Raises:
        InvalidKeys: the folder or a file is missing, unreadable or no key.
    """
    return client_keys(folder, name)


class Lists:
    """The public keys that may connect as what, such as `{b'clients': ...}`,
    as the folder has them now.

    Called for each new connection and each command; it looks whether files were added or removed,
    and reads them anew only then. A file that cannot be read lets nobody in, with a warning. A
    removal counts within a second. Can be pickled.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = Path(os.path.abspath(folder))
        self._lists: dict[bytes, frozenset[bytes]] = {}
        self._changed: tuple[int, ...] | None = None
        self._settled = False
        self._told: list[str] = []

    def __call__(self) -> Mapping[bytes, frozenset[bytes]]:
        changed = self._times()
        if changed is None or changed != self._changed or not self._settled:
            self._read(changed)
        return self._lists

    def _times(self) -> tuple[int, ...] | None:
        try:
            return tuple(_changed(self._folder / kind) for kind in KINDS)
        except OSError:
            return None

    def _read(self, changed: tuple[int, ...] | None) -> None:
        # Two changes within a tick of the file system's clock have the same time: what is so young
        # is read once more.
        settled = changed is not None and time.time() - max(changed) * 1e-9 > _SETTLED
        if changed is not None and changed == self._changed and not settled:
            return
        self._changed, self._settled = changed, settled
        self._lists, problems = _read_lists(self._folder)
        for problem in problems:
            if problem not in self._told:
                log.warning("%s; until then it lets nobody in", problem)
        self._told = problems


def _changed(folder: Path) -> int:
    """When a list was changed; that of admins need not be there."""
    try:
        return os.stat(folder).st_mtime_ns
    except FileNotFoundError:
        if folder.name == "admins":
            return 0
        raise


def _read_lists(folder: Path) -> tuple[dict[bytes, frozenset[bytes]], list[str]]:
    """The keys by kind, and what is wrong with those that are left out."""
    problems: list[str] = []
    found = {kind: dict(_read_list(folder / kind, problems)) for kind in KINDS}
    clients = {**found["admins"], **found["clients"]}
    for key in clients.keys() & found["replicas"].keys():
        file, other = clients[key], found["replicas"].pop(key)
        problems.append(
            f"{file} and {other} are the same key: a client could pose as a replica; remove one of "
            "them"
        )
    return {kind.encode(): frozenset(keys) for kind, keys in found.items()}, problems


def _read_list(folder: Path, problems: list[str]) -> Iterator[tuple[bytes, Path]]:
    try:
        files = sorted(folder.glob("*.key")) if os.listdir(folder) else []
    except OSError as error:
        if folder.name == "admins" and isinstance(error, FileNotFoundError):
            return  # then nobody is one
        problems.append(
            f"cannot read {folder}, the list of who may connect: {error.strerror}; make the folder"
        )
        return
    for file in files:
        try:
            yield _public_key(file), file
        except InvalidKeys as error:
            problems.append(error.message)


def _folder(folder: Folder) -> Path:
    path = Path(os.path.abspath(folder))
    if not os.path.isdir(path):  # the method raises where a name is too long
        shown = str(folder)[:300]
        what = (
            f"{shown} is no folder" if os.path.lexists(path) else f"there is no key folder {shown}"
        )
        raise InvalidKeys(
            f"{what}: make one with `zflow-run keys new {shown}`, or copy it from where it was made"
        )
    return path


def _public_key(file: Path) -> bytes:
    public, secret = _load(file)
    if secret is not None:
        log.warning(
            "%s holds a secret key; only .key_secret files should: replace it by the public one",
            file,
        )
    return public


def _own_pair(folder: Path, name: str) -> tuple[bytes, bytes]:
    file = folder / f"{name}.key_secret"
    public, secret = _load(file)
    if secret is None:
        raise InvalidKeys(
            f"{file} holds no secret key: copy the .key_secret file, not the .key file"
        )
    if zmq.curve_public(secret) != public:
        raise InvalidKeys(
            f"{file} is damaged: its two keys are no pair; copy it anew, or make new keys"
        )
    if file.stat().st_mode & _OTHERS_MAY:
        log.warning(
            "%s may be read or changed by other users of this machine: chmod 600 %s", file, file
        )
    return public, secret


def _load(file: Path) -> tuple[bytes, bytes | None]:
    """A key file's public and secret key. No message shows what is in it,
    for that may be a secret.
    """
    from zmq.auth import load_certificate

    if not file.exists():
        raise InvalidKeys(
            f"there is no {file}: copy it from the key folder of the machine where the keys were "
            "made"
        )
    try:
        public, secret = load_certificate(str(file))
    except OSError as error:
        raise InvalidKeys(f"cannot read {file}: {error.strerror}") from None
    except ValueError:
        raise InvalidKeys(f"{file} is no key file: `zflow-run keys` makes them") from None
    for key in (public, secret):
        if key is not None and not _is_key(key):
            raise InvalidKeys(
                f"{file} is damaged: what it calls a key is none; copy it anew, or make new keys"
            )
    return public, secret


def _is_key(key: bytes) -> bool:
    from zmq.utils import z85

    try:
        return len(key) == 40 and z85.encode(z85.decode(key)) == key
    except Exception:
        return False


def _need_curve() -> None:
    if not zmq.has("curve"):
        raise InvalidKeys(
            f"libzmq {zmq.zmq_version()} was built without CURVE: install pyzmq from its wheel, "
            "`pip install --force-reinstall --only-binary pyzmq pyzmq`"
        )


def keys_of(curve: Folder | None, name: str = "client") -> Keys | None:
    """Read the keys of a client, an admin or a replica from a key folder. Raises: as `client_keys`.

    Where there is only one of `client.key_secret` and `admin.key_secret`, it is taken for both.
    """
    if curve is None:
        return None
    other = {"client": "admin", "admin": "client"}.get(name)
    if other is not None and not _has(curve, name) and _has(curve, other):
        name = other
    found = client_keys(curve, name)
    return found.server_public, found.public, found.secret


def _has(curve: Folder, name: str) -> bool:
    return os.access(Path(curve) / f"{name}.key_secret", os.R_OK)
