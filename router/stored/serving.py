"""Serves `/v1/responses`: resolves what came before, and keeps what comes.

Stored is what a client does not forbid (`store: false`), as OpenAI does it, where the cluster has a
Redis. A client that demands `store: true` gets 503 when nothing can be stored; one that does not
say gets its answer all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from rhizome.clock import Clock
from rhizome.errors import (
    InvalidRequest,
    QueueFull,
    RequestError,
    StoreUnavailable,
    UnknownObject,
)
from rhizome.ids import new_id
from rhizome.settings.tree import RouterSettings
from rhizome.stores.responses import StoredResponses
from rhizome.tasks import Tasks
from router.call import Call
from router.http.client import Client
from router.http.responses import ResponseBody
from router.stored.events import begun, ended
from router.stored.holding import HoldingClient
from router.stored.recording import Recording
from router.stored.records import (
    BEAT_S,
    RUNNING,
    Fields,
    Run,
    StoredResponse,
    conversation,
    finished,
    for_engine,
    queued,
)
from router.stored.retelling import Retelling

_log = logging.getLogger(__name__)
_BEATS_MISSED = 5
_decoder = msgspec.json.Decoder(StoredResponse)
_encode = msgspec.json.Encoder().encode


class Serves(Protocol):
    """Whatever answers calls."""

    async def serve(self, call: Call, client: Client) -> None: ...


class Generates(Serves, Protocol):
    """A `Serves` that can tell beforehand whom it cannot answer."""

    def require_model(self, name: str) -> None:
        """Raises `UnknownModel` or `NotReady` for a name that nobody serves."""
        ...


class StoringService:
    """A `Serves` before another one. Calls that are no responses pass untouched."""

    def __init__(
        self,
        service: Generates,
        store: StoredResponses | None,
        settings: RouterSettings,
        tasks: Tasks,
        clock: Clock,
    ) -> None:
        self._service = service
        self._store = store
        self._settings = settings.responses
        self._tasks = tasks
        self._clock = clock
        followers_max, interval_s = self._settings.background_max, settings.relay.comment_interval_s
        self.retelling = Retelling(self.found, self._live, clock, followers_max, interval_s)
        self._background: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._streams: dict[tuple[str, str], Recording] = {}

    def serve(self, call: Call, client: Client) -> Coroutine[Any, Any, None]:
        if not isinstance(call.body, ResponseBody):
            return self._service.serve(call, client)
        return self._serve_response(call, call.body, client)

    async def _serve_response(self, call: Call, body: ResponseBody, client: Client) -> None:
        asked, owner = body.fields, call.principal.name
        previous = await self._previous(owner, asked.get("previous_response_id"))
        items = conversation(previous, asked["input"])
        response_id = new_id("resp").replace("-", "_")
        call.body = replace(
            body,
            fields=for_engine(asked, response_id, None if previous is None else items),
            is_changed=True,
        )
        if asked.get("background") is True:
            return await self._serve_later(call, client, asked, items)
        if asked.get("store") is True:
            return await self._serve_promised(call, client, asked, items)
        if asked.get("store") is False or self._store is None:
            return await self._service.serve(call, client)
        holding = HoldingClient(client)
        try:
            await self._service.serve(call, holding)
            if holding.response is not None:
                await self._keep(owner, _kept(holding.response, asked, items, response_id))
        finally:
            holding.release()

    async def found(self, owner: str, response_id: str) -> StoredResponse:
        """A stored response; raises `UnknownObject` or `StoreUnavailable`."""
        record = await self._demanded().get(owner, response_id)
        if record is None:
            raise UnknownObject(f"there is no response {response_id!r}", param="response_id")
        return _decoder.decode(record)

    async def shown(self, owner: str, response_id: str) -> Fields:
        """A stored response's object; raises as `found` does."""
        return (await self.found(owner, response_id)).shown(self._clock.wall_s())

    async def remove(self, owner: str, response_id: str) -> None:
        """Forgets a response; work on it in the background ends. Raises as `found` does."""
        if not await self._demanded().delete(owner, response_id):
            raise UnknownObject(f"there is no response {response_id!r}", param="response_id")
        self._stop(owner, response_id)

    async def cancel(self, owner: str, response_id: str) -> Fields:
        """Ends work in the background, whichever router does it; raises as `found` does."""
        record = await self.found(owner, response_id)
        if record.response.get("background") is not True:
            raise InvalidRequest("only responses with 'background' can be cancelled")
        if record.status not in RUNNING:
            return record.shown(self._clock.wall_s())
        cancelled = record.with_response(status="cancelled")
        await self._put(owner, cancelled)
        self._stop(owner, response_id)
        return cancelled.response

    async def _previous(self, owner: str, response_id: str | None) -> StoredResponse | None:
        if response_id is None:
            return None
        record = await self._demanded().get(owner, response_id)
        if record is None:
            raise UnknownObject(
                f"there is no response {response_id!r} to continue", param="previous_response_id"
            )
        previous = _decoder.decode(record)
        if previous.status in RUNNING:
            raise InvalidRequest(
                f"the response {response_id!r} is not finished yet", param="previous_response_id"
            )
        return previous

    async def _keep(self, owner: str, record: StoredResponse, promised: str | None = None) -> None:
        """Stores an answer that the client is about to get, whether that can be done or not.

        One that was promised, by that id, may have been deleted meanwhile.
        """
        try:
            if promised is None or await self._is_wanted(owner, promised):
                await self._put(owner, record)
        except RequestError as error:
            _log.warning("response %s is not stored: %s", record.response["id"], error.message)

    async def _put(self, owner: str, record: StoredResponse) -> None:
        body = _encode(record)
        if len(body) > self._settings.bytes_max:
            raise InvalidRequest(f"it is longer than {self._settings.bytes_max} bytes")
        await self._demanded().put(owner, record.response["id"], body, self._settings.ttl_s)

    def _demanded(self) -> StoredResponses:
        if self._store is None:
            raise StoreUnavailable("stored responses need a Redis: set redis.url")
        return self._store

    # Promised to be stored

    async def _serve_promised(
        self, call: Call, client: Client, asked: Fields, items: list[Any]
    ) -> None:
        """Stores the response as one in progress before the work begins, and keeps that young."""
        owner, holding, ended = call.principal.name, HoldingClient(client), asyncio.Event()
        record = self._placeholder(call, asked, items).with_response(status="in_progress")
        response_id = record.response["id"]
        await self._put(owner, record)
        beating = self._tasks.start("stored-response", self._beat(owner, record, ended))
        try:
            await self._service.serve(call, holding)
            ended.set()
            if holding.response is not None:
                await beating
                kept = _kept(holding.response, asked, items, response_id)
                await self._keep(owner, kept, promised=response_id)
        finally:
            ended.set()
            answer = holding.response
            if answer is None or answer.get("id", response_id) != response_id:
                self._tasks.start("forget-response", self._forget(owner, response_id, beating))
            holding.release()

    async def _beat(self, owner: str, record: StoredResponse, ended: asyncio.Event) -> None:
        """Shows until `ended` that the response is worked on, unless it is deleted."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await ended.wait()
                return
            with contextlib.suppress(RequestError):  # the store is away: it may come back
                if not await self._is_wanted(owner, record.response["id"]):
                    return
                young = msgspec.structs.replace(record, beats_until_s=self._beats_until_s())
                await self._put(owner, young)

    async def _forget(self, owner: str, response_id: str, beating: asyncio.Task[None]) -> None:
        """Takes back what was stored for an answer that never came."""
        await beating
        try:
            await self._demanded().delete(owner, response_id)
        except RequestError as error:
            _log.warning("response %s stays as a failed one: %s", response_id, error.message)

    # In the background

    async def _serve_later(
        self, call: Call, client: Client, asked: Fields, items: list[Any]
    ) -> None:
        """Answers at once; a stream follows the work, which does not end with it."""
        if asked.get("store") is False:
            raise InvalidRequest("'background' does not go without 'store'", param="background")
        self._service.require_model(call.body.model)
        is_followed = asked.get("stream") is True
        if is_followed:
            self.retelling.require_room()
        if len(self._background) >= self._settings.background_max:
            raise QueueFull("this router works on as many responses in the background as it may")
        record, owner = self._placeholder(call, asked, items), call.principal.name
        recording = Recording(begun(record.response) if is_followed else ())
        record = msgspec.structs.replace(record, told=recording.journal.runs)
        await self._put(owner, record)
        key = owner, str(record.response["id"])
        work = self._work(call, record, asked, recording)
        task = self._background[key] = self._tasks.start("background-response", work)
        task.add_done_callback(lambda _: self._ended(key, recording))
        headers = (("x-request-id", call.request_id),)
        if is_followed:
            self._streams[key] = recording
            await self.retelling.tell(owner, record, client, headers)
        else:
            client.whole(200, "application/json", headers, _encode(record.response))

    def _placeholder(self, call: Call, asked: Fields, items: list[Any]) -> StoredResponse:
        """What is stored before the work begins: shows early that something can be stored."""
        response_id, created_at = call.body.fields["request_id"], int(self._clock.wall_s())
        response = queued(asked, call.body.model, response_id, created_at)
        return StoredResponse(response=response, items=items, beats_until_s=self._beats_until_s())

    async def _work(
        self, call: Call, record: StoredResponse, asked: Fields, recording: Recording
    ) -> None:
        """Answers the call for nobody and stores the answer, unless it was cancelled."""
        owner, response_id = call.principal.name, record.response["id"]
        serving = self._tasks.start("background-serving", self._answer(call, recording))
        told = recording.journal.runs
        try:
            running = record.with_response(status="in_progress")
            while not serving.done():
                if not await self._is_wanted(owner, response_id):
                    return
                until_s = self._beats_until_s()
                young = msgspec.structs.replace(running, beats_until_s=until_s, told=told)
                await self._put(owner, young)
                await asyncio.wait({serving}, timeout=BEAT_S)
            failure = serving.result()
            if failure is None and recording.response is not None:
                response = finished(recording.response, asked, response_id)
            else:
                why = failure or _reason(recording.refusal)
                error = {"code": "server_error", "message": why}
                response = {**running.response, "status": "failed", "error": error}
            if await self._is_wanted(owner, response_id):
                told = [*told, Run(ended(response))] if told else []
                done = StoredResponse(response=response, items=record.items, told=told)
                await self._put(owner, done)
        except RequestError as error:
            _log.warning("response %s is given up: %s", response_id, error.message)
        finally:
            serving.cancel()

    async def _answer(self, call: Call, client: Client) -> str | None:
        """Why there is no answer, if there is none."""
        try:
            await self._service.serve(call, client)
        except RequestError as error:
            return error.message
        return None

    async def _is_wanted(self, owner: str, response_id: str) -> bool:
        record = await self._demanded().get(owner, response_id)
        return record is not None and _decoder.decode(record).status in RUNNING

    def _ended(self, key: tuple[str, str], recording: Recording) -> None:
        self._background.pop(key, None)
        self._streams.pop(key, None)
        recording.close()

    def _live(self, owner: str, response_id: str) -> Recording | None:
        return self._streams.get((owner, response_id))

    def _stop(self, owner: str, response_id: str) -> None:
        task = self._background.get((owner, response_id))
        if task is not None:
            task.cancel()

    def _beats_until_s(self) -> float:
        return self._clock.wall_s() + _BEATS_MISSED * BEAT_S


def _kept(answer: Fields, asked: Fields, items: list[Any], response_id: str) -> StoredResponse:
    """The record of an answer by the id that the client sees; engines have it from the request."""
    response = finished(answer, asked, str(answer.get("id") or response_id))
    return StoredResponse(response=response, items=items)


def _reason(refusal: bytes | None) -> str:
    """What an engine said that refused the request."""
    if refusal is None:
        return "the engine did not finish its answer"
    return refusal[:1000].decode("utf-8", "replace")
