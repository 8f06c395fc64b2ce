"""What is here: models, and whether this router lives and can serve."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, Response

from rhizome.fleet.records import WorkerRecord
from router.catalog.products import Products
from router.fleet import Fleet
from router.http.reading import KeyCheck


def build_inventory(fleet: Fleet, products: Products, keys: KeyCheck) -> APIRouter:
    """Routes for `/v1/models` and health."""
    routes = APIRouter()

    def described(name: str) -> dict[str, Any] | None:
        """A model by the name that clients use; a product looks like its largest share."""
        served = products.first_model(name)
        record = fleet.record_of_model(served or name)
        return None if record is None and served is None else _model(name, served or name, record)

    @routes.get("/v1/models", tags=["models"], dependencies=[Depends(keys)])
    async def list_models() -> dict[str, Any]:
        """The products and the models that some worker serves, in OpenAI's shape."""
        names = sorted({*fleet.models(), *products.names()})
        shown = [described(name) for name in names]
        return {"object": "list", "data": [one for one in shown if one is not None]}

    @routes.get("/v1/models/{model:path}", tags=["models"], dependencies=[Depends(keys)])
    async def get_model(model: str) -> dict[str, Any]:
        """One model."""
        found = described(model)
        if found is None:
            raise fleet.unknown(model)
        return found

    @routes.get("/health/live", tags=["health"])
    async def live() -> dict[str, str]:
        """200 while the process can answer at all."""
        return {"status": "live"}

    @routes.get("/health", tags=["health"])  # where engines have it, and clients look for it
    @routes.get("/health/ready", tags=["health"])
    async def ready() -> Response:
        """200 when some model has a worker that takes requests, else 503: `looking` until all
        workers are known, then `waiting`."""
        served = [model for model in fleet.models() if fleet.eligible(model)]
        waiting = sorted(set(fleet.models()) - set(served))
        status = "ready" if served else "looking" if fleet.is_looking else "waiting"
        body = {"status": status, "models": served, "waiting": waiting}
        return JSONResponse(body, status_code=200 if served else 503)

    return routes


def _model(name: str, served: str, record: WorkerRecord | None) -> dict[str, Any]:
    """OpenAI's model object, with vLLM's fields."""
    is_adapter = record is not None and served != record.model
    return {
        "id": name,
        "object": "model",
        "created": 0 if record is None else int(record.started_wall_s),
        "owned_by": "rhizome",
        "root": served,
        "parent": record.model if is_adapter and record is not None else None,
        "max_model_len": None if record is None else record.max_model_len,
    }
