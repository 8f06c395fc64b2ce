"""The simulated fleet: arrivals, the routers' decisions, engines, and what they tell the routers.

One `FleetSimulation` plays one workload under one policy. A request comes to one of the routers, is
placed by `router.turns.Turns` and `router.dispatch.Dispatcher` (the code that a router runs),
reaches its engine after the profile's overhead, and is learned from and released like a real one.
Engines' cache events reach every index after `event_delay_s`; what routers tell each other of
their load goes through `router.peers`.

Left out: rendering, the network's time, clients that leave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from random import Random

from loadtest.records import ErrorKind
from loadtest.simulation.agenda import Agenda, VirtualClock
from loadtest.simulation.columns import Columns
from loadtest.simulation.ears import Waiting
from loadtest.simulation.floor import PrefillFloor
from loadtest.simulation.plan import Failure, FleetPlan, Tally
from loadtest.simulation.prompts import KeyedPrompt
from loadtest.simulation.router import SimulatedRouter
from loadtest.simulation.warming import Warming
from loadtest.simulation.worker import Life, SimulatedWorker, publish
from loadtest.workloads.requests import TracedRequest
from rhizome.errors import NoHealthyWorker, QueueFull, QueueTimeout, RequestError
from rhizome.fleet.records import EventSource, WorkerRecord, WorkerState
from router.dispatch import Dispatcher
from router.fleet import EngineLoad
from router.peers.messages import Told
from router.placement import Assignment, Job
from router.relay.dialect import PromptTokensDetails, Usage
from router.turns import Turns
from workers.engine.simulated.cache import CacheEvent
from workers.engine.simulated.requests import RequestUnfit, SimRequest, Step
from workers.engine.simulated.scheduler import Scheduler

MODEL = "simulated"
_MS = 1000.0
_EVENTS = (EventSource(endpoint="inproc://simulated"),)


@dataclass(slots=True)
class FleetSimulation:
    """One run; `run` plays it to its end."""

    plan: FleetPlan
    columns: Columns = field(default_factory=Columns)
    tally: Tally = field(default_factory=Tally)
    clock: VirtualClock = field(default_factory=VirtualClock)
    agenda: Agenda = field(init=False)
    routers: list[SimulatedRouter] = field(init=False)
    workers: dict[str, SimulatedWorker] = field(default_factory=dict)
    """The living incarnation of each worker."""
    warming: Warming = field(init=False)
    _told_s: list[float] = field(init=False)
    _chance: Random = field(init=False)
    _floor: PrefillFloor = field(init=False)
    _arrivals: Iterator[TracedRequest] = field(init=False)
    _more_to_come: bool = True

    def __post_init__(self) -> None:
        plan = self.plan
        self.agenda = Agenda(self.clock)
        self.routers = [
            SimulatedRouter(plan, number, self.clock, partial(self._collect_news, number))
            for number in range(plan.routers)
        ]
        self.warming = Warming(
            plan.settings.warmup, self.routers, self.agenda, self.tally, self._replay
        )
        self._told_s = [-plan.news_interval_s] * plan.routers
        self._chance = Random(f"{plan.seed}/routers")
        self._floor = PrefillFloor(plan.profiles[0], plan.floor_segments_max)

    def run(self, requests: Iterable[TracedRequest]) -> None:
        """Plays the whole workload; every request has ended afterwards."""
        self._arrivals = iter(requests)
        later = {join.worker: join.at_s for join in self.plan.joins}
        for place in range(len(self.plan.profiles)):
            if place in later:
                start = partial(self._start_worker, place, incarnation=0)
                self.agenda.at(later[place], start)
            else:
                self._start_worker(place, incarnation=0)
        for failure in self.plan.failures:
            self.agenda.at(failure.at_s, partial(self._kill, failure))
        self._next_arrival()
        self._report()
        self.agenda.run(self._is_over)

    def check_invariants(self) -> None:
        """For tests: raises AssertionError if any part is not as it should be, or was left over."""
        self.columns.check_invariants()
        for router in self.routers:
            router.check_invariants(MODEL)
        for worker in self.workers.values():
            worker.scheduler.check_invariants()
            assert not worker.lives

    def _is_over(self) -> bool:
        self.tally.events += 1
        return not self._more_to_come and not self.columns.open

    # Requests

    def _next_arrival(self) -> None:
        traced = next(self._arrivals, None)
        if traced is None:
            self._more_to_come = False
        else:
            at_s = max(traced.at_s, self.clock.now_s)
            self.agenda.at(at_s, partial(self._arrive, traced))

    def _arrive(self, traced: TracedRequest) -> None:
        prompt = KeyedPrompt(traced, exact=self.plan.sight == "events")
        row = self.columns.begin(
            self.clock.now_s,
            traced.tenant,
            prompt.tokens,
            traced.output_len,
            self._floor.of_s(prompt),
        )
        job = Job(str(traced.number), MODEL, prompt, completion_tokens_max=traced.output_len)
        count = len(self.routers)
        router = self._chance.randrange(count) if count > 1 else 0
        self._place(Life(row, job, prompt, traced.output_len, router))
        self._next_arrival()

    def _place(self, life: Life) -> None:
        try:
            assignment = self._turns(life).enter(life.job)
            if assignment is None:
                self._queue(life)
                return
        except (NoHealthyWorker, QueueFull) as error:
            self._refuse(life, error)
            return
        self._dispatch(life, assignment)

    def _queue(self, life: Life) -> None:
        """Raises `QueueFull`."""

        turns = self._turns(life)

        def placed(assignment: Assignment) -> None:
            turns.leave(ticket)
            self._dispatch(life, assignment)

        def refused(error: RequestError) -> None:
            turns.leave(ticket)
            self._refuse(life, error)

        ticket = turns.wait(life.job, Waiting(placed, refused))
        self.tally.queued += 1
        self.agenda.at(ticket.deadline_s, partial(self._expire_waits, turns))
        turns.pump(MODEL)

    def _expire_waits(self, turns: Turns) -> None:
        if turns.waiting(MODEL):
            turns.tick()

    def _turns(self, life: Life) -> Turns:
        return self.routers[life.router].turns

    def _dispatcher(self, life: Life) -> Dispatcher:
        return self.routers[life.router].dispatcher

    def _dispatch(self, life: Life, assignment: Assignment) -> None:
        life.attempts += 1
        life.assignment = assignment
        worker = life.worker = self.workers[assignment.target.record.worker_id]
        worker.in_flight += 1
        self.tally.in_flight_max = max(self.tally.in_flight_max, worker.in_flight)
        self.columns.worker[life.row] = worker.place
        self.columns.predicted_tokens[life.row] = assignment.predicted_tokens
        overhead_s = worker.scheduler.profile.request_overhead_ms / _MS
        self.agenda.at(self.clock.now_s + overhead_s, partial(self._enter_engine, life, worker))

    def _enter_engine(self, life: Life, worker: SimulatedWorker) -> None:
        if worker.is_dead:
            self._retry(life, worker)
            return
        now_s, scheduler = self.clock.now_s, worker.scheduler
        self._take(worker, scheduler.advance(now_s))
        try:
            scheduler.add(life.at_engine(scheduler.profile, now_s))
        except RequestUnfit as error:
            self._end(life)
            self.columns.fail(life.row, now_s, ErrorKind.HTTP_4XX, str(error))
            self._turns(life).pump(MODEL)
        else:
            worker.lives[life.job.request_id] = life
        self._plan_next(worker)

    def _refuse(self, life: Life, error: RequestError) -> None:
        late = isinstance(error, (QueueFull, QueueTimeout))
        kind = ErrorKind.HTTP_429 if late else ErrorKind.HTTP_5XX
        self.columns.fail(life.row, self.clock.now_s, kind, error.message)

    def _end(self, life: Life) -> None:
        """Gives the load back."""
        assert life.assignment is not None
        assert life.worker is not None
        life.worker.in_flight -= 1
        self._dispatcher(life).release(life.assignment)
        life.assignment = None

    # Engines

    def _replay(
        self, worker: SimulatedWorker, request: SimRequest, ended: Callable[[], None]
    ) -> None:
        self._take(worker, worker.scheduler.advance(self.clock.now_s))
        worker.scheduler.add(request)
        worker.replays[request.request_id] = ended
        self._plan_next(worker)

    def _plan_next(self, worker: SimulatedWorker) -> None:
        worker.plan += 1
        at_s = worker.scheduler.next_event_s()
        if at_s is not None:
            self.agenda.at(at_s, partial(self._wake, worker, worker.plan))

    def _wake(self, worker: SimulatedWorker, plan: int) -> None:
        if worker.plan != plan or worker.is_dead:
            return
        self._take(worker, worker.scheduler.advance(self.clock.now_s))
        self._plan_next(worker)

    def _take(self, worker: SimulatedWorker, steps: list[Step]) -> None:
        """Tells of what the engine did."""
        now_s = self.clock.now_s
        for step in steps:
            self.tally.steps += step.steps
            self.tally.prefill_steps += step.prefill_tokens > 0
            for started in step.started:
                life = worker.lives.get(started.request_id)
                if life is not None:
                    life.cached_tokens = started.cached_tokens
            if step.first or step.finished:
                overhead_s = worker.scheduler.profile.token_overhead_ms / _MS
                self.agenda.at(now_s + overhead_s, partial(self._hear, worker, step))
            if step.events and self.plan.sight == "events":
                self.agenda.at(
                    now_s + self.plan.event_delay_s, partial(self._deliver, worker, step.events)
                )

    def _hear(self, worker: SimulatedWorker, step: Step) -> None:
        """First and last tokens reach the router."""
        now_s, lives = self.clock.now_s, worker.lives
        for request_id in step.first:
            life = lives.get(request_id)
            if life is not None and life.assignment is not None:
                self.columns.first_s[life.row] = now_s
                self.columns.cached_tokens[life.row] = life.cached_tokens or 0
                self._dispatcher(life).first_byte(life.assignment)
        for request_id in step.finished:
            life = lives.pop(request_id, None)
            if life is not None and life.assignment is not None:
                self._complete(life, life.assignment)
            elif request_id in worker.replays:
                worker.replays.pop(request_id)()

    def _complete(self, life: Life, assignment: Assignment) -> None:
        now_s = self.clock.now_s
        cached = None if self.plan.sight == "nothing" else life.cached_tokens
        usage = Usage(life.prompt.tokens, life.output_len, PromptTokensDetails(cached))
        self.columns.complete(life.row, now_s)
        self._end(life)
        if life.worker is not None and self.plan.expects_workers:
            self.warming.answered(life, life.worker)
        self._turns(life).pump(MODEL)
        self._dispatcher(life).learn(assignment, usage, now_s)

    def _deliver(self, worker: SimulatedWorker, events: list[CacheEvent]) -> None:
        self.tally.deliveries += 1
        worker_id = worker.record.worker_id
        if self.workers.get(worker_id) is worker:
            for router in self.routers:
                publish(worker_id, events, router.index)

    # Workers come and go

    def _start_worker(self, place: int, incarnation: int) -> None:
        profile, worker_id = self.plan.profiles[place], f"sim-{place:04d}"
        record = WorkerRecord(
            worker_id=worker_id,
            incarnation=f"{worker_id}.{incarnation}",
            model=MODEL,
            url=f"http://{worker_id}",
            state=WorkerState.READY,
            engine="simulated",
            events=_EVENTS if self.plan.sight == "events" else (),
            block_size=profile.block_size,
            kv_blocks=profile.kv_blocks,
            max_model_len=profile.max_model_len,
            max_num_seqs=profile.max_num_seqs,
        )
        self.workers[worker_id] = SimulatedWorker(record, place, Scheduler(profile))
        for router in self.routers:
            router.meet(record)
        self.warming.joined(self.workers[worker_id])

    def _kill(self, failure: Failure) -> None:
        worker = self.workers[f"sim-{failure.worker:04d}"]
        if worker.is_dead:
            return
        worker.is_dead = True
        now_s = self.clock.now_s
        lives, worker.lives = worker.lives, {}
        for life in lives.values():
            if life.assignment is None or life.assignment.first_byte_at_s is None:
                self._retry(life, worker)
                continue
            self._end(life)
            detail = "the worker died while it was answering"
            self.columns.fail(life.row, now_s, ErrorKind.STREAM_ERROR, detail)
        self.agenda.at(now_s + self.plan.lease_ttl_s, partial(self._forget, worker))
        if failure.back_after_s is not None:
            back = partial(self._start_worker, failure.worker, incarnation=int(now_s * _MS) + 1)
            self.agenda.at(now_s + failure.back_after_s, back)

    def _forget(self, worker: SimulatedWorker) -> None:
        """The dead worker's lease ends, unless its next incarnation is there already."""
        worker_id = worker.record.worker_id
        if self.workers.get(worker_id) is worker:
            for router in self.routers:
                router.fleet.remove(worker_id, "its lease ended", self.clock.now_s)

    def _retry(self, life: Life, worker: SimulatedWorker) -> None:
        """The worker could not be reached: as `router.service` does, another one is tried."""
        self._end(life)
        self.tally.retries += 1
        record = worker.record
        life.job.excluded.add(record.worker_id)
        fleet = self.routers[life.router].fleet
        fleet.dispatch_failed(record.worker_id, record.incarnation, "it is dead")
        if life.attempts >= self.plan.settings.relay.attempts_max:
            self.columns.fail(life.row, self.clock.now_s, ErrorKind.HTTP_5XX, "no worker answered")
        else:
            self._place(life)

    # What is told now and then

    def _report(self) -> None:
        """Load reports of all living workers, as the probers get them."""
        now_s = self.clock.now_s
        for worker_id, worker in self.workers.items():
            if not worker.is_dead:
                scheduler = worker.scheduler
                load = EngineLoad(scheduler.running, scheduler.waiting, scheduler.kv_usage)
                for router in self.routers:
                    router.fleet.report(worker_id, load, now_s)
        for router in self.routers:
            router.dispatcher.tick()
            router.turns.tick()
        if self._more_to_come or self.columns.open:
            interval_s = self.plan.settings.discovery.probe_interval_s
            self.agenda.at(now_s + interval_s, self._report)

    def _collect_news(self, number: int) -> None:
        """A router has something to tell: at once, unless it told something just before."""
        at_s = max(self.clock.now_s, self._told_s[number] + self.plan.news_interval_s)
        self.agenda.at(at_s, partial(self._tell_news, number))

    def _tell_news(self, number: int) -> None:
        news, delay_s = self.routers[number].news, self.plan.news_delay_s
        told = news.news() if news is not None else None
        if told is not None and delay_s is not None:
            self._told_s[number] = self.clock.now_s
            self.tally.news += 1
            self.agenda.at(self.clock.now_s + delay_s, partial(self._hear_news, told))

    def _hear_news(self, told: Told) -> None:
        for router in self.routers:
            router.hear(told, MODEL)
