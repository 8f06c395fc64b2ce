"""The workloads by name, and how a choice becomes a stream of requests.

`open_workload` is the one way in, for the client as for the simulation: it checks the choice, reads
and checks files, and tells in plain data what was chosen.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from loadtest.workloads.agents import Agents, AgentSettings
from loadtest.workloads.arrivals import Arrivals, Poisson, RateCurve
from loadtest.workloads.independent import PRESETS, Independent
from loadtest.workloads.mooncake import BLOCK_TOKENS, MooncakeTrace
from loadtest.workloads.requests import Api, TracedRequest, Workload
from loadtest.workloads.sessions import Sessions, SessionSettings, Tokens
from loadtest.workloads.shaping import Scaled, Shape, shaped
from rhizome.errors import SettingsError, TraceError

BUILT_IN_TRACE = "mooncake_conversation_head.jsonl.gz"
BUILT_IN_CURVE = "servegen_deepseek_r1_day.csv"
S = TypeVar("S", bound=msgspec.Struct)


class Choice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which workload, as plain data that goes to every client process and into the result."""

    name: str
    settings: dict[str, Any] = {}
    """What differs from the workload's defaults."""
    trace: str | None = None
    """File of a trace; None for the excerpt that ships with the project."""
    curve: str | None = None
    """File of a rate curve for a generator's arrivals; `built-in` for the one that ships."""


class MooncakeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the trace was made."""

    block_tokens: Tokens = BLOCK_TOKENS
    """Tokens that a hash id stands for."""


@dataclass(frozen=True)
class Kind:
    """A workload that can be chosen."""

    summary: str
    settings: msgspec.Struct
    make: Callable[[Any, Arrivals], Workload] | None
    """None for a trace, which has its own times."""


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "mooncake": Kind(
            "a trace in Mooncake's format (--trace), else 141 s of its conversation trace",
            MooncakeSettings(),
            None,
        ),
        "sessions": Kind(
            "conversations; system prompts and tools shared by Zipf's law",
            SessionSettings(),
            Sessions,
        ),
        "agents": Kind(
            "agents in a loop that fork into branches with the same prefix",
            AgentSettings(),
            Agents,
        ),
        "zipf-prefixes": Kind(
            "single requests after one of many shared prefixes",
            PRESETS["zipf-prefixes"],
            lambda settings, arrivals: Independent("zipf-prefixes", settings, arrivals),
        ),
        "no-sharing": Kind(
            "negative control: nothing is shared",
            PRESETS["no-sharing"],
            lambda settings, arrivals: Independent("no-sharing", settings, arrivals),
        ),
        "one-prefix": Kind(
            "negative control: one giant prefix before everything",
            PRESETS["one-prefix"],
            lambda settings, arrivals: Independent("one-prefix", settings, arrivals),
        ),
        "decode-heavy": Kind(
            "negative control: short prompts, long answers",
            PRESETS["decode-heavy"],
            lambda settings, arrivals: Independent("decode-heavy", settings, arrivals),
        ),
    }
)


@dataclass(frozen=True)
class OpenWorkload:
    """A workload that has been checked and can be run, any number of times."""

    name: str
    api: Api
    block_tokens: int | None
    """Tokens of a trace's blocks, where there is a trace."""
    facts: Mapping[str, Any]
    """What was chosen, all defaults filled in, for the result."""
    _workload: Workload
    _shape: Shape

    def requests(self) -> Iterator[TracedRequest]:
        """The requests from the first; the same each time."""
        return shaped(self._workload, self._shape)


def open_workload(choice: Choice, shape: Shape) -> OpenWorkload:
    """Raises `SettingsError` for a choice that cannot be, `TraceError` for a file."""
    kind = _kind(choice.name)
    _check(shape)
    settings = _settings(choice, kind)
    facts = {
        "name": choice.name,
        "settings": msgspec.to_builtins(settings),
        "shape": msgspec.to_builtins(shape),
    }
    if kind.make is None:
        if choice.curve is not None:
            raise SettingsError(f"{choice.name} has times of its own; a rate curve does not fit")
        path = _file(choice.trace, BUILT_IN_TRACE)
        trace = MooncakeTrace.open(path, settings.block_tokens)
        facts["trace"] = {"file": path.name, "requests": trace.count, "span_s": trace.span_s}
        scaled = _scaled(trace, shape)
        return OpenWorkload(choice.name, trace.api, settings.block_tokens, facts, scaled, shape)
    if choice.trace is not None:
        raise SettingsError(f"{choice.name} is generated; a trace does not fit")
    if choice.curve is not None:
        facts["curve"] = choice.curve
    arrivals = _arrivals(choice, shape)
    if isinstance(arrivals, Poisson) and shape.duration_s is None and shape.requests_max is None:
        raise SettingsError(
            f"the workload {choice.name} has no end", advice="Give a duration or a number."
        )
    made = kind.make(settings, arrivals)
    return OpenWorkload(choice.name, made.api, None, facts, made, shape)


def settings_of(name: str) -> dict[str, Any]:
    """The settings of a workload with their defaults."""
    defaults: dict[str, Any] = msgspec.to_builtins(_kind(name).settings)
    return defaults


def _kind(name: str) -> Kind:
    if name not in KINDS:
        near = difflib.get_close_matches(name, KINDS, n=1, cutoff=0.0)
        raise SettingsError(
            f"there is no workload {name!r}; did you mean {near[0]!r}?",
            advice="`rhizome loadtest workloads` lists them.",
        )
    return KINDS[name]


def _settings(choice: Choice, kind: Kind) -> Any:
    given = {**msgspec.to_builtins(kind.settings), **choice.settings}
    try:
        return msgspec.convert(given, type(kind.settings), strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(
            f"the settings of {choice.name} are not valid: {error}",
            advice=f"Known are {', '.join(msgspec.to_builtins(kind.settings))}.",
        ) from error


def _check(shape: Shape) -> None:
    for name in ("rate_per_s", "rate_scale", "time_scale", "duration_s", "requests_max"):
        value = getattr(shape, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise SettingsError(f"{name} must be above 0, not {value}")
    for tenant, weight in shape.tenants.items():
        if not (weight > 0 and math.isfinite(weight)):
            raise SettingsError(f"the weight of tenant {tenant!r} must be above 0, not {weight}")


def _arrivals(choice: Choice, shape: Shape) -> Arrivals:
    if choice.curve is None:
        return Poisson((shape.rate_per_s or 1.0) * shape.rate_scale)
    path = _file(None if choice.curve == "built-in" else choice.curve, BUILT_IN_CURVE)
    return RateCurve.read(path).scaled(shape.rate_per_s, shape.rate_scale, shape.time_scale)


def _scaled(trace: MooncakeTrace, shape: Shape) -> Workload:
    time_scale = shape.time_scale
    if shape.rate_per_s is not None:
        if trace.span_s == 0.0:
            raise TraceError(f"all of {trace.path} is at one time: it has no rate to scale")
        time_scale = shape.rate_per_s / shape.rate_scale / (trace.count / trace.span_s)
    if time_scale == 1.0 and shape.rate_scale == 1.0:
        return trace
    return Scaled(trace, shape.rate_scale, time_scale)


def _file(given: str | None, built_in: str) -> Path:
    if given is not None:
        return Path(given)
    return Path(__file__).parents[1] / "data" / built_in
