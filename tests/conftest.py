"""Fixtures for all tests."""

from __future__ import annotations

pytest_plugins = [
    "support.command_fixture",
    "support.docker_fixture",
    "support.slurm_fixture",
    "support.sshd_fixture",
    "support.state_fixture",
]
