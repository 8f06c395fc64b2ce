"""What every `SignalBoard` promises."""

from __future__ import annotations

from rhizome.stores.open import Stores
from rhizome.stores.signals import ModelSignal
from tests.support.waiting import eventually


def _signal(router_id: str, model: str, queued: int = 0) -> ModelSignal:
    return ModelSignal(
        model=model,
        router_id=router_id,
        at_wall_s=1.0,
        window_s=1.0,
        queued=queued,
        queue_wait_ms_max=0.0,
        in_flight=1,
        predicted_ttft_ms_p90=None,
        arrivals_per_s=2.0,
        refused=0,
    )


async def test_the_board_holds_the_signals_of_every_router(stores: Stores) -> None:
    await stores.signals.publish("r2", [_signal("r2", "a")], 60)
    await stores.signals.publish("r1", [_signal("r1", "a"), _signal("r1", "b")], 60)
    found = await stores.signals.signals()
    assert found == [_signal("r1", "a"), _signal("r1", "b"), _signal("r2", "a")]


async def test_a_router_replaces_what_it_said_before(stores: Stores) -> None:
    await stores.signals.publish("r1", [_signal("r1", "a"), _signal("r1", "b")], 60)
    await stores.signals.publish("r1", [_signal("r1", "a", queued=7)], 60)
    assert await stores.signals.signals() == [_signal("r1", "a", queued=7)]


async def test_a_silent_router_is_forgotten(stores: Stores) -> None:
    await stores.signals.publish("r1", [_signal("r1", "a")], 0.05)

    async def forgotten() -> bool:
        return not await stores.signals.signals()

    await eventually(forgotten)
