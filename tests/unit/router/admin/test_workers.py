"""Workers by hand: added, drained, resumed and removed while the router runs."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.support.fake_engine import FakeEngine, running_engine
from tests.support.serving import Api
from tests.unit.router.admin.rig import send


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
