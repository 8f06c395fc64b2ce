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
from router.http.bodies import EngineBody
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

    def at_once(self, body: EngineBody, record: WorkerRecord | None) -> Rendered | None:
        """The body's prompt where it is had quickly, else None: `later` waits for it. Raises
        nothing for any body."""
        rendering, is_loading = self._for(record)
        rendered = rendering.at_once(body)
        if not is_loading or rendered is None:
            return rendered
        return _while_loading(rendered)

    async def later(self, body: EngineBody, record: WorkerRecord | None) -> Rendered:
        """The same for what is not had at once."""
        rendering, is_loading = self._for(record)
        rendered = await rendering.later(body)
        return _while_loading(rendered) if is_loading else rendered

    def close(self) -> None:
        """Stops the threads of all renderings."""
        for loading in self._loading.values():
            if loading.done() and not loading.cancelled():
                loading.result().close()

    def _for(self, record: WorkerRecord | None) -> tuple[Rendering, bool]:
        """What renders for the worker now, and whether what shall do it is still loaded."""
        loading = self._rendering(record) if record is not None else None
        if loading is None or not loading.done():
            return self._approximate, loading is not None
        return loading.result(), False

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


def _while_loading(rendered: Rendered) -> Rendered:
    return replace(rendered, why=Why.LOADING) if rendered.why is Why.NO_TOKENIZER else rendered
