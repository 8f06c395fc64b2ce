"""The admin API as an ASGI app: its routes behind their guard, everything else 404."""

from __future__ import annotations

from fastapi import FastAPI

from rhizome import __version__
from rhizome.settings.tree import RouterSettings
from rhizome.tasks import Tasks
from router.admin.access import Guard, admin_keys
from router.admin.decisions import build_decisions
from router.admin.operations import build_operations
from router.admin.parts import Parts
from router.admin.workers import build_models, build_workers
from router.http.border import install_border
from router.http.front import app_front
from router.http.server.connection import Shared
from router.relay.deadlines import Deadlines


def admin_front(
    settings: RouterSettings, parts: Parts, tasks: Tasks, deadlines: Deadlines
) -> Shared | None:
    """What connections to the admin API are served with; None where it is off.

    Raises `SettingsError` as `admin_keys` does. Its keys are not the clients'.
    """
    ring = admin_keys(settings.admin)
    if ring is None:
        return None
    guarded = Guard(admin_api(parts), ring, parts.audit, settings.relay.body_bytes_max)
    return app_front(guarded, settings.http, tasks, deadlines)


def admin_api(parts: Parts) -> FastAPI:
    """The routes and their documentation."""
    app = FastAPI(
        title="Rhizome admin",
        version=__version__,
        summary="What one router does, and steering it by hand.",
        docs_url="/docs",
        redoc_url=None,
        redirect_slashes=False,
    )
    install_border(app)
    for build in (build_workers, build_models, build_decisions, build_operations):
        app.include_router(build(parts))
    return app
