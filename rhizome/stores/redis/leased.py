"""Entries that end with their lease, as the registry, the signal board and drain requests use."""

from __future__ import annotations

from rhizome.stores.redis.link import NOW_MS, RedisLink, Script, milliseconds

_KEYS = """
-- KEYS[1]  hash  entry id -> body
-- KEYS[2]  hash  entry id -> tag: whose entry it is (a worker's incarnation)
-- KEYS[3]  zset  entry id -> end of its lease, in ms of the server's clock
"""

_PUT = Script(
    _KEYS
    + "-- ARGV     entry id, tag, body, ttl in ms"
    + NOW_MS
    + """
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[3], now_ms + ARGV[4], ARGV[1])
return 1
"""
)

_RENEW = Script(
    _KEYS
    + "-- ARGV     entry id, tag, ttl in ms"
    + NOW_MS
    + """
local ends_ms = redis.call('ZSCORE', KEYS[3], ARGV[1])
if not ends_ms or tonumber(ends_ms) <= now_ms then return 0 end
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('ZADD', KEYS[3], now_ms + ARGV[3], ARGV[1])
return 1
"""
)

_REMOVE = Script(
    _KEYS
    + "-- ARGV     entry id, tag"
    + NOW_MS
    + """
local ends_ms = redis.call('ZSCORE', KEYS[3], ARGV[1])
if not ends_ms or redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
return tonumber(ends_ms) > now_ms and 1 or 0
"""
)

_READ = Script(
    _KEYS
    + NOW_MS
    + """
for _, ended in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now_ms)) do
  redis.call('HDEL', KEYS[1], ended)
  redis.call('HDEL', KEYS[2], ended)
  redis.call('ZREM', KEYS[3], ended)
end
return redis.call('HGETALL', KEYS[1])
"""
)


class LeasedTable:
    """Bodies by id; only the owner named by `tag` may renew or remove an entry."""

    def __init__(self, link: RedisLink, name: str) -> None:
        self._link = link
        self._keys = (link.key(name), link.key(name, "tags"), link.key(name, "ends"))

    async def put(self, entry_id: str, tag: str, body: bytes, ttl_s: float) -> None:
        await self._link.run(_PUT, self._keys, (entry_id, tag, body, milliseconds(ttl_s)))

    async def renew(self, entry_id: str, tag: str, ttl_s: float) -> bool:
        return bool(await self._link.run(_RENEW, self._keys, (entry_id, tag, milliseconds(ttl_s))))

    async def remove(self, entry_id: str, tag: str) -> bool:
        return bool(await self._link.run(_REMOVE, self._keys, (entry_id, tag)))

    async def items(self) -> list[tuple[bytes, bytes]]:
        """Ids and bodies of what lives, ordered by id."""
        flat: list[bytes] = await self._link.run(_READ, self._keys)
        return sorted(zip(flat[::2], flat[1::2], strict=True))
