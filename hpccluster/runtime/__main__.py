"""``python -m hpccluster.runtime worker``: what a job runs. Not for people: they use ``hpccluster worker``.

Each stage of the start is told on stderr, so that a job that dies early has said how far it came.
"""

import sys

print("hpccluster: stage python-ok", file=sys.stderr, flush=True)  # noqa: T201 - the log of the job

from typing import NoReturn  # noqa: E402 - not before the first stage is told

from hpccluster.runtime.arguments import parse_arguments  # noqa: E402
from hpccluster.runtime.nanny import say_stage  # noqa: E402
from hpccluster.runtime.start import run_workers  # noqa: E402


def main() -> NoReturn:
    """Run, and exit with the code that `hpccluster.runtime.exits` explains."""
    say_stage("import-ok")
    sys.exit(run_workers(parse_arguments(sys.argv[1:])))


if __name__ == "__main__":
    main()
