from __future__ import annotations

from workers.engine.causes import cause_of


def test_the_root_cause_is_preferred_to_its_consequence() -> None:
    lines = [
        "(EngineCore pid=12) ERROR core.py:9] Traceback (most recent call last):",
        "(EngineCore pid=12) ERROR core.py:9] ValueError: the head size is not supported",
        "RuntimeError: Engine core initialization failed. See root cause above.",
    ]
    assert cause_of(lines) == "ValueError: the head size is not supported"


def test_a_consequence_is_better_than_nothing() -> None:
    lines = ["RuntimeError: Engine core initialization failed. See root cause above."]
    assert cause_of(lines) == lines[0]


def test_the_module_of_an_error_is_left_out() -> None:
    assert cause_of(["torch.OutOfMemoryError: no room"]) == "OutOfMemoryError: no room"


def test_lines_without_an_error_have_no_cause() -> None:
    assert cause_of(["INFO loading", "ERROR something", ""]) is None


def test_a_long_cause_is_cut() -> None:
    assert len(cause_of(["ValueError: " + "x" * 10_000]) or "") == 500
