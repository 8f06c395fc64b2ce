"""Small fleets and workloads that the tests of this folder simulate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from loadtest.simulation.fleet import FleetSimulation
from loadtest.simulation.plan import Failure, FleetPlan
from loadtest.workloads.requests import Role, Segment, TracedRequest, key_of
from rhizome.settings.tree import AdmissionSettings, RouterSettings, SchedulingSettings
from workers.engine.simulated.profile import EngineProfile

PROFILE = EngineProfile(
    name="test",
    source="made up",
    a_ms=10.0,
    b_ms=0.05,
    c_ms_per_ktok=0.05,
    d_ms_per_ktok=50.0,
    request_overhead_ms=2.0,
    token_overhead_ms=0.1,
    block_size=16,
    kv_blocks=400,
    max_num_seqs=16,
    max_num_batched_tokens=512,
    max_model_len=4096,
)


def conversations(
    count: int, rate_per_s: float, *, turns: int = 4, seed: int = 0
) -> Iterator[TracedRequest]:
    """Conversations under four system prompts, their turns some seconds apart."""
    rng = Random(seed)
    begun_s = 0.0
    found: list[TracedRequest] = []
    for session in range(count):
        begun_s += rng.expovariate(rate_per_s / turns)
        at_s, segments = begun_s, [Segment(key_of("system", rng.randrange(4)), 100, Role.SYSTEM)]
        for turn in range(turns):
            segments.append(Segment(key_of("user", session, turn), rng.randint(5, 200)))
            answer, output = key_of("answer", session, turn), rng.randint(1, 60)
            found.append(
                TracedRequest(0, at_s, f"s{session}", "t", tuple(segments), output, answer)
            )
            segments.append(Segment(answer, output, Role.ASSISTANT))
            at_s += rng.uniform(1.0, 6.0)
    found.sort(key=lambda one: one.at_s)
    for number, one in enumerate(found):
        yield TracedRequest(
            number, one.at_s, one.session, one.tenant, one.segments, one.output_len, one.answer_key
        )


def settings_with(policy: str = "cost", **admission: float) -> RouterSettings:
    return RouterSettings(
        scheduling=SchedulingSettings.model_validate({"policy": policy}),
        admission=AdmissionSettings.model_validate(admission),
    )


def simulated(
    workers: int = 4,
    *,
    policy: str = "cost",
    sessions: int = 60,
    rate_per_s: float = 20.0,
    seed: int = 0,
    profiles: tuple[EngineProfile, ...] | None = None,
    failures: tuple[Failure, ...] = (),
    event_delay_s: float = 0.005,
    settings: RouterSettings | None = None,
    watch: Callable[[FleetSimulation], None] | None = None,
) -> FleetSimulation:
    """A fleet after its run, all invariants checked; `watch` is called every virtual second."""
    simulation = FleetSimulation(
        FleetPlan(
            profiles=profiles or (PROFILE,) * workers,
            settings=settings or settings_with(policy),
            seed=seed,
            failures=failures,
            event_delay_s=event_delay_s,
        )
    )
    for second in range(1, 200) if watch is not None else ():
        simulation.agenda.at(float(second), lambda: watch and watch(simulation))
    simulation.run(conversations(sessions, rate_per_s, seed=seed))
    simulation.check_invariants()
    return simulation
