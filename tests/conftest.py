"""Fixtures for all tests."""

from __future__ import annotations

pytest_plugins = ["support.slurm_fixture", "support.sshd_fixture"]
