"""Tells clients that they are in a child of their process, where their connection and their loop are not."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class _Told(Protocol):
    def _forked(self) -> None: ...


_told: weakref.WeakSet[_Told] = weakref.WeakSet()


def tell(client: _Told) -> None:
    """Call ``client._forked()`` in every process that is forked from this one while the client lives."""
    _told.add(client)


def _tell() -> None:
    for client in list(_told):
        client._forked()


os.register_at_fork(after_in_child=_tell)
