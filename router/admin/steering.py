"""Adding, removing and draining workers by hand."""

from __future__ import annotations

from rhizome.errors import InvalidRequest, SettingsError, UnknownObject
from router.admin.parts import Parts
from router.admin.views import NewWorker
from router.discovery.static_worker import StaticWorker, static_worker

BY_HAND = "admin"
"""Who asked for the drains of workers given by hand, as the fleet knows it."""


class Steering:
    """What operators do to workers; each method says what it did, in words.

    Workers given by hand belong to this router alone. Those of the registry belong to all.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def add(self, worker: StaticWorker) -> str:
        """Raises `Conflict` where it is here already."""
        self._parts.static.add(worker)
        self._parts.by_hand.add(worker)
        return "added; it gets requests when it has answered" + self._how_long()

    async def remove(self, worker_id: str) -> str:
        """Raises `InvalidRequest` for a worker of the registry, `UnknownObject` for none."""
        if not await self._parts.static.remove(worker_id):
            self._require_registered(worker_id)
            raise InvalidRequest(
                f"{worker_id} is a worker of the registry: `rhizome scale` changes their number, "
                "and a drain keeps requests from it"
            )
        was_added = worker_id in self._parts.by_hand
        self._parts.by_hand.remove(worker_id)
        self._apply_drains()
        back = "" if was_added else "; it is in the settings, so it is back after a restart"
        return f"removed; what runs there may finish{back}"

    async def drain(self, worker_id: str, for_s: float) -> str:
        """Raises `UnknownObject` or `StoreUnavailable`."""
        if worker_id in self._parts.static:
            self._parts.by_hand.drain(worker_id)
            self._apply_drains()
            return "gets nothing new from this router" + self._how_long()
        self._require_registered(worker_id)
        await self._parts.desired.request_drain(worker_id, for_s)
        return f"gets nothing new from any router for {for_s:g} s"

    async def resume(self, worker_id: str) -> str:
        """Raises `UnknownObject` or `StoreUnavailable`."""
        if worker_id in self._parts.static:
            self._parts.by_hand.resume(worker_id)
            self._apply_drains()
        else:
            self._require_registered(worker_id)
            await self._parts.desired.cancel_drain(worker_id)
        return "may get requests again"

    def _apply_drains(self) -> None:
        self._parts.fleet.drain(self._parts.by_hand.drained, by=BY_HAND)

    def _how_long(self) -> str:
        if self._parts.by_hand.is_kept:
            return ""
        return ", until the router ends (router.admin.workers_file keeps it longer)"

    def _require_registered(self, worker_id: str) -> None:
        parts = self._parts
        if parts.fleet.worker(worker_id) is None or not parts.shares_registry:
            known = ", ".join(sorted(one.worker_id for one in parts.fleet.records())[:16])
            raise UnknownObject(f"there is no worker {worker_id!r} here; known: {known or 'none'}")


def worker_of(new: NewWorker) -> StaticWorker:
    """The worker as it was asked for; raises `InvalidRequest`."""
    options = new.model_dump(exclude_none=True, exclude={"url", "key"})
    if new.key is not None:
        options["key"] = new.key.get_secret_value()
    try:
        return static_worker(new.url, options)
    except SettingsError as error:
        raise InvalidRequest(error.message, param="url") from error
