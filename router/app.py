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
from rhizome.ids import new_id
from rhizome.settings.tree import RouterSettings, SchedulingSettings, Settings
from rhizome.stores.broadcast import Broadcast
from rhizome.stores.open import Stores, open_stores
from rhizome.tasks import Tasks
from router.admin.access import admin_keys
from router.admin.app import build_admin
from router.admin.audit import AuditLog
from router.admin.parts import Parts
from router.admin.tenants import Tenants
from router.batch.records import batch_directory
from router.batch.routes import build_batch_router
from router.catalog.metrics import CatalogMetrics
from router.catalog.products import Products
from router.catalog.source import CatalogSource
from router.decisions.ring import DecisionRing
from router.decisions.shadows import Shadows
from router.delivery import Delivery
from router.discovery.prober import Prober
from router.discovery.registry import RegistryDiscovery
from router.discovery.static import StaticDiscovery
from router.discovery.static_worker import parse_static_workers
from router.dispatch import Dispatcher
from router.events.plane import EventPlane
from router.fleet import Fleet
from router.gate import Gate
from router.http.border import install_border
from router.http.documentation import build_documentation
from router.http.front import api_front, app_front
from router.http.generation import Serving
from router.http.inventory import build_inventory
from router.http.reading import KeyCheck
from router.http.server.connection import Shared
from router.keys import KeyRing, configured_keys, read_key_file
from router.live_metrics import live_metrics, shadow_metrics
from router.media.fetching import MediaFetcher
from router.metrics import LiveMetrics, RouterMetrics
from router.peers.exchange import Hearers, PeerExchange, peer_channels
from router.peers.metrics import peer_metrics
from router.peers.own import OwnNews
from router.peers.view import PeerView
from router.prefix.index import PrefixIndex
from router.probing import TrustProber
from router.relay.deadlines import Deadlines
from router.relay.upstream import Upstream
from router.renderings import Renderings
from router.scheduling.load import LoadBook
from router.scheduling.policies import build_policy
from router.scheduling.speeds import LearnedSpeeds
from router.service import Service
from router.signals import SignalReporter
from router.stored.routes import build_stored_routes
from router.stored.serving import StoringService
from router.trust_metrics import trust_metrics
from router.verifier import Verifier
from router.warmup.metrics import WarmupMetrics
from router.warmup.noting import PrefixNotes
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
class _Core:
    """The parts that decide; none of them does I/O."""

    fleet: Fleet
    index: PrefixIndex
    dispatcher: Dispatcher
    gate: Gate
    notes: PrefixNotes
    channels: list[Broadcast]
    """Where other routers are told of the load."""


def _core(settings: RouterSettings, clock: Clock, channels: list[Broadcast]) -> _Core:
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
        shadows=_shadows(scheduling),
        peers=peers,
        news=OwnNews(router_id, book) if channels else None,
    )
    gate = Gate(dispatcher, settings.admission, clock)
    notes = PrefixNotes(settings.warmup, settings.prefix)
    return _Core(fleet, index, dispatcher, gate, notes, channels)


def _shadows(settings: SchedulingSettings) -> Shadows | None:
    if not settings.shadows:
        return None
    policies = [build_policy(name) for name in dict.fromkeys(settings.shadows)]
    return Shadows(policies, settings.shadow_share, Random(settings.seed))


@asynccontextmanager
async def running_router(
    settings: Settings, clock: Clock | None = None, siblings: Path | None = None
) -> AsyncIterator[Router]:
    """A router with all its background work; raises `StartError` where it cannot start.

    `siblings` is the directory in which the processes of one router hear each other.
    """
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        stores = await open_stores(settings.redis, verify=False)
        stack.push_async_callback(stores.close)
        session = await stack.enter_async_context(_session())
        core = _core(settings.router, clock, peer_channels(settings.router.peers, stores, siblings))
        plane = await stack.enter_async_context(EventPlane(core.index, clock))
        tasks = await stack.enter_async_context(Tasks("router"))
        renderings = Renderings(settings.router, tasks, core.dispatcher.faults, clock)
        stack.callback(renderings.close)
        faults, trust = core.dispatcher.faults, settings.router.trust
        verifier = Verifier(core.dispatcher.trust, core.index, plane, faults, clock, trust)
        for listener in (core.dispatcher, plane, verifier, renderings):
            core.fleet.listen(listener)
        registry = CollectorRegistry()
        products = _products(settings.router, registry, tasks, clock)
        metrics = RouterMetrics(
            registry, lambda model: core.fleet.knows_model(model) or products.knows(model)
        )
        _measure(registry, core, plane)
        signals = SignalReporter(stores.signals, core.fleet, core.dispatcher, core.gate, clock)
        relay = settings.router.relay
        tenants = Tenants()
        decisions = DecisionRing(settings.router.decisions, tenants.ended)
        deadlines = Deadlines(clock)
        upstream = Upstream(relay, deadlines)
        stack.callback(upstream.close)
        service = Service(
            fleet=core.fleet,
            dispatcher=core.dispatcher,
            gate=core.gate,
            delivery=Delivery(upstream, core.dispatcher, relay, deadlines),
            renderings=renderings,
            metrics=metrics,
            signals=signals,
            products=products,
            media=await stack.enter_async_context(MediaFetcher(settings.router.media)),
            decisions=decisions,
            notes=core.notes,
            verifier=verifier,
            settings=settings.router,
            clock=clock,
        )
        _begin_core(core, verifier, registry, tasks)
        rng = Random(settings.router.scheduling.seed)
        trust_prober = TrustProber(core.fleet, verifier, session, clock, rng, trust)
        if trust.probe:
            tasks.start("trust", trust_prober.run())
        LiveMetrics(registry, trust_metrics(verifier.book, trust_prober, faults))
        tasks.start("warmer", _warmer(settings.router, core, stores, registry, session))
        tasks.start("deadlines", deadlines.run(metrics.loop_late))
        if stores.shared:
            tasks.start("signals", signals.run(settings.router.signal_interval_s))
        static = _watch_static(settings.router, core.fleet, session, tasks, clock)
        if stores.shared:
            tasks.start("registry", _registry_discovery(settings, stores, core.fleet, clock).run())
        ring = _key_ring(settings.router, tasks, clock)
        storing = _storing(service, stores, settings.router, tasks, clock)
        keys = KeyCheck(ring)
        app = _app(
            build_inventory(core.fleet, products, keys),
            (build_stored_routes(storing), _batches(settings, stores, clock)),
            keys,
        )
        serving = Serving(storing, ring, tasks, deadlines, clock, relay.body_bytes_max)
        front = api_front(serving, app, settings.router.http)
        admin = _admin(
            settings.router,
            Parts(
                service=service,
                fleet=core.fleet,
                dispatcher=core.dispatcher,
                gate=core.gate,
                decisions=decisions,
                static=static,
                desired=stores.desired,
                shares_registry=stores.shared,
                keys=ring,
                tenants=tenants,
                audit=AuditLog(clock),
                clock=clock,
            ),
            tasks,
            deadlines,
        )
        yield Router(app, front, deadlines, registry, core.fleet, core.dispatcher, admin)


def _measure(registry: CollectorRegistry, core: _Core, plane: EventPlane) -> None:
    """Shows what the core knows to whoever scrapes."""
    book, shadows = core.dispatcher.book, core.dispatcher.shadows
    LiveMetrics(registry, live_metrics(core.fleet, core.gate, book, core.index, plane))
    LiveMetrics(registry, shadow_metrics(shadows))


def _begin_core(core: _Core, verifier: Verifier, registry: CollectorRegistry, tasks: Tasks) -> None:
    """Ticks, and shares the load with other routers if there may be some."""
    dispatcher, news = core.dispatcher, core.dispatcher.news
    tasks.start("tick", _tick(core, verifier, dispatcher.clock))
    if news is not None:
        hearers = Hearers(dispatcher.predicted_elsewhere, core.gate.tick)
        settings, clock = dispatcher.settings.peers, dispatcher.clock
        exchange = PeerExchange(core.channels, news, dispatcher.peers, hearers, settings, clock)
        LiveMetrics(registry, peer_metrics(exchange, news, dispatcher.peers))
        tasks.start("peers", exchange.run())


def _admin(
    settings: RouterSettings, parts: Parts, tasks: Tasks, deadlines: Deadlines
) -> Shared | None:
    """The admin API, unless it has neither keys nor leave to be open."""
    ring = admin_keys(settings.admin)
    if ring is None:
        return None
    app = build_admin(parts, ring, settings.relay.body_bytes_max)
    return app_front(app, settings.http, tasks, deadlines)


def _warmer(
    settings: RouterSettings,
    core: _Core,
    stores: Stores,
    registry: CollectorRegistry,
    session: aiohttp.ClientSession,
) -> Coroutine[Any, Any, None]:
    return Warmer(
        fleet=core.fleet,
        notes=core.notes,
        dispatcher=core.dispatcher,
        gate=core.gate,
        metrics=WarmupMetrics(registry),
        session=session,
        lease=stores.lease,
        settings=settings.warmup,
        clock=core.dispatcher.clock,
    ).run()


def _products(
    settings: RouterSettings, registry: CollectorRegistry, tasks: Tasks, clock: Clock
) -> Products:
    """What stands behind models' names, followed; raises `SettingsError`."""
    source, metrics = CatalogSource(settings.catalog_file), CatalogMetrics(registry)
    source.open()
    tasks.start("catalog", source.follow(clock, metrics.looked))
    return Products(source, metrics)


def _key_ring(settings: RouterSettings, tasks: Tasks, clock: Clock) -> KeyRing:
    """Clients' keys, followed where they are in a file; open where none are configured."""
    hashes = configured_keys(settings.api_keys, settings.keys)
    if settings.keys_file is None:
        return KeyRing(hashes, is_open=not hashes)
    file, everything = read_key_file(settings.keys_file, hashes)
    ring = KeyRing(everything)
    tasks.start("keys", file.follow(ring, hashes, clock))
    return ring


def _storing(
    service: Service, stores: Stores, settings: RouterSettings, tasks: Tasks, clock: Clock
) -> StoringService:
    """Keeps responses where a restart finds them again; nowhere else."""
    kept = stores.responses if stores.shared else None
    return StoringService(service, kept, settings.responses, tasks, clock)


def _batches(settings: Settings, stores: Stores, clock: Clock) -> APIRouter:
    return build_batch_router(stores, settings.batch, batch_directory(settings), clock)


def _app(inventory: APIRouter, keyed: Sequence[APIRouter], keys: KeyCheck) -> FastAPI:
    """The app, and whose routes in it need a key."""
    app = FastAPI(
        title="Rhizome",
        version=__version__,
        summary="An OpenAI-compatible API in front of a fleet of vLLM workers.",
        docs_url="/docs",
        redoc_url=None,
    )
    install_border(app)
    app.include_router(inventory)
    for routes in (build_documentation(), *keyed):
        app.include_router(routes, dependencies=[Depends(keys)])
    return app


def _watch_static(
    settings: RouterSettings,
    fleet: Fleet,
    session: aiohttp.ClientSession,
    tasks: Tasks,
    clock: Clock,
) -> StaticDiscovery:
    """Looks for the workers that are given by hand, and after all workers' health."""
    discovery = settings.discovery
    workers, timeout_s = parse_static_workers(settings.workers), discovery.probe_timeout_s
    static = StaticDiscovery(workers, fleet, session, clock, timeout_s)
    tasks.start("static-workers", static.run())
    tasks.start("prober", Prober(fleet, session, clock, discovery, static.recheck).run())
    return static


def _registry_discovery(
    settings: Settings, stores: Stores, fleet: Fleet, clock: Clock
) -> RegistryDiscovery:
    return RegistryDiscovery(
        fleet,
        stores.registry,
        stores.desired,
        clock,
        poll_s=settings.router.discovery.registry_poll_s,
        lease_ttl_s=settings.worker.lease_ttl_s,
    )


async def _tick(core: _Core, verifier: Verifier, clock: Clock) -> None:
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
