"""A worker's stderr on its way to the job's own: whole lines, and the last of them kept for the nanny's testimony."""

from __future__ import annotations

import os
from contextlib import suppress

TAIL = 4096
"""Bytes that are kept."""
_LONGEST_LINE = 64 * 1024


class StderrRelay:
    """Reads from a pipe that does not block, writes to ``target``."""

    def __init__(self, descriptor: int, target: int = 2) -> None:
        self._descriptor = descriptor
        self._target = target
        self._line = b""
        self._tail = b""
        self._is_open = True

    def fileno(self) -> int:
        """For `loop.add_reader`."""
        return self._descriptor

    @property
    def tail(self) -> str:
        """The last lines."""
        text = self._tail + self._line
        if len(text) > TAIL:
            text = text[-TAIL:]
            text = text[text.find(b"\n") + 1 :] if b"\n" in text else text
        return text.decode(errors="replace")

    def pump(self) -> bool:
        """Pass on what is there. False once the writers are gone."""
        while True:
            try:
                data = os.read(self._descriptor, 64 * 1024)
            except BlockingIOError:
                return True
            if not data:
                return False
            lines, newline, rest = (self._line + data).rpartition(b"\n")
            if newline or len(rest) > _LONGEST_LINE:
                whole, self._line = (lines + newline, rest) if newline else (rest, b"")
                self._write(whole)
            else:
                self._line = rest

    def close(self) -> None:
        """Pass on the rest. Idempotent."""
        if not self._is_open:
            return
        self._is_open = False
        self.pump()
        if self._line:
            self._write(self._line + b"\n")
            self._line = b""
        os.close(self._descriptor)

    def _write(self, data: bytes) -> None:
        self._tail = (self._tail + data)[-TAIL - 1 :]
        with suppress(OSError):  # the job's log is full or gone: that must not end the workers
            while data:
                data = data[os.write(self._target, data) :]
