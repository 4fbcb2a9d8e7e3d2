"""A folder of keys: what makes it, what is read from it, what is said about a wrong one,
and what is never said.
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import stat

import pytest
import zmq
from helpers import wait_for
from zmq.auth import load_certificate

from zflow.errors import InvalidKeys, ZflowError
from zflow.network import keys


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "keys"
    keys.new(made)
    return made


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def secrets(folder):
    return [load_certificate(path)[1].decode() for path in folder.glob("*.key_secret")]


# -- making ----------------------------------------------------------------------------------------


def test_a_new_folder_has_four_pairs_and_three_lists_for_nobody_else_to_read(folder):
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    assert files == [
        *("admin.key", "admin.key_secret", "admins", "admins/admin.key"),
        *("client.key", "client.key_secret", "clients", "clients/client.key"),
        *("replica.key", "replica.key_secret", "replicas", "replicas/replica.key"),
        *("server.key", "server.key_secret"),
    ]
    assert [mode(folder / name) for name in (".", "clients", "replicas", "admins")] == [0o700] * 4
    assert {mode(path) for path in folder.glob("*.key_secret")} == {0o600}
    assert (folder / "clients/client.key").read_bytes() == (folder / "client.key").read_bytes()
    assert os.listdir(folder.parent) == ["keys"]


def test_a_folder_may_lie_deep_or_be_there_empty_and_its_name_may_be_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("empty")
    for name in ("a/b/keys", "empty", "keys/"):
        keys.new(name)
        assert keys.server_keys(name).clients


def test_keys_are_never_overwritten(folder):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(InvalidKeys, match=r"keys exists already: name another folder"):
        keys.new(folder)
    for name in ("client", "replica", "server", "admin"):
        with pytest.raises(
            InvalidKeys, match=rf"there is a key called '{name}' already, in .*{name}.key: choose"
        ):
            keys.add(folder, name)
    (folder / "clients/gone.key").touch()
    with pytest.raises(InvalidKeys, match="'gone' already"):
        keys.add(folder, "gone", "replicas")
    (folder / "clients/gone.key").unlink()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_folder_that_cannot_be_made_leaves_nothing_behind(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        InvalidKeys, match=r"cannot make the key folder .*file/keys: .*file: File exists"
    ):
        keys.new(tmp_path / "file/keys")
    with pytest.raises(InvalidKeys, match=r"file exists already"):
        keys.new(tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]


def test_an_added_key_is_on_its_list_under_its_name(folder):
    keys.add(folder, "laptop")
    keys.add(folder, "gpu-box.1", "replicas")
    laptop, box = keys.client_keys(folder, "laptop"), keys.replica_keys(folder, "gpu-box.1")
    server = keys.server_keys(folder)
    assert server.clients == {keys.client_keys(folder).public, laptop.public}
    assert server.replicas == {keys.replica_keys(folder).public, box.public}
    assert mode(folder / "laptop.key_secret") == 0o600
    assert not [name for name in os.listdir(folder) if name.startswith(".")]


@pytest.mark.parametrize("name", ["", ".", "..", "../client", "a/b", "-x", "a b", "x" * 65, "a\n"])
def test_a_name_that_cannot_be_a_file_here_is_refused(folder, name):
    with pytest.raises(InvalidKeys, match="a key's name has 1 to 64 letters"):
        keys.add(folder, name)


def test_a_key_is_for_a_client_an_admin_or_a_replica(folder, tmp_path):
    with pytest.raises(
        InvalidKeys, match=r"for one of 'clients', 'replicas', 'admins', not for 'servers'"
    ):
        keys.add(folder, "x", "servers")
    with pytest.raises(
        InvalidKeys, match=r"no key folder .*none: make one with `zflow-run keys new"
    ):
        keys.add(tmp_path / "none", "x")


# -- reading ---------------------------------------------------------------------------------------


def test_each_side_reads_what_the_other_knows_it_by(folder):
    server, client, replica = (
        keys.server_keys(folder),
        keys.client_keys(folder),
        keys.replica_keys(folder),
    )
    assert client.server_public == replica.server_public == server.public
    assert server.clients == {client.public}
    assert server.replicas == {replica.public}
    for pair in (server, client, replica):
        assert zmq.curve_public(pair.secret) == pair.public


@pytest.mark.parametrize(
    ("name", "read"), [("client", keys.client_keys), ("replica", keys.replica_keys)]
)
def test_the_other_machine_needs_two_files(folder, tmp_path, name, read):
    other = tmp_path / "other"
    other.mkdir()
    for file in ("server.key", f"{name}.key_secret"):
        shutil.copy(folder / file, other)
    assert read(other) == read(folder)
    (other / "server.key").unlink()
    with pytest.raises(InvalidKeys, match=r"there is no .*other/server.key: copy it from"):
        read(other)
    with pytest.raises(InvalidKeys, match=r"there is no .*other/server.key_secret: copy it from"):
        keys.server_keys(other)


def damage(folder, what):
    """Make one file wrong; its name."""
    file = folder / "client.key_secret"
    text = file.read_text()
    secret = secrets(folder)[0]
    if what == "missing":
        file.unlink()
    elif what == "no key file":
        file.write_text("some text")
    elif what == "bytes":
        file.write_bytes(os.urandom(100).replace(b"\n", b""))
    elif what == "without a secret":
        shutil.copyfile(folder / "client.key", file)
    elif what == "another's secret":
        lines = text.splitlines()
        lines[-1] = (folder / "replica.key_secret").read_text().splitlines()[-1]
        file.write_text("\n".join(lines))
    elif what == "cut short":
        file.write_text(text[:-6])
    elif what == "not z85":
        file.write_text(text.replace("secret-key = ", "secret-key = ~~"))
    elif what == "no file":
        file.unlink()
        file.mkdir()
    assert secret
    return file.name


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", "there is no .*client.key_secret: copy it from"),
        ("no key file", "client.key_secret is no key file"),
        ("bytes", "client.key_secret is no key file"),
        ("without a secret", "client.key_secret holds no secret key: copy the .key_secret file"),
        ("another's secret", "client.key_secret is damaged: its two keys are no pair"),
        ("cut short", "client.key_secret is damaged: what it calls a key is none"),
        ("not z85", "client.key_secret is damaged: what it calls a key is none"),
        ("no file", "cannot read .*client.key_secret: Is a directory"),
    ],
)
def test_a_wrong_file_is_named_but_not_shown(folder, what, message):
    before = secrets(folder)
    damage(folder, what)
    with pytest.raises(InvalidKeys, match=message) as raised:
        keys.client_keys(folder)
    assert isinstance(raised.value, (ZflowError, ValueError))
    assert not any(secret[:8] in str(raised.value) for secret in before)
    assert raised.value.__cause__ is None


def test_a_missing_folder_says_how_to_make_one(tmp_path):
    for read in (keys.server_keys, keys.client_keys, keys.replica_keys):
        with pytest.raises(
            InvalidKeys, match=r"there is no key folder .*none: make one with `zflow-run keys new"
        ):
            read(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(InvalidKeys, match="file is no folder"):
        keys.client_keys(tmp_path / "file")


def test_a_flow_does_not_start_with_a_wrong_list(folder):
    (folder / "clients/x.key").write_text("some text")
    with pytest.raises(InvalidKeys, match=r"clients/x.key is no key file"):
        keys.server_keys(folder)
    shutil.rmtree(folder / "clients")
    with pytest.raises(
        InvalidKeys,
        match=r"cannot read .*clients, the list of who may connect: .*; make the folder",
    ):
        keys.server_keys(folder)


def test_a_key_on_both_lists_is_an_error(folder):
    shutil.copy(folder / "clients/client.key", folder / "replicas/other.key")
    with pytest.raises(
        InvalidKeys, match=r"clients/client.key and .*replicas/other.key are the same key"
    ):
        keys.server_keys(folder)
    assert keys.Lists(folder)() == {
        b"clients": {keys.client_keys(folder).public},
        b"replicas": {keys.replica_keys(folder).public},
        b"admins": {keys.client_keys(folder, "admin").public},
    }


def test_an_admins_key_may_be_a_clients_too_but_no_replicas(folder):
    shutil.copy(folder / "admins/admin.key", folder / "clients/admin.key")
    admin = keys.client_keys(folder, "admin").public
    server = keys.server_keys(folder)
    assert admin in server.clients
    assert admin in server.admins
    (folder / "clients/admin.key").rename(folder / "replicas/admin.key")
    with pytest.raises(
        InvalidKeys, match=r"admins/admin.key and .*replicas/admin.key are the same key"
    ):
        keys.server_keys(folder)


def test_in_a_folder_without_a_list_of_admins_nobody_is_one_until_there_is_one(folder, caplog):
    shutil.rmtree(folder / "admins")
    assert keys.server_keys(folder).admins == frozenset()
    lists = keys.Lists(folder)
    assert lists()[b"admins"] == frozenset()
    assert lists()[b"clients"]
    keys.add(folder, "boss", "admins")
    boss = keys.client_keys(folder, "boss").public
    wait_for(lambda: lists()[b"admins"] == {boss}, what="the added key is on the list")
    assert not caplog.messages


def test_a_client_posts_as_a_client_and_commands_as_an_admin_or_does_both_with_the_one_pair_it_has(
    folder,
):
    client, admin = (keys.keys_of(folder, name) for name in ("client", "admin"))
    assert client[1:] == (keys.client_keys(folder).public, keys.client_keys(folder).secret)
    assert admin[1:] == (
        keys.client_keys(folder, "admin").public,
        keys.client_keys(folder, "admin").secret,
    )
    (folder / "admin.key_secret").rename(folder / "away")
    assert keys.keys_of(folder, "admin") == client
    (folder / "away").rename(folder / "admin.key_secret")
    (folder / "client.key_secret").unlink()
    assert keys.keys_of(folder) == admin
    (folder / "admin.key_secret").unlink()
    with pytest.raises(InvalidKeys, match=r"there is no .*client.key_secret"):
        keys.keys_of(folder)


def test_a_secret_that_others_may_read_is_warned_of(folder, caplog):
    keys.client_keys(folder)
    assert not caplog.messages
    os.chmod(folder / "client.key_secret", 0o640)
    keys.client_keys(folder)
    assert [
        line
        for line in caplog.messages
        if "client.key_secret may be read or changed by other users" in line
    ]


def test_a_secret_where_a_public_key_belongs_is_warned_of(folder, caplog):
    shutil.copy(folder / "server.key_secret", folder / "server.key")
    assert keys.client_keys(folder).server_public == keys.server_keys(folder).public
    assert [line for line in caplog.messages if "server.key holds a secret key" in line]
    assert not any(secret in caplog.text for secret in secrets(folder))


def test_without_curve_in_libzmq_the_error_says_what_to_install(folder, monkeypatch):
    monkeypatch.setattr(zmq, "has", lambda capability: False)
    for use in (
        keys.new,
        keys.server_keys,
        keys.client_keys,
        keys.replica_keys,
        lambda path: keys.add(path, "x"),
    ):
        with pytest.raises(InvalidKeys, match="built without CURVE: install pyzmq"):
            use(folder)


def test_keys_travel_between_ones_own_processes_and_show_no_secret(folder):
    for pair in (keys.server_keys(folder), keys.client_keys(folder), keys.replica_keys(folder)):
        assert pickle.loads(pickle.dumps(pair)) == pair
        for text in (repr(pair), str(pair), f"{pair}"):
            assert not any(secret in text for secret in secrets(folder))
            assert "secret" not in text.replace("secret=", "")


# -- while a Flow runs -----------------------------------------------------------------------------


def test_lists_follow_the_folder(folder):
    lists = keys.Lists(folder)
    assert lists()[b"clients"] == {keys.client_keys(folder).public}
    keys.add(folder, "laptop")
    wait_for(
        lambda: lists()[b"clients"] == keys.server_keys(folder).clients,
        what="the added key is on the list",
    )
    (folder / "clients/client.key").unlink()
    laptop = keys.client_keys(folder, "laptop").public
    wait_for(lambda: lists()[b"clients"] == {laptop}, what="the removed key is off the list")
    assert lists()[b"replicas"] == {keys.replica_keys(folder).public}


def test_a_change_right_after_another_is_not_missed(folder, monkeypatch):
    """The folder's time of change may be the same for both."""
    now = os.stat(folder / "clients").st_mtime_ns
    monkeypatch.setattr(keys.time, "time", lambda: clock[0])
    clock = [now * 1e-9 + 0.001]
    lists = keys.Lists(folder)
    assert lists()[b"clients"]
    (folder / "clients/client.key").unlink()
    os.utime(folder / "clients", ns=(now, now))
    assert lists()[b"clients"], "nothing tells of the change yet"
    clock[0] += 1.5
    assert lists()[b"clients"] == frozenset()


def test_lists_are_read_only_when_they_change(folder, monkeypatch):
    for kind in keys.KINDS:
        os.utime(folder / kind, (1e9, 1e9))
    lists, read = keys.Lists(folder), []
    original = keys._read_lists
    monkeypatch.setattr(keys, "_read_lists", lambda path: read.append(path) or original(path))
    for _ in range(10):
        lists()
    assert len(read) == 1


def test_what_cannot_be_read_while_a_flow_runs_lets_nobody_in_and_is_said_once(folder, caplog):
    for kind in keys.KINDS:
        os.utime(folder / kind, (1e9, 1e9))
    lists = keys.Lists(folder)
    (folder / "clients/x.key").write_text("some text")
    assert lists()[b"clients"] == {keys.client_keys(folder).public}
    assert caplog.messages == [
        f"{folder}/clients/x.key is no key file: `zflow-run keys` makes them; until then it lets "
        "nobody in"
    ]
    shutil.rmtree(folder)
    for _ in range(3):
        assert lists() == {
            b"clients": frozenset(),
            b"replicas": frozenset(),
            b"admins": frozenset(),
        }
    assert len(caplog.messages) == 3
    assert all("lets nobody in" in line for line in caplog.messages)


def test_lists_can_be_handed_to_another_process_that_runs_elsewhere(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lists = keys.Lists("keys")
    monkeypatch.chdir("/")
    assert pickle.loads(pickle.dumps(lists))() == keys.Lists(folder)()


def test_nothing_of_it_is_logged_but_warnings(folder, caplog):
    caplog.set_level(logging.DEBUG)
    keys.Lists(folder)()
    keys.server_keys(folder)
    keys.add(folder, "x")
    assert not caplog.messages
