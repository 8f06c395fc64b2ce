"""Workers by hand: added, drained, resumed and removed while the router runs."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from rhizome.errors import SettingsError
from router.discovery.by_hand import HandBook
from tests.support.fake_engine import FakeEngine, running_engine
from tests.support.serving import Api
from tests.unit.router.admin.rig import send, serving


async def test_workers_are_added_drained_resumed_and_removed_by_hand(
    both: tuple[Api, httpx.AsyncClient], log_level: None
) -> None:
    api, http = both
    async with running_engine(FakeEngine()) as engine:
        api.join(engine)
        added = await http.post("/workers", json={"url": "http://127.0.0.1:9", "key": "worker-key"})
        assert added.status_code == 201
        worker = added.json()["worker"]
        listed = {one["worker"]: one for one in (await http.get("/workers")).json()["workers"]}
        assert (listed[worker]["state"], listed[worker]["source"]) == ("silent", "settings")
        assert (listed["w0"]["state"], listed["w0"]["source"]) == ("ready", "registry")
        again = await http.post("/workers", json={"url": "http://127.0.0.1:9"})
        assert again.status_code == 409
        assert (await http.delete(f"/workers/{worker}")).status_code == 200
        assert (await http.delete(f"/workers/{worker}")).status_code == 404
    audit = (await http.get("/audit")).json()["actions"]
    assert [(one["who"], one["status"]) for one in audit] == [
        ("admin-1", 404),
        ("admin-1", 200),
        ("admin-1", 409),
        ("admin-1", 201),
    ]
    assert audit[-1]["note"] == f"worker {worker}"
    assert "worker-key" not in json.dumps(audit)


async def test_a_drained_worker_gets_nothing_new_and_finishes(
    both: tuple[Api, httpx.AsyncClient],
) -> None:
    api, http = both
    async with running_engine(FakeEngine()) as engine:
        url = engine.url
        added = await http.post("/workers", json={"url": url})
        worker = added.json()["worker"]
        api.router.fleet.upsert(engine.record(worker), 0.0)
        assert (await send(api)).status_code == 200
        drained = await http.post(f"/workers/{worker}/drain", json={})
        assert drained.status_code == 200
        assert (await http.get("/workers")).json()["workers"][0]["state"] == "draining"
        assert (await send(api)).status_code == 503
        assert (await http.delete(f"/workers/{worker}/drain")).status_code == 200
        assert (await send(api)).status_code == 200


@pytest.mark.parametrize(
    "new",
    [
        {"url": "ftp://127.0.0.1:9"},
        {"url": "http://user:secret@127.0.0.1:9"},
        {"url": "http://127.0.0.1:9", "topic": "kv"},
        {"url": "http://127.0.0.1:9", "key-file": "/etc/passwd"},
        {"url": "http://127.0.0.1:9", "events": "nonsense"},
        {"url": ""},
        {},
    ],
)
async def test_a_bad_worker_is_refused(
    both: tuple[Api, httpx.AsyncClient], new: dict[str, str]
) -> None:
    _, http = both
    answer = await http.post("/workers", json=new)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert "secret" not in answer.text


async def test_a_worker_that_is_not_here_cannot_be_drained(
    both: tuple[Api, httpx.AsyncClient],
) -> None:
    _, http = both
    assert (await http.post("/workers/none/drain", json={})).status_code == 404
    assert (await http.delete("/workers/none/drain")).status_code == 404
    assert (await http.post("/workers/none/drain", json={"for_s": 0})).status_code == 400


async def test_what_was_done_by_hand_is_known_after_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "workers.json"
    new = {"key": "worker-key", "events": "tcp://127.0.0.1:10", "tokenizer": "off", "eagle": "on"}
    async with serving(router__admin__workers_file=file) as (_, http):
        for port in (9, 8):
            added = await http.post("/workers", json={**new, "url": f"http://127.0.0.1:{port}"})
            assert "until" not in added.json()["done"]
        assert (await http.post("/workers/127.0.0.1:9/drain", json={})).status_code == 200
        assert (await http.delete("/workers/127.0.0.1:8")).status_code == 200
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]
    async with serving(router__admin__workers_file=file) as (api, http):
        listed = (await http.get("/workers")).json()["workers"]
        assert [one["worker"] for one in listed] == ["127.0.0.1:9"]
        api.router.fleet.upsert(FakeEngine(url="http://127.0.0.1:9").record("127.0.0.1:9"), 0.0)
        assert (await http.get("/workers")).json()["workers"][0]["state"] == "draining"
        kept = HandBook(file).workers[0]
        assert (kept.key, kept.tokenizer, kept.eagle) == ("worker-key", False, True)
        assert (await http.delete("/workers/127.0.0.1:9/drain")).status_code == 200
        assert not api.router.fleet.views()[0].draining


@pytest.mark.parametrize("is_asked_for", [False, True])
async def test_what_is_not_kept_says_so(tmp_path: Path, is_asked_for: bool) -> None:
    taken = tmp_path / "taken"
    file = taken / "workers.json" if is_asked_for else None
    flags = {"router__admin__workers_file": file, "router__workers": ("http://127.0.0.1:7",)}
    async with serving(**flags) as (_, http):
        taken.write_text("no directory: nothing can be written in it")
        added = await http.post("/workers", json={"url": "http://127.0.0.1:9"})
        assert "until the router ends" in added.json()["done"]
        removed = await http.delete("/workers/127.0.0.1:9")
        assert "restart" not in removed.json()["done"]
        of_settings = await http.delete("/workers/127.0.0.1:7")
        assert "back after a restart" in of_settings.json()["done"]


def test_a_file_that_makes_no_sense_is_refused_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "workers.json"
    file.write_text('{"workers": [{}]}')
    with pytest.raises(SettingsError, match="by hand"):
        HandBook(file)
