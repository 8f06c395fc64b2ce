"""Addresses to listen on and to be called from: which of them only this machine can use."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether the host, by address or as `localhost`, is this machine's own and nobody else's."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
