"""Errors by class and by group: against scikit-learn, known extremes, and permuted predictions."""

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import confusion_matrix, recall_score

from otoscope.errors import EvaluationError
from otoscope.metrics.predictions import (
    PREDICTIONS,
    accuracies_of_few_groups,
    accuracy_by_group,
    accuracy_difference,
    confusion,
    recall_by_class,
)
from otoscope.resampling.intervals import unseen_error

CLASSES = np.array(["a", "e", "i"])


def predictions(truth: np.ndarray, predicted: np.ndarray, groups: np.ndarray, **more: object) -> pl.DataFrame:
    n = len(truth)
    of_probe = {"protocol": "held_out", "representation": "dense", "layer": 3, "sae_id": "", "label": "vowel"}
    of_clip = {
        "clip_id": [f"clip{i}" for i in range(n)],
        "group": groups,
        "true_class": truth,
        "predicted_class": predicted,
    }
    columns = {**dict.fromkeys(PREDICTIONS), **of_probe, "fold": 0, **of_clip, **more}
    each = {name: list(x) if isinstance(x, np.ndarray | list) else [x] * n for name, x in columns.items()}
    return pl.DataFrame(each, schema=PREDICTIONS)


def random_predictions(seed: int = 0, groups: int = 6, each: int = 40, right: float = 0.6) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    truth = CLASSES[rng.integers(3, size=groups * each)]
    guessed = CLASSES[rng.choice(3, size=groups * each, p=[0.2, 0.2, 0.6])]
    predicted = np.where(rng.random(groups * each) < right, truth, guessed)
    return predictions(truth, predicted, np.repeat([f"singer{i}" for i in range(groups)], each))


def test_confusion_agrees_with_scikit_learn() -> None:
    rows = random_predictions()
    table = confusion_matrix(rows["true_class"].to_list(), rows["predicted_class"].to_list(), labels=CLASSES)
    assert confusion(rows)["clips"].to_numpy().reshape(3, 3).tolist() == table.tolist()
    np.testing.assert_allclose(
        confusion(rows)["share"].to_numpy().reshape(3, 3), table / table.sum(axis=1, keepdims=True)
    )


def test_confusion_has_no_share_for_a_class_that_is_only_predicted() -> None:
    rows = predictions(np.array(["a", "a"]), np.array(["a", "u"]), np.array(["x", "y"]))
    assert confusion(rows).rows() == [("a", "a", 1, 0.5), ("a", "u", 1, 0.5), ("u", "a", 0, None), ("u", "u", 0, None)]


def test_recall_by_class_agrees_with_scikit_learn_within_its_interval() -> None:
    rows = random_predictions()
    found = recall_by_class(rows)
    expected = recall_score(rows["true_class"].to_list(), rows["predicted_class"].to_list(), average=None)
    np.testing.assert_allclose(found["recall"].to_numpy(), expected)
    assert (found["low"] < found["recall"]).all()
    assert (found["recall"] < found["high"]).all()
    assert found["clips"].sum() == rows.height
    assert found["groups"].to_list() == [6, 6, 6]


def test_recall_of_a_class_that_is_always_right_has_the_binomial_bound() -> None:
    truth = np.repeat(CLASSES, 20)
    rows = predictions(truth, truth, np.tile(["x", "y", "z", "w"], 15))
    found = recall_by_class(rows)
    assert found["recall"].to_list() == [1.0] * 3
    assert found["low"].to_list() == pytest.approx([1 - unseen_error([20.0])] * 3)


def test_recall_of_a_class_in_one_group_has_no_interval() -> None:
    truth = np.array(["a", "e"] * 10 + ["i"] * 5)
    rows = predictions(truth, truth, np.array(["x", "y"] * 10 + ["x"] * 5))
    found = recall_by_class(rows).filter(pl.col("class") == "i")
    assert found["recall"][0] == 1
    assert found.select(pl.all_horizontal(pl.col("low", "high").is_nan())).item()


def test_chance_is_the_mean_recall_of_permuted_predictions() -> None:
    rows = random_predictions(1)
    rng = np.random.default_rng(2)
    truth, predicted = rows["true_class"].to_numpy(), rows["predicted_class"].to_numpy()
    permuted = [recall_score(truth, rng.permutation(predicted), average=None) for _ in range(300)]
    np.testing.assert_allclose(recall_by_class(rows)["chance"].to_numpy(), np.mean(permuted, axis=0), atol=0.01)


def test_recall_intervals_are_wider_in_a_cross_fit() -> None:
    rows = random_predictions()
    folds = pl.col("group").str.slice(-1).cast(pl.Int64) % 5
    one, crossed = recall_by_class(rows), recall_by_class(rows.with_columns(folds.alias("fold")))
    below = [table["recall"] - table["low"] for table in (one, crossed)]
    np.testing.assert_allclose(below[1].to_numpy(), 1.5 * below[0].to_numpy())


def test_recall_intervals_cover_the_recall_of_new_groups() -> None:
    """Groups differ in their recall around .7; the interval of eight groups covers it in at least 90 % of trials."""
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(8), 30)
        recall = np.clip(0.7 + 0.1 * rng.standard_normal(8), 0, 1)[groups]
        truth = CLASSES[rng.integers(2, size=240)]
        predicted = np.where(rng.random(240) < recall, truth, np.where(truth == "a", "e", "a"))
        low, high = recall_by_class(predictions(truth, predicted, groups.astype(str))).select("low", "high").row(0)
        covered += low <= 0.7 <= high
    assert covered >= 180


def test_accuracy_by_group_counts_every_clip() -> None:
    rows = random_predictions()
    found = accuracy_by_group(rows)
    weighted = (found["accuracy"] * found["clips"]).sum() / found["clips"].sum()
    assert weighted == pytest.approx((rows["true_class"] == rows["predicted_class"]).mean())


def test_recall_by_class_refuses_rows_of_several_probes() -> None:
    rows = random_predictions()
    with pytest.raises(EvaluationError, match="one probe, got those of 2"):
        recall_by_class(pl.concat([rows, rows.with_columns(layer=pl.lit(4, pl.Int64))]))


def two_probes(seed: int, groups: int = 6, each: int = 30, gap: float = 0.1) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return two probes of which the second is right where the first is, but for a share `gap` of the clips.

    Clips and groups differ in difficulty, and both probes fail on the same ones.
    """
    rng = np.random.default_rng(seed)
    names = np.repeat([f"singer{i}" for i in range(groups)], each)
    easy = rng.random(groups * each) < np.repeat(np.clip(0.75 + 0.15 * rng.standard_normal(groups), 0, 1), each)
    lost = easy & (rng.random(groups * each) < gap / 0.75)
    truth = np.full(groups * each, "a")
    first, second = (np.where(right, "a", "e") for right in (easy, easy & ~lost))
    return predictions(truth, first, names), predictions(truth, second, names, representation="sae")


def test_accuracy_difference_is_that_of_the_accuracies() -> None:
    first, second = two_probes(0)
    accuracy = [(rows["true_class"] == rows["predicted_class"]).mean() for rows in (first, second)]
    found = accuracy_difference(first, second)
    assert found.value == pytest.approx(accuracy[0] - accuracy[1])
    assert found.low < found.value < found.high
    swapped = accuracy_difference(second, first)
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low))


def test_accuracy_difference_of_equal_predictions_is_not_certain() -> None:
    first, _ = two_probes(0)
    found = accuracy_difference(first, first.with_columns(representation=pl.lit("sae")))
    assert found.value == 0
    assert found.low == pytest.approx(-found.high)
    assert found.high == pytest.approx(1 - 0.025 ** (1 / len(first)))


def test_accuracy_difference_has_the_power_of_a_paired_comparison() -> None:
    """A loss of 10 points is seen although the accuracy differs by 15 points between groups."""
    seen = sum(accuracy_difference(*two_probes(seed)).low > 0 for seed in range(60))
    assert seen >= 45


@pytest.mark.parametrize("groups", [3, 6])
def test_accuracy_difference_covers_the_planted_difference(groups: int) -> None:
    covered = 0
    for seed in range(300):
        found = accuracy_difference(*two_probes(seed, groups=groups))
        covered += found.low <= 0.1 <= found.high
    assert covered >= 276  # 92 %


def test_accuracy_difference_uses_the_clips_of_both_alone_and_needs_two_groups() -> None:
    first, second = two_probes(0)
    found = accuracy_difference(first.head(60), second)
    assert found == accuracy_difference(first.head(60), second.head(60))
    one = accuracy_difference(first.head(30), second)
    assert np.isnan(one.low)
    assert not np.isnan(one.value)
    assert np.isnan(accuracy_difference(first.head(0), second).value)


def test_accuracies_of_few_groups_are_listed_beside_intervals_that_exceed_them() -> None:
    rows = random_predictions(groups=3)
    probe = {"protocol": "held_out", "representation": "dense", "layer": 3, "sae_id": "", "low": 0.1, "high": 0.95}
    expected = sorted(accuracy_by_group(rows)["accuracy"])
    assert accuracies_of_few_groups(rows, "vowel", probe) == expected
    narrow = {"low": expected[0], "high": expected[-1]}
    for without in (narrow, {"low": float("nan")}, {"layer": 4}):
        assert not accuracies_of_few_groups(rows, "vowel", probe | without)
    assert not accuracies_of_few_groups(random_predictions(groups=6), "vowel", probe)
    assert not accuracies_of_few_groups(None, "vowel", probe)
