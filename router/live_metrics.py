"""Metrics of the router's live state, read when somebody scrapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict

from router.decisions.shadows import Shadows, Tally
from router.events.plane import EventCounters, EventPlane
from router.fleet import Fleet, WorkerView, targets_of
from router.gate import Gate
from router.metrics import LiveMetrics
from router.prefix.index import PrefixIndex
from router.scheduling.load import LoadBook


def live_metrics(
    fleet: Fleet, gate: Gate, book: LoadBook, index: PrefixIndex, plane: EventPlane
) -> Callable[[], Iterable[LiveMetrics.Reading]]:
    """The readings over the given parts."""

    def read() -> Iterable[LiveMetrics.Reading]:
        states = Counter((view.record.model, _state(view)) for view in fleet.views())
        yield (
            "router_workers",
            "Workers by model and state, as this router sees them.",
            ("model", "state"),
            [(labels, count) for labels, count in states.items()],
        )
        targets = [target.target_id for record in fleet.records() for target in targets_of(record)]
        yield (
            "router_in_flight",
            "Requests that this router has at a target.",
            ("target",),
            [((target,), book.in_flight(target)) for target in targets],
        )
        yield (
            "router_queued_tokens",
            "Uncached prompt tokens dispatched to a target and not yet prefilled.",
            ("target",),
            [((target,), book.queued_tokens(target)) for target in targets],
        )
        yield (
            "router_queue_depth",
            "Requests that wait for room.",
            ("model",),
            [((model,), gate.waiting(model)) for model in fleet.models()],
        )
        yield from _index(index, plane.bytes_used, targets)
        yield from _events(plane.totals())

    return read


def _index(
    index: PrefixIndex, names_bytes: int, targets: Sequence[str]
) -> Iterator[LiveMetrics.Reading]:
    yield (
        "router_index_blocks",
        "KV blocks that a target is known to hold.",
        ("target",),
        [((target,), index.block_count(target)) for target in targets],
    )
    yield (
        "router_index_bytes",
        "Estimated memory of the prefix index and of the engines' names of their blocks.",
        (),
        [((), index.bytes_used + names_bytes)],
    )
    yield (
        "router_index_forgotten_blocks_total",
        "Blocks that the index let go though no event said so, by reason: `over_bound`, more "
        "than the worker can hold; `memory`, the index was full.",
        ("reason",),
        [
            (("over_bound",), float(index.evicted_over_bound)),
            (("memory",), float(index.evicted_for_memory)),
        ],
    )
    yield (
        "router_index_recompute_share",
        "Of the blocks that engines evict, the share that is computed again: near 0, caches are "
        "large enough for what is asked; near 1, more memory or workers would save prefills.",
        (),
        [((), index.evictions.recompute_share)],
    )
    yield (
        "router_index_strangers_total",
        "Events of workers that are not in the fleet, none of them believed.",
        (),
        [((), float(index.strangers))],
    )


def _state(view: WorkerView) -> str:
    """One word for a worker: what keeps it from requests, or what it says of itself."""
    if view.suspended:
        return "suspended"
    return "warming" if view.warming else view.record.state.value


def shadow_metrics(shadows: Shadows | None) -> Callable[[], Iterable[LiveMetrics.Reading]]:
    """How the shadow policies' choices differ from those made; nothing where there are none."""

    def read() -> Iterable[LiveMetrics.Reading]:
        tallies = {} if shadows is None else shadows.tallies
        for name, text, label, values in _SHADOWS:
            samples = [
                ((policy, *kind), value)
                for policy, tally in tallies.items()
                for kind, value in values(tally)
            ]
            if samples:
                yield name, text, ("policy", *label), samples

    return read


_SHADOWS: tuple[
    tuple[str, str, tuple[str, ...], Callable[[Tally], tuple[tuple[tuple[str, ...], float], ...]]],
    ...,
] = (
    (
        "router_shadow_decisions_total",
        "Decisions that a shadow policy made too, by whether it chose the same worker.",
        ("agreed",),
        lambda one: ((("yes",), one.agreed), (("no",), one.compared - one.agreed)),
    ),
    (
        "router_shadow_reuse_tokens_total",
        "Prompt tokens that a shadow's workers held beyond those of the chosen ones, or short of.",
        ("kind",),
        lambda one: ((("more",), one.tokens_more), (("fewer",), one.tokens_fewer)),
    ),
    (
        "router_shadow_ttft_seconds_total",
        "Predicted first-token time that a shadow's choices would have saved, or cost.",
        ("kind",),
        lambda one: ((("sooner",), one.ms_sooner / 1000), (("later",), one.ms_later / 1000)),
    ),
    (
        "router_shadow_errors_total",
        "Decisions that a shadow policy failed to make.",
        (),
        lambda one: (((), one.errors),),
    ),
)


def _events(totals: EventCounters) -> Iterable[LiveMetrics.Reading]:
    counts = {name: float(value) for name, value in asdict(totals).items() if name != "lag_ms"}
    yield (
        "router_kv_events_total",
        "What came over the KV event plane, by kind; `gaps`, `undecodable`, `mismatched` and "
        "`unknown_parent` cost credit.",
        ("kind",),
        [((kind,), count) for kind, count in counts.items()],
    )
    yield (
        "router_kv_event_lag_seconds",
        "The largest lag of a target's last event batch.",
        (),
        [((), totals.lag_ms / 1000)],
    )
