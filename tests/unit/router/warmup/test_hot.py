"""Which prefixes count as shared, and what happens at the bounds."""

from __future__ import annotations

from router.prefix.hashing import block_hashes, root_hash
from router.warmup.hot import HotPrefixes, Origin, Replay

SYSTEM = list(range(100, 164))
ORIGIN = Origin("model", block_tokens=16)


def hot_prefixes(bytes_max: int = 2**20, runs_max: int = 100) -> HotPrefixes:
    return HotPrefixes(bytes_max, runs_max, half_life_s=60.0)


def note(hot: HotPrefixes, tokens: list[int], at_s: float = 0.0, salt: str | None = None) -> None:
    hashes = block_hashes(tokens, 16, root_hash(salt=salt))
    hot.note(Origin("model", salt, 16), hashes, tokens, at_s)
    hot.check_invariants()


def chosen(hot: HotPrefixes, tokens_max: int = 10_000, at_s: float = 0.0) -> list[Replay]:
    return hot.choose("model", tokens_max, 10, 0.0, at_s)


def test_a_head_that_two_conversations_share_is_kept_without_their_tails() -> None:
    hot = hot_prefixes()
    note(hot, SYSTEM + [1] * 48)
    assert chosen(hot) == []
    note(hot, SYSTEM + [2] * 48)
    (replay,) = chosen(hot)
    assert list(replay.units) == SYSTEM
    assert replay.hits == 2.0


def test_the_turns_of_one_conversation_are_not_sharing() -> None:
    hot = hot_prefixes()
    for turns in range(1, 6):
        note(hot, SYSTEM + [7] * 32 * turns)
    assert chosen(hot) == []
    assert len(hot) == 2, "one tail that grew, and the root"


def test_the_same_prompt_again_is_sharing() -> None:
    hot = hot_prefixes()
    note(hot, SYSTEM)
    note(hot, SYSTEM)
    assert [list(one.units) for one in chosen(hot)] == [SYSTEM]


def test_nested_heads_are_stored_once_and_replayed_once() -> None:
    hot = hot_prefixes()
    for tools in (3, 4):
        for user in (1, 2):
            note(hot, SYSTEM + [tools] * 64 + [user] * 32)
    used = hot.bytes_used
    assert used < 8 * 700 + 16 * 4 * (64 * 3 + 32 * 4)
    found = sorted(list(one.units) for one in chosen(hot))
    assert found == [SYSTEM + [3] * 64, SYSTEM + [4] * 64]


def test_hits_fade_and_the_hotter_prefix_comes_first() -> None:
    hot = hot_prefixes()
    for user in range(8):
        note(hot, [1] * 64 + [user + 50] * 16, at_s=0.0)
    for user in range(3):
        note(hot, [2] * 64 + [user + 50] * 16, at_s=120.0)
    found = chosen(hot, at_s=120.0)
    assert [one.units[0] for one in found] == [2, 1]
    assert [one.hits for one in found] == [3.0, 2.0]


def test_ages_without_end_do_not_overflow() -> None:
    hot = hot_prefixes()
    for hour in range(0, 2000, 10):
        note(hot, [1] * 64 + [hour] * 16, at_s=hour * 3600.0)
    (replay,) = chosen(hot, at_s=1990 * 3600.0)
    assert 1.0 <= replay.hits < 1.001


def test_the_last_prefix_is_cut_to_the_budget() -> None:
    hot = hot_prefixes()
    for user in range(2):
        note(hot, SYSTEM + [user] * 16)
    (replay,) = chosen(hot, tokens_max=40)
    assert list(replay.units) == SYSTEM[:32]
    assert len(replay.hashes) == 2


def test_tails_are_dropped_before_shared_heads() -> None:
    hot = hot_prefixes(runs_max=10)
    for user in range(2):
        note(hot, SYSTEM + [user] * 16)
    for number in range(100):
        note(hot, [1000 + number] * 160, at_s=float(number) / 100)
    assert [list(one.units) for one in chosen(hot, at_s=1.0)] == [SYSTEM]


def test_one_endless_prompt_takes_a_part_of_the_memory_only() -> None:
    hot = hot_prefixes(bytes_max=64 * 1024)
    note(hot, [5] * 200_000)
    assert hot.bytes_used <= 64 * 1024 // 8 + 2 * 700


def test_salts_and_token_ids_are_in_no_repr() -> None:
    hot = hot_prefixes()
    for user in range(2):
        note(hot, [987_654] * 32 + [user] * 16, salt="tenant-secret")
    (replay,) = chosen(hot)
    assert replay.origin.salt == "tenant-secret"
    for said in (repr(replay), str(replay), repr(hot), repr(replay.origin)):
        assert "tenant-secret" not in said
        assert "987654" not in said
