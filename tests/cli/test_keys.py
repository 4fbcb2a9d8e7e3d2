"""`zflow-run keys`: the folder that it makes, the keys that it adds,
and what it says about them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import refused

from zflow import cli
from zflow.network import keys


@pytest.fixture
def made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A key folder as the command makes it."""
    path = tmp_path / "mine"
    assert cli.main(["keys", "new", str(path)]) == 0
    out, err = capsys.readouterr()
    assert out == (
        f"made {path}: clients need server.key and client.key_secret of it, replicas "
        "replica.key_secret,"
        " and who may change the Flow admin.key_secret\n"
    )
    assert err == ""
    return path


def test_a_new_folder_lets_a_client_and_a_replica_in(made: Path) -> None:
    server = keys.server_keys(made)
    assert server.clients == {keys.client_keys(made).public}
    assert server.replicas == {keys.replica_keys(made).public}
    assert server.admins == {keys.client_keys(made, "admin").public}


def test_an_added_key_is_a_clients_unless_it_is_said_to_be_a_replicas_or_an_admins(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = keys.server_keys(made)
    assert cli.main(["keys", "add", str(made), "laptop"]) == 0
    said = f"made laptop.key_secret in {made} and put laptop.key on the list of clients\n"
    assert capsys.readouterr() == (said, "")
    assert cli.main(["keys", "add", str(made), "gpu-box", "--replica"]) == 0
    said = f"made gpu-box.key_secret in {made} and put gpu-box.key on the list of replicas\n"
    assert capsys.readouterr() == (said, "")
    assert cli.main(["keys", "add", str(made), "boss", "--admin"]) == 0
    assert capsys.readouterr() == (
        f"made boss.key_secret in {made} and put boss.key on the list of admins\n",
        "",
    )
    after = keys.server_keys(made)
    assert after.admins - before.admins == {keys.client_keys(made, "boss").public}
    assert after.clients - before.clients == {keys.client_keys(made, "laptop").public}
    assert after.replicas - before.replicas == {keys.replica_keys(made, "gpu-box").public}


def test_what_is_there_is_not_made_again(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    for arguments, message in [
        (["new", str(made)], f"zflow-run: {made} exists already: name another folder"),
        (["add", str(made), "client"], "zflow-run: there is a key called 'client' already"),
        (
            ["add", str(made / "none"), "x"],
            f"zflow-run: there is no key folder {made / 'none'}: make one with",
        ),
        (["add", str(made), "../x"], "zflow-run: a key's name has 1 to 64 letters"),
    ]:
        assert cli.main(["keys", *arguments]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(message)
    assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before


def test_it_has_to_be_told_what_to_do_and_with_what(capsys: pytest.CaptureFixture[str]) -> None:
    assert "the following arguments are required: new | add\n" in refused(capsys, "keys")
    assert "'nwe'" in refused(capsys, "keys", "nwe", "mine")
    assert "the following arguments are required: DIR\n" in refused(capsys, "keys", "new")
    assert "the following arguments are required: NAME\n" in refused(capsys, "keys", "add", "mine")
    assert "not allowed with" in refused(capsys, "keys", "add", "mine", "x", "--replica", "--admin")
    assert "unrecognized arguments: --replica\n" in refused(
        capsys, "keys", "new", "mine", "--replica"
    )


def test_no_secret_is_printed(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["keys", "add", str(made), "laptop"]) == 0
    assert cli.main(["keys", "add", str(made), "laptop"]) == 1
    said = "".join(capsys.readouterr())
    secrets = [keys.server_keys(made), keys.client_keys(made), keys.client_keys(made, "laptop")]
    assert not any(pair.secret.decode() in said for pair in secrets)
