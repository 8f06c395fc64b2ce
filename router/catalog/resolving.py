"""From the name that a client asked for to the model that serves it: pure, and sticky by hashing.

The choice is weighted rendezvous hashing: each share gets the score `-weight / ln(u)` with `u` the
hash of product, share and key as a number in (0, 1), and the highest score wins (Schindelhauer and
Schomaker, "Weighted distributed hash tables", SPAA 2005). So a key keeps its share for as long as
the weights stay, and a share that grows takes keys from others but no other key moves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import xxhash

from router.catalog.entries import Fallback, Product, Share


@dataclass(frozen=True, slots=True)
class Asker:
    """What a choice may stick to."""

    request_id: str
    key: str
    """The name of the client's key."""
    session: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a request goes first, and where then."""

    model: str
    """A served model's name."""
    fallbacks: tuple[Fallback, ...] = ()


def resolve(products: Mapping[str, Product], name: str, asker: Asker) -> Plan:
    """The plan for a request; a name that is no product stands for itself."""
    product = products.get(name)
    if product is None:
        return Plan(name)
    share = choose_share(name, product.shares, sticky_key(product, asker))
    return Plan(share.model, product.fallbacks)


def sticky_key(product: Product, asker: Asker) -> str:
    """What the product's choice depends on. A session counts within its key alone."""
    if product.sticky == "request":
        return asker.request_id
    if product.sticky == "session" and asker.session is not None:
        return f"{asker.key}\x00{asker.session}"
    return asker.key


def choose_share(product: str, shares: tuple[Share, ...], key: str) -> Share:
    """The key's share; at least one weight is above 0."""
    if len(shares) == 1:
        return shares[0]
    return max(shares, key=lambda share: _score(product, share, key))


def _score(product: str, share: Share, key: str) -> float:
    if not share.weight:
        return -1.0
    digest = xxhash.xxh3_64_intdigest(f"{product}\x00{share.model}\x00{key}".encode())
    uniform = (digest + 0.5) / 2**64
    return share.weight / -math.log(uniform) if uniform < 1.0 else math.inf
