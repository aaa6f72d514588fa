"""A process that must not outlive its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""prctl(2), from <linux/prctl.h>."""


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent, whose process id is ``parent``, ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it has ended before we asked
        os._exit(0)
