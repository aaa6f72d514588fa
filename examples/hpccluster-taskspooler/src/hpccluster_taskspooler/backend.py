"""The task-spooler backend: the common backend of batch systems with this dialect."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from hpccluster.backend.batch import BatchBackend
from hpccluster.backend.runner import Runner
from hpccluster_taskspooler.dialect import TaskSpoolerDialect
from hpccluster_taskspooler.options import TaskSpoolerOptions


class TaskSpoolerBackend(BatchBackend[TaskSpoolerOptions]):
    """Jobs in a queue of task-spooler on this machine."""

    runs_here = True
    poll_interval = 1.0

    def __init__(self, options: TaskSpoolerOptions, runner: Runner | None = None) -> None:
        path = options.socket and str(Path(os.path.expandvars(options.socket)).expanduser())
        super().__init__(options, TaskSpoolerDialect(path, node=socket.gethostname()), runner)
