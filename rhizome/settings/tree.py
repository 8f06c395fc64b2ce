"""The settings: every field with its meaning, unit and bound; docs, chart and CLI follow it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, model_validator

from rhizome.fleet.models import ModelSpec
from rhizome.settings.cluster import BatchSettings, ControllerSettings, WorkerSettings
from rhizome.settings.slices import Port, Seconds, Slice

PolicyName = Literal[
    "round_robin", "least_loaded", "power_of_two", "threshold", "product", "sticky", "cost"
]


class LogSettings(Slice):
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe level that is written."""
    style: Literal["text", "json"] = "text"
    """Lines for people, or JSON for machines."""


class RedisSettings(Slice):
    url: SecretStr | None = None
    """`redis://` or `rediss://` URL of an external server; absent: `rhizome up` starts its own."""
    namespace: str = Field(default="rhizome", pattern=r"^[a-z0-9-]{1,63}$")
    """Prefix of every key, so that clusters can share a server."""
    command_timeout_s: Seconds = 2.0
    """Longest wait for one command."""
    connections_max: int = Field(default=64, ge=1, le=10_000)
    """Connections that one process may open."""
    responses_max: int = Field(default=100_000, ge=1, le=100_000_000)
    """Most responses of `/v1/responses` that are kept; those that end soonest go first."""


class RelaySettings(Slice):
    connect_timeout_s: Seconds = 2.0
    """Longest wait for a connection to a worker."""
    first_byte_timeout_s: Seconds = 900.0
    """Longest wait for a worker's response to begin; of a stream, for its first token."""
    idle_timeout_s: Seconds = 120.0
    """Longest silence inside a worker's response after that."""
    total_timeout_s: Seconds = 3600.0
    """Longest life of a request."""
    attempts_max: int = Field(default=3, ge=1, le=10)
    """Workers tried for one request before its first byte."""
    body_bytes_max: int = Field(default=16 * 2**20, ge=1024, le=2**30)
    """Longest request body, in bytes."""
    response_bytes_max: int = Field(default=64 * 2**20, ge=1024, le=2**30)
    """Longest non-streaming response body, in bytes."""
    line_bytes_max: int = Field(default=2**20, ge=1024, le=2**26)
    """Longest event of a worker's stream, in bytes."""
    idle_connection_s: Seconds = 3.0
    """How long an unused connection to a worker is kept; engines close theirs later (vLLM: 5 s)."""
    idle_connections_max: int = Field(default=256, ge=0, le=65_536)
    """Unused connections kept to one worker."""
    comment_interval_s: float = Field(default=15.0, ge=0)
    """Time between the comments that keep a stream's connection alive before its first token, in
    seconds; 0: none are sent."""


class HttpSettings(Slice):
    header_timeout_s: Seconds = 10.0
    """Longest time for a client to send a request's head."""
    body_timeout_s: Seconds = 60.0
    """Longest time for a client to send a request's body; for uploads, longest pause in it."""
    stall_timeout_s: Seconds = 120.0
    """Longest time that a client may leave an answer unread while more of it waits."""
    keep_alive_s: Seconds = 75.0
    """How long a client's connection is kept between two requests."""
    header_bytes_max: int = Field(default=32 * 2**10, ge=1024, le=2**20)
    """Longest head of a request, in bytes."""
    headers_max: int = Field(default=100, ge=8, le=10_000)
    """Most headers of a request."""
    connections_max: int = Field(default=16_384, ge=1, le=1_000_000)
    """Clients' connections held at once; more are closed as they come."""
    tls_certificate: Path | None = None
    """File with the certificate chain (PEM) to serve HTTPS with; absent: HTTP."""
    tls_key: Path | None = None
    """File with its private key (PEM); absent: it is in `tls_certificate` too."""


class AdmissionSettings(Slice):
    in_flight_max_per_worker: int = Field(default=256, ge=1, le=65_536)
    """Requests dispatched to one worker at once; its own `max_num_seqs` bounds it further."""
    queue_length_max: int = Field(default=512, ge=0, le=1_000_000)
    """Requests that may wait in this router when every worker is full."""
    queue_wait_s_max: Seconds = 30.0
    """Longest wait in the queue before 429."""
    late_binding: bool = True
    """Let requests wait in the router for a worker that is nearly free, instead of behind others'
    prompts at the worker, and for half a second at most for a place at the one that holds their
    prefix; only the policy `cost` does."""
    hold_s_max: Seconds = 10.0
    """Longest such wait; then the request goes where it costs least."""
    hold_length_max: int = Field(default=256, ge=0, le=1_000_000)
    """Requests of a model that may wait so at once."""
    batch_share: float = Field(default=0.5, ge=0, le=1)
    """Share of a worker's room that batch work may take while nobody interactive waits."""


class PrefixSettings(Slice):
    index_bytes_max: int = Field(default=256 * 2**20, ge=2**20, le=2**40)
    """Memory for the prefix index, in bytes (estimated)."""
    predicted_ttl_s: Seconds = 5.0
    """How long a dispatched prompt counts as held by its worker before events confirm it."""
    approximate_ttl_s: Seconds = 120.0
    """The same for workers without KV events that neither announce the size of their cache nor
    report cached tokens; for others it is learned."""
    approximate_block_bytes: int = Field(default=256, ge=16, le=4096)
    """Bytes of rendered prompt per block where there is no tokenizer."""
    bytes_per_token: float = Field(default=4.0, gt=0, le=64)
    """Estimate of prompt length where there is no tokenizer."""
    host_tier_worth: float = Field(default=0.7, ge=0, le=1)
    """What a token that waits in a worker's CPU memory is worth beside one on its device: the share
    of its prefill time that fetching it saves."""
    storage_tier_worth: float = Field(default=0.3, ge=0, le=1)
    """The same for disks and remote stores; counts for no more than the CPU memory's."""

    @cached_property
    def approximate_block_tokens(self) -> int:
        """Tokens that such a block is taken to have, at least 1."""
        return max(1, round(self.approximate_block_bytes / self.bytes_per_token))


class WarmupSettings(Slice):
    enabled: bool = True
    """Replay the hottest prefixes to a worker that comes with an empty cache, before requests."""
    bytes_max: int = Field(default=32 * 2**20, ge=2**16, le=2**34)
    """Memory for the hottest prefixes, in bytes (estimated)."""
    runs_max: int = Field(default=4096, ge=16, le=1_000_000)
    """Most pieces of prefixes kept; what several prefixes begin with is one piece."""
    half_life_s: Seconds = 300.0
    """Time in which a request counts half as much for how hot its prefix is."""
    hits_min: float = Field(default=2.0, ge=0)
    """Requests, those long ago counted less, that make a prefix worth replaying."""
    prefixes_max: int = Field(default=64, ge=1, le=10_000)
    """Most prefixes replayed to one worker."""
    tokens_max: int = Field(default=262_144, ge=1, le=2**31)
    """Most tokens replayed to one worker, those that prefixes share counted once."""
    kv_share: float = Field(default=0.5, gt=0, le=1)
    """Most of a worker's KV cache to fill."""
    concurrency: int = Field(default=2, ge=1, le=64)
    """Replays that one worker gets at once."""
    deadline_s: Seconds = 20.0
    """Longest time that a worker is kept from requests for its warm-up."""


class MediaSettings(Slice):
    hosts: tuple[str, ...] = ()
    """Hosts that the router may fetch media from for requests that name them by URL; `*`: any
    public one; none: such requests are refused. Engines never fetch."""
    bytes_max: int = Field(default=20 * 2**20, ge=1024, le=2**30)
    """Longest media, in bytes."""
    timeout_s: Seconds = 10.0
    """Longest time to fetch one."""
    references_max: int = Field(default=16, ge=1, le=1024)
    """Most of them in one request."""
    concurrency: int = Field(default=16, ge=1, le=1024)
    """Fetched at once by one router."""


class ResponsesSettings(Slice):
    ttl_s: float = Field(default=30 * 86_400, gt=0, le=366 * 86_400)
    """How long a stored response is kept."""
    bytes_max: int = Field(default=4 * 2**20, ge=1024, le=2**28)
    """Longest conversation that is stored with a response, in bytes; longer ones are not stored."""
    background_max: int = Field(default=64, ge=0, le=65_536)
    """Background responses that one router process works on at once; 0: none."""


class SchedulingSettings(Slice):
    policy: PolicyName = "cost"
    """How a worker is chosen."""
    prefill_tokens_per_s: float = Field(default=4000.0, gt=0)
    """Prefill speed assumed until it is learned."""
    decode_step_ms: float = Field(default=20.0, gt=0)
    """Decode step assumed until it is learned."""
    seed: int | None = None
    """Seed of the tie-break; absent: a fresh one per process."""
    shadows: tuple[PolicyName, ...] = Field(default=(), max_length=8)
    """Policies that decide beside the chosen one on live traffic, to be compared with it."""
    shadow_share: float = Field(default=1.0, ge=0, le=1)
    """Share of the decisions that the shadows make too."""


class DiscoverySettings(Slice):
    registry_poll_s: Seconds = 0.5
    """Time between two looks at the registry."""
    probe_interval_s: Seconds = 2.0
    """Time between two health probes of a worker."""
    probe_timeout_s: Seconds = 2.0
    """Longest wait for a health probe."""
    failures_to_suspend: int = Field(default=2, ge=1, le=100)
    """Consecutive failed probes after which a worker gets nothing new."""


class DecisionSettings(Slice):
    count_max: int = Field(default=4096, ge=0, le=1_000_000)
    """Requests whose decisions are kept to be explained; 0: none."""
    bytes_max: int = Field(default=16 * 2**20, ge=0, le=2**34)
    """Memory for them, in bytes (estimated)."""
    candidates_max: int = Field(default=64, ge=1, le=1024)
    """Candidates kept of each choice, the cheapest first."""


class AdminSettings(Slice):
    host: str = "127.0.0.1"
    """Address of the admin API."""
    port: Port = 8001
    """Port of the admin API."""
    key: SecretStr | None = None
    """Key that its callers must present, and that commands with these settings do present."""
    keys: dict[str, str] = Field(default={})
    """Hashes of more such keys by name, as `rhizome keys new NAME` prints them."""
    allow_anonymous: bool = False
    """Serve it without keys, on loopback only; where this is not set and there are none, it is
    off."""
    workers_file: Path | None = None
    """File in which workers that are added here, and drains of workers given by hand, outlive the
    router (it holds the workers' keys); absent: they end with the router."""


class TrustSettings(Slice):
    probe: bool = True
    """Ask each new worker that publishes KV events two small questions, to see whether its events
    and its reuse are as predicted."""
    probe_deadline_s: Seconds = 10.0
    """Longest time for one of them."""
    probe_again_s: Seconds = 30.0
    """Time between two such probes of a worker that is not exact."""
    check_after_s: Seconds = 1.0
    """How long after an answer its blocks should have been announced."""


class RenderingSettings(Slice):
    stall_s: Seconds = 0.012
    """Longest wait for a prompt's token ids, or 2 ms for each kilobyte of a longer request; a
    prompt that takes longer is routed by its bytes."""
    deadline_s: Seconds = 2.0
    """The same for the longest prompts, and the longest wait for their turn."""
    pause_s: Seconds = 5.0
    """How long a tokenizer that stalled is not asked again; doubled up to a minute while it
    stalls."""


class PeerSettings(Slice):
    enabled: bool = True
    """Tell other routers of this one's load and hear of theirs, over Redis and between the
    processes of one router."""
    interval_s: float = Field(default=0.005, gt=0, le=1.0)
    """Shortest time between two messages; what happens meanwhile goes together."""
    whole_interval_s: float = Field(default=1.0, gt=0, le=60.0)
    """Time after which everything is told again, to make good what was lost."""
    lease_s: float = Field(default=4.0, gt=0, le=600.0)
    """A router that is silent this long is gone, and its load with it."""

    @model_validator(mode="after")
    def _lease_outlives_silence(self) -> PeerSettings:
        if self.lease_s < 2 * self.whole_interval_s:
            raise ValueError("lease_s is at least twice whole_interval_s")
        return self


class RouterSettings(Slice):
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Port = 8000
    """Port of the API."""
    processes: int = Field(default=1, ge=1, le=256)
    """Router processes behind the port; they share what they know of the load."""
    metrics_host: str = "127.0.0.1"
    """Address of the metrics page."""
    metrics_port: Port = 9100
    """Port of the metrics page."""
    workers: tuple[str, ...] = ()
    """Workers by hand: `URL[,events=ENDPOINT][,replay=ENDPOINT][,topic=TOPIC][,curve=KEY]
    [,key-file=PATH]`; `curve` is the event sockets' public key, the file holds the bearer key of
    the URL (`key=KEY` gives it directly, for all to see in the process list)."""
    tokenizer: Path | None = None
    """Directory with `tokenizer.json` and chat template; absent: the model's own root, if local."""
    api_keys: tuple[SecretStr, ...] = ()
    """Keys that clients must present as `Authorization: Bearer`; `keys` and `keys_file` hold no
    secrets and name their owners."""
    keys: dict[str, str] = Field(default={})
    """Hashes of clients' keys by name, as `rhizome keys new NAME` prints them."""
    keys_file: Path | None = None
    """File with more of them, `name: sha256:HEX` a line; it may change while the router runs."""
    allow_anonymous: bool = False
    """Serve without keys; where this is not set and there are none, the router does not start."""
    discovery: DiscoverySettings = DiscoverySettings()
    """How workers are found and watched."""
    relay: RelaySettings = RelaySettings()
    """Deadlines and bounds towards workers."""
    http: HttpSettings = HttpSettings()
    """Deadlines and bounds towards clients."""
    admission: AdmissionSettings = AdmissionSettings()
    """How much is let in, and who waits."""
    prefix: PrefixSettings = PrefixSettings()
    """The prefix index."""
    warmup: WarmupSettings = WarmupSettings()
    """What a worker gets before its first request."""
    media: MediaSettings = MediaSettings()
    """Media by URL."""
    responses: ResponsesSettings = ResponsesSettings()
    """Stored responses."""
    catalog_file: Path | None = None
    """A file of model names as clients use them, with shares, fallbacks and outside providers (see
    docs/api.md); followed while the router runs."""
    scheduling: SchedulingSettings = SchedulingSettings()
    """The choice of a worker."""
    trust: TrustSettings = TrustSettings()
    """Checks of what workers say of their caches."""
    rendering: RenderingSettings = RenderingSettings()
    """From requests to token ids."""
    decisions: DecisionSettings = DecisionSettings()
    """What is kept to explain decisions."""
    admin: AdminSettings = AdminSettings()
    """The admin API."""
    peers: PeerSettings = PeerSettings()
    """What routers tell each other."""
    signal_interval_s: Seconds = 1.0
    """Time between two reports to the autoscaler."""
    shutdown_grace_s: Seconds = 30.0
    """How long running requests may finish after SIGTERM."""


class Settings(Slice):
    """The whole tree."""

    name: str = Field(default="default", pattern=r"^[a-z0-9-]{1,40}$")
    """The cluster's name; two names run side by side on one machine."""
    state_directory: Path = Path("~/.cache/rhizome")
    """Where models, logs and sockets of local clusters are kept."""
    logs: LogSettings = LogSettings()
    """Logging."""
    redis: RedisSettings = RedisSettings()
    """Shared state."""
    router: RouterSettings = RouterSettings()
    """The router."""
    batch: BatchSettings = BatchSettings()
    """Files and batches."""
    worker: WorkerSettings = WorkerSettings()
    """Workers."""
    controller: ControllerSettings = ControllerSettings()
    """The controller."""
    models: tuple[ModelSpec, ...] = ()
    """The models to serve."""

    @model_validator(mode="after")
    def _model_names_differ(self) -> Settings:
        names = [model.name for model in self.models]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise ValueError(f"two models share the name {double[0]!r}")
        return self
