"""One of the simulated routers: the router's own decisions, over what this one has been told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from loadtest.simulation.agenda import VirtualClock
from loadtest.simulation.ears import IndexMembers
from loadtest.simulation.plan import FleetPlan
from loadtest.simulation.worker import publish
from rhizome.fleet.records import WorkerRecord
from router.dispatch import Dispatcher
from router.fleet import Fleet
from router.peers.messages import Told
from router.peers.own import OwnNews
from router.peers.view import PeerView
from router.prefix.index import PrefixIndex
from router.scheduling.load import LoadBook
from router.scheduling.policies import build_policy
from router.scheduling.speeds import LearnedSpeeds
from router.turns import Turns
from workers.engine.simulated.cache import CacheEvent

_LEASE_S = 3.0


class SimulatedRouter:
    """What `router.app` puts together, without sockets; `on_news` as in `router.peers.own`."""

    def __init__(
        self, plan: FleetPlan, number: int, clock: VirtualClock, on_news: Callable[[], None]
    ) -> None:
        settings, name = plan.settings, f"router-{number}"
        self.index = PrefixIndex(settings.prefix.index_bytes_max)
        self.book = LoadBook()
        self.peers = PeerView(name, _LEASE_S)
        self.news = OwnNews(name, self.book, on_news) if plan.tells else None
        self.fleet = Fleet(
            settings.discovery.failures_to_suspend, told_in_flight=self._told_in_flight
        )
        scheduling = settings.scheduling
        self.dispatcher = Dispatcher(
            fleet=self.fleet,
            index=self.index,
            policy=build_policy(scheduling.policy),
            book=self.book,
            speeds=LearnedSpeeds(scheduling.prefill_tokens_per_s, scheduling.decode_step_ms),
            settings=settings,
            clock=clock,
            rng=Random(f"{plan.seed}/{number}" if number else plan.seed),
            peers=self.peers,
            news=self.news,
        )
        self.turns = Turns(self.dispatcher, settings.admission, clock)
        self._clock = clock
        self.fleet.listen(self.dispatcher)
        self.fleet.listen(IndexMembers(self.index))

    def meet(self, record: WorkerRecord) -> None:
        """A worker, or a new incarnation of one, is in the registry."""
        self.fleet.upsert(record, self._clock.now_s)
        self.turns.pump(record.model)

    def deliver(self, worker_id: str, events: Sequence[CacheEvent]) -> None:
        """Cache events of a worker's living incarnation."""
        publish(worker_id, events, self.index)

    def hear(self, told: Told, model: str) -> None:
        """Another router's message has arrived."""
        for prediction in self.peers.take(told, self._clock.now_s):
            self.dispatcher.predicted_elsewhere(prediction)
        if self.peers.take_freed():
            self.turns.pump(model)

    def check_invariants(self, model: str) -> None:
        """For tests: raises AssertionError if any part is not as it should be, or was left over."""
        self.index.check_invariants()
        self.book.check_invariants()
        self.peers.check_invariants()
        self.turns.check_invariants()
        assert self.turns.waiting(model) == 0
        assert not list(self.book.targets())

    def _told_in_flight(self, target: str) -> int:
        return self.book.in_flight(target) + self.peers.in_flight(target)
