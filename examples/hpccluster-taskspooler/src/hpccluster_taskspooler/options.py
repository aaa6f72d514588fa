"""The options of clusters on task-spooler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from hpccluster.backend.options import PATH, JobOptions, bad_value


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpoolerOptions(JobOptions):
    """What every job has (`JobOptions`: there are no queues and accounts here), and two of its own."""

    socket: Annotated[
        str | None, Meta(description="The queue: its server's socket, as TS_SOCKET; by default the one of 'tsp'"), PATH
    ] = None
    slots: Annotated[
        int | None, Meta(description="Slots of the queue that a job takes; by default as many as it has cores")
    ] = None

    def __post_init__(self) -> None:
        JobOptions.__post_init__(self)
        if self.slots is not None and self.slots < 1:
            raise bad_value("slots", self.slots, "at least 1")
