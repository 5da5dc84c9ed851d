"""Choice of the best layer and of the highest sparsity within one standard error of the best."""

import numpy as np

from otoscope.protocols.strict.run import HeldOutScores, best_layers, sparsest_within_error


def held(mean: float, *, spread: float = 0.0, seed: int = 0) -> HeldOutScores:
    noise = np.random.default_rng(seed).standard_normal(40)
    return HeldOutScores((mean + spread * (noise - noise.mean()))[None], np.zeros((1, 0)))


def test_best_layers_take_the_lowest_of_equals():
    assert best_layers({0: held(0.2), 3: held(0.5), 5: held(0.4)}) == [3]
    assert best_layers({4: held(0.5), 2: held(0.5)}) == [2]


def test_best_layers_clip_negative_scores():
    poor = HeldOutScores(np.array([[-50.0, 0.9]]), np.zeros((1, 0)))
    fair = HeldOutScores(np.array([[0.1, 0.5]]), np.zeros((1, 0)))
    assert best_layers({0: fair, 1: poor}) == [1]


def test_best_layers_choose_in_each_fold_alone():
    first, second = (HeldOutScores(np.array(r2), np.zeros((3, 0))) for r2 in ([[0.9], [0.3], [0.5]], [[0.4]] * 3))
    assert best_layers({2: first, 3: second}) == [2, 3, 2]


def test_sparsest_within_error_accepts_a_loss_within_one_error():
    found = {0.75: held(0.50, spread=0.1, seed=1), 0.9: held(0.495, spread=0.1, seed=2), 0.99: held(0.3)}
    assert sparsest_within_error(found, independent=20) == 0.9
    assert sparsest_within_error({0.75: held(0.5), 0.9: held(0.49)}, independent=20) == 0.75


def test_sparsest_within_error_widens_with_fewer_factors():
    found = {0.75: held(0.50, spread=0.1, seed=1), 0.9: held(0.47, spread=0.1, seed=2)}
    assert sparsest_within_error(found, independent=1000) == 0.75
    assert sparsest_within_error(found, independent=4) == 0.9


def test_best_layers_use_tasks_without_factors():
    none = np.zeros((1, 0))
    assert best_layers({0: HeldOutScores(none, np.array([[0.3]])), 1: HeldOutScores(none, np.array([[0.8]]))}) == [1]
