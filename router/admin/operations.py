"""What else operators need of a router: tenants, the log's level, the audit log, a sign of life."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Annotated, cast

from fastapi import APIRouter, Query, Request

from router.admin.parts import Parts
from router.admin.tenants import Use
from router.admin.views import (
    ActionList,
    ActionView,
    Health,
    Level,
    LogLevel,
    TenantList,
    TenantView,
)

_AUDIT_MAX = 1000


def build_operations(parts: Parts) -> APIRouter:
    """Routes for tenants, logs and health."""
    routes = APIRouter(prefix="/admin/v1")

    @routes.get("/tenants", tags=["tenants"])
    async def list_tenants() -> TenantList:
        """Clients by the names of their keys, and what they used since this router started."""
        uses = parts.tenants.uses()
        names = sorted({*parts.keys.names, *uses})
        now_s = parts.clock.monotonic_s()
        tenants = [_tenant(parts, name, uses.get(name), now_s) for name in names]
        return TenantList(router=parts.router_id, tenants=tenants)

    @routes.get("/log-level", tags=["operations"])
    async def get_log_level() -> Level:
        """The least severe level that this router writes."""
        name = logging.getLevelName(logging.getLogger().getEffectiveLevel()).lower()
        return Level(level=cast("LogLevel", "error" if name == "critical" else name))

    @routes.put("/log-level", tags=["operations"])
    async def set_log_level(asked: Level, request: Request) -> Level:
        """Sets it, until the router ends."""
        request.state.audit_note = asked.level
        logging.getLogger().setLevel(asked.level.upper())
        return asked

    @routes.get("/audit", tags=["operations"])
    async def list_actions(
        limit: Annotated[int, Query(ge=1, le=_AUDIT_MAX)] = 100,
    ) -> ActionList:
        """Who did what through this API, newest first."""
        actions = [ActionView(**asdict(one)) for one in parts.audit.latest(limit)]
        return ActionList(router=parts.router_id, actions=actions)

    @routes.get("/health", tags=["operations"])
    async def health() -> Health:
        """200 while the process can answer at all; needs no key."""
        return Health(status="live", router=parts.router_id)

    return routes


def _tenant(parts: Parts, name: str, use: Use | None, now_s: float) -> TenantView:
    known = use or Use()
    return TenantView(
        name=name,
        has_key=name in parts.keys.names,
        requests=dict(known.outcomes),
        prompt_tokens=known.prompt_tokens,
        cached_tokens=known.cached_tokens,
        completion_tokens=known.completion_tokens,
        last_seen_s=None if use is None else round(max(0.0, now_s - use.last_at_s), 3),
    )
