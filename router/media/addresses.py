"""Which addresses are outside: open to anybody on the internet, and no way around a firewall."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

_EMBEDDING = tuple(
    IPv6Network(network)
    for network in ("::/96", "64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16")
)
"""IPv6 networks whose addresses stand for IPv4 ones (compatible, NAT64, Teredo, 6to4)."""
_SITE_LOCAL = IPv6Network("fec0::/10")


def is_outside(address: str) -> bool:
    """Whether a numeric address is a public one; False also for what is no address."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is not None:
            return _is_public(parsed.ipv4_mapped)
        if parsed in _SITE_LOCAL or any(parsed in network for network in _EMBEDDING):
            return False
    return _is_public(parsed)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    return address.is_global and not (
        address.is_multicast or address.is_reserved or address.is_loopback or address.is_unspecified
    )
