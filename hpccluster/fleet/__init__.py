"""The shell round the fleet machine: polls, logs, diagnosis."""

from __future__ import annotations

from hpccluster.fleet.shell import Fleet
from hpccluster.fleet.values import CloseReport, FleetSettings, JobRow, Plan
from hpccluster.state.fleet.adaptive import AdaptSettings

__all__ = ["AdaptSettings", "CloseReport", "Fleet", "FleetSettings", "JobRow", "Plan"]
