"""The files and batches API, asked with OpenAI's own client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest
from fastapi import FastAPI

from rhizome.clock import SystemClock
from rhizome.errors import StoreUnavailable
from rhizome.settings.cluster import BatchSettings
from rhizome.settings.tree import RedisSettings
from rhizome.stores.open import open_stores
from router.batch.catalog import Catalog
from router.batch.records import BatchStatus
from router.batch.routes import build_batch_router
from router.http.border import install_border
from tests.support.batches import BatchBench, chat_line, jsonl

_CONTENT = jsonl([chat_line("a"), chat_line("b")])


async def test_an_uploaded_file_comes_back_byte_for_byte(bench: BatchBench) -> None:
    content = bytes(range(256)) * 100
    made = await bench.client.files.create(file=("in.jsonl", content), purpose="batch")
    assert made.object == "file"
    assert made.bytes == len(content)
    assert (made.filename, made.purpose, made.status) == ("in.jsonl", "batch", "processed")
    assert await bench.client.files.retrieve(made.id) == made
    assert (await bench.client.files.content(made.id)).content == content
    assert [path.name for path in bench.directory.iterdir()] == [made.id]


async def test_files_are_listed_in_pages_in_either_order(bench: BatchBench) -> None:
    ids = [
        (await bench.client.files.create(file=(f"{n}", b"{}"), purpose="batch")).id
        for n in range(5)
    ]
    page = await bench.client.files.list(limit=2)
    assert ([one.id for one in page.data], page.has_more) == ([ids[4], ids[3]], True)
    listed = [one.id async for one in bench.client.files.list(limit=2, order="asc")]
    assert listed == ids
    assert [one.id async for one in bench.client.files.list(purpose="batch_output")] == []


async def test_a_deleted_file_is_gone_with_its_content(bench: BatchBench) -> None:
    made = await bench.client.files.create(file=("in.jsonl", _CONTENT), purpose="batch")
    assert (await bench.client.files.delete(made.id)).deleted
    for ask in (bench.client.files.retrieve, bench.client.files.content, bench.client.files.delete):
        with pytest.raises(openai.NotFoundError):
            await ask(made.id)
    assert list(bench.directory.iterdir()) == []


@pytest.mark.parametrize("file_id", ["file-0", "..%2f..%2fetc%2fpasswd", "file-0%00", "%ff"])
async def test_an_unknown_file_id_is_not_found_whatever_it_looks_like(
    bench: BatchBench, file_id: str
) -> None:
    for path in (f"/v1/files/{file_id}", f"/v1/files/{file_id}/content"):
        answer = await bench.http.get(path)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] in ("not_found", "unknown_route")


async def test_a_file_over_the_limit_is_refused_and_leaves_nothing(bench: BatchBench) -> None:
    limit = bench.settings.file_bytes_max
    for size in (limit + 1, 10 * limit):
        with pytest.raises(openai.APIStatusError) as caught:
            await bench.client.files.create(file=("big", b"x" * size), purpose="batch")
        assert caught.value.status_code == 413
    await bench.client.files.create(file=("fits", b"x" * limit), purpose="batch")
    assert len(list(bench.directory.iterdir())) == 1


async def test_an_upload_of_unknown_length_is_cut_off_at_the_limit(bench: BatchBench) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield (
            b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        )
        while sent < 1000:
            sent += 1
            yield b"x" * 65_536

    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = await bench.http.post("/v1/files", content=endless(), headers=headers)
    assert answer.status_code == 413
    assert sent < 10


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"content-type": "application/json"}, b"{}", 415),
        ({"content-type": "multipart/form-data"}, b"", 400),
        ({"content-type": "multipart/form-data; boundary=x"}, b"not a form", 400),
        ({"content-type": "multipart/form-data; boundary=x"}, b"--x--\r\n", 400),
    ],
)
async def test_an_upload_that_is_no_form_is_refused(
    bench: BatchBench, headers: dict[str, str], content: bytes, status: int
) -> None:
    answer = await bench.http.post("/v1/files", content=content, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


async def test_an_upload_needs_the_purpose_batch_and_a_file(bench: BatchBench) -> None:
    file = {"file": ("in.jsonl", b"{}")}
    no_purpose = await bench.http.post("/v1/files", files=file)
    other = await bench.http.post("/v1/files", files=file, data={"purpose": "fine-tune"})
    not_a_file = await bench.http.post(
        "/v1/files", files={"other": b"x"}, data={"purpose": "batch", "file": "text"}
    )
    params = [one.json()["error"]["param"] for one in (no_purpose, other, not_a_file)]
    assert params == ["purpose", "purpose", "file"]
    assert {one.status_code for one in (no_purpose, other, not_a_file)} == {400}


async def test_a_new_batch_has_openais_shape(bench: BatchBench) -> None:
    batch_id = await bench.submit(_CONTENT, project="x")
    batch = await bench.client.batches.retrieve(batch_id)
    assert (batch.object, batch.status, batch.endpoint) == (
        "batch",
        "validating",
        "/v1/chat/completions",
    )
    assert batch.completion_window == "24h"
    assert batch.expires_at == batch.created_at + 24 * 3600
    assert batch.metadata == {"project": "x"}
    assert batch.request_counts is not None
    assert batch.request_counts.total == 0
    assert batch.output_file_id is None
    assert batch.errors is None


async def test_batches_are_listed_newest_first_in_pages(bench: BatchBench) -> None:
    ids = [await bench.submit(_CONTENT) for _ in range(5)]
    page = await bench.client.batches.list(limit=2)
    assert ([one.id for one in page.data], page.has_more) == ([ids[4], ids[3]], True)
    assert [one.id async for one in bench.client.batches.list(limit=2)] == ids[::-1]


async def _refusal(ask: Awaitable[Any]) -> tuple[int, str | None]:
    with pytest.raises(openai.APIStatusError) as caught:
        await ask
    return caught.value.status_code, caught.value.param


async def test_a_batch_needs_a_known_file_endpoint_and_window(bench: BatchBench) -> None:
    file = await bench.client.files.create(file=("in.jsonl", _CONTENT), purpose="batch")
    good = {
        "input_file_id": file.id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }

    async def refusal(**changes: Any) -> tuple[int, str | None]:
        answer = await bench.http.post("/v1/batches", json={**good, **changes})
        return answer.status_code, answer.json()["error"]["param"]

    assert await refusal(input_file_id="file-00000000") == (404, "file_id")
    assert await refusal(endpoint="/v1/audio/transcriptions") == (400, "endpoint")
    assert await refusal(completion_window="1h") == (400, "completion_window")
    assert await refusal(metadata={str(n): "x" for n in range(17)}) == (400, "metadata")
    assert await refusal(metadata={"a": 1}) == (400, None)
    assert await refusal(input_file_id=None) == (400, None)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff", b"[" * 5000])
async def test_a_body_that_is_no_batch_is_malformed(bench: BatchBench, body: bytes) -> None:
    answer = await bench.http.post("/v1/batches", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "malformed_body"


async def test_a_long_body_is_refused(bench: BatchBench) -> None:
    answer = await bench.http.post("/v1/batches", content=b" " * 2**17)
    assert answer.status_code == 413


async def test_unknown_batches_are_not_found(bench: BatchBench) -> None:
    for ask in (bench.client.batches.retrieve, bench.client.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            await ask("batch-0")
    answer = await bench.http.get("/v1/batches", params={"after": "batch-0"})
    assert answer.status_code == 404


@pytest.mark.parametrize("limit", ["0", "101", "x"])
async def test_a_page_has_a_sane_length(bench: BatchBench, limit: str) -> None:
    answer = await bench.http.get("/v1/batches", params={"limit": limit})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")


async def test_cancelling_is_noted_once_and_refused_after_the_end(bench: BatchBench) -> None:
    batch_id = await bench.submit(_CONTENT)
    first = await bench.client.batches.cancel(batch_id)
    assert first.status == "cancelling"
    assert (await bench.client.batches.cancel(batch_id)).cancelling_at == first.cancelling_at
    await Catalog(bench.stores.documents).change_batch(
        batch_id, lambda record: msgspec.structs.replace(record, status=BatchStatus.CANCELLED)
    )
    assert (await _refusal(bench.client.batches.cancel(batch_id)))[0] == 409


async def test_nothing_is_accepted_where_it_would_be_forgotten(tmp_path: Path) -> None:
    app = FastAPI()
    install_border(app)
    stores = await open_stores(RedisSettings())
    app.include_router(build_batch_router(stores, BatchSettings(), tmp_path, SystemClock()))
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://api"
    ) as http:
        for path in ("/v1/files", "/v1/batches", "/v1/batches/batch-0"):
            answer = await http.get(path)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "store_unavailable"


async def test_an_upload_is_refused_and_removed_while_the_store_is_away(
    bench: BatchBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> bool:
        raise StoreUnavailable("the shared store cannot be reached")

    monkeypatch.setattr(bench.stores.documents, "create", away)
    with pytest.raises(openai.APIStatusError) as caught:
        await bench.client.files.create(file=("in.jsonl", _CONTENT), purpose="batch")
    assert caught.value.status_code == 503
    assert list(bench.directory.iterdir()) == []
