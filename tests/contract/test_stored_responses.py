"""What every `StoredResponses` promises."""

from __future__ import annotations

import pytest

from rhizome.stores.open import Stores
from tests.support.waiting import eventually

_BODY = b'{"text":"\xff\x00\n"}'
_LONG_S = 60.0


async def test_a_response_comes_back_to_its_owner_alone(stores: Stores) -> None:
    await stores.responses.put("me", "resp_1", _BODY, _LONG_S)
    assert await stores.responses.get("me", "resp_1") == _BODY
    assert await stores.responses.get("you", "resp_1") is None
    assert await stores.responses.get("me", "resp_2") is None
    assert not await stores.responses.delete("you", "resp_1")


async def test_a_later_write_replaces_the_record(stores: Stores) -> None:
    for body in (b"one", b"two"):
        await stores.responses.put("me", "resp_1", body, _LONG_S)
    assert await stores.responses.get("me", "resp_1") == b"two"


async def test_a_deleted_response_is_gone(stores: Stores) -> None:
    await stores.responses.put("me", "resp_1", _BODY, _LONG_S)
    assert await stores.responses.delete("me", "resp_1")
    assert not await stores.responses.delete("me", "resp_1")
    assert await stores.responses.get("me", "resp_1") is None


async def test_a_response_ends_with_its_time(stores: Stores) -> None:
    await stores.responses.put("me", "brief", _BODY, 0.05)
    await stores.responses.put("me", "long", _BODY, _LONG_S)

    async def is_gone() -> bool:
        return await stores.responses.get("me", "brief") is None

    await eventually(is_gone)
    assert not await stores.responses.delete("me", "brief")
    assert await stores.responses.get("me", "long") == _BODY


async def test_the_oldest_make_room(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores.responses, "_stored_max", 3)
    for number in range(6):
        await stores.responses.put("me", f"resp_{number}", _BODY, _LONG_S + number)
    kept = [
        number
        for number in range(6)
        if await stores.responses.get("me", f"resp_{number}") is not None
    ]
    assert kept == [3, 4, 5]
