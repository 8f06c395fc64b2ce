"""The line queue on a Redis Stream with one consumer group.

A lease is the time since a pending entry was last delivered or claimed. Lines, batch state and
results are touched only inside scripts, so a line has one result whatever its consumers do.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from rhizome.stores.codec import msgpack_codec
from rhizome.stores.lines import Delivery, Line, LineResult, ResultCounts
from rhizome.stores.redis.link import Argument, RedisLink, Script, milliseconds

_log = logging.getLogger(__name__)
_CLOSED_TTL_S = 7 * 24 * 3600
"""How long a closed batch is remembered, to turn stragglers away."""
_CONSUMER_TTL_MS = 24 * 3600 * 1000
"""A consumer that holds nothing and was silent this long is forgotten."""
_RELEASED_IDLE_MS = 365 * 24 * 3600 * 1000
"""The silence written on a line that was given back: longer than any lease."""

_STREAM = """
-- KEYS[1]  stream  line: the packed line; its group is 'runners'
"""
_BATCH = """
-- KEYS[2]  hash    of the batch: next (index to enqueue), failed (count), closed ('1' or absent)
"""
_RESULTS = """
-- KEYS[3]  hash    line index -> '1' for a failure or '0', then its output
"""
_STORE = """
local function store(index, result)
  local stored = redis.call('HSETNX', KEYS[3], index, result)
  if stored == 1 and string.sub(result, 1, 1) == '1' then
    redis.call('HINCRBY', KEYS[2], 'failed', 1)
  end
  return stored
end
"""

_ENQUEUE = Script(
    _STREAM
    + _BATCH
    + """-- ARGV     index, line, index, line...
if redis.call('HEXISTS', KEYS[2], 'closed') == 1 then return 0 end
local next = tonumber(redis.call('HGET', KEYS[2], 'next') or 0)
for i = 1, #ARGV, 2 do
  local index = tonumber(ARGV[i])
  if index >= next then
    redis.call('XADD', KEYS[1], '*', 'line', ARGV[i + 1])
    next = index + 1
  end
end
redis.call('HSET', KEYS[2], 'next', next)
return 1
"""
)

_SETTLE = Script(
    "-- KEYS[1]  (unused)"
    + _BATCH
    + _RESULTS
    + "-- ARGV     index, result, index, result..."
    + _STORE
    + """
if redis.call('HEXISTS', KEYS[2], 'closed') == 1 then return 0 end
redis.call('HSETNX', KEYS[2], 'next', 0)
for i = 1, #ARGV, 2 do store(ARGV[i], ARGV[i + 1]) end
return 1
"""
)

_LEASE = Script(
    _STREAM
    + """-- ARGV     consumer, most lines, lease in ms, silence in ms that ends a consumer
-- Returns  {receipt, line, deliveries} for each line
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
redis.pcall('XGROUP', 'CREATE', KEYS[1], 'runners', '0')
local count_max = tonumber(ARGV[2])
local leased = {}
local function take(entries)
  for _, entry in ipairs(entries) do
    local pending = redis.call('XPENDING', KEYS[1], 'runners', entry[1], entry[1], 1)
    leased[#leased + 1] = {entry[1], entry[2][2], pending[1][4]}
  end
end
local cursor = '0-0'
repeat
  local claimed = redis.call('XAUTOCLAIM', KEYS[1], 'runners', ARGV[1], ARGV[3], cursor,
                             'COUNT', count_max - #leased)
  cursor = claimed[1]
  take(claimed[2])
until cursor == '0-0' or #leased >= count_max
if #leased < count_max then
  local fresh = redis.call('XREADGROUP', 'GROUP', 'runners', ARGV[1],
                           'COUNT', count_max - #leased, 'STREAMS', KEYS[1], '>')
  if fresh then take(fresh[1][2]) end
end
if #leased == 0 then
  for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], 'runners')) do
    local consumer = {}
    for i = 1, #info, 2 do consumer[info[i]] = info[i + 1] end
    if consumer.pending == 0 and consumer.idle > tonumber(ARGV[4]) then
      redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'runners', consumer.name)
    end
  end
end
return leased
"""
)

_HELD = """
local function deliveries(receipt)
  local pending = redis.pcall('XPENDING', KEYS[1], 'runners', receipt, receipt, 1, ARGV[1])
  return not pending.err and pending[1] and pending[1][4]
end
"""

_RENEW = Script(
    _STREAM
    + "-- ARGV     consumer, receipts...; returns the receipts still held"
    + _HELD
    + """
local held = {}
for i = 2, #ARGV do
  if deliveries(ARGV[i]) then
    redis.call('XCLAIM', KEYS[1], 'runners', ARGV[1], 0, ARGV[i], 'JUSTID')
    held[#held + 1] = ARGV[i]
  end
end
return held
"""
)

_RELEASE = Script(
    _STREAM
    + "-- ARGV     consumer, silence to write on the lines in ms, receipts..."
    + _HELD
    + """
for i = 3, #ARGV do
  local count = deliveries(ARGV[i])
  if count then
    redis.call('XCLAIM', KEYS[1], 'runners', ARGV[1], 0, ARGV[i],
               'IDLE', ARGV[2], 'RETRYCOUNT', count - 1, 'JUSTID')
  end
end
return 1
"""
)

_END = Script(
    _STREAM
    + _BATCH
    + _RESULTS
    + """-- KEYS[4]  list    dead letters, newest first
-- ARGV     receipt; then, to store a result: index, result; then, to bury: letter, most letters
"""
    + _STORE
    + """
local stored = 0
if ARGV[2] and redis.call('EXISTS', KEYS[2]) == 1
   and redis.call('HEXISTS', KEYS[2], 'closed') == 0 then
  stored = store(ARGV[2], ARGV[3])
  if stored == 1 and ARGV[4] then
    redis.call('LPUSH', KEYS[4], ARGV[4])
    redis.call('LTRIM', KEYS[4], 0, ARGV[5] - 1)
  end
end
redis.call('XACK', KEYS[1], 'runners', ARGV[1])
redis.call('XDEL', KEYS[1], ARGV[1])
return stored
"""
)

_COUNTS = Script(
    "-- KEYS[1]  (unused)"
    + _BATCH
    + _RESULTS
    + """-- Returns  results stored, failures among them
return {redis.call('HLEN', KEYS[3]), tonumber(redis.call('HGET', KEYS[2], 'failed') or 0)}
"""
)

_CLOSE = Script(
    "-- KEYS[1]  (unused)"
    + _BATCH
    + _RESULTS
    + """-- ARGV     how long to remember the batch in s, '1' to forget its results
redis.call('HSET', KEYS[2], 'closed', '1')
redis.call('EXPIRE', KEYS[2], ARGV[1])
if ARGV[2] == '1' then redis.call('DEL', KEYS[3]) end
return 1
"""
)


class RedisLineQueue:
    """A `LineQueue`."""

    def __init__(self, link: RedisLink, dead_letters_max: int) -> None:
        self._link = link
        self._dead_letters_max = dead_letters_max
        self._stream = link.key("lines")
        self._dead = link.key("lines", "dead")
        self._codec = msgpack_codec("line", Line)
        self._letter_codec = msgpack_codec("dead letter", tuple[Line, str])

    async def enqueue(self, batch_id: str, lines: Sequence[Line]) -> None:
        flat = [part for line in lines for part in (line.index, self._codec.encode(line))]
        await self._link.run(_ENQUEUE, self._keys(batch_id)[:2], flat)

    async def enqueued(self, batch_id: str) -> int:
        return int(await self._link.call("HGET", self._keys(batch_id)[1], "next") or 0)

    async def settle(self, batch_id: str, results: Sequence[tuple[int, LineResult]]) -> None:
        flat = [part for index, result in results for part in (index, _packed(result))]
        await self._link.run(_SETTLE, self._keys(batch_id)[:3], flat)

    async def lease(self, consumer: str, count_max: int, lease_s: float) -> Sequence[Delivery]:
        arguments = (consumer, count_max, milliseconds(lease_s), _CONSUMER_TTL_MS)
        deliveries = []
        for receipt, packed, count in await self._link.run(_LEASE, (self._stream,), arguments):
            line = self._codec.decode(packed)
            if line is None:
                # Its batch is unknown, so nothing can be stored; the batch will expire without it.
                _log.error("line %s cannot be read and is removed from the queue", receipt)
                await self._end("", receipt.decode(), ())
            else:
                deliveries.append(Delivery(receipt=receipt.decode(), line=line, deliveries=count))
        return deliveries

    async def renew(self, consumer: str, receipts: Sequence[str]) -> Sequence[str]:
        held = await self._link.run(_RENEW, (self._stream,), (consumer, *receipts))
        return [receipt.decode() for receipt in held]

    async def release(self, consumer: str, receipts: Sequence[str]) -> None:
        await self._link.run(_RELEASE, (self._stream,), (consumer, _RELEASED_IDLE_MS, *receipts))

    async def complete(self, consumer: str, delivery: Delivery, result: LineResult) -> bool:
        line = delivery.line
        return await self._end(line.batch_id, delivery.receipt, (line.index, _packed(result)))

    async def bury(self, consumer: str, delivery: Delivery, cause: str, result: LineResult) -> bool:
        line = delivery.line
        letter = self._letter_codec.encode((line, cause))
        arguments = (line.index, _packed(result), letter, self._dead_letters_max)
        return await self._end(line.batch_id, delivery.receipt, arguments)

    async def drop(self, consumer: str, delivery: Delivery) -> None:
        await self._end(delivery.line.batch_id, delivery.receipt, ())

    async def results(
        self, batch_id: str, first_index: int, count: int
    ) -> Sequence[tuple[int, LineResult]]:
        if count < 1:
            return []
        wanted = range(first_index, first_index + count)
        stored = await self._link.call("HMGET", self._keys(batch_id)[2], *wanted)
        return [
            (index, LineResult(packed[1:], failed=packed[:1] == b"1"))
            for index, packed in zip(wanted, stored, strict=True)
            if packed is not None
        ]

    async def counts(self, batch_id: str) -> ResultCounts:
        stored, failed = await self._link.run(_COUNTS, self._keys(batch_id)[:3])
        return ResultCounts(stored, failed)

    async def close(self, batch_id: str) -> None:
        await self._link.run(_CLOSE, self._keys(batch_id)[:3], (_CLOSED_TTL_S, "0"))

    async def discard(self, batch_id: str) -> None:
        await self._link.run(_CLOSE, self._keys(batch_id)[:3], (_CLOSED_TTL_S, "1"))

    async def dead_letters(self, count_max: int) -> Sequence[tuple[Line, str]]:
        letters = await self._link.call("LRANGE", self._dead, 0, count_max - 1)
        return self._letter_codec.decode_all(letters)

    async def depth(self) -> int:
        return int(await self._link.call("XLEN", self._stream))

    async def _end(self, batch_id: str, receipt: str, arguments: Sequence[Argument]) -> bool:
        return bool(await self._link.run(_END, self._keys(batch_id), (receipt, *arguments)))

    def _keys(self, batch_id: str) -> tuple[str, str, str, str]:
        key = self._link.key
        return (
            self._stream,
            key("lines", "batch", batch_id),
            key("lines", "results", batch_id),
            self._dead,
        )


def _packed(result: LineResult) -> bytes:
    return (b"1" if result.failed else b"0") + result.output
