"""The desired state on Redis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from rhizome.fleet.models import ModelSpec
from rhizome.stores.codec import RecordCodec, json_codec
from rhizome.stores.desired import ModelTarget
from rhizome.stores.redis.leased import LeasedTable
from rhizome.stores.redis.link import RedisLink, Script

T = TypeVar("T")

_REMOVE_SPEC = Script("""
-- KEYS[1]  hash  model -> its spec
-- KEYS[2]  hash  model -> its target
-- ARGV     model
redis.call('HDEL', KEYS[2], ARGV[1])
return redis.call('HDEL', KEYS[1], ARGV[1])
""")


class RedisDesiredState:
    """A `DesiredState`."""

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._specs_key = link.key("specs")
        self._targets_key = link.key("targets")
        self._drains = LeasedTable(link, "drains")
        self._spec_codec = RecordCodec(
            "model spec",
            lambda spec: spec.model_dump_json().encode(),
            ModelSpec.model_validate_json,
        )
        self._target_codec = json_codec("target", ModelTarget)

    async def put_spec(self, spec: ModelSpec) -> None:
        await self._link.call("HSET", self._specs_key, spec.name, self._spec_codec.encode(spec))

    async def remove_spec(self, model: str) -> bool:
        keys = (self._specs_key, self._targets_key)
        return bool(await self._link.run(_REMOVE_SPEC, keys, (model,)))

    async def specs(self) -> Mapping[str, ModelSpec]:
        return await self._read(self._specs_key, self._spec_codec)

    async def put_target(self, model: str, target: ModelTarget) -> None:
        await self._link.call("HSET", self._targets_key, model, self._target_codec.encode(target))

    async def targets(self) -> Mapping[str, ModelTarget]:
        return await self._read(self._targets_key, self._target_codec)

    async def request_drain(self, worker_id: str, ttl_s: float) -> None:
        await self._drains.put(worker_id, "", b"", ttl_s)

    async def cancel_drain(self, worker_id: str) -> bool:
        return await self._drains.remove(worker_id, "")

    async def draining(self) -> frozenset[str]:
        return frozenset(worker_id.decode() for worker_id, _ in await self._drains.items())

    async def _read(self, key: str, codec: RecordCodec[T]) -> dict[str, T]:
        stored = await self._link.call("HGETALL", key)
        decoded = {model.decode(): codec.decode(body) for model, body in stored.items()}
        return {model: record for model, record in decoded.items() if record is not None}
