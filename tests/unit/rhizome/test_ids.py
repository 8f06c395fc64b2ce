"""Identifiers: fresh, and what of a client's own is safe to carry."""

from __future__ import annotations

import re

import pytest

from rhizome.ids import new_id, new_key, request_id_or_new


def test_ids_and_keys_are_fresh_and_have_their_prefix() -> None:
    assert re.fullmatch(r"req-[0-9a-f]{24}", new_id("req"))
    assert re.fullmatch(r"rzk-[\w-]{43}", new_key())
    assert len({new_id("a") for _ in range(100)} | {new_key() for _ in range(100)}) == 200


@pytest.mark.parametrize("offered", ["a", "Req-1_2.3:4", "x" * 128])
def test_a_safe_request_id_is_kept(offered: str) -> None:
    assert request_id_or_new(offered) == offered


@pytest.mark.parametrize(
    "offered", [None, "", "x" * 129, "a b", "a\n", "a\r\nx-evil: 1", "ä", "a/b", "a\x00"]
)
def test_an_unsafe_request_id_is_replaced(offered: str | None) -> None:
    assert re.fullmatch(r"req-[0-9a-f]{24}", request_id_or_new(offered))
