"""One router process of several: `python -m router.processes.child`, started by their watcher."""

from __future__ import annotations

import logging
import socket
import sys
from pathlib import Path

import uvloop

from rhizome.errors import StartError
from rhizome.logs import configure_logs
from router.process import Doors, serve_on
from router.processes.orders import READY, Order, read_order

_log = logging.getLogger(__name__)


def main() -> int:
    """Serves as it is told on standard input; returns the exit status."""
    order = read_order()
    try:
        settings = order.typed_settings()
        configure_logs(settings.logs.level, settings.logs.style)
        doors = _doors(order)
        uvloop.run(serve_on(settings, doors, Path(order.siblings), order.settle_s, _say_ready))
    except StartError as error:
        _log.error("router process %d cannot start: %s", order.number, error.message)
        return error.exit_code
    return 0


def _doors(order: Order) -> Doors:
    admin = order.admin_fd
    return Doors(
        api=socket.socket(fileno=order.api_fd),
        metrics=socket.socket(fileno=order.metrics_fd),
        admin=None if admin is None else socket.socket(fileno=admin),
    )


def _say_ready() -> None:
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
