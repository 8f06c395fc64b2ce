"""Routers that tell each other over a channel that loses, repeats and delays, and that restart.

Whatever happened before: once each living router has told everything and that has arrived, and the
dead ones' leases have ended, what each knows of the others is the sum of the others' books.
"""

from __future__ import annotations

from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from router.peers.messages import Told, decode, encode
from router.peers.own import OwnNews
from router.peers.view import PeerView
from router.scheduling.load import LoadBook, Receipt

LEASE_S = 3.0
TARGETS = ["a", "b", "c/0", "c/1"]
picks = st.integers(0, 10**6)


class _Router:
    def __init__(self, router_id: str) -> None:
        self.book = LoadBook()
        self.own = OwnNews(router_id, self.book)
        self.view = PeerView(router_id, LEASE_S)
        self.receipts: list[Receipt] = []


def _sender(message: bytes) -> str:
    told = decode(message)
    assert told is not None
    return told.router


class RoutersThatTell(RuleBasedStateMachine):
    """Three places, in each a router; `wire` holds what is on its way to each place."""

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.rng = Random(seed)
        self.now_s = 0.0
        self.starts = 0
        self.routers = [self._fresh() for _ in range(3)]
        self.wire: list[list[bytes]] = [[], [], []]

    def _fresh(self) -> _Router:
        self.starts += 1
        return _Router(f"router-{self.starts}")

    def _send(self, told: Told | None) -> None:
        if told is not None:
            for waiting in self.wire:
                waiting.append(encode(told))

    @rule(place=st.integers(0, 2), worker=st.sampled_from(TARGETS), tokens=st.integers(0, 5000))
    def dispatch(self, place: int, worker: str, tokens: int) -> None:
        router = self.routers[place]
        router.receipts.append(router.book.reserve(worker, tokens, self.now_s))

    @rule(place=st.integers(0, 2), pick=picks)
    def first_byte(self, place: int, pick: int) -> None:
        router = self.routers[place]
        if router.receipts:
            router.book.first_byte(router.receipts[pick % len(router.receipts)], self.now_s)

    @rule(place=st.integers(0, 2), pick=picks)
    def release(self, place: int, pick: int) -> None:
        router = self.routers[place]
        if router.receipts:
            router.book.release(router.receipts.pop(pick % len(router.receipts)))

    @rule(place=st.integers(0, 2))
    def tell_news(self, place: int) -> None:
        self._send(self.routers[place].own.news())

    @rule(place=st.integers(0, 2))
    def tell_everything(self, place: int) -> None:
        for told in self.routers[place].own.whole():
            self._send(told)

    @rule(place=st.integers(0, 2))
    def die(self, place: int) -> None:
        self.routers[place] = self._fresh()
        self.wire[place].clear()

    @rule(place=st.integers(0, 2))
    def leave_in_order(self, place: int) -> None:
        self._send(self.routers[place].own.last())
        self.die(place)

    @rule(place=st.integers(0, 2), fate=st.sampled_from(["take", "take", "repeat", "lose"]))
    def carry(self, place: int, fate: str) -> None:
        """Any message on its way, in any order."""
        waiting = self.wire[place]
        if not waiting:
            return
        message = waiting.pop(self.rng.randrange(len(waiting)))
        if fate == "lose":
            return
        if fate == "repeat":
            waiting.append(message)
        told = decode(message)
        assert told is not None
        self.routers[place].view.take(told, self.now_s)

    @rule(delay_s=st.floats(0, 2))
    def time_passes(self, delay_s: float) -> None:
        self.now_s += delay_s
        for router in self.routers:
            router.view.expire(self.now_s)

    def come_to_rest(self) -> None:
        """Everybody tells everything; it arrives, older messages between; the dead expire."""
        living = {router.own.router_id for router in self.routers}
        for place in range(3):
            self.wire[place] = [one for one in self.wire[place] if _sender(one) in living]
        self.now_s += 1.01 * LEASE_S
        for place in range(3):
            self.tell_everything(place)
        for place in range(3):
            while self.wire[place]:
                self.carry(place, "take")
        for router in self.routers:
            router.view.expire(self.now_s)
            others = [one for one in self.routers if one is not router]
            assert len(router.view) == len(others)
            for target in TARGETS:
                in_flight = sum(one.book.in_flight(target) for one in others)
                assert router.view.in_flight(target) == in_flight
                queued = sum(one.book.queued_tokens(target) for one in others)
                assert router.view.queued_tokens(target) == queued

    @invariant()
    def sums_are_true(self) -> None:
        for router in getattr(self, "routers", []):
            router.view.check_invariants()

    def teardown(self) -> None:
        if hasattr(self, "routers"):
            self.come_to_rest()


RoutersThatTell.TestCase.settings = settings(max_examples=150, stateful_step_count=60)
TestRoutersAgreeWhenAllIsQuiet = RoutersThatTell.TestCase
