"""Puts the router together: every part is made here and handed what it needs.

`running_router` owns the lives of the parts: leaving the block ends every task, subscription and
connection.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from random import Random

import aiohttp
from fastapi import Depends, FastAPI
from prometheus_client import CollectorRegistry

from rhizome import __version__
from rhizome.clock import Clock, SystemClock
from rhizome.ids import new_id
from rhizome.settings.tree import RouterSettings, Settings
from rhizome.stores.open import Stores, open_stores
from rhizome.tasks import Tasks
from router.batch.records import batch_directory
from router.batch.routes import build_batch_router
from router.delivery import Delivery
from router.dispatch import Dispatcher
from router.events.plane import EventPlane
from router.fleet import Fleet
from router.gate import Gate
from router.gauges import live_gauges
from router.http.border import install_border
from router.http.generation import build_generation
from router.http.inventory import build_inventory
from router.http.reading import KeyCheck
from router.metrics import LiveGauges, RouterMetrics
from router.prefix.index import PrefixIndex
from router.relay.upstream import Upstream
from router.renderings import Renderings
from router.scheduling.load import LoadBook
from router.scheduling.policies import build_policy
from router.scheduling.speeds import LearnedSpeeds
from router.service import Service
from router.signals import SignalReporter

_log = logging.getLogger(__name__)
_CONNECTIONS_KEPT_S = 15.0  # less than engines keep them, so that none is closed under a request
_TICK_S = 0.1


@dataclass(frozen=True, slots=True)
class Router:
    """A running router."""

    app: FastAPI
    registry: CollectorRegistry
    fleet: Fleet
    service: Service


@dataclass(frozen=True, slots=True)
class _Core:
    """The parts that decide; none of them does I/O."""

    fleet: Fleet
    index: PrefixIndex
    dispatcher: Dispatcher
    gate: Gate


def _core(settings: RouterSettings, clock: Clock) -> _Core:
    scheduling = settings.scheduling
    index = PrefixIndex(settings.prefix.index_bytes_max)
    book = LoadBook()
    fleet = Fleet(settings.discovery.failures_to_suspend, own_in_flight=book.in_flight)
    dispatcher = Dispatcher(
        fleet=fleet,
        index=index,
        policy=build_policy(scheduling.policy),
        book=book,
        speeds=LearnedSpeeds(scheduling.prefill_tokens_per_s, scheduling.decode_step_ms),
        settings=settings,
        clock=clock,
        rng=Random(scheduling.seed),
    )
    return _Core(fleet, index, dispatcher, Gate(dispatcher, settings.admission, clock))
