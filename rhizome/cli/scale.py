"""`rhizome scale MODEL N`: how many workers a model is to have."""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rhizome.cli.stores import cluster_settings, cluster_stores
from rhizome.clock import Clock, SystemClock
from rhizome.errors import ClusterError, StoreUnavailable, StoreUnreachable
from rhizome.fleet.models import ModelSpec
from rhizome.fleet.records import WorkerState
from rhizome.settings.tree import Settings
from rhizome.stores.desired import DesiredState, ModelTarget
from rhizome.stores.open import Stores

_POLL_S = 0.5


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command("scale")
    def scale(
        model: Annotated[str, typer.Argument(help="The model's name.")],
        workers: Annotated[int, typer.Argument(min=0, help="Workers it is to have.")],
        wait: Annotated[
            bool, typer.Option("--wait", help="Return when that many workers are ready.")
        ] = False,
        timeout_s: Annotated[float, typer.Option(help="Longest wait with --wait.")] = 600.0,
        name: Annotated[str | None, typer.Option(help="A local cluster's name.")] = None,
        config: Annotated[Path | None, typer.Option(help="Settings file (YAML).")] = None,
    ) -> None:
        """Set how many workers a model has; with scaling bounds, the autoscaler goes on there."""
        settings = cluster_settings(config, name)
        asyncio.run(_scale(settings, model, workers, timeout_s if wait else None))


async def set_target(desired: DesiredState, model: str, workers: int, clock: Clock) -> str:
    """Writes the operator's target; returns what that means, in one line.

    Raises `ClusterError` for a model that is not there or a number outside its bounds.
    """
    specs = await desired.specs()
    spec = specs.get(model)
    if spec is None:
        raise ClusterError(f"there is no model {model!r} here", advice=_nearest(model, specs))
    _check_bounds(spec, workers)
    before = (await desired.targets()).get(model)
    target = ModelTarget(
        workers=workers, reason="rhizome scale", by="operator", at_wall_s=clock.wall_s()
    )
    await desired.put_target(model, target)
    was = "" if before is None else f" (it was {before.workers})"
    return f"{model} is to have {workers} workers{was}"


def _check_bounds(spec: ModelSpec, workers: int) -> None:
    """A model without bounds may have any number."""
    if spec.scaling is None:
        return
    low, high = spec.scaling.min_workers, spec.scaling.max_workers
    if not low <= workers <= high:
        raise ClusterError(
            f"{spec.name} may have {low} to {high} workers, not {workers}",
            advice="Change `scaling` in the model's settings, or ask for a number between them.",
        )


def _nearest(model: str, names: Collection[str]) -> str:
    near = difflib.get_close_matches(model, names, n=1)
    if near:
        return f"Did you mean {near[0]!r}?"
    return f"Models here: {', '.join(sorted(names))}." if names else "No model is configured."


async def _scale(settings: Settings, model: str, workers: int, wait_s: float | None) -> None:
    console = Console()
    clock = SystemClock()
    async with cluster_stores(settings) as stores:
        try:
            console.print(await set_target(stores.desired, model, workers, clock))
            if wait_s is not None:
                await _wait(stores, model, workers, wait_s, console)
        except StoreUnavailable as error:
            raise StoreUnreachable(
                f"the cluster's store does not answer: {error.message}",
                advice="Look at the server at `redis.url`.",
            ) from error


async def _wait(stores: Stores, model: str, workers: int, wait_s: float, console: Console) -> None:
    clock = SystemClock()
    deadline_s = clock.monotonic_s() + wait_s
    said = ""
    while True:
        records = [one for one in await stores.registry.workers() if one.model == model]
        leaving = await stores.desired.draining()
        ready = [
            one
            for one in records
            if one.state is WorkerState.READY and one.worker_id not in leaving
        ]
        if len(ready) == workers == len(records):
            console.print(f"{model} has {workers} workers")
            return
        target = (await stores.desired.targets()).get(model)
        if target is not None and target.workers != workers:
            raise ClusterError(
                f"the target of {model} became {target.workers} while waiting: {target.reason}",
                advice="Look at `rhizome status`.",
            )
        words = f"{len(ready)} of {workers} ready, {len(records) - len(ready)} coming or going"
        if words != said:
            console.print(words)
        said = words
        if clock.monotonic_s() > deadline_s:
            raise ClusterError(
                f"{model} did not reach {workers} workers within {wait_s:g} s ({words})",
                advice="`rhizome status` says what its workers are doing.",
            )
        await clock.sleep(_POLL_S)
