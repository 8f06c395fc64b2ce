"""Several routers before one fleet: what each knows of the others, and what it is worth."""

from __future__ import annotations

from loadtest.simulation.fleet import FleetSimulation
from loadtest.simulation.plan import FleetPlan
from tests.simulation.fleets import PROFILE, conversations, settings_with

_ROOM = 4


def _simulated(
    routers: int,
    news_delay_s: float | None = 0.002,
    *,
    event_delay_s: float = 0.005,
    rate_per_s: float = 20.0,
    room: int = 64,
    seed: int = 0,
) -> FleetSimulation:
    simulation = FleetSimulation(
        FleetPlan(
            profiles=(PROFILE,) * 4,
            settings=settings_with(in_flight_max_per_worker=room),
            routers=routers,
            news_delay_s=news_delay_s,
            event_delay_s=event_delay_s,
        )
    )
    simulation.run(conversations(80, rate_per_s, seed=seed))
    simulation.check_invariants()
    return simulation


def _hit_rate(*simulations: FleetSimulation) -> float:
    """Of all of them together."""
    cached = sum(sum(one.columns.cached_tokens) for one in simulations)
    return cached / sum(sum(one.columns.prompt_tokens) for one in simulations)


def test_three_routers_that_tell_each_other_reuse_as_much_as_one() -> None:
    """Over several draws: in a single one either may be ahead by a tenth."""
    one, three = ([_simulated(routers, seed=seed) for seed in range(8)] for routers in (1, 3))
    for simulation in three:
        assert simulation.tally.news > 0
        assert not simulation.columns.errors(simulation.columns.is_complete())
    assert _hit_rate(*three) >= 0.98 * _hit_rate(*one)


def test_when_all_has_ended_every_router_knows_that_the_others_have_nothing() -> None:
    three = _simulated(3)
    three.agenda.run(lambda: False)  # the last messages arrive
    for router in three.routers:
        assert router.peers.loads() == {}


def test_news_let_a_router_follow_another_one_before_events_do() -> None:
    told, alone = (
        [_simulated(3, delay_s, event_delay_s=4.0, seed=seed) for seed in range(8)]
        for delay_s in (0.002, None)
    )
    assert all(simulation.tally.news == 0 for simulation in alone)
    assert _hit_rate(*told) > 1.05 * _hit_rate(*alone)


def test_routers_together_keep_to_a_workers_room() -> None:
    """Beyond it goes only what several routers send before they have heard of each other."""
    told, alone = (_simulated(3, delay_s, rate_per_s=80.0, room=_ROOM) for delay_s in (0.002, None))
    assert told.tally.queued > 0
    assert told.tally.in_flight_max <= _ROOM + 2
    assert alone.tally.in_flight_max > told.tally.in_flight_max


def test_one_router_plays_as_if_there_were_no_others_to_tell() -> None:
    assert list(_simulated(1).columns.ended_s) == list(_simulated(1, None).columns.ended_s)
