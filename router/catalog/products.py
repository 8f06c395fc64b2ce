"""The catalog as requests meet it: the plan of each, and where outside providers are."""

from __future__ import annotations

from msgspec.structs import replace

from rhizome.errors import (
    NoHealthyWorker,
    QueueFull,
    QueueTimeout,
    RequestError,
    UnknownModel,
    WorkerTimeout,
    WorkerUnreachable,
)
from rhizome.fleet.records import WorkerRecord, WorkerState
from router.call import Call
from router.catalog.entries import Fallback
from router.catalog.metrics import CatalogMetrics
from router.catalog.resolving import Asker, resolve
from router.catalog.source import CatalogSource
from router.fleet import Target
from router.http.bodies import EngineBody

_NOT_IN_TIME = (
    NoHealthyWorker,
    QueueFull,
    QueueTimeout,
    UnknownModel,
    WorkerTimeout,
    WorkerUnreachable,
)
_MODEL = "x-rhizome-model"
_REASON = "x-rhizome-fallback"
"""Why the model that was asked for did not serve."""
_OWN_FIELDS = frozenset(
    {
        "cache_salt",
        "ec_transfer_params",
        "kv_transfer_params",
        "priority",
        "request_id",
        "session_id",
        "vllm_xargs",
    }
)
"""Fields of our engines that are nobody else's business, and that others may refuse."""


class Products:
    """What stands behind models' names now."""

    def __init__(self, source: CatalogSource, metrics: CatalogMetrics) -> None:
        self._source = source
        self._metrics = metrics

    def resolve(self, call: Call) -> tuple[Fallback, ...]:
        """Gives the call the served model that it shall go to; returns where it may go then."""
        products = self._source.catalog.products
        if call.body.model not in products:
            return ()
        asker = Asker(call.request_id, call.principal.name, call.body.session)
        plan = resolve(products, call.body.model, asker)
        _send_to(call, plan.model)
        return plan.fallbacks

    def fall_back(self, call: Call, fallback: Fallback, reason: RequestError) -> Target | None:
        """Sends the call elsewhere: to another model of the fleet, or to the provider returned."""
        self._metrics.fell_back(call.body.model, reason)
        _send_to(call, fallback.model)
        call.assignment, call.attempts = None, 0
        if all(name != _REASON for name, _ in call.marks):
            call.marks = (*call.marks, (_REASON, reason.code))
        if fallback.provider is None:
            return None
        call.body = without_own_fields(call.body)
        call.decision.outside = fallback.provider
        return self._outside(fallback.provider, fallback.model)

    def names(self) -> tuple[str, ...]:
        """The products' names, sorted."""
        return tuple(sorted(self._source.catalog.products))

    def first_model(self, name: str) -> str | None:
        """The served model with the largest share of a product; None where there is none."""
        product = self._source.catalog.products.get(name)
        if product is None:
            return None
        return max(product.shares, key=lambda share: share.weight).model

    def knows(self, model: str) -> bool:
        """Whether it is a product or somewhere behind one: a name that may be a metric's label."""
        products = self._source.catalog.products
        return model in products or any(model in product.models for product in products.values())

    def _outside(self, provider: str, model: str) -> Target:
        name = f"outside:{provider}"
        record = WorkerRecord(
            worker_id=name,
            incarnation="",
            model=model,
            url=self._source.catalog.providers[provider].base_url,
            state=WorkerState.READY,
            api_key=self._source.keys.get(provider),
        )
        return Target(name, record)


def may_fall_back(error: RequestError) -> bool:
    """Whether the fleet could not serve in time, while nothing was wrong with the request."""
    return isinstance(error, _NOT_IN_TIME)


def without_own_fields(body: EngineBody) -> EngineBody:
    """The body as an outside provider may see it."""
    if _OWN_FIELDS.isdisjoint(body.fields):
        return body
    fields = {name: value for name, value in body.fields.items() if name not in _OWN_FIELDS}
    return replace(body, fields=fields, is_changed=True)


def _send_to(call: Call, model: str) -> None:
    if model != call.body.model:
        call.body = replace(call.body, model=model)
    call.decision.model = model
    call.marks = (*(mark for mark in call.marks if mark[0] != _MODEL), (_MODEL, model))
