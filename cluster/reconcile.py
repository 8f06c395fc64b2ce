"""One step from what is observed to what is to be done: pure, level-triggered.

The plan depends on what is there and on a small memory of each worker's deaths, never on what was
done before: a new controller, with an empty memory, plans the same for a healthy fleet.

Who restarts whom: a worker starts its failed engine again by itself, and Ray brings back a process
that died, both under the same id. The controller steps in when the process is gone for good, and at
the `DEATHS_MAX`th death without a calm stretch between: the worker is stopped and started again,
perhaps elsewhere, after a pause that doubles from one second to the setting's maximum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from cluster.names import by_model, worker_id
from cluster.scaling.removals import Removable, choose_removals
from rhizome.fleet.models import ModelSpec
from rhizome.fleet.records import WorkerRecord, WorkerState

DEATHS_MAX = 3
BACKOFF_S_MIN = 1.0


@dataclass(frozen=True, slots=True)
class Observed:
    """The cluster at one moment."""

    specs: Mapping[str, ModelSpec]
    targets: Mapping[str, int]
    records: Mapping[str, WorkerRecord]
    """Entries of the registry by worker id; workers that nobody manages are among them."""
    living: frozenset[str]
    faults: Mapping[str, str] = field(default_factory=dict)
    draining: frozenset[str] = frozenset()
    in_flight: Mapping[str, int] = field(default_factory=dict)
    """Known only for the workers of models that have too many."""


@dataclass(frozen=True, slots=True)
class History:
    """What is remembered of one worker id."""

    living: bool = False
    incarnation: str | None = None
    """The last one seen."""
    state: WorkerState | None = None
    """Of that incarnation; FAILED once its end is noted, None while nothing is heard of it."""
    ready_since_s: float | None = None
    deaths: int = 0
    """Since the last calm stretch."""
    not_before_s: float = 0.0
    """No start before this time."""
    cause: str = ""
    """Of the last death."""
    stopping: bool = False
    """It is to be ended, and started again after the pause."""
    leaving: bool = False
    """It is on its way out: when it is gone, that is no death."""


@dataclass(frozen=True, slots=True)
class Start:
    worker_id: str
    model: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End it at once: it serves nobody."""

    worker_id: str
    why: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Let it finish what it has, then end it."""

    worker_id: str
    why: str


Action = Start | Stop | Remove


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, what to remember, and what people should know."""

    actions: tuple[Action, ...]
    histories: Mapping[str, History]
    notices: tuple[str, ...] = ()


def plan(
    observed: Observed, histories: Mapping[str, History], backoff_s_max: float, now_s: float
) -> Plan:
    """The actions that bring the living workers to the targets."""
    step = _Step(observed, dict(histories), backoff_s_max, now_s)
    step.note_lives()
    owned = by_model(observed.living, observed.specs)
    for stray in owned[""]:
        step.remove(stray, "its model is not wanted any more")
    for model in observed.specs:
        step.settle(model, owned[model])
    kept = {
        one: past
        for one, past in step.histories.items()
        if past.living or (past.deaths and now_s < past.not_before_s + backoff_s_max)
    }
    return Plan(tuple(step.actions), kept, tuple(step.notices))


def surplus(observed: Observed) -> tuple[str, ...]:
    """The workers of models that have too many; the choice needs to know what they are doing."""
    owned = by_model(observed.living - observed.draining, observed.specs)
    return tuple(
        one
        for model in observed.specs
        if len(owned[model]) > observed.targets.get(model, 0)
        for one in owned[model]
    )


class _Step:
    """The plan while it is made."""

    def __init__(
        self,
        observed: Observed,
        histories: dict[str, History],
        backoff_s_max: float,
        now_s: float,
    ) -> None:
        self.observed = observed
        self.histories = histories
        self.backoff_s_max = backoff_s_max
        self.now_s = now_s
        self.actions: list[Action] = []
        self.notices: list[str] = []

    def note_lives(self) -> None:
        """Compares every managed worker with what is remembered of it."""
        for one in sorted(self.observed.living | self.histories.keys()):
            past = self.histories.get(one, History())
            if one not in self.observed.living:
                self.histories[one] = self._gone(one, past)
                continue
            record = self.observed.records.get(one)
            if one in self.observed.faults:
                past = self._died(one, past, self.observed.faults[one])
            elif record is not None:
                past = self._seen(one, past, record)
            elif past.state is WorkerState.READY:
                self.notices.append(f"worker {one} is silent: its lease has ended")
                past = replace(past, state=None, ready_since_s=None)
            self.histories[one] = replace(past, living=True)

    def remove(self, one: str, why: str) -> None:
        self.actions.append(Remove(one, why))
        self.histories[one] = replace(self.histories[one], leaving=True)

    def settle(self, model: str, owned: list[str]) -> None:
        """Brings one model's workers to its target."""
        draining = self.observed.draining
        for one in owned:
            if one in draining:
                self.remove(one, "it is draining")
        staying = [one for one in owned if one not in draining]
        target = self.observed.targets.get(model, 0)
        chosen = choose_removals([self._removable(one) for one in staying], len(staying) - target)
        for one in chosen:
            self.remove(one, f"{model} has {len(staying)} workers and is to have {target}")
        self.actions.extend(
            Stop(one, self.histories[one].cause)
            for one in staying
            if one not in chosen and self.histories[one].stopping
        )
        self._start_missing(model, draining.union(owned), target - len(staying))

    def _start_missing(self, model: str, taken: frozenset[str], missing: int) -> None:
        number = 0
        while missing > 0:
            one = worker_id(model, number)
            number += 1
            if one in taken:
                continue
            missing -= 1
            if self.histories.get(one, History()).not_before_s <= self.now_s:
                self.actions.append(Start(one, model))

    def _seen(self, one: str, past: History, record: WorkerRecord) -> History:
        """The history after a look at the worker's own record."""
        same = past.incarnation == record.incarnation
        if same and past.state is WorkerState.FAILED:
            return past  # its death is noted, and its lease has not ended yet
        came_back = past.incarnation is not None and not same
        if came_back and past.state is not WorkerState.FAILED:
            past = self._died(one, past, "its process died and was brought back")
        past = replace(past, incarnation=record.incarnation)
        if record.state is WorkerState.FAILED:
            return self._died(one, past, record.detail or "its engine failed")
        if record.state is not WorkerState.READY:
            return replace(past, state=record.state, ready_since_s=None)
        if past.state is not WorkerState.READY or past.ready_since_s is None:
            self.notices.append(f"worker {one} is ready on {record.node or record.url}")
            return replace(past, state=record.state, ready_since_s=self.now_s)
        if past.deaths and self.now_s - past.ready_since_s >= self.backoff_s_max:
            return replace(past, deaths=0, cause="")
        return past

    def _gone(self, one: str, past: History) -> History:
        if not past.living:
            return past
        if not (past.leaving or past.stopping):
            past = self._died(one, past, "its process is gone for good", stop=True)
        return replace(
            past,
            living=False,
            state=WorkerState.FAILED,
            leaving=False,
            stopping=False,
            ready_since_s=None,
        )

    def _died(self, one: str, past: History, cause: str, *, stop: bool = False) -> History:
        """One more death; with `stop`, or at one too many, a pause comes before the next start."""
        deaths = past.deaths + 1
        stop = stop or deaths >= DEATHS_MAX
        pause_s = 0.0
        if stop:
            pause_s = min(BACKOFF_S_MIN * 2.0 ** min(deaths - 1, 30), self.backoff_s_max)
        pause = f"; next start in {pause_s:g} s" if stop else ""
        self.notices.append(
            f"worker {one} died (death {deaths} without a calm stretch): {cause}{pause}"
        )
        return replace(
            past,
            state=WorkerState.FAILED,
            ready_since_s=None,
            deaths=deaths,
            cause=cause,
            stopping=stop,
            not_before_s=self.now_s + pause_s,
        )

    def _removable(self, one: str) -> Removable:
        record = self.observed.records.get(one)
        return Removable(
            worker_id=one,
            state=WorkerState.LOADING if record is None else record.state,
            started_wall_s=0.0 if record is None else record.started_wall_s,
            in_flight=self.observed.in_flight.get(one),
        )
