"""Commands at the broker's side towards clients: who may change the Flow,
and what is said of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from peers import said

from zflow.devices.protocol import bundles, messages
from zflow.devices.protocol.messages import Control, Controlled, Hello, Welcome

from .test_front import Rig, rigged


@pytest.fixture
def rig() -> Iterator[Rig]:
    with rigged() as rig:
        yield rig


def test_a_command_is_carried_out_by_the_owner_and_answered_when_it_is_done(rig: Rig) -> None:
    with rig.client(rig.local) as client:
        client.send_multipart(said(Control(5, "scale", {"replicas": 3})))
        rig.until(lambda: rig.owner.told)
        ((what, origin, *command),) = rig.owner.told
        assert (what, command) == ("control", ["scale", {"replicas": 3}])
        rig.silent(client)
        rig.front.controlled(origin, {"replicas": 3})
        assert rig.answer(client) == Controlled(5, {"replicas": 3})


def test_what_came_of_a_command_is_no_longer_than_a_header_may_be(rig: Rig) -> None:
    with rig.client(rig.local) as client:
        client.send_multipart(said(Control(5, "scale", {"replicas": 3})))
        rig.until(lambda: rig.owner.told)
        rig.front.controlled(rig.owner.told[0][1], {"error": "\u20ac" * 100_000})
        assert rig.answer(client) == Controlled(5, {"error": "\u20ac" * 10_000})


def test_over_the_public_address_commands_are_taken_only_if_the_flow_says_so() -> None:
    for allowed in (False, True):
        with rigged(allow_control=allowed) as rig, rig.client(rig.public) as client:
            client.send_multipart(said(Control(5, "scale", {})))
            if allowed:
                rig.until(lambda rig=rig: rig.owner.told)
                continue
            refusal = rig.answer(client)
            assert isinstance(refusal, Controlled)
            assert refusal.id == 5
            assert (
                "allow_control=True lets whoever reaches it, and keys (curve=) those"
                in refusal.result["error"]
            )
            assert rig.owner.told == []


def test_with_keys_commands_of_who_is_no_admin_are_refused_and_what_else_it_says_is_heard() -> None:
    """Also in a bundle; over the private address anybody may."""
    admin = {
        "lists": lambda: {b"admins": frozenset([b"somebody else"])},
        "secret": b"x",
        "allow_control": True,
    }
    command, hello = Control(5, "scale", {}), Hello(6)
    with rigged(**admin) as rig:
        with rig.client(rig.public) as client:
            (bundle,) = bundles.frames_of([command, hello], messages.encoder())
            client.send_multipart(bundle)
            refusal, welcome = rig.answers(client)
            assert isinstance(refusal, Controlled)
            assert refusal.id == 5
            assert "this key may not change the Flow" in refusal.result["error"]
            assert welcome == Welcome(6, {"pid": 3})
            assert rig.owner.told == []
        with rig.client(rig.local, b"own") as client:
            client.send_multipart(said(command))
            rig.until(lambda: rig.owner.told)
