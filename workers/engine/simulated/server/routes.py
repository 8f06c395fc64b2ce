"""Paths of a simulated worker, and what each answers.

Everything here is synchronous: a handler answers at once or lets the engine's tokens answer. The
order of checks is vLLM's, since it decides which of several faults a client is told.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from rhizome.addresses import is_loopback
from rhizome.errors import AuthenticationFailed
from rhizome.ids import new_id
from rhizome.render.outcomes import CannotRender
from workers.engine.simulated.server import tokenizing
from workers.engine.simulated.server.breaking import Breaking
from workers.engine.simulated.server.chat_messages import check_messages
from workers.engine.simulated.server.checks import check_media_arguments
from workers.engine.simulated.server.exposition import (
    CONTENT_TYPE,
    MOUNTED_CONTENT_TYPE,
    exposition,
)
from workers.engine.simulated.server.generation import Generation
from workers.engine.simulated.server.http import Exchange
from workers.engine.simulated.server.refusals import MALFORMED, Refusal, not_simulated, unrendered

if TYPE_CHECKING:
    from workers.engine.simulated.server.worker import SimulatedWorker

VERSION = "0.32.0"
FAULT_PATH = "/simulate/fault"
_NOT_FOUND = b'{"detail":"Not Found"}'
_NOT_ALLOWED = b'{"detail":"Method Not Allowed"}'
_encode = msgspec.json.Encoder().encode
_SCALE_OUT = (
    *("/v1/chat/completions/render", "/v1/completions/render", "/v1/messages/render"),
    *("/v1/responses/render", "/v1/chat/completions/derender", "/v1/completions/derender"),
    *("/inference/v1/generate", "/inference/v1/abort_requests"),
)
"""Endpoints that vLLM serves with `--enable-scale-out` only."""
Handler = Callable[[Exchange], None]
_ANY = "any"
"""Every method."""


class Routes:
    """The worker's paths."""

    def __init__(self, worker: SimulatedWorker) -> None:
        self._worker = worker
        self._created = int(worker.clock.wall_s())
        self._breaking = Breaking(worker)
        self._generation = Generation(worker)
        key = worker.setup.api_key
        self._expected = None if key is None else f"Bearer {key}".encode()
        self._paths: dict[str, dict[str, Handler]] = {
            "/health": {"GET": self._empty},
            "/ping": {"GET": self._empty, "POST": self._empty},
            "/version": {"GET": self._version},
            "/v1/models": {"GET": self._models},
            "/load": {"GET": self._load},
            "/metrics": {_ANY: self._metrics},
            "/metrics/": {_ANY: self._metrics},
            "/kv_event_sources": {"GET": self._event_sources},
            "/tokenize": {"POST": _of_json(self._tokenize)},
            "/detokenize": {"POST": _of_json(self._detokenize)},
            "/reset_prefix_cache": {"POST": self._reset_prefix_cache},
            "/invocations": {"POST": _of_json(self._generation.invoke)},
            "/v1/completions": {"POST": _of_json(self._generation.complete)},
            "/v1/chat/completions": {"POST": _of_json(self._generation.chat)},
            "/v1/responses": {"POST": _of_json(self._generation.respond)},
            "/v1/messages": {"POST": _of_json(self._generation.message)},
            "/v1/messages/count_tokens": {"POST": _of_json(self._generation.count_message)},
        }
        refuse = _refuse_unsimulated if worker.setup.scale_out else _refuse_scale_out
        self._paths |= {path: {"POST": refuse} for path in _SCALE_OUT}
        if worker.setup.scale_out:
            renders = {
                "/v1/completions/render": self._generation.render_completion,
                "/v1/chat/completions/render": self._generation.render_chat,
                "/v1/messages/render": self._generation.render_message,
                "/v1/responses/render": self._generation.render_response,
            }
            self._paths |= {path: {"POST": _of_json(render)} for path, render in renders.items()}
        if worker.setup.breakable:
            self._paths[FAULT_PATH] = {
                "GET": self._breaking.describe,
                "POST": self._breaking.change,
            }

    def handle(self, exchange: Exchange) -> None:
        """Finds the handler, and turns refusals into answers."""
        request = exchange.request
        path = request.path
        if path == FAULT_PATH and not is_loopback(request.peer):
            path = ""
        given = request.headers.get(b"x-request-id")
        exchange.extra_headers[b"x-request-id"] = given or new_id("x")[2:].encode()
        if not self._authorized(exchange, path):
            return
        if path != FAULT_PATH and self._breaking.swallows(exchange):
            return
        handler = self._handler(exchange, path)
        if handler is None:
            return
        try:
            handler(exchange)
        except Refusal as refusal:
            exchange.refuse(refusal)

    def _handler(self, exchange: Exchange, path: str) -> Handler | None:
        """What answers; None where nothing does and the client has been told."""
        methods = self._methods(path)
        if methods is None:
            bare = path.rstrip("/")
            if path != bare and self._methods(bare) is not None:
                _redirect(exchange, bare)
            else:
                exchange.reply(404, _NOT_FOUND)
            return None
        handler = methods.get(exchange.request.method) or methods.get(_ANY)
        if handler is None:
            # The first of a path's routes speaks for all.
            exchange.reply(405, _NOT_ALLOWED, headers={b"allow": next(iter(methods)).encode()})
        return handler

    def _methods(self, path: str) -> dict[str, Handler] | None:
        """What answers at a path, by method."""
        return (self._stored_response(path) or {}) | self._paths.get(path, {}) or None

    def _stored_response(self, path: str) -> dict[str, Handler] | None:
        """What `/v1/responses/ID` and `/v1/responses/ID/cancel` answer."""
        match path.split("/"):
            case ["", "v1", "responses", name] if name:
                return {"GET": self._generation.find_response}
            case ["", "v1", "responses", name, "cancel"] if name:
                return {"POST": self._generation.find_response}
        return None

    def _authorized(self, exchange: Exchange, path: str) -> bool:
        if self._expected is None or path == "/health":
            return True
        offered = exchange.request.headers.get(b"authorization", b"")
        if hmac.compare_digest(offered, self._expected):
            return True
        error = AuthenticationFailed("This worker wants its own key as a bearer token.")
        exchange.reply(error.status, _encode(error.body()))
        return False

    def _empty(self, exchange: Exchange) -> None:
        exchange.reply(200, b"", None)

    def _version(self, exchange: Exchange) -> None:
        exchange.reply(200, _encode({"version": VERSION}))

    def _load(self, exchange: Exchange) -> None:
        exchange.reply(200, _encode({"server_load": self._worker.in_flight}))

    def _metrics(self, exchange: Exchange) -> None:
        page = exposition(self._worker.ranks, self._worker.setup.model)
        plainly = exchange.request.method == "GET" and not exchange.request.path.endswith("/")
        exchange.reply(200, page, CONTENT_TYPE if plainly else MOUNTED_CONTENT_TYPE)

    def _models(self, exchange: Exchange) -> None:
        setup = self._worker.setup
        cards = [self._card(setup.model, setup.model_root, None)]
        cards += [self._card(name, path, setup.model) for name, path in setup.adapters.items()]
        exchange.reply(200, _encode({"object": "list", "data": cards}))

    def _card(self, name: str, root: str, parent: str | None) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "vllm",
            "root": root,
            "parent": parent,
            "max_model_len": self._worker.setup.profile.max_model_len if parent is None else None,
            "permission": [
                {
                    "id": new_id("modelperm"),
                    "object": "model_permission",
                    "created": self._created,
                    "allow_create_engine": False,
                    "allow_sampling": True,
                    "allow_logprobs": True,
                    "allow_search_indices": False,
                    "allow_view": True,
                    "allow_fine_tuning": False,
                    "organization": "*",
                    "group": None,
                    "is_blocking": False,
                }
            ],
        }

    def _event_sources(self, exchange: Exchange) -> None:
        events = self._worker.setup.events
        sources = {
            str(source.rank): {
                "enable_kv_cache_events": True,
                "publisher": "zmq",
                "endpoint": source.endpoint,
                "replay_endpoint": source.replay_endpoint,
                "buffer_steps": events.kept_batches if events else 0,
                "hwm": 100_000,
                "max_queue_size": 100_000,
                "topic": source.topic,
            }
            for source in self._worker.sources
        }
        exchange.reply(200, _encode(sources))

    def _reset_prefix_cache(self, exchange: Exchange) -> None:
        for rank in self._worker.ranks:
            rank.clear_cache()
        exchange.reply(200, b"", None)

    def _tokenize(self, exchange: Exchange) -> None:
        body, fields = tokenizing.read_tokenize(exchange.request.body)
        self._worker.check_model(body.model)
        words = self._worker.words
        if fields.get("chat_template") is None:
            check_media_arguments(fields)
        try:
            if isinstance(body, tokenizing.TokenizeChatBody):
                check_messages(body.messages)
                ids = words.renderer.chat_ids(fields)
            else:
                ids = words.renderer.text(body.prompt, body.add_special_tokens)
        except CannotRender as error:
            raise unrendered(error) from error
        strings = words.token_strings(ids) if body.return_token_strs else None
        answer = {
            "count": len(ids),
            "max_model_len": self._worker.setup.profile.max_model_len,
            "tokens": ids,
            "token_strs": strings,
        }
        exchange.reply(200, _encode(answer))

    def _detokenize(self, exchange: Exchange) -> None:
        body = tokenizing.read_detokenize(exchange.request.body)
        self._worker.check_model(body.model)
        try:
            text = self._worker.words.renderer.detokenize(body.tokens)
        except CannotRender as error:
            raise Refusal(f"The tokens cannot be decoded: {error}") from error
        exchange.reply(200, _encode({"prompt": text}))


def _refuse_scale_out(_exchange: Exchange) -> None:
    raise Refusal(
        "Scale-out endpoints are disabled. Restart vllm serve with --enable-scale-out to enable "
        "them.",
        status=403,
        kind="PermissionDeniedError",
    )


def _refuse_unsimulated(exchange: Exchange) -> None:
    raise not_simulated(exchange.request.path)


def _redirect(exchange: Exchange, path: str) -> None:
    """To the same without a slash at its end."""
    request = exchange.request
    place = b"http://" + request.headers.get(b"host", b"") + path.encode("latin-1")
    if request.query:
        place += b"?" + request.query
    exchange.reply(307, b"", None, headers={b"location": place})


def _of_json(handler: Handler) -> Handler:
    """The handler, for bodies that say that they are JSON."""

    def handle(exchange: Exchange) -> None:
        kind = exchange.request.header(b"content-type") or ""
        if kind.partition(";")[0].lower() != "application/json":
            words = "Unsupported Media Type: Only 'application/json' is allowed"
            raise Refusal(f"1 validation error:\n  {words}", kind=MALFORMED)
        handler(exchange)

    return handle
