"""The exit codes of worker processes and nannies.

- 0: it was told to end, or the cluster has closed
- 1: a nanny whose workers died too often at their start
- 70: a bug of ours
- 75: no head was found within the death timeout
- 76: the head turned it away, or its credential cannot be used
"""

from __future__ import annotations

import asyncio

from hpccluster.errors import CommError, ConfigError, CredentialError, HandshakeFailed

EXIT_WORKERS_DIED = 1
EXIT_USAGE = 2
EXIT_BUG = 70
EXIT_NO_HEAD = 75
EXIT_REFUSED = 76


def exit_code(error: BaseException) -> int:
    """What a process that ends for this error tells its parent."""
    if isinstance(error, CredentialError | HandshakeFailed):
        return EXIT_REFUSED
    if isinstance(error, CommError | asyncio.CancelledError):
        return EXIT_NO_HEAD
    return EXIT_USAGE if isinstance(error, ConfigError) else EXIT_BUG
