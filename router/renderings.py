"""One rendering per model directory, loaded off the event loop as soon as a worker names it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from msgspec.structs import replace

from rhizome.clock import Clock
from rhizome.errors import ModelUnusable
from rhizome.fleet.records import WorkerRecord
from rhizome.render.files import model_directory
from rhizome.render.outcomes import Rendered, Why
from rhizome.render.renderer import Renderer, load_renderer
from rhizome.settings.tree import RouterSettings
from rhizome.tasks import Tasks
from router.faults import Faults, Part
from router.http.bodies import ChatBody, CompletionBody, EngineBody
from router.render.rendering import Rendering

_log = logging.getLogger(__name__)
_DIRECTORIES_MAX = 256


class Renderings:
    """Renders prompts with the tokenizer of the worker's model, or approximately without one.

    A fleet listener: loading starts when a worker joins; until it has ended, requests go on
    approximately.
    """

    def __init__(
        self, settings: RouterSettings, tasks: Tasks, faults: Faults, clock: Clock
    ) -> None:
        self._settings = settings
        self._tasks = tasks
        self._faults = faults
        self._clock = clock
        self._approximate = self._rendering_by(None)
        self._loading: dict[Path, asyncio.Task[Rendering]] = {}

    def joined(self, record: WorkerRecord) -> None:
        self._rendering(record)

    def left(self, record: WorkerRecord) -> None:
        """Kept: the worker may come back, and others of its model may be there."""

    async def render(self, body: EngineBody, record: WorkerRecord | None) -> Rendered:
        """The body's prompt; raises nothing for any body. What generates nothing has none."""
        if not isinstance(body, (ChatBody, CompletionBody)):
            return Rendered(None, b"", Why.SHAPE)
        loading = self._rendering(record) if record is not None else None
        if loading is None or not loading.done():
            rendered = await self._approximate.render(body)
            is_loading = loading is not None and rendered.why is Why.NO_TOKENIZER
            return replace(rendered, why=Why.LOADING) if is_loading else rendered
        return await loading.result().render(body)

    def close(self) -> None:
        """Stops the threads of all renderings."""
        for loading in self._loading.values():
            if loading.done() and not loading.cancelled():
                loading.result().close()

    def _rendering(self, record: WorkerRecord) -> asyncio.Task[Rendering] | None:
        directory = model_directory(self._settings.tokenizer, record.model_root)
        if directory is None:
            return None
        loading = self._loading.get(directory)
        if loading is None:
            if len(self._loading) >= _DIRECTORIES_MAX:
                return None
            work = self._load(directory, record.model)
            loading = self._loading[directory] = self._tasks.start("load-tokenizer", work)
        return loading

    async def _load(self, directory: Path, model: str) -> Rendering:
        renderer: Renderer | None = None
        try:
            with self._faults.contained(Part.TOKENIZER):
                renderer = await asyncio.to_thread(load_renderer, directory)
        except ModelUnusable as error:
            _log.warning("%s is routed in approximate mode: %s", model, error.message)
        return self._rendering_by(renderer)

    def _rendering_by(self, renderer: Renderer | None) -> Rendering:
        return Rendering(renderer, self._faults, self._settings.rendering, self._clock)
