"""Carries the settings' models into the desired state, which is what the controller obeys.

A model of the settings is written when it is new or has changed there; one that has left the
settings is removed, if it came from them. What others wrote (an operator's target, a model that
never stood in the settings) is left alone: the last list from the settings is kept to tell.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec

from rhizome.clock import Clock
from rhizome.fleet.models import ModelSpec
from rhizome.stores.desired import DesiredState, ModelTarget
from rhizome.stores.documents import Documents

_log = logging.getLogger(__name__)
_KIND, _ID = "controller", "models-from-settings"


async def adopt_specs(
    models: Sequence[ModelSpec], desired: DesiredState, documents: Documents, clock: Clock
) -> None:
    """Makes the desired state follow the settings; raises `StoreUnavailable`."""
    known = await desired.specs()
    for spec in models:
        if known.get(spec.name) == spec:
            continue
        if spec.name in known:
            _log.warning("the spec of %s changed; workers that run keep the old one", spec.name)
        await desired.put_spec(spec)
    names = sorted(spec.name for spec in models)
    stored = await documents.get(_KIND, _ID)
    before = msgspec.json.decode(stored[1], type=list[str]) if stored else []
    for model in set(before) - set(names):
        _log.warning("model %s has left the settings; its workers go", model)
        await desired.remove_spec(model)
    body = msgspec.json.encode(names)
    if stored is None:
        await documents.create(_KIND, _ID, body)
    elif before != names:
        await documents.replace(_KIND, _ID, stored[0], body)
    await first_targets(desired, clock)


async def specs_adopted(documents: Documents) -> bool:
    """Whether the store has seen the settings; a store that lost its data has not."""
    return await documents.get(_KIND, _ID) is not None


async def first_targets(desired: DesiredState, clock: Clock) -> None:
    """Gives every model without a target the number of workers in its spec."""
    targets = await desired.targets()
    for model, spec in (await desired.specs()).items():
        if model not in targets:
            target = ModelTarget(
                workers=spec.workers, reason="the spec's number", at_wall_s=clock.wall_s()
            )
            await desired.put_target(model, target)
