"""The routers' admin APIs, as commands call them: where they are, with which key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import aiohttp
import typer

from rhizome.cli.stores import cluster_settings
from rhizome.errors import ClusterError, SettingsError, StartError
from rhizome.settings.load import load_settings
from rhizome.settings.tree import AdminSettings, Settings

_TIMEOUT_S = 30.0
_KEY_BYTES_MAX = 4096
_ADVICE = (
    "Give the address with --admin URL, or the cluster with --name or --config; a router serves it "
    "when router.admin.key is set (`rhizome up` sets one)."
)
T = TypeVar("T")

AdminOption = Annotated[
    list[str] | None,
    typer.Option("--admin", help="A router's admin API, http://host:port. Repeat for more."),
]
KeyFileOption = Annotated[
    Path | None, typer.Option("--key-file", help="File with the key of the admin API.")
]
NameOption = Annotated[str | None, typer.Option("--name", help="A local cluster's name.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="Settings file (YAML).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class NotThere(ClusterError):
    """The router answered 404: it knows nothing of what was asked for."""


@dataclass(frozen=True, slots=True)
class AdminApi:
    """One router's admin API."""

    url: str
    key: str | None = field(default=None, repr=False)

    async def call(self, method: str, path: str, body: object = None) -> Any:
        """The answer's JSON; raises `NotThere` for 404 and `ClusterError` for all else."""
        headers = {"Content-Type": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        sent = {} if body is None and method == "POST" else body
        try:
            async with (
                aiohttp.ClientSession(headers=headers, timeout=timeout) as session,
                session.request(method, f"{self.url}/admin/v1{path}", json=sent) as response,
            ):
                answer = await response.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ClusterError(
                f"no answer from the admin API at {self.url}: {error or type(error).__name__}",
                advice=_ADVICE,
            ) from error
        if response.status < 400:
            return answer
        message = f"{self.url} answered {response.status}: {_message(answer)}"
        if response.status == 404:
            raise NotThere(message)
        advice = "Give the key with --key-file." if response.status == 401 else ""
        raise ClusterError(message, advice=advice)


def find_admins(
    urls: list[str] | None, key_file: Path | None, name: str | None, config: Path | None
) -> list[AdminApi]:
    """The admin APIs meant: those given, else that of the settings, else the local cluster's.

    Raises `ClusterError` where there is none, `SettingsError` for an unusable key file.
    """
    key = None if key_file is None else _read_key(key_file)
    if urls:
        if key is None:
            key = _key_of(load_settings(config))
        return [AdminApi(url.rstrip("/"), key) for url in urls]
    settings = load_settings(config) if config is not None else cluster_settings(None, name)
    if key is None:
        key = _key_of(settings)
    return [AdminApi(_url(settings.router.admin), key)]


def ask_each(
    admins: list[AdminApi], ask: Callable[[AdminApi], Awaitable[T]]
) -> tuple[list[T], list[StartError]]:
    """The answers of all that answered, and why the others did not."""

    async def asked() -> list[T | StartError]:
        return await asyncio.gather(*(_asked(ask, admin) for admin in admins))

    found = asyncio.run(asked())
    errors = [one for one in found if isinstance(one, StartError)]
    return [one for one in found if not isinstance(one, StartError)], errors


def each_router(answers: list[Any]) -> list[Any]:
    """The answers of single routers: one with several processes answers for each of them."""
    return [one for answer in answers for one in answer.get("routers", [answer])]


async def _asked(ask: Callable[[AdminApi], Awaitable[T]], admin: AdminApi) -> T | StartError:
    try:
        return await ask(admin)
    except StartError as error:
        return error


def _key_of(settings: Settings) -> str | None:
    """The key in the settings, else that of the local cluster of their name."""
    if settings.router.admin.key is not None:
        return settings.router.admin.key.get_secret_value()
    from cluster.local.layout import ClusterFiles

    file = ClusterFiles.of(settings.state_directory, settings.name).admin_key
    return _read_key(file) if file.is_file() else None


def _read_key(file: Path) -> str:
    try:
        key = file.expanduser().read_bytes()[:_KEY_BYTES_MAX].decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the key file {file}: {error}") from error
    if not key:
        raise SettingsError(f"the key file {file} is empty")
    return key


def _url(admin: AdminSettings) -> str:
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - translated, not bound to
    host = anywhere.get(admin.host, admin.host)
    return f"http://{host}:{admin.port}"


def _message(answer: object) -> str:
    if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
        return str(answer["error"].get("message", ""))
    return str(answer)[:200]
