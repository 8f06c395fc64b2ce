"""The parts that decide, put together; none of them does I/O."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from rhizome.clock import Clock
from rhizome.ids import new_id
from rhizome.settings.tree import RouterSettings
from rhizome.stores.broadcast import Broadcast
from router.decisions.shadows import build_shadows
from router.dispatch import Dispatcher
from router.fleet import Fleet
from router.gate import Gate
from router.peers.own import OwnNews
from router.peers.view import PeerView
from router.prefix.index import PrefixIndex
from router.scheduling.load import LoadBook
from router.scheduling.policies import build_policy
from router.scheduling.speeds import LearnedSpeeds
from router.warmup.noting import PrefixNotes


@dataclass(frozen=True, slots=True)
class Core:
    """The parts that decide; none of them does I/O."""

    fleet: Fleet
    index: PrefixIndex
    dispatcher: Dispatcher
    gate: Gate
    notes: PrefixNotes
    channels: list[Broadcast]
    """Where other routers are told of the load."""


def build_core(settings: RouterSettings, clock: Clock, channels: list[Broadcast]) -> Core:
    """The parts for a router that tells others of its load on `channels`."""
    scheduling = settings.scheduling
    index = PrefixIndex(settings.prefix.index_bytes_max)
    book, router_id = LoadBook(), new_id("router")
    peers = PeerView(router_id, settings.peers.lease_s)
    fleet = Fleet(
        settings.discovery.failures_to_suspend,
        told_in_flight=lambda target: book.in_flight(target) + peers.in_flight(target),
    )
    dispatcher = Dispatcher(
        fleet=fleet,
        index=index,
        policy=build_policy(scheduling.policy),
        book=book,
        speeds=LearnedSpeeds(scheduling.prefill_tokens_per_s, scheduling.decode_step_ms),
        settings=settings,
        clock=clock,
        rng=Random(scheduling.seed),
        router_id=router_id,
        shadows=build_shadows(scheduling),
        peers=peers,
        news=OwnNews(router_id, book) if channels else None,
    )
    gate = Gate(dispatcher, settings.admission, clock)
    notes = PrefixNotes(settings.warmup, settings.prefix)
    return Core(fleet, index, dispatcher, gate, notes, channels)
