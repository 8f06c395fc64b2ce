"""`/v1/files` and `/v1/batches`, in OpenAI's shapes.

These routes only note what is asked; runners do the work. They refuse (503) when the store is away
or is this process's own memory, which would forget what it accepted. `expires_after` of a file is
not looked at: all files stay for `batch.retention_s`, or until they are deleted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import FileResponse

from rhizome.clock import Clock
from rhizome.errors import MalformedBody, StoreUnavailable
from rhizome.settings.cluster import BatchSettings
from rhizome.stores.open import Stores
from router.batch.batches import Batches, NewBatch
from router.batch.catalog import Catalog
from router.batch.contents import Contents
from router.batch.files import Files
from router.batch.uploads import read_upload
from router.http.reading import read_body

_BODY_BYTES_MAX = 64 * 1024
Shown = dict[str, Any]


def build_batch_router(
    stores: Stores, settings: BatchSettings, directory: Path, clock: Clock
) -> APIRouter:
    """The routes; file contents are kept under `directory`."""

    def require_shared_store() -> None:
        if not stores.shared:
            raise StoreUnavailable("files and batches need a Redis: set redis.url")

    catalog, contents = Catalog(stores.documents), Contents(directory)
    files = Files(catalog, contents, clock, settings.retention_s)
    routes = APIRouter(prefix="/v1", dependencies=[Depends(require_shared_store)])
    _add_file_routes(routes, files, settings.file_bytes_max)
    _add_batch_routes(routes, Batches(catalog, stores.lines, clock))
    return routes


def _add_file_routes(routes: APIRouter, files: Files, file_bytes_max: int) -> None:
    @routes.post("/files", tags=["files"])
    async def upload(request: Request) -> Shown:
        """Keep a file of requests, one JSON object a line (multipart form: file, purpose)."""
        file, purpose = await read_upload(request, file_bytes_max)
        try:
            return await files.add(file, purpose)
        finally:
            await file.close()

    @routes.get("/files", tags=["files"])
    async def list_files(
        purpose: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        order: Literal["asc", "desc"] = "desc",
        after: str | None = None,
    ) -> Shown:
        """The newest files."""
        shown = await files.listed(purpose, newest_first=order == "desc", after=after)
        return _page(shown[: limit + 1], limit)

    @routes.get("/files/{file_id}", tags=["files"])
    async def get_file(file_id: str) -> Shown:
        """What is known of a file."""
        return await files.shown(file_id)

    @routes.get("/files/{file_id}/content", tags=["files"])
    async def file_content(file_id: str) -> FileResponse:
        """The bytes of a file."""
        path = await files.content(file_id)
        return FileResponse(path, media_type="application/octet-stream")

    @routes.delete("/files/{file_id}", tags=["files"])
    async def delete_file(file_id: str) -> Shown:
        """Forget a file. A batch whose lines are not all queued yet fails without its input."""
        await files.remove(file_id)
        return {"id": file_id, "object": "file", "deleted": True}


def _add_batch_routes(routes: APIRouter, batches: Batches) -> None:
    @routes.post("/batches", tags=["batches"])
    async def create_batch(request: Request) -> Shown:
        """Run a file of requests when there is room beside interactive ones."""
        body = await read_body(request, _BODY_BYTES_MAX)
        try:
            asked = msgspec.json.decode(body, type=NewBatch)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedBody(f"the body does not describe a batch: {error}") from error
        return await batches.create(asked)

    @routes.get("/batches", tags=["batches"])
    async def list_batches(
        limit: Annotated[int, Query(ge=1, le=100)] = 20, after: str | None = None
    ) -> Shown:
        """The newest batches."""
        return _page(await batches.listed(limit + 1, after), limit)

    @routes.get("/batches/{batch_id}", tags=["batches"])
    async def get_batch(batch_id: str) -> Shown:
        """How far a batch is."""
        return await batches.shown(batch_id)

    @routes.post("/batches/{batch_id}/cancel", tags=["batches"])
    async def cancel_batch(batch_id: str) -> Shown:
        """Stop a batch; the lines that are done keep their results."""
        return await batches.cancel(batch_id)


def _page(shown: list[Shown], limit: int) -> Shown:
    """A list object of the first `limit`; one more than that says that there are more."""
    data = shown[:limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(shown) > limit,
    }
