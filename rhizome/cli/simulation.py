"""The simulated engine's flags, as commands take them, in the form that a model spec keeps."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

ProfileOption = Annotated[
    str | None, typer.Option(help="Simulated engine: a built-in profile or a file.")
]
SpeedOption = Annotated[
    float | None, typer.Option(help="Simulated engine: times as fast as its profile.")
]


class EngineName(StrEnum):
    VLLM = "vllm"
    SIMULATED = "simulated"


def simulated_arguments(
    *,
    profile: str | None = None,
    speed_factor: float | None = None,
    kv_blocks: int | None = None,
    scale_out: bool = False,
    faults: bool = False,
) -> dict[str, Any]:
    """The flags that were given, as `engine_args`."""
    flags = {"profile": profile, "speed-factor": speed_factor, "kv-blocks": kv_blocks}
    given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    switches = {"enable-scale-out": scale_out, "faults": faults}
    return given | {name: True for name, on in switches.items() if on}
