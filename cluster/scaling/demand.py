"""One model's demand, from what the routers said."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.scaling.types import Demand
from rhizome.stores.signals import ModelSignal

STALE_WINDOWS = 5
"""A signal older than this many of its own reporting windows is stale."""


def sum_signals(signals: Sequence[ModelSignal], model: str, now_wall_s: float) -> Demand | None:
    """The sum of the fresh signals about `model`; None when there is none.

    Clocks of hosts differ: a signal from the future counts as fresh.
    """
    said = [signal for signal in signals if signal.model == model]
    fresh = [one for one in said if now_wall_s - one.at_wall_s <= STALE_WINDOWS * one.window_s]
    if not fresh:
        return None
    predictions = [
        one.predicted_ttft_ms_p90 for one in fresh if one.predicted_ttft_ms_p90 is not None
    ]
    return Demand(
        queued=sum(one.queued for one in fresh),
        queue_wait_ms_max=max(one.queue_wait_ms_max for one in fresh),
        in_flight=sum(one.in_flight for one in fresh),
        predicted_ttft_ms_p90=max(predictions, default=None),
        refused=sum(one.refused for one in fresh),
        complete=len(fresh) == len(said),
    )
