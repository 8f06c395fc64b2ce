"""What every `Documents` promises."""

from __future__ import annotations

import asyncio

from rhizome.stores.open import Stores

_BODY = b'1\n{"text":"\xff\x00"}\n'


async def test_a_document_comes_back_as_it_was_written(stores: Stores) -> None:
    assert await stores.documents.create("file", "f1", _BODY)
    assert await stores.documents.get("file", "f1") == (1, _BODY)
    assert await stores.documents.get("batch", "f1") is None


async def test_an_id_is_created_once(stores: Stores) -> None:
    made = (stores.documents.create("file", "f1", b"%d" % number) for number in range(10))
    assert sum(await asyncio.gather(*made)) == 1


async def test_a_write_needs_the_version_it_has_read(stores: Stores) -> None:
    await stores.documents.create("file", "f1", b"one")
    assert await stores.documents.replace("file", "f1", 1, b"two")
    assert not await stores.documents.replace("file", "f1", 1, b"three")
    assert await stores.documents.get("file", "f1") == (2, b"two")
    assert not await stores.documents.replace("file", "nobody", 1, b"two")


async def test_versions_keep_counting_beyond_nine(stores: Stores) -> None:
    await stores.documents.create("file", "f1", b"0")
    for version in range(1, 12):
        assert await stores.documents.replace("file", "f1", version, b"%d" % version)
    assert await stores.documents.get("file", "f1") == (12, b"11")


async def test_one_of_many_writers_wins(stores: Stores) -> None:
    await stores.documents.create("file", "f1", b"")
    written = (stores.documents.replace("file", "f1", 1, b"%d" % number) for number in range(10))
    assert sum(await asyncio.gather(*written)) == 1


async def test_a_deleted_document_is_gone(stores: Stores) -> None:
    await stores.documents.create("file", "f1", b"")
    assert await stores.documents.delete("file", "f1")
    assert not await stores.documents.delete("file", "f1")
    assert await stores.documents.get("file", "f1") is None
    assert await stores.documents.newest("file", 10) == []


async def test_documents_are_listed_newest_first_in_pages(stores: Stores) -> None:
    for number in range(12):
        await stores.documents.create("file", f"f{number}", b"%d" % number)
    await stores.documents.replace("file", "f3", 1, b"changed")
    assert await stores.documents.newest("file", 3) == [b"11", b"10", b"9"]
    assert await stores.documents.newest("file", 2, after="f4") == [b"changed", b"2"]
    assert await stores.documents.newest("file", 5, after="f0") == []
    assert await stores.documents.newest("file", 5, after="nobody") == []
    assert await stores.documents.newest("batch", 5) == []
