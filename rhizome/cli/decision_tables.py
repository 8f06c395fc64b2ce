"""Decisions as people read them: a few lines and a table of candidates."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from router.decisions.records import Prospect
from router.decisions.views import AttemptView, DecisionList, DecisionView

_PROSPECTS = {
    Prospect.NOW: "not sent; it would go there at once",
    Prospect.HELD: "not sent; it would wait here until that worker is nearly free",
    Prospect.FULL: "not sent; it would wait here, since every worker is full",
}
_STATES = {"completed": "green", "running": "yellow"}


def print_decision(decision: DecisionView, console: Console) -> None:
    """One request, from its prompt to its end."""
    for line in _head(decision):
        console.print(line, highlight=False, soft_wrap=True)
    for number, attempt in enumerate(decision.attempts, 1):
        for line in _choice(attempt, number if len(decision.attempts) > 1 else None):
            console.print(line, highlight=False, soft_wrap=True)
        console.print(_candidates(attempt))
    for line in _end(decision):
        console.print(line, highlight=False, soft_wrap=True)


def print_decisions(listed: DecisionList, console: Console) -> None:
    """The latest requests of one router, one a row."""
    table = Table(title=f"latest requests of {listed.router}", title_justify="left")
    for heading in ("request", "UTC", "model", "key", "outcome", "worker", "reason"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("request", "UTC", "outcome"))
    for heading in ("prompt", "cached", "waited ms", "first token ms", "total ms"):
        table.add_column(heading, justify="right")
    for one in listed.decisions:
        last = one.attempts[-1] if one.attempts else None
        outcome = one.outcome or one.state
        colour = _STATES.get(outcome, "red")
        table.add_row(
            escape(one.request_id),
            _time(one.accepted_at_wall_s)[:8],
            escape(one.model),
            escape(one.key),
            f"[{colour}]{outcome}[/{colour}]",
            last.worker if last else "",
            last.reason if last else (one.error or ""),
            _number(one.engine_prompt_tokens or one.prompt_tokens),
            _number(one.cached_tokens),
            _ms(last.waited_ms if last else None),
            _ms(last.ttft_ms if last else None),
            _ms(one.duration_ms),
        )
    console.print(table)


def _head(decision: DecisionView) -> Iterator[str]:
    model = decision.model
    if decision.asked_model != model:
        model = f"{decision.asked_model} → {model}"
    yield (
        f"[bold]{escape(decision.request_id)}[/bold]  {escape(model)}  {decision.path}  "
        f"at {_time(decision.accepted_at_wall_s)} UTC by {decision.router}"
    )
    tokens = "length unknown" if decision.prompt_tokens is None else f"{decision.prompt_tokens}"
    exact = "tokens" if decision.exact else "tokens (estimated: routed on bytes)"
    yield f"key {escape(decision.key)} · {decision.priority} · prompt {tokens} {exact}"


def _choice(attempt: AttemptView, number: int | None) -> Iterator[str]:
    first = "" if number is None else f"{number}. "
    actual = "" if attempt.ttft_ms is None else f", was {_ms(attempt.ttft_ms)} ms"
    trust = "" if attempt.trust is None else f" · prefixes {attempt.trust}"
    yield (
        f"{first}[bold]{attempt.worker}[/bold] by {attempt.policy}: {attempt.reason} · "
        f"waited {_ms(attempt.waited_ms)} ms · first token predicted "
        f"{_ms(attempt.predicted_ttft_ms)} ms{actual}{trust}"
    )
    if attempt.failure is not None:
        yield f"   [red]failed before its first byte: {attempt.failure}[/red]"


def _candidates(attempt: AttemptView) -> Table:
    shown = len(attempt.candidates)
    more = "" if shown == attempt.candidates_total else f" ({shown} of {attempt.candidates_total})"
    table = Table(title=f"candidates{more}, the cheapest first", title_justify="left")
    table.add_column("")
    table.add_column("worker", no_wrap=True)
    for heading in (
        "cost",
        "first token ms",
        "holds",
        "to compute",
        "queued",
        "in flight",
        "kv used",
        "tokens/s",
    ):
        table.add_column(heading, justify="right")
    for one in attempt.candidates:
        table.add_row(
            "→" if one.chosen else "",
            one.worker,
            f"{one.cost:.1f}",
            _ms(one.predicted_ttft_ms),
            str(one.match_tokens),
            str(one.uncached_tokens),
            str(one.queued_tokens),
            f"{one.in_flight}/{one.in_flight_max}",
            f"{one.kv_usage:.0%}",
            f"{one.prefill_tokens_per_s:.0f}",
            style="bold" if one.chosen else None,
        )
    return table


def _end(decision: DecisionView) -> Iterator[str]:
    if decision.outside is not None:
        yield f"went to the provider {escape(decision.outside)}, since the fleet could not serve"
    if decision.outcome is None:
        state = decision.state if decision.prospect is None else _PROSPECTS[decision.prospect]
        yield f"[yellow]{state}[/yellow]"
        return
    colour = _STATES.get(decision.outcome, "red")
    status = "" if decision.status is None else f" ({decision.status})"
    error = "" if decision.error is None else f": {decision.error}"
    yield (
        f"[{colour}]{decision.outcome}[/{colour}]{status}{error} "
        f"after {_ms(decision.duration_ms)} ms"
    )
    if decision.engine_prompt_tokens is not None:
        yield (
            f"reused {_number(decision.cached_tokens)} of {decision.engine_prompt_tokens} prompt "
            f"tokens (predicted {_number(decision.predicted_cached_tokens)}) · "
            f"{_number(decision.completion_tokens)} new tokens"
        )


def _time(at_wall_s: float) -> str:
    return f"{datetime.fromtimestamp(at_wall_s, UTC):%H:%M:%S.%f}"[:-3]


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _number(count: int | None) -> str:
    return "?" if count is None else str(count)
