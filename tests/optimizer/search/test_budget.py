from math import inf

from optimizer.search.budget import budget_of


def test_a_budget_is_spent_when_its_time_is_over() -> None:
    time = [100.0]
    budget = budget_of(10.0, lambda: time[0])
    assert not budget.is_spent
    time[0] = 110.0
    assert budget.is_spent


def test_a_budget_without_a_limit_is_never_spent() -> None:
    time = [0.0]
    budget = budget_of(inf, lambda: time[0])
    time[0] = 1e12
    assert not budget.is_spent
