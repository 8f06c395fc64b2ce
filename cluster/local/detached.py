"""`python -m cluster.local.detached FILE`: the supervisor of `rhizome up --detach`.

Reads what was asked from FILE, removes it (it holds secrets) and supervises, with plain lines on
standard output. Why it failed is told by the cluster's record, not here.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from cluster.local.layout import ClusterFiles
from cluster.local.progress import LineProgress
from cluster.local.warden import run_warded
from rhizome.clock import SystemClock
from rhizome.errors import StartError
from rhizome.settings.load import load_settings
from rhizome.settings.tree import Settings


def main() -> int:
    """Returns the exit status."""
    asked = Path(sys.argv[1])
    settings = load_settings(asked, environment={})
    asked.unlink()
    return run_warded(lambda: _supervise(settings))


def _supervise(settings: Settings) -> int:
    from cluster.local.supervisor import supervise

    files = ClusterFiles.of(settings.state_directory, settings.name)
    progress = LineProgress(lambda line: print(line, flush=True))
    try:
        asyncio.run(supervise(settings, files, progress, SystemClock()))
    except StartError as error:
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
