"""Runs the commands of a backend as the user of a private Slurm."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence

from hpccluster.backend.dialect import CommandResult
from hpccluster.backend.runner import LocalRunner
from hpccluster.errors import BackendUnavailable
from support.private_slurm import PrivateSlurm


class UserRunner(LocalRunner):
    """Runs the commands as the user of the private Slurm."""

    def __init__(self, slurm: PrivateSlurm, **environment: str) -> None:
        super().__init__(slurm.environment(**environment))
        self._slurm = slurm

    async def run(
        self,
        argv: Sequence[str],
        *,
        stdin: str | None = None,
        environment: Mapping[str, str | None] | None = None,
        timeout: float = 60.0,
    ) -> CommandResult:
        if shutil.which(argv[0]) is None:
            raise BackendUnavailable(f"{argv[0]}: not on PATH")
        command = self._slurm.as_user(argv)
        return await super().run(command, stdin=stdin, environment=environment, timeout=timeout)
