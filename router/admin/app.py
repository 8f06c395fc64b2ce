"""The admin API as an ASGI app: its routes behind their guard, everything else 404."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.types import ASGIApp

from rhizome import __version__
from router.admin.access import Guard
from router.admin.decisions import build_decisions
from router.admin.operations import build_operations
from router.admin.parts import Parts
from router.admin.workers import build_models, build_workers
from router.http.border import install_border
from router.keys import KeyRing


def build_admin(parts: Parts, ring: KeyRing, body_bytes_max: int) -> ASGIApp:
    """The app; `ring` holds the admin keys, which are not the clients'."""
    return Guard(admin_api(parts), ring, parts.audit, body_bytes_max)


def admin_api(parts: Parts) -> FastAPI:
    """The routes and their documentation."""
    app = FastAPI(
        title="Rhizome admin",
        version=__version__,
        summary="What one router does, and steering it by hand.",
        docs_url="/docs",
        redoc_url=None,
    )
    install_border(app)
    for build in (build_workers, build_models, build_decisions, build_operations):
        app.include_router(build(parts))
    return app
