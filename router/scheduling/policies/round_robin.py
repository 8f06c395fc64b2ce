"""Each in turn, whatever it holds and does: the control for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from router.scheduling.choosing import Reason, choice
from router.scheduling.types import Candidate, Choice, RoutingRequest

_REMEMBERED_MAX = 16_384


class RoundRobinPolicy:
    """The candidate whose last turn is longest ago, in the order given where none had one.

    Turns are kept per worker, not as a position in a list: the candidates differ from request to
    request (models, retries, full workers), and each set of them is still used evenly.
    """

    name = "round_robin"

    def __init__(self) -> None:
        self._turn = 0
        self._last_turn: dict[str, int] = {}

    def choose(
        self, request: RoutingRequest, candidates: Sequence[Candidate], rng: Random
    ) -> Choice:
        turns = [self._last_turn.pop(one.worker_id, 0) for one in candidates]
        at = turns.index(min(turns))
        self._turn += 1
        for one, turn in zip(candidates, turns, strict=True):
            self._last_turn[one.worker_id] = turn
        self._last_turn[candidates[at].worker_id] = self._turn
        while len(self._last_turn) > max(_REMEMBERED_MAX, len(candidates)):
            del self._last_turn[next(iter(self._last_turn))]
        reason = Reason.NEXT_IN_TURN if len(candidates) > 1 else Reason.ONLY_CANDIDATE
        return choice(request, candidates, [float(turn) for turn in turns], at, reason)
