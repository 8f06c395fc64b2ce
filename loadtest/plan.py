"""What a run is to do, as plain data: read by every client process and kept in the result."""

from __future__ import annotations

from typing import Any

import msgspec

from loadtest.workloads.catalog import Choice
from loadtest.workloads.requests import Api
from loadtest.workloads.shaping import Shape


class Slo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request is good when it is answered whole and within both; None leaves one out."""

    ttft_ms: float | None = 1000.0
    tpot_ms: float | None = 100.0


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Past these the client, not the server, may have made the result: the run is not valid."""

    send_lag_ms_p99: float = 25.0
    loop_lag_ms_p99: float = 25.0
    cpu_share: float = 0.85
    """Of one core, for each client process."""


class Deadlines(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a request may take, in seconds."""

    connect_s: float = 10.0
    silence_s: float = 120.0
    """Longest time without a byte, before the answer or within it."""
    total_s: float = 900.0


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run."""

    url: str
    model: str
    tokenizer: str
    """Directory of the served model's tokenizer."""
    choice: Choice
    shape: Shape
    """Its duration holds the warm-up."""
    api: Api
    warmup_s: float = 0.0
    """Requests scheduled before this are sent and not counted."""
    real_answers: bool = False
    """Later turns hold what the model said, where it has come by then, else made-up answers."""
    extra: dict[str, Any] = {}
    """Fields laid over every request's body."""
    keys: dict[str, str] = {}
    """API keys by tenant; the one named `""` is for all others. Never part of a result."""
    processes: int = 1
    in_flight_max: int = 8192
    """For each client process."""
    slo: Slo = Slo()
    limits: Limits = Limits()
    deadlines: Deadlines = Deadlines()

    def key_of(self, tenant: str) -> str | None:
        """The tenant's API key."""
        return self.keys.get(tenant) or self.keys.get("")
