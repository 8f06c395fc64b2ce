"""Turns: who is placed at once, who waits for which worker, and in what order they go."""

from __future__ import annotations

from rhizome.errors import RequestError
from rhizome.settings.tree import AdmissionSettings, RouterSettings
from router.admission.classes import Priority
from router.admission.line import Ticket
from router.placement import Assignment, Job
from router.turns import Turns
from tests.unit.router.test_dispatch import BLOCK, Bench

LONG = 40_000
"""Tokens of a prompt that takes 15 s by what is assumed: 10 s, and half as much for attention."""


class Waiter:
    """Somebody in the line."""

    def __init__(self) -> None:
        self.result: Assignment | None = None
        self.error: RequestError | None = None

    def done(self) -> bool:
        return self.result is not None or self.error is not None

    def set_result(self, result: Assignment, /) -> None:
        assert not self.done()
        self.result = result

    def set_exception(self, exception: RequestError, /) -> None:
        assert not self.done()
        self.error = exception


class Line:
    """Turns over the two workers of a dispatcher's bench."""

    def __init__(self, **admission: object) -> None:
        settings = RouterSettings(admission=AdmissionSettings.model_validate(admission))
        self.bench = Bench(settings=settings)
        self.turns = Turns(self.bench.dispatcher, settings.admission, self.bench.clock)
        self.made = 0
        speeds = self.bench.dispatcher.speeds
        speeds.observe_first_token("w0", 4000, 1060.0, alone=True)  # as assumed, but learned

    def job(self, tokens: int, **fields: object) -> Job:
        """A prompt like no other."""
        self.made += 1
        return self.bench.job([self.made * 100_000 + one for one in range(tokens)], **fields)

    def held_by(self, target: str, tokens: int = 4000, **fields: object) -> Job:
        """A prompt that a worker holds; to compute it anew takes a second."""
        job = self.job(tokens, **fields)
        self.bench.index.store(target, job.prompt.hashes(BLOCK))
        return job

    def fill(self, target: str) -> Assignment:
        """A short job that takes the worker's only place."""
        placed = self.turns.enter(self.held_by(target, 160))
        assert placed is not None
        assert placed.target.target_id == target
        return placed

    def end(self, placed: Assignment) -> None:
        """Its place is free again."""
        self.bench.dispatcher.release(placed)
        self.turns.pump("m")

    def send(self, tokens: int) -> Assignment:
        """A job that is placed at once."""
        placed = self.turns.enter(self.job(tokens))
        assert placed is not None
        return placed

    def wait(self, tokens: int) -> tuple[Waiter, Ticket]:
        """A job that has to wait."""
        return self.wait_with(self.job(tokens))

    def wait_with(self, job: Job) -> tuple[Waiter, Ticket]:
        waiter = Waiter()
        assert self.turns.enter(job) is None
        ticket = self.turns.wait(job, waiter)
        self.turns.pump("m")
        self.turns.check_invariants()
        return waiter, ticket

    def answer(self, placed: Assignment, after_s: float) -> None:
        """Its first byte comes."""
        self.bench.clock.advance(after_s)
        self.bench.dispatcher.first_byte(placed)


def test_a_prompt_waits_for_a_busy_fleet_in_the_router_and_goes_where_one_is_done() -> None:
    line = Line()
    first, second = line.send(LONG), line.send(LONG)
    assert {first.target.target_id, second.target.target_id} == {"w0", "w1"}
    waiter, ticket = line.wait(4000)
    assert not waiter.done()
    line.answer(second, 5.0)
    assert waiter.result is not None
    assert waiter.result.target == second.target
    line.turns.leave(ticket)
    assert line.turns.waiting("m") == 0


def test_short_prompts_overtake_long_ones_but_not_for_ever() -> None:
    line = Line()
    first, second = line.send(LONG), line.send(LONG)
    long, _ = line.wait(LONG)
    short, _ = line.wait(4000)
    line.answer(first, 4.0)
    assert [short.done(), long.done()] == [True, False]
    line.answer(second, 0.1)
    assert long.done()


def test_nobody_is_overtaken_for_longer_than_his_own_prompt_takes() -> None:
    line = Line()
    first, second = line.send(LONG), line.send(LONG)
    long, _ = line.wait(LONG)
    line.bench.clock.advance(16.0)
    short, _ = line.wait(4000)
    line.answer(first, 0.1)
    assert long.done()
    line.answer(second, 0.1)
    assert short.done()


def test_what_those_ahead_wait_for_counts_as_work_there() -> None:
    """A second prompt does not take the idle worker that the first one will need."""
    line = Line()
    line.send(LONG)
    line.send(LONG)
    waiters = [line.wait(8000)[0] for _ in range(3)]
    assert not any(waiter.done() for waiter in waiters)
    line.bench.clock.advance(2.0)
    line.turns.pump("m")
    assert not any(waiter.done() for waiter in waiters)


def test_nobody_is_held_for_longer_than_his_own_prompt_takes() -> None:
    line = Line()
    line.send(LONG)
    line.send(LONG)
    waiter, _ = line.wait(4000)
    line.bench.clock.advance(0.9)
    line.turns.tick()
    assert not waiter.done()
    line.bench.clock.advance(0.3)
    line.turns.tick()
    assert waiter.result is not None


def test_nobody_waits_longer_than_the_bound_while_there_is_room() -> None:
    line = Line(hold_s_max=3.0)
    line.send(LONG)
    line.send(LONG)
    waiter, _ = line.wait(LONG)
    line.bench.clock.advance(2.9)
    line.turns.tick()
    assert not waiter.done()
    line.bench.clock.advance(0.2)
    line.turns.tick()
    assert waiter.result is not None


def test_nobody_waits_by_speeds_that_are_only_assumed() -> None:
    line = Line()
    line.bench.dispatcher.speeds.remove("w0")
    line.bench.dispatcher.speeds.remove("w1")
    for _ in range(6):
        line.send(LONG)


def test_without_late_binding_all_are_sent_at_once() -> None:
    line = Line(late_binding=False)
    for _ in range(6):
        line.send(LONG)


def test_no_more_wait_so_than_the_bound_says() -> None:
    line = Line(hold_length_max=1)
    line.send(LONG)
    line.send(LONG)
    first, _ = line.wait(4000)
    assert not first.done()
    line.wait(4000)
    assert first.done()


def test_a_short_prompt_is_placed_at_once_while_long_ones_wait() -> None:
    line = Line()
    line.send(LONG)
    line.send(LONG)
    waiter, _ = line.wait(LONG)
    line.send(100)
    assert not waiter.done()


def test_who_finds_the_worker_that_holds_his_prompt_full_waits_for_a_place_there() -> None:
    line = Line(in_flight_max_per_worker=1)
    placed = line.fill("w0")
    waiter, _ = line.wait_with(line.held_by("w0"))
    line.bench.clock.advance(0.2)
    line.turns.tick()
    assert not waiter.done()
    line.end(placed)
    assert waiter.result is not None
    assert waiter.result.target.target_id == "w0"


def test_nobody_waits_for_a_place_longer_than_the_bound() -> None:
    line = Line(in_flight_max_per_worker=1)
    line.fill("w0")
    waiter, _ = line.wait_with(line.held_by("w0"))
    line.bench.clock.advance(0.49)
    line.turns.tick()
    assert not waiter.done()
    line.bench.clock.advance(0.02)
    line.turns.tick()
    assert waiter.result is not None
    assert waiter.result.target.target_id == "w1"


def test_nobody_waits_for_a_place_longer_than_it_takes_to_compute_his_prompt_anew() -> None:
    line = Line(in_flight_max_per_worker=1)
    line.fill("w0")
    waiter, _ = line.wait_with(line.held_by("w0", 800))
    line.bench.clock.advance(0.35)  # 0.2 s, twice that as one stands in line for two workers
    line.turns.tick()
    assert waiter.result is not None
    assert waiter.result.target.target_id == "w1"


def test_time_in_which_no_worker_had_room_is_not_counted_as_waiting_for_a_place() -> None:
    line = Line(in_flight_max_per_worker=1)
    first, second = line.fill("w0"), line.fill("w1")
    waiter, _ = line.wait_with(line.held_by("w0"))
    line.bench.clock.advance(3.0)
    line.end(second)
    assert not waiter.done(), "the place is not where its prompt is"
    line.bench.clock.advance(0.4)
    line.end(first)
    assert waiter.result is not None
    assert waiter.result.target.target_id == "w0"


def test_a_place_goes_to_the_next_in_line_while_the_first_waits_for_another_one() -> None:
    line = Line(in_flight_max_per_worker=1)
    line.fill("w0")
    second = line.fill("w1")
    first, _ = line.wait_with(line.held_by("w0"))
    next_one, _ = line.wait_with(line.held_by("w1"))
    line.end(second)
    assert [first.done(), next_one.done()] == [False, True]


def test_batch_work_that_waits_for_a_place_keeps_nobody_interactive() -> None:
    line = Line(in_flight_max_per_worker=2)
    line.fill("w0")
    batch, _ = line.wait_with(line.held_by("w0", priority=Priority.BATCH))
    line.send(4000)
    assert not batch.done()


def test_without_late_binding_nobody_waits_for_a_place() -> None:
    line = Line(in_flight_max_per_worker=1, late_binding=False)
    line.fill("w0")
    placed = line.turns.enter(line.held_by("w0"))
    assert placed is not None
    assert placed.target.target_id == "w1"
