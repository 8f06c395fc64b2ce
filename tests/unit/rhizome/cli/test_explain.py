"""Decisions as people read them, and where the admin API is found."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from cluster.local.layout import ClusterFiles
from rhizome.cli.admin import AdminApi, each_router, find_admins
from rhizome.cli.decision_tables import print_decision, print_decisions
from rhizome.errors import ClusterError, SettingsError
from rhizome.outcome import Outcome
from router.decisions.records import Ending, Prospect
from router.decisions.views import DecisionList, DecisionView, decision_view
from tests.unit.router.decisions.test_records import decision_of


def printed(*decisions: DecisionView) -> str:
    console = Console(width=240, record=True, file=io.StringIO())
    for one in decisions:
        print_decision(one, console)
    return console.export_text()


def a_view() -> DecisionView:
    decision = decision_of([900, 0, 500], most=2)
    decision.failed("worker_unreachable")
    decision.chose(decision_of([3]).attempts[0])
    decision.ended(Ending(Outcome.COMPLETED, 100.5, 200, None, 1000, 2, 7), 41.0)
    return decision_view(decision, "router-1", 0.0)


def test_a_retried_request_reads_from_its_prompt_to_its_end() -> None:
    text = printed(a_view())
    for words in (
        "key alice · interactive · prompt 1000 tokens",
        "1. w0 by cost: lowest_cost · waited 1.5 ms",
        "failed before its first byte: worker_unreachable",
        "candidates (2 of 3), the cheapest first",
        "2. w0 by cost: only_candidate",
        ", was 41.0 ms",
        "completed (200) after 500 ms",
        "reused 2 of 1000 prompt tokens (predicted 3) · 7 new tokens",
    ):
        assert words in text


def test_what_is_unusual_is_said() -> None:
    changes = {"asked_model": "[red]fast[/red]", "outside": "elsewhere", "exact": False}
    text = printed(a_view().model_copy(update=changes))
    assert "[red]fast[/red] → m" in text, "a client's words are no markup"
    assert "estimated" in text
    assert "provider elsewhere" in text
    preview = a_view().model_copy(
        update={"outcome": None, "state": "preview", "prospect": Prospect.HELD}
    )
    assert "it would wait here until that worker is nearly free" in printed(preview)


def test_the_latest_requests_are_one_row_each() -> None:
    refused = decision_of([1])
    refused.attempts.clear()
    refused.ended(Ending(Outcome.OVERLOADED, 101.0, 429, "queue_full"), None)
    views = [a_view(), decision_view(refused, "router-1", 0.0)]
    console = Console(width=240, record=True, file=io.StringIO())
    listed = DecisionList(router="router-1", kept=2, forgotten=0, decisions=views)
    print_decisions(listed, console)
    rows = [line for line in console.export_text().splitlines() if "alice" in line]
    assert len(rows) == 2
    assert "queue_full" in rows[1]


def test_a_router_with_several_processes_answers_for_each() -> None:
    assert each_router([{"router": "a"}, {"routers": [{"router": "b"}, {"router": "c"}]}]) == [
        {"router": "a"},
        {"router": "b"},
        {"router": "c"},
    ]


def test_addresses_and_keys_come_from_flags_settings_or_the_local_cluster(tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("from-the-file\n")
    assert find_admins(["http://h:1/", "http://h:2"], key_file, None, None) == [
        AdminApi("http://h:1", "from-the-file"),
        AdminApi("http://h:2", "from-the-file"),
    ]
    settings = tmp_path / "settings.yaml"
    settings.write_text("router: {admin: {host: 0.0.0.0, port: 9, key: from-the-settings}}\n")
    assert find_admins(None, None, None, settings) == [
        AdminApi("http://127.0.0.1:9", "from-the-settings")
    ]
    files = ClusterFiles.of(tmp_path, "default")
    files.make()
    files.admin_key.write_text("of-the-cluster\n")
    settings.write_text(f"state_directory: {tmp_path}\nrouter: {{admin: {{port: 7}}}}\n")
    assert find_admins(None, None, None, settings) == [
        AdminApi("http://127.0.0.1:7", "of-the-cluster")
    ]
    assert "of-the-cluster" not in repr(find_admins(None, None, None, settings))


def test_an_unusable_key_file_and_a_cluster_that_is_not_there_are_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    for file in (empty, tmp_path / "absent"):
        with pytest.raises(SettingsError, match="key file"):
            find_admins(["http://h:1"], file, None, None)
    monkeypatch.setenv("RHIZOME_STATE_DIRECTORY", str(tmp_path))
    with pytest.raises(ClusterError, match="no cluster named"):
        find_admins(None, None, None, None)
