from cluster.local.restarts import RestartBudget


def test_pauses_double_until_the_budget_is_spent() -> None:
    budget = RestartBudget(restarts_max=3, window_s=60.0, first_pause_s=0.5)
    assert [budget.spend(now) for now in (0.0, 1.0, 2.0, 3.0)] == [0.5, 1.0, 2.0, None]


def test_a_calm_window_fills_the_budget_again() -> None:
    budget = RestartBudget(restarts_max=1, window_s=60.0, first_pause_s=0.5)
    assert budget.spend(0.0) == 0.5
    assert budget.spend(60.0) is None
    assert budget.spend(60.1) == 0.5
