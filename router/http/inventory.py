"""What is here: models, and whether this router lives and can serve."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, Response

from rhizome.errors import UnknownModel
from rhizome.fleet.records import WorkerRecord
from router.fleet import Fleet
from router.http.reading import KeyCheck


def build_inventory(fleet: Fleet, keys: KeyCheck) -> APIRouter:
    """Routes for `/v1/models` and health."""
    routes = APIRouter()

    @routes.get("/v1/models", tags=["models"], dependencies=[Depends(keys)])
    async def list_models() -> dict[str, Any]:
        """The models that some worker serves, in OpenAI's shape."""
        records = [fleet.record_of_model(model) for model in fleet.models()]
        return {"object": "list", "data": [_model(one) for one in records if one is not None]}

    @routes.get("/v1/models/{model:path}", tags=["models"], dependencies=[Depends(keys)])
    async def get_model(model: str) -> dict[str, Any]:
        """One model."""
        record = fleet.record_of_model(model)
        if record is None:
            raise UnknownModel(f"the model {model!r} does not exist; see /v1/models", param="model")
        return _model(record)

    @routes.get("/health/live", tags=["health"])
    async def live() -> dict[str, str]:
        """200 while the process can answer at all."""
        return {"status": "live"}

    @routes.get("/health", tags=["health"])  # where engines have it, and clients look for it
    @routes.get("/health/ready", tags=["health"])
    async def ready() -> Response:
        """200 when some model has a worker that takes requests, else 503."""
        served = [model for model in fleet.models() if any(True for _ in fleet.eligible(model))]
        waiting = sorted(set(fleet.models()) - set(served))
        body = {"status": "ready" if served else "waiting", "models": served, "waiting": waiting}
        return JSONResponse(body, status_code=200 if served else 503)

    return routes


def _model(record: WorkerRecord) -> dict[str, Any]:
    return {
        "id": record.model,
        "object": "model",
        "created": int(record.started_wall_s),
        "owned_by": "rhizome",
        "max_model_len": record.max_model_len,
    }
