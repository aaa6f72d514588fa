"""How long workers look for their scheduler."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import pytest

from hpccluster.comm.connect import NOBODY_LISTENS
from hpccluster.errors import CredentialError, PeerLost
from hpccluster.runtime.joining import find_scheduler
from support.virtual_time import run_virtually

REFUSED = PeerLost("refused", code="HPC-NET-UNREACHABLE", details={NOBODY_LISTENS: True})
SILENT = PeerLost("no answer", code="HPC-NET-UNREACHABLE", details={NOBODY_LISTENS: False})


def seconds_of(answer: Callable[[float], Exception | None], *, gone_after: float = math.inf) -> tuple[float, str]:
    """How long `find_scheduler` looks, and its error; ``answer`` says what meets the try at that time, None is success."""

    async def look() -> tuple[float, str]:
        loop = asyncio.get_running_loop()
        begun = loop.time()

        async def join(_: float) -> None:
            if (error := answer(loop.time() - begun)) is not None:
                raise error

        try:
            await find_scheduler(join, timeout=60.0, gone_after=gone_after)
        except PeerLost as error:
            return loop.time() - begun, str(error)
        return loop.time() - begun, ""

    return run_virtually(look())


def test_a_scheduler_that_is_started_later_is_found() -> None:
    seconds, error = seconds_of(lambda now: REFUSED if now < 30 else None)
    assert error == ""
    assert 30 <= seconds <= 34


def test_the_time_is_over_at_some_point() -> None:
    seconds, error = seconds_of(lambda _: REFUSED)
    assert seconds == pytest.approx(60.0)
    assert error == "no head was found within 60 s\nrefused"


def test_where_nobody_listens_the_head_is_soon_known_to_be_gone() -> None:
    seconds, error = seconds_of(lambda _: REFUSED, gone_after=5.0)
    assert seconds == pytest.approx(5.0)
    assert error == "no head was found within 5 s\nrefused"


def test_silence_proves_nothing() -> None:
    seconds, _ = seconds_of(lambda _: SILENT, gone_after=5.0)
    assert seconds == pytest.approx(60.0)
    seconds, _ = seconds_of(lambda now: SILENT if now < 20 else REFUSED, gone_after=5.0)
    assert 20 <= seconds <= 29


def test_who_is_turned_away_does_not_come_back() -> None:
    with pytest.raises(CredentialError):
        seconds_of(lambda _: CredentialError("no"))
