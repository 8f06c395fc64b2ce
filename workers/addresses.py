"""Where a worker listens, and how others reach it."""

from __future__ import annotations

import errno
import socket

from rhizome.errors import PortInUse, SettingsError

_WILDCARDS = {"0.0.0.0": socket.AF_INET, "::": socket.AF_INET6}  # noqa: S104 - named, not bound
_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}


def listen_on(host: str, port: int) -> socket.socket:
    """A TCP socket bound to `host`; port 0 takes a free one. It does not listen yet.

    Raises `PortInUse`, or `SettingsError` for an address that is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"port {port} on {host} is in use",
                advice="Choose another one, or 0 for any free port.",
            ) from error
        raise SettingsError(
            f"cannot listen on {host}:{port}: {error}",
            advice="`worker.host` must be an address of this machine.",
        ) from error
    return listener


def reachable_host(host: str) -> str:
    """`host`, or this machine's address on its default route where `host` is a wildcard."""
    family = _WILDCARDS.get(host)
    if family is None:
        return host
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((_ELSEWHERE[family], 9))  # a datagram socket sends nothing by this
        except OSError:
            return socket.gethostname()
        return str(probe.getsockname()[0])


def http_url(host: str, port: int) -> str:
    """`http://host:port`, with brackets around an IPv6 address."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
