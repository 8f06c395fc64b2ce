"""Puts the router together: every part is made here and handed what it needs.

`running_router` owns the lives of the parts: leaving the block ends every task, subscription and
connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
from fastapi import APIRouter, Depends, FastAPI
from prometheus_client import CollectorRegistry

from rhizome import __version__
from rhizome.clock import Clock, SystemClock
from rhizome.settings.tree import Settings
from rhizome.stores.open import Stores, open_stores
from rhizome.tasks import Tasks
from router.admin.app import admin_front
from router.admin.audit import AuditLog
from router.admin.parts import Parts
from router.admin.steering import BY_HAND
from router.admin.tenants import Tenants
from router.batch.records import batch_directory
from router.batch.routes import build_batch_router
from router.catalog.metrics import CatalogMetrics
from router.catalog.products import Products
from router.catalog.source import CatalogSource
from router.core import Core, build_core
from router.decisions.ring import DecisionRing
from router.delivery import Delivery
from router.discovery.by_hand import HandBook
from router.discovery.prober import Prober
from router.discovery.registry import RegistryDiscovery
from router.discovery.static import StaticDiscovery
from router.discovery.static_worker import parse_static_workers
from router.dispatch import Dispatcher
from router.events.plane import EventPlane
from router.fleet import Fleet
from router.http.border import install_border
from router.http.documentation import build_documentation
from router.http.front import api_front
from router.http.generation import Serving
from router.http.inventory import build_inventory
from router.http.reading import KeyCheck
from router.http.server.connection import Shared
from router.keys import open_ring
from router.live_metrics import live_metrics, shadow_metrics
from router.media.fetching import MediaFetcher
from router.metrics import LiveMetrics, RouterMetrics
from router.peers.exchange import Hearers, PeerExchange, peer_channels
from router.peers.metrics import peer_metrics
from router.probing import TrustProber
from router.relay.deadlines import Deadlines
from router.relay.upstream import Upstream
from router.renderings import Renderings
from router.service import Service
from router.signals import SignalReporter
from router.stored.routes import build_stored_routes
from router.stored.serving import StoringService
from router.trust_metrics import trust_metrics
from router.verifier import Verifier
from router.warmup.metrics import WarmupMetrics
from router.warmup.warmer import Warmer

_CONNECTIONS_KEPT_S = 3.0  # less than engines keep them, so that none is closed under a request
_TICK_S = 0.1


@dataclass(frozen=True, slots=True)
class Router:
    """A running router."""

    app: FastAPI
    front: Shared
    """What a listener's connections are served with."""
    deadlines: Deadlines
    registry: CollectorRegistry
    fleet: Fleet
    dispatcher: Dispatcher
    admin: Shared | None
    """The same for the admin API, if it is served."""


@dataclass(frozen=True, slots=True)
class _Ground:
    """What everything else stands on."""

    settings: Settings
    clock: Clock
    stores: Stores
    session: aiohttp.ClientSession
    tasks: Tasks
    registry: CollectorRegistry
    deadlines: Deadlines
    core: Core
    plane: EventPlane
    tenants: Tenants
    by_hand: HandBook


@asynccontextmanager
async def running_router(
    settings: Settings, clock: Clock | None = None, siblings: Path | None = None
) -> AsyncIterator[Router]:
    """A router with all its background work; raises `StartError` where it cannot start.

    `siblings` is the directory in which the processes of one router hear each other.
    """
    async with AsyncExitStack() as stack:
        ground = await _ground(stack, settings, clock or SystemClock(), siblings)
        service = await _service(stack, ground)
        static = _begin(ground, service)
        yield _router(ground, service, static)


async def _ground(
    stack: AsyncExitStack, settings: Settings, clock: Clock, siblings: Path | None
) -> _Ground:
    stores = await open_stores(settings.redis, verify=False)
    stack.push_async_callback(stores.close)
    session = await stack.enter_async_context(_session())
    channels = peer_channels(settings.router.peers, stores, siblings)
    core = build_core(settings.router, clock, channels)
    plane = await stack.enter_async_context(EventPlane(core.index, clock))
    return _Ground(
        settings=settings,
        clock=clock,
        stores=stores,
        session=session,
        tasks=await stack.enter_async_context(Tasks("router")),
        registry=CollectorRegistry(),
        deadlines=Deadlines(clock),
        core=core,
        plane=plane,
        tenants=Tenants(),
        by_hand=HandBook(settings.router.admin.workers_file),
    )


async def _service(stack: AsyncExitStack, ground: _Ground) -> Service:
    """What serves requests, and all that listens to the fleet."""
    core, clock, settings = ground.core, ground.clock, ground.settings.router
    dispatcher, fleet = core.dispatcher, core.fleet
    renderings = Renderings(settings, ground.tasks, dispatcher.faults, clock)
    stack.callback(renderings.close)
    verifier = Verifier(
        dispatcher.trust, core.index, ground.plane, dispatcher.faults, clock, settings.trust
    )
    for listener in (dispatcher, ground.plane, verifier, renderings):
        fleet.listen(listener)
    products = _products(ground)
    upstream = Upstream(settings.relay, ground.deadlines)
    stack.callback(upstream.close)
    return Service(
        fleet=fleet,
        dispatcher=dispatcher,
        gate=core.gate,
        delivery=Delivery(upstream, dispatcher, settings.relay, ground.deadlines),
        renderings=renderings,
        metrics=RouterMetrics(
            ground.registry, lambda model: fleet.knows_model(model) or products.knows(model)
        ),
        signals=SignalReporter(ground.stores.signals, fleet, dispatcher, core.gate, clock),
        products=products,
        media=await stack.enter_async_context(MediaFetcher(settings.media)),
        decisions=DecisionRing(settings.decisions, ground.tenants.ended),
        notes=core.notes,
        verifier=verifier,
        settings=settings,
        clock=clock,
    )


def _begin(ground: _Ground, service: Service) -> StaticDiscovery:
    """Starts all background work."""
    core, tasks, settings = ground.core, ground.tasks, ground.settings.router
    _measure(ground.registry, core, ground.plane)
    _begin_core(core, service.verifier, ground.registry, tasks)
    _begin_trust(ground, service.verifier)
    tasks.start("warmer", _warmer(ground))
    tasks.start("deadlines", ground.deadlines.run(service.metrics.loop_late))
    if ground.stores.shared:
        tasks.start("signals", service.signals.run(settings.signal_interval_s))
        tasks.start("registry", _registry_discovery(ground).run())
    return _watch_static(ground)


def _router(ground: _Ground, service: Service, static: StaticDiscovery) -> Router:
    """What clients and administrators reach."""
    core, tasks, clock = ground.core, ground.tasks, ground.clock
    settings, deadlines = ground.settings.router, ground.deadlines
    ring = open_ring(settings, tasks, clock)
    storing, keys = _storing(ground, service), KeyCheck(ring)
    app = _app(
        build_inventory(core.fleet, service.products, keys),
        (build_stored_routes(storing), _batches(ground)),
        keys,
    )
    serving = Serving(storing, ring, tasks, deadlines, clock, settings.relay.body_bytes_max)
    steered = Parts(
        service=service,
        static=static,
        by_hand=ground.by_hand,
        desired=ground.stores.desired,
        shares_registry=ground.stores.shared,
        keys=ring,
        tenants=ground.tenants,
        audit=AuditLog(clock),
    )
    front = api_front(serving, app, settings.http)
    admin = admin_front(settings, steered, tasks, deadlines)
    return Router(app, front, deadlines, ground.registry, core.fleet, core.dispatcher, admin)


def _measure(registry: CollectorRegistry, core: Core, plane: EventPlane) -> None:
    """Shows what the core knows to whoever scrapes."""
    book, shadows = core.dispatcher.book, core.dispatcher.shadows
    LiveMetrics(registry, live_metrics(core.fleet, core.gate, book, core.index, plane))
    LiveMetrics(registry, shadow_metrics(shadows))


def _begin_core(core: Core, verifier: Verifier, registry: CollectorRegistry, tasks: Tasks) -> None:
    """Ticks, and shares the load with other routers if there may be some."""
    dispatcher, news = core.dispatcher, core.dispatcher.news
    tasks.start("tick", _tick(core, verifier, dispatcher.clock))
    if news is not None:
        hearers = Hearers(dispatcher.predicted_elsewhere, core.gate.tick)
        settings, clock = dispatcher.settings.peers, dispatcher.clock
        exchange = PeerExchange(core.channels, news, dispatcher.peers, hearers, settings, clock)
        LiveMetrics(registry, peer_metrics(exchange, news, dispatcher.peers))
        tasks.start("peers", exchange.run())


def _begin_trust(ground: _Ground, verifier: Verifier) -> None:
    """Shows how far engines' events are believed, and tries them where that is wanted."""
    settings, clock = ground.settings.router, ground.clock
    rng = Random(settings.scheduling.seed)
    prober = TrustProber(ground.core.fleet, verifier, ground.session, clock, rng, settings.trust)
    if settings.trust.probe:
        ground.tasks.start("trust", prober.run())
    faults = ground.core.dispatcher.faults
    LiveMetrics(ground.registry, trust_metrics(verifier.book, prober, faults))


def _warmer(ground: _Ground) -> Coroutine[Any, Any, None]:
    core = ground.core
    return Warmer(
        fleet=core.fleet,
        notes=core.notes,
        dispatcher=core.dispatcher,
        gate=core.gate,
        metrics=WarmupMetrics(ground.registry),
        session=ground.session,
        lease=ground.stores.lease,
        settings=ground.settings.router.warmup,
        clock=ground.clock,
    ).run()


def _products(ground: _Ground) -> Products:
    """What stands behind models' names, followed; raises `SettingsError`."""
    source = CatalogSource(ground.settings.router.catalog_file)
    metrics = CatalogMetrics(ground.registry)
    source.open()
    ground.tasks.start("catalog", source.follow(ground.clock, metrics.looked))
    return Products(source, metrics)


def _storing(ground: _Ground, service: Service) -> StoringService:
    """Keeps responses where a restart finds them again; nowhere else."""
    kept = ground.stores.responses if ground.stores.shared else None
    return StoringService(service, kept, ground.settings.router, ground.tasks, ground.clock)


def _batches(ground: _Ground) -> APIRouter:
    settings = ground.settings
    return build_batch_router(
        ground.stores, settings.batch, batch_directory(settings), ground.clock
    )


def _app(inventory: APIRouter, keyed: Sequence[APIRouter], keys: KeyCheck) -> FastAPI:
    """The app, and whose routes in it need a key."""
    app = FastAPI(
        title="Rhizome",
        version=__version__,
        summary="An OpenAI-compatible API in front of a fleet of vLLM workers.",
        docs_url="/docs",
        redoc_url=None,
        redirect_slashes=False,
    )
    install_border(app)
    app.include_router(inventory)
    for routes in (build_documentation(), *keyed):
        app.include_router(routes, dependencies=[Depends(keys)])
    return app


def _watch_static(ground: _Ground) -> StaticDiscovery:
    """Looks for the workers that are given by hand, and after all workers' health."""
    fleet, session, clock = ground.core.fleet, ground.session, ground.clock
    settings = ground.settings.router
    discovery = settings.discovery
    workers = {one.worker_id: one for one in ground.by_hand.workers}
    workers |= {one.worker_id: one for one in parse_static_workers(settings.workers)}
    timeout_s = discovery.probe_timeout_s
    static = StaticDiscovery(tuple(workers.values()), fleet, session, clock, timeout_s)
    fleet.drain(ground.by_hand.drained, by=BY_HAND)
    ground.tasks.start("static-workers", static.run())
    ground.tasks.start("prober", Prober(fleet, session, clock, discovery, static.recheck).run())
    return static


def _registry_discovery(ground: _Ground) -> RegistryDiscovery:
    return RegistryDiscovery(
        ground.core.fleet,
        ground.stores.registry,
        ground.stores.desired,
        ground.clock,
        poll_s=ground.settings.router.discovery.registry_poll_s,
        lease_ttl_s=ground.settings.worker.lease_ttl_s,
    )


async def _tick(core: Core, verifier: Verifier, clock: Clock) -> None:
    """What must happen also when no request comes or goes."""
    while True:
        await clock.sleep(_TICK_S)
        core.dispatcher.tick()
        verifier.tick()
        core.gate.tick()


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_CONNECTIONS_KEPT_S),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
        headers={"Accept-Encoding": "identity"},
        cookie_jar=aiohttp.DummyCookieJar(),
    )
