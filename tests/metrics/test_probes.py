import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from otoscope.errors import EvaluationError
from otoscope.linear.logistic import fit_logistic, rotate
from otoscope.metrics.predictions import share_intervals, shares_right
from otoscope.metrics.probes import ProbeSettings, class_weights, fit_probe
from otoscope.resampling.groups import fold_splits
from otoscope.resampling.intervals import unseen_error
from tests.support.planted_claims import clean_latents

FEW = ProbeSettings()


def told(seed: int = 0, p: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Four classes with different means, plus an offset per group; 12 groups of 20 rows."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(12), 20)
    split = np.repeat(["train", "valid", "test"], [140, 40, 60])
    labels = rng.integers(4, size=240)
    features = rng.normal(size=(4, p))[labels] + rng.normal(size=(240, p)) + 0.5 * rng.normal(size=(12, p))[groups]
    return features, np.array(["a", "b", "c", "d"])[labels], groups, split


@pytest.mark.parametrize("p", [20, 400])
def test_fit_logistic_equals_scikit_learn_for_few_and_many_features(p: int) -> None:
    rng = np.random.default_rng(p)
    x, y = rng.normal(size=(100, p)) * rng.gamma(2, size=p), rng.integers(3, size=100)
    x[:, :3] += 2 * np.eye(3)[y]
    penalty = 0.3
    span = rotate(x, fitted=80)
    found = fit_logistic(
        span.rows[:80], y[None, :80], n_classes=3, penalties=np.array([penalty]), variance=span.variance, tolerance=1e-9
    )[0]
    reference = LogisticRegression(C=1 / (penalty * 80), tol=1e-12, max_iter=20_000).fit(x[:80], y[:80])

    def objective(logits: np.ndarray, squares: float) -> float:
        shifted = logits - logits.max(axis=1, keepdims=True)
        doubt = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(80), y[:80]]
        return float(doubt.mean() + penalty / 2 * squares)

    ours = objective(span.rows[:80] @ found, float((found[:-1] ** 2).sum()))
    theirs = objective(reference.decision_function(x[:80]), float((reference.coef_**2).sum()))
    assert ours == pytest.approx(theirs, rel=1e-8)
    # other rows are projected on the same span; sums over classes are arbitrary without a penalty
    logits, expected = span.rows[80:] @ found, reference.decision_function(x[80:])
    centred = expected - expected.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(logits - logits.mean(axis=1, keepdims=True), centred, atol=1e-4)


def test_rotate_preserves_inner_products_with_fitted_rows() -> None:
    rng = np.random.default_rng(0)
    for p in (10, 200):
        x = rng.normal(size=(50, p))
        turned = rotate(x, fitted=40).rows[:, :-1]
        np.testing.assert_allclose(turned @ turned[:40].T, x @ x[:40].T, atol=1e-8)


def test_fit_logistic_batch_equals_single_problems() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(60, 8)), rng.integers(3, size=(4, 60))
    span = rotate(x, fitted=60)
    penalties = np.array([1e-3, 1e-2, 0.1, 1.0])

    def solve(which: slice) -> np.ndarray:
        return fit_logistic(
            span.rows, y[which], n_classes=3, penalties=penalties[which], variance=span.variance, tolerance=1e-10
        )

    alone = np.concatenate([solve(slice(i, i + 1)) for i in range(4)])
    np.testing.assert_allclose(solve(slice(0, 4)), alone, atol=1e-6)


def test_shares_right_equals_scikit_learn() -> None:
    rng = np.random.default_rng(2)
    # class 3 never occurs, class 4 is never predicted
    truth, guess = rng.choice([0, 1, 2, 4], 50), rng.integers(4, size=50)
    table = np.zeros((1, 6, 6))
    np.add.at(table, (0, truth, guess), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [
            accuracy_score(truth, guess),
            balanced_accuracy_score(truth, guess),
            f1_score(truth, guess, average="macro"),
        ]
    np.testing.assert_allclose(shares_right(table)[0], expected)


def test_share_intervals_where_all_rows_are_right_are_not_points() -> None:
    tables = np.zeros((5, 2, 2))
    tables[:, 0, 0], tables[:, 1, 1] = 8, 2
    accuracy, balanced, f1 = share_intervals(tables)
    assert accuracy == pytest.approx((1, 0.025 ** (1 / 50), 1))
    # the 10 clips of the rare class may all have been lucky
    assert balanced.low == pytest.approx((1 + 0.025 ** (1 / 10)) / 2)
    assert f1 == balanced
    sexes = np.zeros((5, 2, 2))
    sexes[:3, 0, 0], sexes[3:, 1, 1] = 10, 10
    accuracy, balanced, _ = share_intervals(sexes)
    assert accuracy.low == pytest.approx(0.025 ** (1 / 5))
    assert balanced.low == pytest.approx(1 - unseen_error([3.0, 2.0]))


def test_share_intervals_do_not_presume_the_recall_of_a_class_of_one_group() -> None:
    tables = np.zeros((4, 2, 2))
    tables[:, 0, 0], tables[:, 0, 1] = (9, 8, 7, 9), (1, 2, 3, 1)
    tables[2, 1, 1] = 10
    accuracy, balanced, f1 = share_intervals(tables)
    assert accuracy.low > 0.6
    assert balanced.low < 0.5 < balanced.value
    assert np.isnan([f1.low, f1.high]).all()


def test_probe_predicts_classes_on_unseen_groups_above_null() -> None:
    features, labels, groups, split = told()
    found = fit_probe(features, labels, groups=groups, split=split, settings=FEW)
    for score in (found.accuracy, found.balanced_accuracy, found.macro_f1):
        assert 0.8 < score.value <= 1
        assert score.low <= score.value <= score.high
        assert score.null_mean < 0.45
        assert score.null_mean <= score.null_high < score.low
    assert found.classes == ("a", "b", "c", "d")
    assert found.confusion.sum() == found.n == 60
    assert found.groups == 3
    assert found.valid_accuracy > 0.8


def test_probe_is_not_carried_away_by_latents_that_barely_fire_in_fitted_rows() -> None:
    features, labels, groups, split = told()
    rng = np.random.default_rng(1)
    test = (split == "test")[:, None]
    idle = np.where(test, rng.random((240, 100)) * (rng.random((240, 100)) < 0.1), 0.0)
    idle[rng.integers(140, size=100), np.arange(100)] = 1e-3
    idle[140 + rng.integers(40, size=100), np.arange(100)] = 1e-3 * rng.random(100)
    plain, wide = (
        fit_probe(x, labels, groups=groups, split=split, settings=FEW) for x in (features, np.hstack([features, idle]))
    )
    assert plain.accuracy.value == 1
    assert wide.accuracy.value > 0.8


def test_probe_of_noise_is_near_chance() -> None:
    _, labels, groups, split = told()
    noise = np.random.default_rng(9).normal(size=(240, 500))
    found = fit_probe(noise, labels, groups=groups, split=split, settings=FEW)
    assert found.balanced_accuracy.value < 0.5


@pytest.mark.parametrize("seed", range(3))
def test_probe_reads_few_of_many_idle_latents_and_all_of_a_dense_layer(seed: int) -> None:
    codes, layer, labels, groups, split = clean_latents(seed)
    of_codes, of_layer = (fit_probe(x, labels, groups=groups, split=split) for x in (codes, layer))
    # two latents hold the label; reading all 512 gives .55 to .64
    assert of_codes.reader in ("2 dimensions", "4 dimensions", "8 dimensions")
    assert of_codes.balanced_accuracy.value > 0.95
    assert of_layer.reader == "all dimensions"
    assert of_layer.balanced_accuracy.value > 0.9
    assert of_codes.balanced_accuracy.value > of_layer.balanced_accuracy.value - 0.02
    every = fit_probe(codes, labels, groups=groups, split=split, settings=ProbeSettings(sizes=()))
    assert every.reader == "all dimensions"
    assert every.balanced_accuracy.value < of_layer.balanced_accuracy.value - 0.1


def test_probe_chooses_its_reader_in_each_fold() -> None:
    codes, layer, labels, groups, _ = clean_latents(0)
    splits = fold_splits(groups % 3)
    # the sources are latents of the codes in two folds, and mixed in the layer of the third
    own = [codes, codes, layer]
    found = fit_probe(own, labels, groups=groups, split=splits)
    assert found.reader.endswith(" dimensions or all dimensions")
    assert found.balanced_accuracy.value > 0.93


def test_probe_of_noise_stays_at_chance_for_any_reader() -> None:
    _, _, labels, groups, split = clean_latents(0)
    values = [
        fit_probe(np.random.default_rng(seed).normal(size=(300, 100)), labels, groups=groups, split=split)
        for seed in range(20)
    ]
    scores = np.array([probe.balanced_accuracy.value for probe in values])
    assert abs(scores.mean() - 0.5) < 0.03
    above = [probe.balanced_accuracy.value > probe.balanced_accuracy.null_high for probe in values]
    assert sum(above) <= 3


def test_probe_keeps_all_dimensions_unless_few_are_better_beyond_chance() -> None:
    features, labels, groups, split = told()
    kept = fit_probe(features, labels, groups=groups, split=split)
    every = fit_probe(features, labels, groups=groups, split=split, settings=ProbeSettings(sizes=()))
    assert kept.reader == "all dimensions"
    assert (kept.accuracy, kept.penalty) == (every.accuracy, every.penalty)


def test_probe_seed_changes_null_only() -> None:
    features, labels, groups, split = told()
    one, same, other = (
        fit_probe(features, labels, groups=groups, split=split, settings=FEW, seed=s) for s in (0, 0, 1)
    )
    assert one.accuracy == same.accuracy
    assert one.accuracy[:3] == other.accuracy[:3]
    assert one.accuracy.null_mean != other.accuracy.null_mean


def test_probe_leaves_out_a_class_without_training_rows() -> None:
    features, labels, groups, split = told()
    strange = labels.astype(object)
    strange[200:220] = "unheard"
    found = fit_probe(features, strange, groups=groups, split=split)
    kept = strange != "unheard"
    alone = fit_probe(features[kept], labels[kept], groups=groups[kept], split=split[kept])
    assert "unheard" not in found.classes
    assert (found.n, found.accuracy) == (40, alone.accuracy)


def test_fit_logistic_with_class_weights_equals_scikit_learn() -> None:
    rng = np.random.default_rng(4)
    y = rng.choice(3, 120, p=[0.8, 0.15, 0.05])
    x = rng.normal(size=(120, 5)) + np.eye(5)[y]
    span = rotate(x, fitted=120)
    weights = class_weights(y)
    found = fit_logistic(
        span.rows,
        y[None],
        n_classes=3,
        penalties=np.array([0.1]),
        variance=span.variance,
        weights=weights[None],
        tolerance=1e-9,
    )[0]
    reference = LogisticRegression(C=1 / (0.1 * 120), tol=1e-12, max_iter=20_000, class_weight="balanced").fit(x, y)
    logits, expected = span.rows @ found, reference.decision_function(x)
    np.testing.assert_allclose(logits - logits.mean(axis=1, keepdims=True), expected, atol=1e-4)


def test_probe_of_a_rare_class_does_not_depend_on_its_frequency() -> None:
    rng = np.random.default_rng(5)
    groups, split = np.repeat(np.arange(10), 60), np.repeat(["train", "valid", "test"], [300, 120, 180])
    rare = rng.random(600) < 0.08
    features = rng.normal(size=(600, 4))
    features[:, 0] += 1.5 * rare
    found = fit_probe(features, np.where(rare, "x", "y"), groups=groups, split=split)
    # the best threshold between means 1.5 deviations apart gives 77 %; without weights nearly all rows are called y
    assert found.balanced_accuracy.value > 0.68


def test_probe_accepts_class_missing_in_train_or_test_groups() -> None:
    features, labels, groups, split = told()
    absent = labels.copy()
    absent[(split == "train") & (labels == "a")] = "b"
    found = fit_probe(features, absent, groups=groups, split=split, settings=FEW)
    assert np.isfinite(found.accuracy.value)
    gone = labels.copy()
    gone[(split == "test") & (labels == "a")] = "b"
    assert np.isfinite(fit_probe(features, gone, groups=groups, split=split, settings=FEW).balanced_accuracy.value)


def test_probe_excludes_rows_without_label() -> None:
    features, labels, groups, split = told()
    holes = labels.astype(object)
    holes[::5] = None
    kept = np.arange(240) % 5 != 0
    found = fit_probe(features, holes, groups=groups, split=split, settings=FEW)
    alone = fit_probe(features[kept], labels[kept], groups=groups[kept], split=split[kept], settings=FEW)
    assert found.n == 48
    assert found.accuracy == alone.accuracy


def test_probe_accepts_constant_features_and_separable_classes() -> None:
    features, labels, groups, split = told()
    easy = np.concatenate([features + 50 * (labels == "a")[:, None], np.ones((240, 5))], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fit_probe(easy, labels == "a", groups=groups, split=split, settings=FEW)
    assert found.accuracy.value == 1


def test_probe_bad_input_is_refused() -> None:
    features, labels, groups, split = told()
    with pytest.raises(EvaluationError, match="the one class 'a'"):
        fit_probe(features, np.full(240, "a"), groups=groups, split=split)
    with pytest.raises(EvaluationError, match="no row belongs to the split 'valid'"):
        fit_probe(features, labels, groups=groups, split=np.where(split == "valid", "train", split))
    with pytest.raises(EvaluationError, match="no row of the split 'test' has this label"):
        fit_probe(features, np.where(split == "test", "", labels), groups=groups, split=split)
    with pytest.raises(EvaluationError, match="all features are constant"):
        fit_probe(np.ones((240, 3)), labels, groups=groups, split=split)
    with pytest.raises(EvaluationError, match="NaN or infinity"):
        fit_probe(np.full((240, 3), np.nan), labels, groups=groups, split=split)
    with pytest.raises(EvaluationError, match="above 0"):
        fit_probe(features, labels, groups=groups, split=split, settings=ProbeSettings(penalties=(0.0,)))
    with pytest.raises(EvaluationError, match="239 labels"):
        fit_probe(features, labels[1:], groups=groups, split=split)
