"""What is known of each target, kept as columns, so that a decision need not ask all of them anew.

One `Board` a model, a row for each eligible target. Fleet, load book and speeds name the targets
whose numbers changed; only their rows are read again. When targets come, go or are suspended, the
boards are made anew. Nothing here is a fact of its own: a board says what its sources would say.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from rhizome.settings.tree import AdmissionSettings, PrefixSettings
from router.admission.classes import Priority
from router.faults import Faults, Part
from router.fleet import Fleet, Target
from router.load_columns import FewLoads, LoadSources, ManyLoads
from router.match_columns import FewMatches, ManyMatches, MatchSources
from router.peers.view import PeerView, nobody
from router.prefix.credit import TierWorth
from router.prefix.index import PrefixIndex
from router.prompt import Prompt
from router.scheduling.load import LoadBook
from router.scheduling.speeds import LearnedSpeeds
from router.scheduling.types import FEW, Candidates, FewCandidates, Floats, Ints, Lists
from router.trust.book import TrustBook


@dataclass(frozen=True, slots=True)
class Sources:
    """Who knows what the boards say."""

    fleet: Fleet
    index: PrefixIndex
    book: LoadBook
    speeds: LearnedSpeeds
    admission: AdmissionSettings
    faults: Faults
    trust: TrustBook = field(default_factory=TrustBook)
    peers: PeerView = field(default_factory=nobody)
    tiers: TierWorth = field(default_factory=lambda: TierWorth(host=0.7, storage=0.3))


class _Speeds(NamedTuple):
    prefill_tokens_per_s: list[float]
    decode_step_ms: list[float]
    overhead_ms: list[float]
    attention_tokens: list[float]
    is_learned: list[bool]


class Board:
    """One model's eligible targets, in the fleet's order."""

    def __init__(self, sources: Sources, targets: tuple[Target, ...]) -> None:
        self._sources = sources
        self.targets = targets
        self.names = [target.target_id for target in targets]
        self._row_of = {name: row for row, name in enumerate(self.names)}
        count = len(targets)
        loads, matches = (FewLoads, FewMatches) if count <= FEW else (ManyLoads, ManyMatches)
        self.loads = loads(LoadSources(sources.fleet, sources.book, sources.peers), targets)
        self.matches = matches(MatchSources(sources.index, sources.trust, sources.tiers), targets)
        self._prefill_tokens_per_s = np.ones(count)
        self._overhead_ms = np.zeros(count)
        self._attention_tokens = np.ones(count)
        self._is_learned = np.zeros(count, np.bool_)
        self._decode_step_ms = np.ones(count)
        self._first_token_unknown = np.ones(count, np.bool_)
        self._decode_step_unknown = np.ones(count, np.bool_)
        self._room = {
            priority: np.array(
                [room_of(target, sources.admission, priority) for target in targets], np.int64
            )
            for priority in Priority
        }
        self._room_of_few = {priority: room.tolist() for priority, room in self._room.items()}
        self._speeds: _Speeds | None = None
        """The columns of speeds as lists; None since one has changed."""
        for row in range(count):
            self.loads.refresh(row)
            self.refresh_speeds(row)
        self.refresh_unknown_speeds()

    def candidates(
        self,
        prompt: Prompt,
        priority: Priority,
        excluded: set[str],
        now_s: float,
        *,
        again: bool = False,
    ) -> Candidates:
        """All targets but those of excluded workers; good until the next change. `again` is for
        prompts that wait: they are not matched anew each time."""
        loads, matches = self.loads, self.matches
        try:
            matched = matches.tokens(prompt, now_s, again=again)
        except Exception as error:
            self._sources.faults.caught(Part.INDEX, error)
            matched = matches.none
        if isinstance(matched, list):
            assert isinstance(loads, FewLoads)
            candidates: Candidates = self._few(loads, matched, priority, now_s)
        else:
            assert isinstance(loads, ManyLoads)
            candidates = Candidates(
                self.names,
                matched,
                loads.in_flight,
                self._room[priority],
                loads.tokens_left(now_s, self._prefill_tokens_per_s),
                self._prefill_tokens_per_s,
                self._decode_step_ms,
                loads.kv_usage,
                self._overhead_ms,
                self._attention_tokens,
                self._is_learned,
            )
        if not excluded:
            return candidates
        return candidates.where([one.record.worker_id not in excluded for one in self.targets])

    def _few(
        self, loads: FewLoads, matched: list[int], priority: Priority, now_s: float
    ) -> FewCandidates:
        """All targets, as lists."""
        speeds = self._speeds
        if speeds is None:
            speeds = self._speeds = _Speeds(
                self._prefill_tokens_per_s.tolist(),
                self._decode_step_ms.tolist(),
                self._overhead_ms.tolist(),
                self._attention_tokens.tolist(),
                self._is_learned.tolist(),
            )
        lists = Lists(
            matched,
            loads.in_flight,
            self._room_of_few[priority],
            loads.tokens_left(now_s, speeds.prefill_tokens_per_s),
            speeds.prefill_tokens_per_s,
            speeds.decode_step_ms,
            loads.kv_usage,
            speeds.overhead_ms,
            speeds.attention_tokens,
            speeds.is_learned,
        )
        return FewCandidates(self.names, lists)

    def target(self, target_id: str) -> Target:
        """The target of that id."""
        return self.targets[self._row_of[target_id]]

    def refresh_speeds(self, row: int) -> None:
        """Reads again how fast the target is."""
        self._speeds = None
        name, speeds = self.names[row], self._sources.speeds
        self._prefill_tokens_per_s[row] = self._speed(speeds.prefill_tokens_per_s(name), 1000.0)
        self._overhead_ms[row] = self._speed(speeds.overhead_ms(name), 1.0)
        self._attention_tokens[row] = self._speed(speeds.attention_tokens(name), math.inf)
        self._is_learned[row] = speeds.is_learned(name)
        self._decode_step_ms[row] = self._speed(speeds.decode_step_ms(name), 20.0)
        self._first_token_unknown[row] = not speeds.knows_first_token(name)
        self._decode_step_unknown[row] = not speeds.knows_decode_step(name)

    def refresh_unknown_speeds(self) -> None:
        """Reads again what stands in for the speeds of targets that were not observed: the same
        for all, since they are of one group."""
        self._speeds = None
        speeds = self._sources.speeds
        unknown = self._first_token_unknown
        if unknown.any():
            name = self.names[int(unknown.argmax())]
            self._prefill_tokens_per_s[unknown] = self._speed(
                speeds.prefill_tokens_per_s(name), 1000.0
            )
            self._overhead_ms[unknown] = self._speed(speeds.overhead_ms(name), 1.0)
            self._attention_tokens[unknown] = self._speed(speeds.attention_tokens(name), math.inf)
            self._is_learned[unknown] = speeds.is_learned(name)
        unknown = self._decode_step_unknown
        if unknown.any():
            name = self.names[int(unknown.argmax())]
            self._decode_step_ms[unknown] = self._speed(speeds.decode_step_ms(name), 20.0)

    def check_invariants(self) -> None:
        """For tests: raises AssertionError if a row is not what its sources say."""
        before = [list(column) for column in self._columns()]
        for row in range(len(self.targets)):
            self.loads.refresh(row)
            self.refresh_speeds(row)
            self.matches.refresh(row)
        for old, new in zip(before, self._columns(), strict=True):
            assert np.array_equal(old, new)

    def _columns(self) -> tuple[list[Any] | Floats | Ints, ...]:
        return (
            *self.loads.columns(),
            self._prefill_tokens_per_s,
            self._overhead_ms,
            self._attention_tokens,
            self._decode_step_ms,
            self.matches.credit_scale,
        )

    def _speed(self, learned: float, stand_in: float) -> float:
        """What was learned, if it can be a speed."""
        if math.isfinite(learned) and learned > 0:
            return learned
        self._sources.faults.note(Part.SPEEDS, f"a learned speed of {learned}")
        return stand_in


@dataclass(slots=True)
class Standings:
    """The boards of all models that were asked for."""

    sources: Sources
    _boards: dict[str, Board] = field(default_factory=dict)
    _places: dict[str, tuple[Board, int]] = field(default_factory=dict)
    _fleet_generation: int = -1
    _index_generation: int = -1

    def of(self, model: str) -> Board:
        """The model's board, up to date."""
        self.refresh()
        board = self._boards.get(model)
        if board is None:
            board = Board(self.sources, self.sources.fleet.eligible(model))
            self._boards[model] = board
            self._places.update((name, (board, row)) for row, name in enumerate(board.names))
        return board

    def plan(self, target_id: str, work_tokens: int) -> None:
        """Counts work as queued at a target that will get it, until `forget_plans`."""
        for board, row in self._places_of((target_id,)):
            board.loads.plan(row, work_tokens)

    def forget_plans(self) -> None:
        """Counts only what was dispatched."""
        for board in self._boards.values():
            board.loads.forget_plans()

    def refresh(self) -> None:
        """Takes in all changes since the last call."""
        sources = self.sources
        fleet, index, book = sources.fleet, sources.index, sources.book
        if fleet.generation != self._fleet_generation or index.generation != self._index_generation:
            self._fleet_generation, self._index_generation = fleet.generation, index.generation
            self._boards.clear()
            self._places.clear()
        if book.changed:
            for name in book.changed:
                if name in self._places:
                    board, row = self._places[name]
                    board.loads.refresh_own(row)
            book.changed.clear()
        if (
            fleet.changed
            or sources.peers.changed
            or sources.speeds.changed
            or sources.trust.changed
        ):
            self._refresh_rest()

    def _refresh_rest(self) -> None:
        """Takes in what changes less often than this router's own load."""
        sources = self.sources
        for changed in (sources.fleet.changed, sources.peers.changed):
            for board, row in self._places_of(changed):
                board.loads.refresh(row)
            changed.clear()
        if sources.speeds.changed:
            for board, row in self._places_of(sources.speeds.changed):
                board.refresh_speeds(row)
            for board in self._boards.values():
                board.refresh_unknown_speeds()
            sources.speeds.changed.clear()
        for board, row in self._places_of(sources.trust.changed):
            board.matches.refresh(row)
        sources.trust.changed.clear()

    def _places_of(self, names: Iterable[str]) -> list[tuple[Board, int]]:
        return [self._places[name] for name in names if name in self._places]


def room_of(target: Target, admission: AdmissionSettings, priority: Priority) -> int:
    """Requests of the class that the target may have at once."""
    most = admission.in_flight_max_per_worker
    room = min(most, target.record.max_num_seqs or most)
    return int(room * admission.batch_share) if priority is Priority.BATCH else room


def tiers_of(settings: PrefixSettings) -> TierWorth:
    """What blocks in slower tiers are worth; a store never more than the CPU's memory."""
    host = settings.host_tier_worth
    return TierWorth(host=host, storage=min(host, settings.storage_tier_worth))
