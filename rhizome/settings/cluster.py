"""The settings of workers, the controller and the batch runner."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from rhizome.settings.slices import Port, Seconds, Slice


class BatchSettings(Slice):
    directory: Path | None = None
    """Where file contents are kept, shared by all routers and runners; absent: `batch-files` in the
    cluster's state directory."""
    retention_s: float = Field(default=30 * 86_400, gt=0, le=3660 * 86_400)
    """How long files, and batches that have ended, are kept."""
    file_bytes_max: int = Field(default=100 * 2**20, ge=1024, le=2**33)
    """Longest uploaded file, in bytes."""
    lines_max: int = Field(default=50_000, ge=1, le=1_000_000)
    """Most lines of one batch."""
    line_bytes_max: int = Field(default=2**20, ge=1024, le=2**26)
    """Longest line of a batch's input, in bytes."""
    result_bytes_max: int = Field(default=2**20, ge=1024, le=2**26)
    """Longest response that is kept for a line, in bytes."""
    api_key: SecretStr | None = None
    """Key that runners present to the router; absent: the first of `router.api_keys`."""
    router_url: str | None = None
    """`http://host:port` that runners send lines to; absent: `router.host` and `router.port`."""
    concurrency: int = Field(default=8, ge=1, le=4096)
    """Lines that one runner keeps in flight."""
    lease_s: Seconds = 15.0
    """How long a runner may be silent before its lines go to another."""
    deliveries_max: int = Field(default=3, ge=1, le=100)
    """Times a line is handed out before it goes to the dead-letter list."""
    line_timeout_s: Seconds = 3600.0
    """Longest time for one line."""


class WorkerSettings(Slice):
    host: str = "127.0.0.1"
    """Address that the engine's HTTP and event sockets bind to."""
    lease_ttl_s: Seconds = 6.0
    """A worker that is silent this long is gone."""
    heartbeat_s: Seconds = 1.5
    """Time between two lease renewals."""
    start_timeout_s: Seconds = 1800.0
    """Longest time for an engine to load."""
    drain_grace_s: Seconds = 60.0
    """How long running requests may finish when a worker stops."""
    event_ring_batches: int = Field(default=20_000, ge=16, le=10_000_000)
    """KV event batches kept for routers that join late."""


class ScalingSettings(Slice):
    enabled: bool = True
    """Let the autoscaler move targets between each model's bounds."""
    ttft_target_ms: float = Field(default=2000.0, gt=0)
    """Predicted first-token time above which a model grows."""
    queue_wait_target_ms: float = Field(default=500.0, ge=0)
    """Queue wait above which a model grows."""
    up_after_s: Seconds = 3.0
    """How long the pressure must last before a model grows."""
    down_after_s: Seconds = 60.0
    """How long a model must be idle enough before it shrinks."""
    down_utilization: float = Field(default=0.3, ge=0, lt=1)
    """Shrink only if the rest would stay below this share of their room."""
    step_max: int = Field(default=2, ge=1, le=1000)
    """Most workers added at once."""


class ControllerSettings(Slice):
    interval_s: Seconds = 1.0
    """Time between two reconciliations."""
    ray_address: str | None = None
    """Address of a Ray cluster; absent: the local one that `rhizome up` started."""
    ray_namespace: str = Field(default="rhizome", pattern=r"^[a-z0-9-]{1,63}$")
    """Ray namespace of the worker actors."""
    leader_ttl_s: Seconds = 10.0
    """How long a silent controller keeps the lead."""
    restart_backoff_s_max: Seconds = 60.0
    """Longest pause between two starts of a worker that keeps failing."""
    metrics_host: str = "127.0.0.1"
    """Address of the controller's metrics page."""
    metrics_port: Port = 9101
    """Port of the controller's metrics page."""
    scaling: ScalingSettings = ScalingSettings()
    """The autoscaler."""
