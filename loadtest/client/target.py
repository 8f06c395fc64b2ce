"""What a run is aimed at, looked at before the first request: does it live, what does it serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from loadtest.client.connection import Address
from loadtest.prompts import PromptWriter
from rhizome.errors import TargetUnusable
from rhizome.render.files import model_directory

_TIMEOUT_S = 10.0
_SAMPLE_WORDS = 64


class TargetFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the target says of itself."""

    url: str
    model: str
    models: list[str]
    root: str | None
    """Where the model lies, as vLLM says."""
    version: str | None
    max_model_len: int | None


class Target:
    """A server that is to be loaded."""

    def __init__(self, url: str, api_key: str | None) -> None:
        """Raises `TargetUnusable` for what is no URL."""
        Address.of(url)
        self.url = url.rstrip("/").removesuffix("/v1")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def facts(self, model: str | None) -> TargetFacts:
        """The model asked for, or the first; raises `TargetUnusable`."""
        status, body = await self._ask("GET", "/v1/models")
        entries = body.get("data") if isinstance(body, dict) else None
        if status != 200 or not isinstance(entries, list):
            raise TargetUnusable(
                f"{self.url}/v1/models answered {status}: {_message(body)}",
                advice="Give the key with --api-key." if status in {401, 403} else "",
            )
        served = {str(one["id"]): one for one in entries if isinstance(one, dict) and "id" in one}
        chosen = model if model is not None else next(iter(served), None)
        if chosen is None:
            raise TargetUnusable(f"{self.url} serves no model", advice="See `rhizome status`.")
        if chosen not in served:
            raise TargetUnusable(
                f"{self.url} does not serve the model {chosen!r}",
                advice=f"It serves: {', '.join(served) or 'nothing'}.",
            )
        entry = served[chosen]
        return TargetFacts(
            url=self.url,
            model=chosen,
            models=list(served),
            root=entry.get("root") if isinstance(entry.get("root"), str) else None,
            version=await self._version(),
            max_model_len=entry.get("max_model_len"),
        )

    async def check_tokenizer(self, model: str, writer: PromptWriter) -> bool:
        """Whether the target was seen to use the same tokenizer; False where it does not tell.

        Raises `TargetUnusable` when it uses another one.
        """
        text = " " + " ".join(writer.words[-_SAMPLE_WORDS:])
        asked = {"model": model, "prompt": text, "add_special_tokens": False}
        try:
            status, body = await self._ask("POST", "/tokenize", asked)
        except TargetUnusable:
            return False
        tokens = body.get("tokens") if isinstance(body, dict) else None
        if status != 200 or not isinstance(tokens, list):
            return False
        if tokens != writer.encode(text):
            raise TargetUnusable(
                f"{self.url} encodes text of {model!r} in another way than the tokenizer given",
                advice="Give the directory of the model that is served with --tokenizer.",
            )
        return True

    async def _version(self) -> str | None:
        try:
            status, body = await self._ask("GET", "/version")
        except TargetUnusable:
            return None
        version = body.get("version") if status == 200 and isinstance(body, dict) else None
        return version if isinstance(version, str) else None

    async def _ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Status and decoded body; raises `TargetUnusable` when there is no answer."""
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=self._headers) as session,
                session.request(method, self.url + path, json=body) as response,
            ):
                data = await response.read()
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise TargetUnusable(
                f"no answer from {self.url}{path}: {str(error) or type(error).__name__}",
                advice="Is it running, and is this its address?",
            ) from error
        try:
            return status, msgspec.json.decode(data)
        except msgspec.MsgspecError:
            return status, data[:200].decode("utf-8", "replace")


def tokenizer_directory(given: Path | None, facts: TargetFacts) -> Path:
    """The directory given, or where the target says that its model lies on this machine."""
    found = model_directory(given, facts.root)
    if found is None:
        raise TargetUnusable(
            f"where the tokenizer of {facts.model!r} lies is not known",
            advice="Give its directory with --tokenizer.",
        )
    return found


def _message(body: Any) -> str:
    if isinstance(body, dict) and isinstance(body.get("error"), dict):
        return str(body["error"].get("message"))
    return str(body)[:200]
