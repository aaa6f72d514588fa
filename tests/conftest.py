"""Fixtures for all tests."""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the tests in the background has them ignore interrupts, and so would all that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = [
    "support.command_fixture",
    "support.docker_fixture",
    "support.slurm_fixture",
    "support.sshd_fixture",
    "support.state_fixture",
]
