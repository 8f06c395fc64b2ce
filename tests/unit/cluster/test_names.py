from __future__ import annotations

from cluster.names import by_model, model_slug, worker_id


def test_ids_carry_the_models_name_and_a_number() -> None:
    assert worker_id("llama", 0) == "llama-0"
    assert worker_id("Qwen/Qwen3-8B", 2) == "Qwen--Qwen3-8B-2"


def test_different_models_never_share_a_slug() -> None:
    names = ["a/b", "a--b", "a-b", "a/-b", "a-/b", "a---b", "a"]
    assert len({model_slug(name) for name in names}) == len(names)


def test_workers_are_found_by_model_in_the_order_of_their_numbers() -> None:
    found = by_model(["m-10", "m-2", "m-1-0", "other-0", "odd"], ["m", "m-1"])
    assert found == {"m": ["m-2", "m-10"], "m-1": ["m-1-0"], "": ["odd", "other-0"]}
