"""``python -m hpccluster``: the command line, where the script ``hpccluster`` is not on PATH."""

from __future__ import annotations

from hpccluster.cli.main import main

if __name__ == "__main__":
    main()
