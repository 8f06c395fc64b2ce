"""Which ports a local cluster listens on: those asked for exactly, the others free ones."""

from __future__ import annotations

import errno
import secrets
import socket

from rhizome.errors import PortInUse, SettingsError

_FREE_PORTS = range(20_000, 32_768)
"""Where free ports are looked for. Systems hand out those above to whoever asks for any, and Ray
those below to its workers: nobody is given a port of these between our look and its use."""


def require_port(host: str, port: int, option: str) -> None:
    """Raises `PortInUse` naming the port and `option` unless one may listen on it now."""
    fault = _bind_fault(host, port)
    if fault is None:
        return
    if fault.errno == errno.EADDRINUSE:
        raise PortInUse(
            f"port {port} on {host} is in use", advice=f"Choose another one with {option}."
        )
    if fault.errno in (errno.EACCES, errno.EPERM):
        raise PortInUse(
            f"port {port} on {host} may not be used: {fault.strerror}",
            advice=f"Choose one above 1023 with {option}.",
        )
    raise SettingsError(
        f"cannot listen on {host}:{port}: {fault.strerror or fault}",
        advice="Check the host in the settings.",
    )


def port_or_free(host: str, preferred: int, taken: frozenset[int]) -> int:
    """`preferred` where it is free and not in `taken`, else (or for 0) some free one outside it."""
    if preferred and preferred not in taken and _bind_fault(host, preferred) is None:
        return preferred
    return free_port(host, taken)


def free_port(host: str, taken: frozenset[int]) -> int:
    """A port that nobody listens on now, outside `taken`."""
    while True:
        port = secrets.choice(_FREE_PORTS)
        fault = None if port in taken else _bind_fault(host, port)
        if fault is None and port not in taken:
            return port
        if fault is not None and fault.errno != errno.EADDRINUSE:
            raise fault


def port_is_free(host: str, port: int) -> bool:
    return _bind_fault(host, port) is None


def _bind_fault(host: str, port: int) -> OSError | None:
    try:
        with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        return error
    return None


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
