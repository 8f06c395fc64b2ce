"""What the other routers have told, merged: their load at each target.

For each sender and target the message with the highest sequence counts. That is a join: lost
messages are made good by the sender's next whole one, repeated and late ones change nothing, and
the order of arrival does not matter. A sender that is silent for `lease_s` is gone with all its
load, whatever its clock says: only this router's own time counts. Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from router.peers.messages import Prediction, TargetLoad, Told

PEERS_MAX = 1024
"""Senders known at once; others are not heard."""
_PEER_TARGETS_MAX = 65_536
_REPEATS_REMEMBERED = 512


@dataclass(slots=True)
class _Peer:
    """One sender."""

    heard_at_s: float
    loads: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    """By target: the sequence that told it, in flight, queued tokens."""
    whole_at: int = 0
    """Sequence of the newest whole message: what is not in `loads` was nothing then."""
    taken: set[int] = field(default_factory=set)
    """Sequences taken lately, so that a repeated message is known as one."""
    has_left: bool = False


class PeerView:
    """The load of all other routers. `router_id` is this router's own: its echo is passed over."""

    def __init__(self, router_id: str, lease_s: float) -> None:
        self._router_id = router_id
        self._lease_s = lease_s
        self._peers: dict[str, _Peer] = {}
        self._in_flight: dict[str, int] = {}
        self._queued_tokens: dict[str, int] = {}
        self.changed: set[str] = set()
        """Targets whose load changed, for a reader that empties it."""
        self._has_freed = False

    def __len__(self) -> int:
        """Routers heard of within the lease that have not left."""
        return sum(not peer.has_left for peer in self._peers.values())

    def in_flight(self, target: str) -> int:
        """Requests that other routers have at the target; >= 0."""
        return self._in_flight.get(target, 0)

    def queued_tokens(self, target: str) -> int:
        """Uncached prompt tokens that others sent there and that have no first byte yet; >= 0."""
        return self._queued_tokens.get(target, 0)

    def take(self, told: Told, now_s: float) -> Sequence[Prediction]:
        """Takes a message; returns its predictions, if they are news."""
        if told.router == self._router_id:
            return ()
        peer = self._peers.get(told.router)
        if peer is None:
            if len(self._peers) >= PEERS_MAX:
                return ()
            peer = self._peers[told.router] = _Peer(now_s)
        if peer.has_left or told.sequence in peer.taken:
            return ()
        peer.heard_at_s = max(peer.heard_at_s, now_s)
        self._remember(peer, told.sequence)
        if told.is_last:
            peer.has_left = True
            self._drop(peer)
            return ()
        for load in told.loads:
            self._take_load(peer, load, told.sequence)
        if told.is_whole and told.sequence > peer.whole_at:
            self._take_whole(peer, told)
        return told.predictions

    def take_freed(self) -> bool:
        """Whether room came up at some target since the last call."""
        freed, self._has_freed = self._has_freed, False
        return freed

    def expire(self, now_s: float) -> int:
        """Forgets who was silent for the lease; returns how many had not said that they leave."""
        gone = [
            name for name, peer in self._peers.items() if now_s - peer.heard_at_s >= self._lease_s
        ]
        lost = 0
        for name in gone:
            peer = self._peers.pop(name)
            lost += not peer.has_left
            self._drop(peer)
        return lost

    def loads(self) -> dict[str, tuple[int, int]]:
        """In flight and queued tokens by target, where there are any."""
        return {
            target: (self.in_flight(target), self.queued_tokens(target))
            for target in sorted({*self._in_flight, *self._queued_tokens})
        }

    def check_invariants(self) -> None:
        """For tests: raises AssertionError if the sums disagree with the senders."""
        in_flight: dict[str, int] = {}
        queued: dict[str, int] = {}
        for peer in self._peers.values():
            assert not (peer.has_left and peer.loads)
            assert len(peer.taken) <= _REPEATS_REMEMBERED
            for target, (sequence, requests, tokens) in peer.loads.items():
                assert sequence >= peer.whole_at
                in_flight[target] = in_flight.get(target, 0) + requests
                queued[target] = queued.get(target, 0) + tokens
        assert self._in_flight == {name: count for name, count in in_flight.items() if count}
        assert self._queued_tokens == {name: count for name, count in queued.items() if count}

    def _take_load(self, peer: _Peer, load: TargetLoad, sequence: int) -> None:
        told_at, in_flight, queued = peer.loads.get(load.target, (0, 0, 0))
        if sequence <= max(told_at, peer.whole_at):
            return
        if not told_at and len(peer.loads) >= _PEER_TARGETS_MAX:
            return
        peer.loads[load.target] = (sequence, load.in_flight, load.queued_tokens)
        self._add(load.target, load.in_flight - in_flight, load.queued_tokens - queued)

    def _take_whole(self, peer: _Peer, told: Told) -> None:
        peer.whole_at = told.sequence
        nothing = [
            target for target, (sequence, _, _) in peer.loads.items() if sequence < told.sequence
        ]
        for target in nothing:
            _, in_flight, queued = peer.loads.pop(target)
            self._add(target, -in_flight, -queued)

    def _drop(self, peer: _Peer) -> None:
        for target, (_, in_flight, queued) in peer.loads.items():
            self._add(target, -in_flight, -queued)
        peer.loads.clear()

    def _add(self, target: str, in_flight: int, queued: int) -> None:
        for sums, change in ((self._in_flight, in_flight), (self._queued_tokens, queued)):
            if change:
                now = sums.get(target, 0) + change
                assert now >= 0
                if now:
                    sums[target] = now
                else:
                    del sums[target]
        if in_flight or queued:
            self.changed.add(target)
            self._has_freed |= in_flight < 0

    @staticmethod
    def _remember(peer: _Peer, sequence: int) -> None:
        peer.taken.add(sequence)
        if len(peer.taken) > _REPEATS_REMEMBERED:
            peer.taken = set(sorted(peer.taken)[_REPEATS_REMEMBERED // 2 :])


def nobody() -> PeerView:
    """The view of a router that is alone."""
    return PeerView("", 1.0)
