"""The only file that imports vLLM: its engine, its own OpenAI app, served on a given socket.

Runs inside the host process (`host.py`). It promises the app as vLLM builds it, behind the guard;
notices the engine's death; ends the engine when told to. It leaves leases, keys and events to the
worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from argparse import Namespace
from collections.abc import Callable, Iterator

import uvicorn
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.launchers.launcher import validate_api_server_args
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.utils.system_utils import set_ulimit
from vllm.v1.engine.async_llm import AsyncLLM

from rhizome.clock import SystemClock
from rhizome.tasks import Tasks
from workers.engine.guard import Guard
from workers.engine.idle import until_idle
from workers.engine.orders import Dead, Drain, Idle, Order, Report, Serving, Start

_HEALTH_INTERVAL_S = 0.25
_KEEP_ALIVE_S = 75
_GOODBYE_S = 3

_clock = SystemClock()


def parse_arguments(arguments: list[str]) -> Namespace:
    """vLLM's own parser; exits with its message when it refuses."""
    parsed: Namespace = make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
    validate_parsed_serve_args(parsed)
    return parsed


async def serve(
    start: Start,
    listener: socket.socket,
    orders: asyncio.Queue[Order],
    report: Callable[[Report], None],
) -> int:
    """Loads, serves and obeys; returns 0 after `Stop`, 1 after the engine's death.

    Loading blocks the event loop. What goes wrong while loading is raised as vLLM raised it.
    """
    arguments = parse_arguments(start.arguments)
    _load_plugins(arguments)
    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs.from_cli_args(arguments), usage_context=UsageContext.OPENAI_API_SERVER
    )
    try:
        tasks = await engine.get_supported_tasks()
        app = build_app(arguments, tasks, engine.model_config)
        await init_app_state(engine, app.state, arguments, tasks)
        guard = Guard(app, start.api_key)
        server = _Server(_http_config(guard))
        async with Tasks("engine-host", close_timeout_s=_GOODBYE_S + 2) as background:
            serving = background.start("http", server.serve(sockets=[listener]))
            while not server.started and not serving.done():
                await _clock.sleep(0.01)
            report(_facts(engine, "generate" in tasks))
            background.start("obey", _obey(orders, guard, server, report))
            background.start("watch", _watch(engine, server, report))
            await serving
    finally:
        engine.shutdown(timeout=_GOODBYE_S)
    return 1 if server.engine_died else 0


class _Server(uvicorn.Server):
    """Uvicorn without signal handlers: the worker tells when to stop."""

    engine_died = False

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _http_config(guard: Guard) -> uvicorn.Config:
    return uvicorn.Config(
        guard,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GOODBYE_S,
    )


def _load_plugins(arguments: Namespace) -> None:
    """What vLLM's own launcher does between parsing and serving."""
    if arguments.tool_parser_plugin:
        ToolParserManager.import_tool_parser(arguments.tool_parser_plugin)
    if arguments.reasoning_parser_plugin:
        ReasoningParserManager.import_reasoning_parser(arguments.reasoning_parser_plugin)
    validate_api_server_args(arguments)
    set_ulimit()


def _facts(engine: AsyncLLM, generates: bool) -> Serving:
    config = engine.vllm_config
    speculative = config.speculative_config
    return Serving(
        block_size=config.cache_config.block_size,
        kv_blocks=config.cache_config.num_gpu_blocks,
        max_model_len=config.model_config.max_model_len,
        max_num_seqs=config.scheduler_config.max_num_seqs,
        data_parallel=config.parallel_config.data_parallel_size,
        generates=generates,
        redoes_last_block=speculative is not None and speculative.use_eagle_block_drop(),
        chunk_tokens=config.model_config.attention_chunk_size,
    )


async def _obey(
    orders: asyncio.Queue[Order], guard: Guard, server: _Server, report: Callable[[Report], None]
) -> None:
    while True:
        order = await orders.get()
        if isinstance(order, Drain):
            report(Idle(drained=await until_idle(lambda: guard.in_flight, order.grace_s, _clock)))
        else:
            server.should_exit = True
            return


async def _watch(engine: AsyncLLM, server: _Server, report: Callable[[Report], None]) -> None:
    while not engine.errored:
        await _clock.sleep(_HEALTH_INTERVAL_S)
    server.engine_died = True
    report(Dead(cause=f"the engine died: {engine.dead_error}"))
    server.should_exit = True
