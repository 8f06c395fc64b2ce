"""The bodies of the admin API, as its documentation shows them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from router.decisions.views import ShadowView, View

LogLevel = Literal["debug", "info", "warning", "error"]


class Asked(BaseModel):
    """What callers send: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class WorkerView(View):
    """One worker as this router sees it."""

    worker: str
    source: Literal["settings", "registry"]
    """Given by hand (in the settings, or here), or found in the registry."""
    model: str | None
    """None for one that never answered."""
    url: str
    state: str
    """A state of the worker's own, or `silent`, `suspended`, `warming`, `draining`."""
    detail: str
    in_flight: int
    """This router's requests at it."""
    queued_tokens: int
    """Uncached prompt tokens that it was sent and that are not prefilled yet."""
    index_blocks: int
    """KV blocks that it is known to hold."""
    trust: str | None
    """How far its prefixes are believed; of several ranks, the least."""


class WorkerList(View):
    router: str
    workers: list[WorkerView]


class NewWorker(Asked):
    """A worker to add; what is not said here it is asked for."""

    url: str = Field(min_length=1, max_length=2048)
    """`http://host:port`."""
    events: str | None = Field(default=None, max_length=2048)
    """ZMQ endpoint of its KV events."""
    replay: str | None = Field(default=None, max_length=2048)
    topic: str | None = Field(default=None, max_length=256)
    curve: str | None = Field(default=None, max_length=40)
    """Public key of the event sockets."""
    tokenizer: Literal["off"] | None = None
    """Route it by bytes though its model's tokenizer may be here."""
    eagle: Literal["on"] | None = None
    """Its engine speculates with EAGLE or MTP heads."""
    chunk: str | None = Field(default=None, max_length=16)
    """The size in tokens of a chunk of its chunked local attention."""
    key: SecretStr | None = Field(default=None, max_length=4096)
    """Bearer key of its HTTP app."""


class Drain(Asked):
    for_s: float = Field(default=3600.0, gt=0, le=86_400)
    """After this time the worker may get requests again; workers given by hand stay drained."""


class Done(View):
    """What an action did."""

    router: str
    worker: str
    done: str


class ModelView(View):
    """One model as this router sees it."""

    model: str
    workers: int
    eligible: int
    """Targets that may take a new request."""
    in_flight: int
    """This router's requests."""
    waiting: int
    """Requests in this router's line."""
    oldest_wait_s: float


class ModelList(View):
    router: str
    policy: str
    models: list[ModelView]


class TenantView(View):
    """One client, by the name of its key."""

    name: str
    has_key: bool
    """Whether the key is good now."""
    requests: dict[str, int]
    """By outcome, since the router started."""
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    last_seen_s: float | None
    """Seconds since its last request ended."""


class TenantList(View):
    router: str
    tenants: list[TenantView]


class ShadowList(View):
    router: str
    policy: str
    """The one in charge."""
    shadows: list[ShadowView]


class Level(Asked):
    """The least severe level that is written to the log."""

    level: LogLevel


class ActionView(View):
    """One action, as the audit log has it."""

    at_wall_s: float
    who: str
    client: str
    what: str
    note: str
    status: int


class ActionList(View):
    router: str
    actions: list[ActionView]


class Route(Asked):
    """A request that is not to be sent."""

    path: str = "/v1/chat/completions"
    """Where the body would be posted."""
    body: dict[str, Any]
    """The request's body, as a client would send it."""
    priority: Literal["interactive", "batch"] = "interactive"


class Health(View):
    status: Literal["live"]
    router: str
