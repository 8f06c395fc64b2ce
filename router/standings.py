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
import numpy.typing as npt

from rhizome.settings.tree import AdmissionSettings, PrefixSettings
from router.admission.classes import Priority
from router.faults import Faults, Part
from router.fleet import Fleet, Target
from router.load_columns import FewLoads, LoadSources, ManyLoads
from router.peers.view import PeerView, nobody
from router.prefix.credit import TierWorth, usable_blocks
from router.prefix.index import PrefixIndex
from router.prompt import Prompt
from router.scheduling.load import LoadBook
from router.scheduling.speeds import LearnedSpeeds
from router.scheduling.types import FEW, Candidates, FewCandidates, Floats, Ints, Lists
from router.trust.book import TrustBook

Rows = npt.NDArray[np.intp]
_MATCH_KEPT_S = 0.1
_MATCHES_MAX = 32


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
        loads = FewLoads if count <= FEW else ManyLoads
        self.loads = loads(LoadSources(sources.fleet, sources.book, sources.peers), targets)
        self._prefill_tokens_per_s = np.ones(count)
        self._overhead_ms = np.zeros(count)
        self._attention_tokens = np.ones(count)
        self._is_learned = np.zeros(count, np.bool_)
        self._decode_step_ms = np.ones(count)
        self._credit_scale = np.ones(count)
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
        self._slots = np.array([sources.index.slot_of(name) for name in self.names], np.intp)
        self._rows_of_size = _rows_of_size(targets)
        self._matches: dict[Prompt, tuple[float, Ints]] = {}
        self._no_match = [0] * count
        for row in range(count):
            self.loads.refresh(row)
            self.refresh_speeds(row)
            self.refresh_trust(row)
        self.refresh_unknown_speeds()

    def candidates(
        self, prompt: Prompt, priority: Priority, excluded: set[str], now_s: float
    ) -> Candidates:
        """All targets but those of excluded workers; good until the next change."""
        loads = self.loads
        if isinstance(loads, FewLoads):
            candidates: Candidates = self._few(loads, prompt, priority, now_s)
        else:
            matched = self._match_tokens(prompt, now_s)
            candidates = Candidates(
                self.names,
                np.zeros(len(self.names), np.int64) if matched is None else matched,
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
        self, loads: FewLoads, prompt: Prompt, priority: Priority, now_s: float
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
        matched = self._match_tokens(prompt, now_s)
        lists = Lists(
            self._no_match if matched is None else matched.tolist(),
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

    def refresh_trust(self, row: int) -> None:
        """Reads again what a predicted token of the target is worth."""
        self._credit_scale[row] = self._sources.trust.credit_scale(self.names[row])
        self._scales_credit = bool((self._credit_scale < 1.0).any())

    def check_invariants(self) -> None:
        """For tests: raises AssertionError if a row is not what its sources say."""
        before = [column.copy() for column in self._columns()]
        for row in range(len(self.targets)):
            self.loads.refresh(row)
            self.refresh_speeds(row)
            self.refresh_trust(row)
        for old, new in zip(before, self._columns(), strict=True):
            assert np.array_equal(old, new)

    def _columns(self) -> tuple[list[Any] | Floats | Ints, ...]:
        return (
            *self.loads.columns(),
            self._prefill_tokens_per_s,
            self._overhead_ms,
            self._attention_tokens,
            self._decode_step_ms,
            self._credit_scale,
        )

    def _speed(self, learned: float, stand_in: float) -> float:
        """What was learned, if it can be a speed."""
        if math.isfinite(learned) and learned > 0:
            return learned
        self._sources.faults.note(Part.SPEEDS, f"a learned speed of {learned}")
        return stand_in

    def _match_tokens(self, prompt: Prompt, now_s: float) -> Ints | None:
        """Credit of each target, scaled by the trust in it; None if nobody has any, or if the index
        fails."""
        try:
            tokens = self._lately_matched(prompt, now_s)
        except Exception as error:
            self._sources.faults.caught(Part.INDEX, error)
            return None
        if tokens is not None and self._scales_credit:
            return (tokens * self._credit_scale).astype(np.int64)
        return tokens

    def _lately_matched(self, prompt: Prompt, now_s: float) -> Ints | None:
        """As `_matched`, but as it was a moment ago for a prompt that is looked at again and again
        because it waits."""
        known = self._matches.get(prompt)
        if known is not None and now_s - known[0] < _MATCH_KEPT_S:
            return known[1]
        tokens = self._matched(prompt, now_s)
        if tokens is not None:
            self._matches.pop(prompt, None)
            self._matches[prompt] = (now_s, tokens)
            if len(self._matches) > _MATCHES_MAX:
                del self._matches[next(iter(self._matches))]
        return tokens

    def _matched(self, prompt: Prompt, now_s: float) -> Ints | None:
        """Credit of each target in full trust; the prompt is matched once per block size in use."""
        index = self._sources.index
        tokens: Ints | None = None
        for block_size, rows in self._rows_of_size:
            hashes = prompt.hashes(block_size)
            if index.holds_none(hashes, now_s):
                continue
            per_block = prompt.block_tokens(block_size)
            usable = hashes[: usable_blocks(per_block, prompt.tokens)]
            slots = index.match_tiers(usable, now_s).worth(self._sources.tiers)
            if len(self._rows_of_size) == 1:
                return slots[self._slots] * per_block
            if tokens is None:
                tokens = np.zeros(len(self.targets), np.int64)
            tokens[rows] = slots[self._slots[rows]] * per_block
        return tokens


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
            board.refresh_trust(row)
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


def _rows_of_size(targets: tuple[Target, ...]) -> list[tuple[int | None, Rows]]:
    """The rows of each block size in use."""
    rows: dict[int | None, list[int]] = {}
    for row, target in enumerate(targets):
        rows.setdefault(target.record.block_size, []).append(row)
    return [(size, np.array(of_size, np.intp)) for size, of_size in rows.items()]
