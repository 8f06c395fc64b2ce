"""The fleet as tables for people and as plain data for machines."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rhizome.cli.fleet_view import FleetView

_COLOURS = {
    "ready": "green",
    "loading": "yellow",
    "starting": "yellow",
    "warming": "yellow",
    "draining": "cyan",
}
_READY = ("ready", "warming", "suspended")
"""The controller counts these; what routers think of them is theirs."""
_NOTICES_SHOWN = 5


def fleet_json(view: FleetView) -> dict[str, Any]:
    """Everything that is known, without secrets."""
    return {
        "workers": [asdict(row) for row in view.workers],
        "targets": {model: msgspec.to_builtins(one) for model, one in view.targets.items()},
        "controller": {
            "leader": view.leader,
            "silent": view.controller_silent,
            "report_age_s": view.report_age_s,
            "report": msgspec.to_builtins(view.report),
        },
    }


def print_fleet(view: FleetView, console: Console) -> None:
    """Two tables, then what is wrong, then what happened lately."""
    console.print(_workers(view))
    console.print(_models(view))
    for line in _troubles(view):
        console.print(f"[yellow]{escape(line)}[/yellow]")
    for notice in view.report.notices[-_NOTICES_SHOWN:] if view.report else ():
        console.print(f"[dim]- {escape(notice.text)}[/dim]")


def _workers(view: FleetView) -> Table:
    table = Table(title="workers", title_justify="left")
    for heading in ("worker", "model", "state", "trust", "node", "incarnation"):
        table.add_column(heading, no_wrap=heading in ("worker", "state"))
    table.add_column("in flight", justify="right")
    table.add_column("age", justify="right")
    table.add_column("detail")
    for row in view.workers:
        colour = _COLOURS.get(row.state, "red")
        table.add_row(
            row.worker_id,
            row.model,
            f"[{colour}]{row.state}[/{colour}]",
            row.trust.upper(),
            row.node,
            row.incarnation,
            "" if row.in_flight is None else str(row.in_flight),
            "" if row.age_s is None else _age(row.age_s),
            escape(row.detail),
        )
    return table


def _models(view: FleetView) -> Table:
    table = Table(title="models", title_justify="left")
    table.add_column("model")
    for heading in ("ready", "target", "bounds"):
        table.add_column(heading, justify="right")
    table.add_column("why")
    reports = view.report.models if view.report else {}
    for model, target in sorted(view.targets.items()):
        report = reports.get(model)
        ready = sum(row.model == model and row.state in _READY for row in view.workers)
        bounds = f"{report.min_workers} to {report.max_workers}" if report else ""
        why = f"{target.by}: {target.reason}"
        if report and report.explain:
            why = f"{why}; now {report.scaling}: {report.explain}"
        table.add_row(model, str(ready), str(target.workers), bounds, escape(why))
    return table


def _troubles(view: FleetView) -> list[str]:
    if view.report is None:
        return ["no controller has run yet: `rhizome controller --config FILE`"]
    troubles = [f"{name}: {one.trouble}" for name, one in view.report.models.items() if one.trouble]
    if view.controller_silent:
        age = _age(view.report_age_s or 0.0)
        troubles.insert(0, f"no controller leads; the last one spoke {age} ago")
    elif view.report.trouble:
        troubles.insert(0, view.report.trouble)
    return troubles


def _age(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"
