import threading

import pytest

from otoscope.activations.worker import prefetch


def test_results_come_in_order_and_no_more_than_the_bound_is_held():
    lock = threading.Lock()
    begun: list[int] = []
    taken: list[int] = []
    most = 0

    def work(task: int) -> int:
        nonlocal most
        with lock:
            begun.append(task)
            most = max(most, len(begun) - len(taken))
        return task * 10

    for task, result in prefetch(range(200), work, weigh=lambda _: 1.0, bound=5.0, threads=3):
        assert result == task * 10
        with lock:
            taken.append(task)
    assert taken == list(range(200))
    # five waiting, one handed over and not yet counted as taken
    assert 2 <= most <= 6


def test_a_task_heavier_than_the_bound_runs_alone():
    assert [r for _, r in prefetch([1, 100, 1], lambda n: n, weigh=float, bound=2.0, threads=2)] == [1, 100, 1]


def test_an_error_is_raised_when_its_turn_comes():
    results = prefetch([1, 0, 2], lambda n: 1 / n, weigh=lambda _: 1.0, bound=3.0, threads=1)
    assert next(results) == (1, 1.0)
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        next(results)


def test_leaving_early_ends_the_threads():
    results = prefetch(range(1000), lambda n: n, weigh=lambda _: 1.0, bound=4.0, threads=2)
    next(results)
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("otoscope-ahead")]
