"""Each in turn, whatever it holds and does: the control for everything else."""

from __future__ import annotations

from random import Random

import numpy as np

from router.scheduling.choosing import Reason, choice
from router.scheduling.types import Candidates, Choice, RoutingRequest

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

    def choose(self, request: RoutingRequest, candidates: Candidates, rng: Random) -> Choice:
        turns = [self._last_turn.pop(name, 0) for name in candidates.worker_ids]
        at = turns.index(min(turns))
        self._turn += 1
        for name, turn in zip(candidates.worker_ids, turns, strict=True):
            self._last_turn[name] = turn
        self._last_turn[candidates.worker_ids[at]] = self._turn
        while len(self._last_turn) > max(_REMEMBERED_MAX, len(candidates)):
            del self._last_turn[next(iter(self._last_turn))]
        reason = Reason.NEXT_IN_TURN if len(candidates) > 1 else Reason.ONLY_CANDIDATE
        return choice(request, candidates, np.array(turns, np.float64), at, reason)
