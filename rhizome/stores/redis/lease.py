"""Leader leases on Redis."""

from __future__ import annotations

from rhizome.stores.redis.link import RedisLink, Script, milliseconds

_ACQUIRE = Script("""
-- KEYS[1]  string  the holder; expires with the lease
-- ARGV     holder, ttl in ms
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
""")

_RENEW = Script("""
-- KEYS[1]  string  the holder; expires with the lease
-- ARGV     holder, ttl in ms
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
""")

_RELEASE = Script("""
-- KEYS[1]  string  the holder; expires with the lease
-- ARGV     holder
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
""")


class RedisLease:
    """A `Lease`."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link

    async def acquire(self, name: str, holder: str, ttl_s: float) -> bool:
        return bool(await self._link.run(_ACQUIRE, self._key(name), (holder, milliseconds(ttl_s))))

    async def renew(self, name: str, holder: str, ttl_s: float) -> bool:
        return bool(await self._link.run(_RENEW, self._key(name), (holder, milliseconds(ttl_s))))

    async def release(self, name: str, holder: str) -> bool:
        return bool(await self._link.run(_RELEASE, self._key(name), (holder,)))

    async def holder(self, name: str) -> str | None:
        found: bytes | None = await self._link.call("GET", *self._key(name))
        return found.decode() if found is not None else None

    def _key(self, name: str) -> tuple[str]:
        return (self._link.key("lease", name),)
