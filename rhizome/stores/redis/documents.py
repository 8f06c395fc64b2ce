"""Documents on Redis."""

from __future__ import annotations

from collections.abc import Sequence

from rhizome.stores.redis.link import RedisLink, Script

_KEYS = """
-- KEYS[1]  hash    document id -> version, line feed, body
-- KEYS[2]  zset    document id -> its place in the order of creation
-- KEYS[3]  string  the last place given
"""

_CREATE = Script(
    _KEYS
    + """-- ARGV     document id, body
if redis.call('HSETNX', KEYS[1], ARGV[1], '1\\n' .. ARGV[2]) == 0 then return 0 end
redis.call('ZADD', KEYS[2], redis.call('INCR', KEYS[3]), ARGV[1])
return 1
"""
)

_REPLACE = Script(
    _KEYS
    + """-- ARGV     document id, version expected, body
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if not stored or string.match(stored, '^%d+') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%d\\n', ARGV[2] + 1) .. ARGV[3])
return 1
"""
)

_DELETE = Script(
    _KEYS
    + """-- ARGV     document id
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('HDEL', KEYS[1], ARGV[1])
"""
)

_NEWEST = Script(
    _KEYS
    + """-- ARGV     most documents, 'before' or 'all', document id
local top = '+inf'
if ARGV[2] == 'before' then
  local place = redis.call('ZSCORE', KEYS[2], ARGV[3])
  if not place then return {} end
  top = '(' .. place
end
local found = {}
for _, id in ipairs(redis.call('ZREVRANGEBYSCORE', KEYS[2], top, '-inf', 'LIMIT', 0, ARGV[1])) do
  found[#found + 1] = redis.call('HGET', KEYS[1], id)
end
return found
"""
)


class RedisDocuments:
    """A `Documents`."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def create(self, kind: str, object_id: str, body: bytes) -> bool:
        return bool(await self._link.run(_CREATE, self._keys(kind), (object_id, body)))

    async def get(self, kind: str, object_id: str) -> tuple[int, bytes] | None:
        stored: bytes | None = await self._link.call("HGET", self._keys(kind)[0], object_id)
        if stored is None:
            return None
        version, _, body = stored.partition(b"\n")
        return int(version), body

    async def replace(self, kind: str, object_id: str, version: int, body: bytes) -> bool:
        return bool(await self._link.run(_REPLACE, self._keys(kind), (object_id, version, body)))

    async def delete(self, kind: str, object_id: str) -> bool:
        return bool(await self._link.run(_DELETE, self._keys(kind), (object_id,)))

    async def newest(self, kind: str, count_max: int, after: str | None = None) -> Sequence[bytes]:
        bound = ("all", "") if after is None else ("before", after)
        stored = await self._link.run(_NEWEST, self._keys(kind), (count_max, *bound))
        return [one.partition(b"\n")[2] for one in stored]

    def _keys(self, kind: str) -> tuple[str, str, str]:
        key = self._link.key
        return (
            key("documents", kind),
            key("documents", kind, "order"),
            key("documents", kind, "last"),
        )
