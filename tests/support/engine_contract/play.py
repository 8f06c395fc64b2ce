"""Sends the rows to an engine and writes down what it answers and tells of its cache."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any

import aiohttp
import msgspec
import zmq
import zmq.asyncio

from tests.support.engine_contract.rows import Row

Answer = dict[str, Any]
NO_ANSWERS: Mapping[str, Answer] = MappingProxyType({})
_KEPT_HEADERS = ("content-type", "x-request-id", "allow")
QUIET_S = 0.25
"""After this long without one, an engine that told what was expected has told all its events."""
_QUIET_UNKNOWN_S = 0.05
"""The least of it where nobody knows what is to be told."""
_PATIENCE_S = 20.0


class Events:
    """The raw events of an engine, hashes replaced by the order of their first appearance."""

    def __init__(self, socket: zmq.asyncio.Socket, quiet_s: float) -> None:
        self._socket = socket
        self._quiet_s = quiet_s
        self._ordinals: dict[Any, int] = {}
        self.sequences: list[int] = []

    async def since_last(self, expected: int | None) -> list[dict[str, Any]]:
        """Everything told until the engine falls silent.

        Waits long for the `expected` number of changes, as `changes_of` counts them: events come
        on their own way, after the answer, and late on a busy machine. None if it is not known.
        """
        told: list[dict[str, Any]] = []
        while await self._socket.poll(int(1000 * self._wait_s(told, expected))):
            _, sequence, payload = await self._socket.recv_multipart()
            self.sequences.append(int.from_bytes(sequence, "big"))
            told += [self._normal(event) for event in msgspec.msgpack.decode(payload)[1]]
        return _joined(told)

    def _wait_s(self, told: list[dict[str, Any]], expected: int | None) -> float:
        if expected is None:
            return max(self._quiet_s, _QUIET_UNKNOWN_S)
        return self._quiet_s if changes_of(told) >= expected else _PATIENCE_S

    def _normal(self, event: dict[str, Any]) -> dict[str, Any]:
        fields = dict(event)
        fields["block_hashes"] = [self._ordinal(one) for one in event.get("block_hashes", [])]
        if "parent_block_hash" in event:
            parent = event["parent_block_hash"]
            fields["parent_block_hash"] = None if parent is None else self._ordinal(parent)
        return fields

    def _ordinal(self, block_hash: Any) -> int:
        return self._ordinals.setdefault(block_hash, len(self._ordinals))


def changes_of(events: Iterable[dict[str, Any]]) -> int:
    """How many blocks the events speak of; one that clears the cache counts as one."""
    return sum(max(1, len(event["block_hashes"])) for event in events)


def _joined(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Blocks stored one after the other in a chain as one event: steps differ between machines."""
    joined: list[dict[str, Any]] = []
    for event in events:
        last = joined[-1] if joined else {}
        if (
            event["type"] == last.get("type") == "BlockStored"
            and event["parent_block_hash"] == last["block_hashes"][-1]
        ):
            last["block_hashes"] += event["block_hashes"]
            last["token_ids"] = [*last["token_ids"], *event["token_ids"]]
            last["extra_keys"] = [*last["extra_keys"], *event["extra_keys"]]
        else:
            joined.append(event)
    return joined


@asynccontextmanager
async def listening(endpoint: str, quiet_s: float = QUIET_S) -> AsyncIterator[Events]:
    """Connects to an engine's event socket, before anything is asked of it."""
    with zmq.asyncio.Context() as context:
        socket = context.socket(zmq.SUB)
        socket.subscribe(b"")
        connected = socket.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        socket.connect(endpoint)
        try:
            assert await connected.poll(int(1000 * _PATIENCE_S))
            await asyncio.sleep(QUIET_S)  # a subscription takes a moment and is not acknowledged
            yield Events(socket, quiet_s)
        finally:
            socket.disable_monitor()
            connected.close(linger=0)
            socket.close(linger=0)


async def play(
    url: str, rows: Iterable[Row], events: Events, expected: Mapping[str, Answer] = NO_ANSWERS
) -> dict[str, Answer]:
    """The answers by row; rows are sent one at a time. The `expected` ones say how many events
    are waited for."""
    answers: dict[str, Answer] = {}
    timeout = aiohttp.ClientTimeout(total=60)
    # vLLM closes a connection after a fault of its own, so that none is used twice.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        for row in rows:
            answer = await _ask(session, url, row)
            if row.generates and answer["status"] == 200:
                known = expected.get(row.name)
                changes = None if known is None else changes_of(known.get("events", ()))
                told = await events.since_last(changes)
                if told:
                    answer["events"] = told
            answers[row.name] = answer
    return answers


async def _ask(session: aiohttp.ClientSession, url: str, row: Row) -> Answer:
    headers = {"content-type": "application/json"} | row.headers
    data = row.body if isinstance(row.body, bytes) else json.dumps(row.body).encode()
    async with session.request(
        row.verb, url + row.path, data=None if row.body is None else data, headers=headers
    ) as response:
        raw = await response.read()
    kept = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
    answer: Answer = {"status": response.status, "headers": kept}
    kind = kept.get("content-type", "")
    if kind.startswith("text/event-stream"):
        answer["chunks"] = [_data(line) for line in raw.decode().split("\n\n") if line.strip()]
    elif kind.startswith("application/json"):
        answer["json"] = json.loads(raw)
    else:
        answer["text"] = raw.decode()
    return answer


def _data(event: str) -> Any:
    """What one event of a stream carries; its name, where it has one, is among it as `type`."""
    name, _, text = event.rpartition("data: ")
    value = text if text == "[DONE]" else json.loads(text)
    assert name in ("", f"event: {value.get('type')}\n" if isinstance(value, dict) else ""), event
    return value
