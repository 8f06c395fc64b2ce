"""Adding, removing and draining workers by hand."""

from __future__ import annotations

from rhizome.errors import InvalidRequest, SettingsError, UnknownObject
from router.admin.parts import Parts
from router.admin.views import NewWorker
from router.discovery.static_worker import StaticWorker, static_worker

_BY_HAND = "admin"


class Steering:
    """What operators do to workers; each method says what it did, in words.

    Workers given by hand belong to this router alone. Those of the registry belong to all.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._drained: set[str] = set()

    def add(self, worker: StaticWorker) -> str:
        """Raises `Conflict` where it is here already."""
        self._parts.static.add(worker)
        return "added; it gets requests when it has answered"

    async def remove(self, worker_id: str) -> str:
        """Raises `InvalidRequest` for a worker of the registry, `UnknownObject` for none."""
        if not await self._parts.static.remove(worker_id):
            self._require_registered(worker_id)
            raise InvalidRequest(
                f"{worker_id} is a worker of the registry: `rhizome scale` changes their number, "
                "and a drain keeps requests from it"
            )
        self._set_drained(worker_id, False)
        return "removed; what runs there may finish"

    async def drain(self, worker_id: str, for_s: float) -> str:
        """Raises `UnknownObject` or `StoreUnavailable`."""
        if worker_id in self._parts.static:
            self._set_drained(worker_id, True)
            return "gets nothing new from this router"
        self._require_registered(worker_id)
        await self._parts.desired.request_drain(worker_id, for_s)
        return f"gets nothing new from any router for {for_s:g} s"

    async def resume(self, worker_id: str) -> str:
        """Raises `UnknownObject` or `StoreUnavailable`."""
        if worker_id in self._parts.static:
            self._set_drained(worker_id, False)
        else:
            self._require_registered(worker_id)
            await self._parts.desired.cancel_drain(worker_id)
        return "may get requests again"

    def _set_drained(self, worker_id: str, is_drained: bool) -> None:
        if is_drained:
            self._drained.add(worker_id)
        else:
            self._drained.discard(worker_id)
        self._parts.fleet.drain(frozenset(self._drained), by=_BY_HAND)

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
