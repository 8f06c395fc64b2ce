"""Metrics of what routers tell each other, read when somebody scrapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict

from router.metrics import LiveMetrics
from router.peers.exchange import PeerExchange
from router.peers.own import OwnNews
from router.peers.view import PeerView


def peer_metrics(
    exchange: PeerExchange, own: OwnNews, view: PeerView
) -> Callable[[], Iterable[LiveMetrics.Reading]]:
    """The readings over the given parts."""

    def read() -> Iterable[LiveMetrics.Reading]:
        yield (
            "router_peers",
            "Other routers that this one shares load with; 0: it counts its own alone.",
            (),
            [((), len(view))],
        )
        yield (
            "router_peers_in_flight",
            "Requests that other routers say they have at a target.",
            ("target",),
            [((target,), in_flight) for target, (in_flight, _) in view.loads().items()],
        )
        counts = asdict(exchange.counters) | {"blocks_left_out": own.blocks_left_out}
        yield (
            "router_peer_news_total",
            "Messages between routers, routers that fell silent, and predicted blocks that no "
            "message had room for.",
            ("kind",),
            [((kind,), count) for kind, count in counts.items()],
        )

    return read
