"""The flags of `rhizome loadtest` and `simulate`, declared once, and what they become."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
import yaml

from loadtest.plan import Deadlines, Limits, Plan, Slo
from loadtest.workloads.catalog import Choice
from loadtest.workloads.requests import Api
from loadtest.workloads.shaping import Shape
from rhizome.errors import SettingsError

if TYPE_CHECKING:
    from loadtest.running import Aim

_SECRET_FLAGS = frozenset({"--api-key"})

Url = Annotated[str, typer.Option(help="The server, http://HOST:PORT.")]
Model = Annotated[str | None, typer.Option(help="Which model; without it the first one served.")]
Tokenizer = Annotated[
    Path | None,
    typer.Option(help="The model's directory; needed unless the server's `root` is on this host."),
]
WorkloadName = Annotated[
    str | None,
    typer.Option(
        "--workload",
        "-w",
        help="See `rhizome loadtest workloads`; `mooncake` with --trace, else `sessions`.",
    ),
]
Trace = Annotated[Path | None, typer.Option(help="A trace in Mooncake's format, JSONL or .gz.")]
Curve = Annotated[
    str | None,
    typer.Option(help="A rate curve (CSV t_s,rate_rps) for arrivals, or `built-in`."),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="NAME=VALUE for the workload; repeat for more.")
]
ApiName = Annotated[
    Api | None, typer.Option("--api", help="How requests are sent; the workload's own without it.")
]
RateScale = Annotated[float, typer.Option(help="Times as many requests.")]
TimeScale = Annotated[float, typer.Option(help="Times as fast through a trace or a curve.")]
Duration = Annotated[
    float | None, typer.Option(help="Seconds to send after the warm-up; 60 for generators.")
]
RequestsMax = Annotated[int | None, typer.Option("--requests", help="Most requests to send.")]
Warmup = Annotated[float, typer.Option(min=0, help="Seconds sent first and not counted.")]
Seed = Annotated[int, typer.Option(help="Same seed, same requests.")]
Tenants = Annotated[
    list[str] | None, typer.Option("--tenant", help="NAME=WEIGHT; repeat for more.")
]
ApiKey = Annotated[str | None, typer.Option(help="Key, if the server asks for one.")]
Keys = Annotated[Path | None, typer.Option(help="YAML file of tenants' keys, NAME: KEY.")]
Processes = Annotated[int, typer.Option(min=1, max=64, help="Client processes.")]
RealAnswers = Annotated[
    bool, typer.Option("--real-answers", help="Later turns hold what the model really said.")
]
Extra = Annotated[str | None, typer.Option(help="JSON object laid over every request's body.")]
SloTtft = Annotated[float, typer.Option(min=0, help="Promised TTFT, ms; 0 for none.")]
SloTpot = Annotated[float, typer.Option(min=0, help="Promised TPOT, ms; 0 for none.")]
LimitLag = Annotated[
    float, typer.Option(min=0, help="Not valid when sends or the loop are later than this, p99.")
]
LimitCpu = Annotated[
    float, typer.Option(min=0, help="Not valid when a client process takes more of a core.")
]
Timeout = Annotated[float, typer.Option(min=0, help="Seconds that a request may take in all.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="The result, JSON.")]
Html = Annotated[Path | None, typer.Option(help="A report of it as one page.")]
Label = Annotated[str | None, typer.Option(help="Its name in reports; the model's without it.")]

_GENERATED_S = 60.0
Flags = Mapping[str, tuple[Any, Any]]
"""What a flag is, and its default, by the name that the command gets it under."""
WORKLOAD: Flags = MappingProxyType(
    {
        "workload": (WorkloadName, None),
        "trace": (Trace, None),
        "curve": (Curve, None),
        "settings": (Settings, None),
        "rate_scale": (RateScale, 1.0),
        "time_scale": (TimeScale, 1.0),
        "duration": (Duration, None),
        "requests": (RequestsMax, None),
        "warmup": (Warmup, 0.0),
        "seed": (Seed, 0),
        "tenants": (Tenants, None),
        "label": (Label, None),
    }
)
"""What is asked for, in a load test as in a simulation."""
CLIENT: Flags = MappingProxyType(
    {
        "model": (Model, None),
        "tokenizer": (Tokenizer, None),
        "api": (ApiName, None),
        "api_key": (ApiKey, None),
        "keys": (Keys, None),
        "processes": (Processes, 1),
        "real_answers": (RealAnswers, False),
        "extra": (Extra, None),
        "slo_ttft_ms": (SloTtft, 1000.0),
        "slo_tpot_ms": (SloTpot, 100.0),
        "limit_lag_ms": (LimitLag, 25.0),
        "limit_cpu": (LimitCpu, 0.85),
        "timeout": (Timeout, 900.0),
        "html": (Html, None),
    }
)
"""How it is asked, and when the answers count."""
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
Command = TypeVar("Command", bound=Callable[..., None])


def also(*groups: Flags) -> Callable[[Command], Command]:
    """Lets a command take the flags of these groups, after its own and as its `**` keywords."""

    def taking(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        shared = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind
            )
            for group in groups
            for name, (kind, default) in group.items()
        ]
        whole = signature.replace(parameters=[*own, *shared])
        command.__signature__ = whole  # type: ignore[attr-defined]  # typer reads it
        return command

    return taking


def aim_of(given: dict[str, Any], rate_per_s: float | None) -> Aim:
    """What the flags aim at; raises `SettingsError`."""
    from loadtest.running import Aim

    choice = Choice(
        name=given["workload"] or ("sessions" if given["trace"] is None else "mooncake"),
        settings=_pairs(given["settings"], "--set"),
        trace=None if given["trace"] is None else str(given["trace"]),
        curve=given["curve"],
    )
    duration_s = given["duration"]
    if duration_s is None and given["requests"] is None and choice.name != "mooncake":
        duration_s = _GENERATED_S
    shape = Shape(
        seed=given["seed"],
        rate_per_s=rate_per_s,
        rate_scale=given["rate_scale"],
        time_scale=given["time_scale"],
        duration_s=None if duration_s is None else duration_s + given["warmup"],
        requests_max=given["requests"],
        tenants=_weights(given["tenants"]),
    )
    return Aim(given["url"], given["model"], given["tokenizer"], choice, shape, given["api"])


def check_outputs(*paths: Path | None) -> None:
    """Raises `SettingsError` for a result that could not be written, before it has cost time."""
    for path in paths:
        if path is None:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not path.exists()
            with path.open("ab"):
                pass
            if is_new:
                path.unlink()
        except OSError as error:
            raise SettingsError(
                f"{path} cannot be written: {error.strerror or error}",
                advice="Name another place.",
            ) from error


def plan_of(given: dict[str, Any], aim: Aim) -> Plan:
    """All that the flags say beside the aim; raises `SettingsError`."""
    keys = _keys(given["keys"])
    if given["api_key"]:
        keys[""] = given["api_key"]
    return Plan(
        url=aim.url,
        model=aim.model or "",
        tokenizer="",
        choice=aim.choice,
        shape=aim.shape,
        api=aim.api or Api.CHAT,
        warmup_s=given["warmup"],
        real_answers=given["real_answers"],
        extra=_object(given["extra"]),
        keys=keys,
        processes=given["processes"],
        slo=Slo(ttft_ms=given["slo_ttft_ms"] or None, tpot_ms=given["slo_tpot_ms"] or None),
        limits=Limits(
            send_lag_ms_p99=given["limit_lag_ms"],
            loop_lag_ms_p99=given["limit_lag_ms"],
            cpu_share=given["limit_cpu"],
        ),
        deadlines=Deadlines(total_s=given["timeout"], silence_s=min(120.0, given["timeout"])),
    )


def command_line() -> str:
    """The command as it was given, without keys."""
    words = []
    hidden = False
    for word in sys.argv[1:]:
        words.append("***" if hidden else _without_secret(word))
        hidden = word in _SECRET_FLAGS
    return shlex.join(["rhizome", *words])


def _without_secret(word: str) -> str:
    flag, equals, _ = word.partition("=")
    return f"{flag}=***" if equals and flag in _SECRET_FLAGS else word


def _pairs(given: list[str] | None, flag: str) -> dict[str, str]:
    pairs = {}
    for word in given or ():
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise SettingsError(f"{flag} {word!r} is not NAME=VALUE")
        pairs[name] = value
    return pairs


def _weights(given: list[str] | None) -> dict[str, float]:
    try:
        return {name: float(value) for name, value in _pairs(given, "--tenant").items()}
    except ValueError as error:
        raise SettingsError(f"--tenant needs NAME=WEIGHT: {error}") from error


def _keys(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        keys = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"the keys cannot be read from {path}: {error}") from error
    if not isinstance(keys, dict):
        raise SettingsError(f"{path} must map tenants to keys")
    return {str(tenant): str(key) for tenant, key in keys.items()}


def _object(text: str | None) -> dict[str, Any]:
    try:
        extra = yaml.safe_load(text) if text else {}
    except yaml.YAMLError as error:
        raise SettingsError(f"--extra is not JSON: {error}") from error
    if not isinstance(extra, dict):
        raise SettingsError("--extra must be a JSON object")
    return extra
