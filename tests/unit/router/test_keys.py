"""Clients' keys: hashes only, one answer for every wrong one, a bad file changes nothing."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from pydantic import SecretStr

from rhizome.clock import SystemClock
from rhizome.errors import AuthenticationFailed, SettingsError
from rhizome.ids import hash_of, new_key
from router.keys import (
    KEYS_MAX,
    KeyRing,
    UnusableKeys,
    configured_keys,
    parse_keys,
    read_key_file,
)

KEY = "rzk-a-key-of-many-random-bits"
GOOD = f"Bearer {KEY}"


def ring_of(**keys: str) -> KeyRing:
    return KeyRing(parse_keys("\n".join(f"{name}: {hash_of(key)}" for name, key in keys.items())))


@pytest.mark.parametrize("header", [GOOD, GOOD.encode(), f"bearer  {KEY} ", f"BEARER {KEY}"])
def test_the_right_key_names_its_owner(header: bytes | str) -> None:
    assert ring_of(alice=KEY, bob="another").check(header).name == "alice"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        b"",
        KEY,
        f"Basic {KEY}",
        "Bearer",
        "Bearer ",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY} {KEY}",
        f"Bearer {hash_of(KEY)}",
        "Bearer \N{SNOWMAN}",
        b"Bearer \xff\xfe",
        f"Bearer {'x' * 100_000}",
    ],
)
def test_anything_else_is_refused_without_being_repeated(header: bytes | str | None) -> None:
    with pytest.raises(AuthenticationFailed) as refused:
        ring_of(alice=KEY).check(header)
    assert KEY not in refused.value.message


def test_a_ring_without_keys_is_closed_unless_it_was_opened() -> None:
    with pytest.raises(AuthenticationFailed):
        KeyRing({}).check(GOOD)
    assert KeyRing({}, is_open=True).check(None).name == "anonymous"


def test_a_name_may_have_two_keys_while_they_are_exchanged() -> None:
    ring = KeyRing(parse_keys(f"alice: {hash_of('old')} {hash_of('new')}"))
    assert {ring.check(f"Bearer {key}").name for key in ("old", "new")} == {"alice"}
    assert ring.names == ("alice",)


def test_raw_keys_of_the_settings_work_beside_hashes_and_once() -> None:
    raw = [SecretStr(KEY), SecretStr("second")]
    ring = KeyRing(configured_keys(raw, {"alice": hash_of(KEY)}))
    assert ring.check(GOOD).name == "alice"
    assert ring.check("Bearer second").name == "api-key-2"
    assert ring.names == ("alice", "api-key-2")


def test_a_file_may_have_comments_and_is_a_yaml_mapping_too() -> None:
    text = f"---\n# who: hash\nalice: {hash_of('a')}  # since May\n\nbob:   {hash_of('b')}\n"
    assert list(parse_keys(text)) == ["alice", "bob"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("alice", "line 2"),
        ("alice: rzk-raw-key-itself", "line 2"),
        ("alice: sha256:abc", "line 2"),
        (f"alice: sha512:{'0' * 64}", "line 2"),
        (f"alice:{hash_of('a')}", "line 2"),
        (f"al ice: {hash_of('a')}", "line 2"),
        (f"{'a' * 64}: {hash_of('a')}", "line 2"),
        (f"first: {hash_of('a')}", "stands above"),
        (f"anonymous: {hash_of('a')}", "without a key"),
        (f"alice: {hash_of('1')}", "the same key"),
    ],
)
def test_a_bad_line_is_named_but_not_shown(line: str, said: str) -> None:
    with pytest.raises(UnusableKeys, match=said) as refused:
        parse_keys(f"first: {hash_of('1')}\n{line}\n")
    assert "rzk-raw-key-itself" not in str(refused.value)


def test_the_number_of_keys_is_bounded() -> None:
    lines = "\n".join(f"k{number}: {hash_of(str(number))}" for number in range(KEYS_MAX + 1))
    with pytest.raises(UnusableKeys, match="more than"):
        parse_keys(lines)


def test_a_changed_file_is_taken_and_a_bad_one_refused_whole_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    path.write_text(f"alice: {hash_of('a')}\n")
    others = configured_keys([], {"ops": hash_of("o")})
    file, hashes = read_key_file(path, others)
    ring = KeyRing(hashes)

    path.write_text(f"bob: {hash_of('b')}\n")
    assert file.refresh(ring, others)
    assert ring.names == ("bob", "ops")
    with pytest.raises(AuthenticationFailed):
        ring.check("Bearer a")

    path.write_text(f"carol: {hash_of('c')}\nnonsense\n")
    with caplog.at_level(logging.ERROR):
        assert not file.refresh(ring, others)
        assert not file.refresh(ring, others)
    assert [record.getMessage().count("line 2") for record in caplog.records] == [1]
    assert ring.names == ("bob", "ops")

    path.unlink()
    assert not file.refresh(ring, others)
    assert ring.check("Bearer b").name == "bob"


async def test_a_followed_file_is_noticed_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.keys.FOLLOW_S", 0.01)
    from rhizome.tasks import Tasks
    from tests.support.waiting import eventually

    path = tmp_path / "keys"
    path.write_text("")
    file, hashes = read_key_file(path, {})
    ring = KeyRing(hashes)
    async with Tasks("test") as tasks:
        tasks.start("follow", file.follow(ring, {}, SystemClock()))
        path.write_text(f"alice: {hash_of('a')}\n")
        await eventually(lambda: ring.names == ("alice",))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"nonsense", None, b"# " + b"x" * (5 * 2**20)])
def test_a_bad_file_at_the_start_is_a_settings_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError) as refused:
        read_key_file(path, {})
    assert "rhizome keys new" in refused.value.advice


def test_a_bad_hash_in_the_settings_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="alice"):
        configured_keys([], {"alice": "not-a-hash"})


def test_new_keys_differ_and_what_is_stored_does_not_hold_them() -> None:
    one, two = new_key(), new_key()
    assert one != two
    assert one not in hash_of(one)
