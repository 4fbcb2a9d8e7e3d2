"""A client's side of the protocol without sockets and clock: what arrives and the time go in,
what it means comes out.

Posts from threads and from asyncio drive one for each socket, and so does a broker that is the
client of another Flow. What was asked and not answered is theirs to keep;
the session says when it is to be sent again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from zflow.devices.protocol.bundles import read
from zflow.devices.protocol.messages import (
    TO_CLIENT,
    Controlled,
    Direction,
    Failed,
    Hello,
    Info,
    Malformed,
    Reply,
    Welcome,
    singles,
)
from zflow.devices.protocol.references import Frame


class Greeted(NamedTuple):
    """There is a new connection; the question, if any, is to be sent over it."""

    question: Hello | None


class Welcomed(NamedTuple):
    """The broker has said who it is.

    Attributes:
        token: of the question that this answers, and with it all that were asked before.
        info: what the Flow says about itself.
        same_flow: the Flow is the one that it was the last time.
        same_broker: so is its broker, which knows all that it was sent.
        anew: this is the first word over a new connection:
            what was not answered is to be sent again.
    """

    token: int
    info: Info
    same_flow: bool
    same_broker: bool
    anew: bool


class Silent(NamedTuple):
    """The broker has said nothing for so many seconds after it was asked for a word."""

    seconds: float


Event = Greeted | Welcomed | Reply | Failed | Controlled


class NotUnderstood(Malformed):
    """The broker cannot read what it is told: it speaks another version of the protocol.
    `frames` say what it says.
    """

    def __init__(self, frames: Sequence[Frame]) -> None:
        super().__init__("it speaks another version of the protocol")
        self.frames = frames


class Session:
    """What one socket to a broker has said and heard.

    Args:
        ask_after: seconds without a word or a question, after which the broker is asked for a word.
        patience: seconds that it may take for one then.
        direction: what it may say.
        always: ask when it has spoken, too: what it says about itself is to be no older than that.

    Attributes:
        info: what the Flow said about itself the last time.
        token: of the question asked last. Tokens fall from -1 on: ids of requests are above 0, so
            that what is said of one is never taken for what is said of the other.
        heard: when there was a word, the last time.
        unsure: connected anew, and not told yet who is there.
    """

    def __init__(
        self,
        ask_after: float,
        patience: float,
        direction: Direction = TO_CLIENT,
        *,
        always: bool = False,
    ) -> None:
        self.info: Info = {}
        self.token = 0
        self.heard = 0.0
        self.unsure = False
        self._ask_after = ask_after
        self._patience = patience
        self._direction = direction
        self._always = always
        self._connections = 0
        self._asked_at = 0.0  # the last question
        # When the first question after the last word was asked.
        self._unanswered: float | None = None

    def ask(self, now: float) -> Hello:
        """Return the question who is there, to be sent."""
        self.token -= 1
        self._asked_at = now
        if self._unanswered is None:
            self._unanswered = now
        return Hello(self.token)

    def rest(self, now: float) -> None:
        """Nobody waits for a word at the moment."""
        self.heard = now
        self._unanswered = None

    def tick(self, now: float) -> Hello | Silent | None:
        """Return what time brings about while somebody waits: a question to be sent,
        or that there is no answer.
        """
        if self._unanswered is not None and now - self._unanswered > self._patience:
            return Silent(now - self._unanswered)
        last = self._asked_at if self._always else max(self._asked_at, self.heard)
        return self.ask(now) if now - last >= self._ask_after else None

    def take(self, frames: Sequence[Any], now: float) -> list[Event]:
        """Return what a message means.

        Raises:
            NotUnderstood: the broker speaks another version of the protocol.
            Malformed: it is no message to a client.
        """
        if not frames[0]:
            return [self._greeted(now)]
        self.heard = now
        self._unanswered = None
        events: list[Event] = []
        for message in read(frames, 0, self._direction):
            if isinstance(message, Reply):
                events += singles(message)
            elif isinstance(message, Failed):
                if message.first <= 0:
                    raise NotUnderstood(message.payload)
                events.append(message)
            elif isinstance(message, Welcome):
                events.append(self._welcomed(message))
            elif isinstance(message, Controlled):
                events.append(message)
        return events

    def _greeted(self, now: float) -> Greeted:
        """A question from before the first connection goes over that;
        later ones may be lost with the one before.
        """
        self._connections += 1
        if self._connections == 1 and self._unanswered is not None:
            return Greeted(None)
        self.unsure = True
        return Greeted(self.ask(now))

    def _welcomed(self, welcome: Welcome) -> Welcomed:
        token, info = welcome
        (flow_before, epoch_before), (flow, epoch) = _who(self.info), _who(info)
        self.info = info
        same_flow = flow_before == flow
        same_broker = same_flow and epoch_before == epoch
        anew, self.unsure = self.unsure, False
        return Welcomed(token, info, same_flow, same_broker, anew)


def _who(info: Info) -> tuple[str | None, int | None]:
    """Which Flow it is that says this about itself, and which of its brokers;
    None where it says what cannot be.
    """
    instance, epoch = info.get("instance"), info.get("epoch")
    return instance if type(instance) is str else None, epoch if type(epoch) is int else None
