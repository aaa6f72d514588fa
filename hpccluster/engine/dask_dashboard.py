"""Dask's own dashboard, for the cluster's user alone.

It has no password, and a host may have other users: it listens on loopback, below a path that nobody can guess.
Where `bokeh` is not installed there is none, and no port is open.
"""

from __future__ import annotations

import secrets
from importlib.util import find_spec
from typing import Any

import dask.config

HOST = "127.0.0.1"

_PROXY = "distributed.http.proxy"
"""Leads to the pages of workers, which have none here."""


class Dashboard:
    """What dask's scheduler must be told before it starts, and what is left to do afterwards."""

    def __init__(self) -> None:
        self._is_there = find_spec("bokeh") is not None
        self._secret = secrets.token_urlsafe(16)

    @property
    def arguments(self) -> dict[str, Any]:
        """Keywords of `distributed.Scheduler`."""
        return {"dashboard": self._is_there, "dashboard_address": f"{HOST}:0", "http_prefix": self._secret}

    @property
    def configuration(self) -> dict[str, Any]:
        """What dask's configuration must say while the scheduler is made."""
        routes = dask.config.get("distributed.scheduler.http.routes") if self._is_there else []
        return {"distributed.scheduler.http.routes": [name for name in routes if name != _PROXY]}

    def open(self, scheduler: Any) -> str | None:
        """Its address; None where there is no dashboard."""
        server = scheduler.http_server
        if not self._is_there:
            server.stop()
            scheduler.services.pop("dashboard", None)
            return None
        _close_to_strangers(scheduler.http_application, f"/{self._secret}/")
        return f"http://{HOST}:{server.port}/{self._secret}/status"


def _close_to_strangers(application: Any, prefix: str) -> None:
    """Whatever is not below the prefix is not there: a list of all pages would tell it."""
    find = application.find_handler

    def find_below(request: Any, **rest: Any) -> Any:
        if not request.path.startswith(prefix):
            request.path = "/nothing-here"
        return find(request, **rest)

    application.find_handler = find_below
