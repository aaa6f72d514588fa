"""What the scheduler machine asks for: messages per peer, and a few actions of its shell."""

from __future__ import annotations

from typing import TypeAlias

from msgspec import Struct

from hpccluster.protocol.messages import Message


class WorkerRetired(Struct, frozen=True):
    """All that the worker had is with others now; it has been sent home."""

    worker: str


class HoldData(Struct, frozen=True):
    """No worker is left to take this data over: fetch it from ``address`` and keep it, opaque. Answer by `DataHeld`."""

    task: int
    worker: str
    address: str


class DropHeld(Struct, frozen=True):
    """Nobody needs this held data any longer."""

    task: int


Action: TypeAlias = WorkerRetired | HoldData | DropHeld


class Outbox:
    """What one `handle` asks for."""

    __slots__ = ("actions", "sends")

    def __init__(self) -> None:
        self.sends: dict[str, list[Message]] = {}
        """Messages per peer, in order."""
        self.actions: list[Action] = []

    def send(self, peer: str, message: Message) -> None:
        """Append ``message`` for ``peer``."""
        box = self.sends.get(peer)
        if box is None:
            self.sends[peer] = [message]
        else:
            box.append(message)
