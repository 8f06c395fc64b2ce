"""How the command tells why it cannot go on: once, without a traceback."""

from __future__ import annotations

import sys

from rhizome.errors import StartError
from rhizome.logs import redact


def explain(error: StartError) -> int:
    """Writes message and advice to standard error; returns the exit status."""
    print(f"error: {redact(error.message)}", file=sys.stderr)
    if error.advice:
        print(f"  {redact(error.advice)}", file=sys.stderr)
    sys.stderr.flush()
    return error.exit_code
