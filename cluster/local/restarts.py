"""How often, and after what pause, a process that died is started again: pure."""

from __future__ import annotations

from collections import deque


class RestartBudget:
    """At most `restarts_max` starts within any `window_s`, each after a longer pause.

    The pause doubles from `first_pause_s` with every start still in the window.
    """

    def __init__(self, restarts_max: int, window_s: float, first_pause_s: float) -> None:
        self._restarts_max = restarts_max
        self._window_s = window_s
        self._first_pause_s = first_pause_s
        self._at_s: deque[float] = deque()

    def spend(self, now_s: float) -> float | None:
        """The pause before the next start, in seconds; None when there is none left."""
        while self._at_s and now_s - self._at_s[0] > self._window_s:
            self._at_s.popleft()
        if len(self._at_s) >= self._restarts_max:
            return None
        pause_s: float = self._first_pause_s * 2.0 ** len(self._at_s)
        self._at_s.append(now_s)
        return pause_s
