"""Records that this version cannot read."""

from __future__ import annotations

import logging

import msgspec
import pytest

from rhizome.stores.codec import json_codec, msgpack_codec


class _Point(msgspec.Struct, frozen=True):
    x: int


def test_unreadable_records_are_skipped_counted_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    codec = json_codec("point", _Point)
    stored = [b'{"x":1}', b"{", b'{"x":"no"}', b"\xff", b'{"x":2}']
    assert codec.decode_all(stored) == [_Point(1), _Point(2)]
    assert codec.undecodable == 3
    assert len(caplog.records) == 1


def test_fields_of_a_newer_version_are_passed_over() -> None:
    assert json_codec("point", _Point).decode(b'{"x":1,"y":2}') == _Point(1)


def test_what_is_encoded_comes_back() -> None:
    for codec in (json_codec("point", _Point), msgpack_codec("point", _Point)):
        assert codec.decode(codec.encode(_Point(7))) == _Point(7)
