"""A session stays where it is until that worker has too much to do.

The workers' order for a key is that of rendezvous hashing (Thaler and Ravishankar, 1996): when the
fleet changes, only the keys of the worker that came or went move. The request goes to the first
one in that order that is not saturated: with room, and with at most 1.25 times the mean in flight
plus one (the bound of consistent hashing with bounded loads, arXiv 1608.01350).
"""

from __future__ import annotations

import struct
from random import Random

import numpy as np
from xxhash import xxh3_64_intdigest

from router.scheduling.choosing import Reason, choice, load_shares, lowest
from router.scheduling.types import Candidates, Choice, RoutingRequest

MEAN_FACTOR = 1.25
PREFIX_BLOCKS = 16


class StickyPolicy:
    """The first unsaturated worker in the order of the session, or of the prompt's beginning."""

    name = "sticky"

    def choose(self, request: RoutingRequest, candidates: Candidates, rng: Random) -> Choice:
        key = _key(request)
        weights = [xxh3_64_intdigest(key + name.encode()) for name in candidates.worker_ids]
        order = np.argsort(~np.array(weights, np.uint64), kind="stable")
        costs = np.empty(len(order))
        costs[order] = np.arange(len(order))
        most = MEAN_FACTOR * candidates.in_flight.mean() + 1
        free = candidates.in_flight < np.minimum(most, candidates.in_flight_max)
        places = np.flatnonzero(free[order])
        if len(places):
            reason = Reason.HOME_SATURATED if places[0] else Reason.HOME
            return choice(request, candidates, costs, int(order[places[0]]), reason)
        at, _ = lowest(load_shares(candidates), rng)
        return choice(request, candidates, costs, at, Reason.HOME_SATURATED)


def _key(request: RoutingRequest) -> bytes:
    """The session; else the first 16 blocks, or the first one of a shorter prompt, so that a
    conversation changes its key at most once; else the request itself."""
    if request.session is not None:
        return b"s" + request.session.encode("utf-8", "surrogatepass")
    hashes = request.block_hashes
    if hashes:
        at = PREFIX_BLOCKS - 1 if len(hashes) >= PREFIX_BLOCKS else 0
        return b"p" + struct.pack("<Q", hashes[at])
    return b"r" + request.request_id.encode()
