"""Who did what through the admin API: one structured line an action, and the latest in memory."""

from __future__ import annotations

import json
import logging
from collections import deque
from dataclasses import asdict, dataclass
from itertools import islice

from rhizome.clock import Clock

_log = logging.getLogger("router.audit")
_KEPT_MAX = 1000
_REFUSALS_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Action:
    """One call that changes something, or one that was refused for its key."""

    at_wall_s: float
    """Seconds since the Unix epoch."""
    who: str
    """The name of the key; empty where there was no valid one."""
    client: str
    """The address that the call came from."""
    what: str
    """Method and path."""
    note: str
    """What was asked for, in a few words without secrets."""
    status: int
    """The HTTP status of the answer."""


class AuditLog:
    """The actions; lines go to the logger `router.audit`, as JSON.

    Calls without a valid key are noted, too, but at most one a second: who guesses keys must not
    fill a disk.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._actions: deque[Action] = deque(maxlen=_KEPT_MAX)
        self._refused_at_s = float("-inf")
        self._refused_unsaid = 0
        _log.setLevel(logging.INFO)  # whatever the level of the others

    def latest(self, limit: int) -> list[Action]:
        """At most that many, newest first."""
        return list(islice(reversed(self._actions), limit))

    def note(self, *, who: str, client: str, what: str, note: str, status: int) -> None:
        """An action has ended, well or not."""
        self._keep(Action(self._clock.wall_s(), who, client, what, note[:500], status))

    def refused(self, *, client: str, what: str, status: int) -> None:
        """A call had no valid key."""
        now_s = self._clock.monotonic_s()
        if now_s - self._refused_at_s < _REFUSALS_EVERY_S:
            self._refused_unsaid += 1
            return
        unsaid, self._refused_unsaid, self._refused_at_s = self._refused_unsaid, 0, now_s
        note = f"and {unsaid} more before it" if unsaid else ""
        self._keep(Action(self._clock.wall_s(), "", client, what[:200], note, status))

    def _keep(self, action: Action) -> None:
        self._actions.append(action)
        _log.info("%s", json.dumps(asdict(action), ensure_ascii=False))
