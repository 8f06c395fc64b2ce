from __future__ import annotations

from cluster.specs import adopt_specs, first_targets, specs_adopted
from rhizome.clock import ManualClock
from rhizome.fleet.models import ModelSpec
from rhizome.stores.desired import ModelTarget
from rhizome.stores.memory.desired import MemoryDesiredState
from rhizome.stores.memory.documents import MemoryDocuments


class Store:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.desired = MemoryDesiredState(self.clock)
        self.documents = MemoryDocuments()

    async def adopt(self, *specs: ModelSpec) -> None:
        await adopt_specs(specs, self.desired, self.documents, self.clock)


def spec(name: str, workers: int = 1) -> ModelSpec:
    return ModelSpec(name=name, source="x", workers=workers)


async def test_new_models_get_their_specs_number_of_workers() -> None:
    store = Store()
    assert not await specs_adopted(store.documents)
    await store.adopt(spec("a", 2))
    assert (await store.desired.targets())["a"].workers == 2
    assert await specs_adopted(store.documents)


async def test_an_operators_target_survives_a_restart_and_a_changed_spec() -> None:
    store = Store()
    await store.adopt(spec("a"))
    await store.desired.put_target("a", ModelTarget(workers=3))
    await store.adopt(ModelSpec(name="a", source="y"))
    assert (await store.desired.targets())["a"].workers == 3
    assert (await store.desired.specs())["a"].source == "y"


async def test_a_model_that_left_the_settings_is_removed() -> None:
    store = Store()
    await store.adopt(spec("a"), spec("b"))
    await store.adopt(spec("b"))
    assert set(await store.desired.specs()) == {"b"}


async def test_a_model_that_never_stood_in_the_settings_stays() -> None:
    store = Store()
    await store.desired.put_spec(spec("by-hand"))
    await store.adopt(spec("a"))
    await store.adopt()
    assert set(await store.desired.specs()) == {"by-hand"}


async def test_a_model_without_a_target_gets_its_first_one_once() -> None:
    store = Store()
    await store.desired.put_spec(spec("a", 2))
    await first_targets(store.desired, store.clock)
    await store.desired.put_target("a", ModelTarget(workers=5))
    await first_targets(store.desired, store.clock)
    assert (await store.desired.targets())["a"].workers == 5
