"""Stored responses on Redis."""

from __future__ import annotations

from rhizome.stores.redis.link import NOW_MS, RedisLink, Script

_KEYS = """
-- KEYS[1]  hash  owner, line feed, response id -> record
-- KEYS[2]  zset  the same names -> when the record ends, in milliseconds
"""

_PUT = Script(
    _KEYS
    + NOW_MS
    + """-- ARGV     name, record, time to live in milliseconds, most records
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], now_ms + ARGV[3], ARGV[1])
local over = redis.call('ZCARD', KEYS[2]) - ARGV[4]
local old = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now_ms, 'LIMIT', 0, 100)
if over > 0 then
  for _, name in ipairs(redis.call('ZRANGE', KEYS[2], 0, math.min(over, 100) - 1)) do
    old[#old + 1] = name
  end
end
for _, name in ipairs(old) do
  redis.call('HDEL', KEYS[1], name)
  redis.call('ZREM', KEYS[2], name)
end
return 1
"""
)

_GET = Script(
    _KEYS
    + NOW_MS
    + """-- ARGV     name
local ends = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not ends or tonumber(ends) <= now_ms then return false end
return redis.call('HGET', KEYS[1], ARGV[1])
"""
)

_DELETE = Script(
    _KEYS
    + NOW_MS
    + """-- ARGV     name
local ends = redis.call('ZSCORE', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return (ends and tonumber(ends) > now_ms) and 1 or 0
"""
)


class RedisStoredResponses:
    """A `StoredResponses`. What is over is removed by later writes, a few with each."""

    def __init__(self, link: RedisLink, stored_max: int) -> None:
        self._link = link
        self._stored_max = stored_max
        self._keys = (link.key("responses"), link.key("responses", "ends"))

    async def put(self, owner: str, response_id: str, body: bytes, ttl_s: float) -> None:
        arguments = (_name(owner, response_id), body, round(ttl_s * 1000), self._stored_max)
        await self._link.run(_PUT, self._keys, arguments)

    async def get(self, owner: str, response_id: str) -> bytes | None:
        found: bytes | None = await self._link.run(_GET, self._keys, (_name(owner, response_id),))
        return found

    async def delete(self, owner: str, response_id: str) -> bool:
        return bool(await self._link.run(_DELETE, self._keys, (_name(owner, response_id),)))


def _name(owner: str, response_id: str) -> str:
    return f"{owner}\n{response_id}"
