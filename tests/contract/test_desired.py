"""What every `DesiredState` promises."""

from __future__ import annotations

from rhizome.fleet.models import ModelSpec
from rhizome.stores.desired import ModelTarget
from rhizome.stores.open import Stores
from tests.support.waiting import eventually

_SPEC = ModelSpec(name="demo/llama", source="demo:llama", engine_args={"enable-lora": True})


async def test_a_spec_comes_back_as_it_was_put(stores: Stores) -> None:
    await stores.desired.put_spec(_SPEC)
    assert await stores.desired.specs() == {"demo/llama": _SPEC}


async def test_the_last_spec_of_a_name_wins(stores: Stores) -> None:
    await stores.desired.put_spec(_SPEC)
    changed = _SPEC.model_copy(update={"workers": 3})
    await stores.desired.put_spec(changed)
    assert (await stores.desired.specs())["demo/llama"].workers == 3


async def test_targets_come_back_as_they_were_put(stores: Stores) -> None:
    target = ModelTarget(workers=2, reason="queue wait", by="autoscaler", at_wall_s=12.5)
    await stores.desired.put_target("demo/llama", target)
    assert await stores.desired.targets() == {"demo/llama": target}


async def test_removing_a_spec_removes_its_target(stores: Stores) -> None:
    await stores.desired.put_spec(_SPEC)
    await stores.desired.put_target("demo/llama", ModelTarget(workers=2))
    assert await stores.desired.remove_spec("demo/llama")
    assert await stores.desired.specs() == {}
    assert await stores.desired.targets() == {}
    assert not await stores.desired.remove_spec("demo/llama")


async def test_a_drain_request_is_seen_and_forgotten_after_its_time(stores: Stores) -> None:
    await stores.desired.request_drain("w1", 60)
    await stores.desired.request_drain("w2", 0.2)
    assert await stores.desired.draining() >= {"w1"}

    async def only_the_long_one() -> bool:
        return await stores.desired.draining() == frozenset({"w1"})

    await eventually(only_the_long_one)


async def test_a_drain_request_can_be_taken_back(stores: Stores) -> None:
    await stores.desired.request_drain("w1", 60)
    assert await stores.desired.cancel_drain("w1")
    assert await stores.desired.draining() == frozenset()
    assert not await stores.desired.cancel_drain("w1")
