"""From what the user asked to the settings of one local cluster, before anything starts.

Local defaults (two demonstration models, free metrics ports, a short shutdown grace) stand beneath
the user's file, variables and flags: what was set anywhere else is kept, or refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from cluster.local.layout import ClusterFiles, write_private
from cluster.local.ports import port_or_free, require_port
from rhizome.addresses import is_loopback
from rhizome.errors import SettingsError
from rhizome.fleet.models import ModelSpec, ScalingBounds
from rhizome.ids import hash_of, new_key
from rhizome.settings.load import load_settings
from rhizome.settings.tree import RouterSettings, Settings

_SHUTDOWN_GRACE_S = 10.0
_KV_CACHE_MEMORY = "200M"
_CPU_BLOCK_SIZE = 32
_FIRST_NAME = "default"
_ADMIN = "rhizome-up"
Part = TypeVar("Part", bound=BaseModel)

DEMO_MODELS = (
    ModelSpec(
        name="llama-demo",
        source="demo:llama",
        workers=2,
        scaling=ScalingBounds(min_workers=2, max_workers=3),
        block_size=_CPU_BLOCK_SIZE,
        kv_cache_memory=_KV_CACHE_MEMORY,
        max_model_len=4096,
    ),
    ModelSpec(
        name="mixtral-demo",
        source="demo:mixtral",
        workers=1,
        block_size=_CPU_BLOCK_SIZE,
        kv_cache_memory=_KV_CACHE_MEMORY,
        max_model_len=4096,
    ),
)


@dataclass(frozen=True)
class Asked:
    """The flags of `rhizome up`; None where one was not given."""

    config: Path | None = None
    name: str | None = None
    port: int | None = None
    redis_url: str | None = None
    model: str | None = None
    served_name: str | None = None
    workers: int | None = None
    engine: Literal["vllm", "simulated"] | None = None
    device: Literal["cpu", "gpu"] | None = None
    engine_args: Mapping[str, Any] = field(default_factory=dict)
    """Flags of the simulated engine."""


def plan_settings(asked: Asked) -> Settings:
    """The settings without ports chosen; raises `SettingsError`."""
    settings = load_settings(
        asked.config,
        flags={
            "name": asked.name,
            "router.port": asked.port,
            "redis.url": asked.redis_url,
        },
    )
    models = _models(asked, settings)
    changes: dict[str, Any] = {"models": models}
    if "namespace" not in settings.redis.model_fields_set:
        changes["redis"] = settings.redis.model_copy(
            update={"namespace": f"rhizome-{settings.name}"}
        )
    changes["router"] = settings.router.model_copy(update=_local_router(settings.router))
    return settings.model_copy(update=changes)


def _local_router(router: RouterSettings) -> dict[str, Any]:
    """A laptop's router ends soon, and asks for no keys while nobody else can reach it."""
    changes: dict[str, Any] = {}
    if "shutdown_grace_s" not in router.model_fields_set:
        changes["shutdown_grace_s"] = _SHUTDOWN_GRACE_S
    if "allow_anonymous" not in router.model_fields_set and is_loopback(router.host):
        changes["allow_anonymous"] = True
    return changes


def choose_ports(settings: Settings) -> Settings:
    """The same with every port decided: asked-for ones must be free, the others are made to fit.

    Only the cluster named `default` takes the metrics ports' defaults: clusters that start at the
    same time would both find them free. Raises `PortInUse` naming the port and the flag or setting.
    """
    router, controller = settings.router, settings.controller
    first = settings.name == _FIRST_NAME
    require_port(router.host, router.port, "--port")
    taken = {router.port}

    def decided(part: Part, field: str, host: str, setting: str) -> Part:
        port = getattr(part, field)
        if field in part.model_fields_set:
            require_port(host, port, setting)
        else:
            port = port_or_free(host, port if first else 0, frozenset(taken))
        taken.add(port)
        return part.model_copy(update={field: port})

    router = decided(router, "metrics_port", router.metrics_host, "router.metrics_port")
    controller = decided(
        controller, "metrics_port", controller.metrics_host, "controller.metrics_port"
    )
    admin = decided(router.admin, "port", router.admin.host, "router.admin.port")
    router = router.model_copy(update={"admin": admin})
    return settings.model_copy(update={"router": router, "controller": controller})


def with_admin_key(settings: Settings, files: ClusterFiles) -> Settings:
    """The same with an admin key of the cluster's own, kept in a file, where none was set."""
    admin = settings.router.admin
    if admin.key is not None or admin.keys or admin.allow_anonymous:
        return settings
    key = new_key()
    write_private(files.admin_key, key + "\n")
    admin = admin.model_copy(update={"keys": {_ADMIN: hash_of(key)}})
    router = settings.router.model_copy(update={"admin": admin})
    return settings.model_copy(update={"router": router})


def _models(asked: Asked, settings: Settings) -> tuple[ModelSpec, ...]:
    if asked.model is None:
        models = settings.models or DEMO_MODELS
        if asked.served_name is not None:
            raise SettingsError(
                "--served-name needs --model", advice="Give the model's source with --model."
            )
        return tuple(_adjusted(spec, asked) for spec in models)
    return (_one_model(asked, asked.model),)


def _adjusted(spec: ModelSpec, asked: Asked) -> ModelSpec:
    """The spec with the flags that fit every model."""
    changes: dict[str, Any] = {}
    if asked.engine is not None:
        changes["engine"] = asked.engine
    if asked.engine_args:
        changes["engine_args"] = dict(spec.engine_args) | dict(asked.engine_args)
    if "simulated" in (asked.engine, spec.engine) and spec in DEMO_MODELS:
        # The demonstration's sizes are for its weights on a CPU; the profile brings its own.
        changes |= {"block_size": None, "kv_cache_memory": None, "max_model_len": None}
    if asked.device is not None:
        changes["device"] = asked.device
    if asked.workers is not None:
        changes["workers"] = asked.workers
        if spec.scaling is not None:
            changes["scaling"] = ScalingBounds(
                min_workers=min(spec.scaling.min_workers, asked.workers),
                max_workers=max(spec.scaling.max_workers, asked.workers),
            )
    return spec.model_copy(update=changes)


def _one_model(asked: Asked, source: str) -> ModelSpec:
    device = asked.device or "cpu"
    on_cpu = device == "cpu" and asked.engine != "simulated"
    try:
        return ModelSpec(
            name=asked.served_name or _served_name(source),
            source=source,
            engine=asked.engine or "vllm",
            device=device,
            workers=1 if asked.workers is None else asked.workers,
            block_size=_CPU_BLOCK_SIZE if on_cpu else None,
            kv_cache_memory=_KV_CACHE_MEMORY if on_cpu else None,
            engine_args=dict(asked.engine_args),
        )
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'model'}: {fault['msg']}"
            for fault in error.errors(include_url=False, include_input=False)
        )
        raise SettingsError(
            f"the model cannot be served as asked: {faults}",
            advice="Choose the name that clients use with --served-name.",
        ) from error


def _served_name(source: str) -> str:
    """The demonstration's name, a hub id as it is, or the directory's own name."""
    for spec in DEMO_MODELS:
        if spec.source == source:
            return spec.name
    path = Path(source).expanduser()
    looks_local = source.startswith((".", "/", "~")) or path.is_dir()
    return path.resolve().name if looks_local else source
