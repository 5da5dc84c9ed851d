"""Three kinds of task: signal is predicted, noise is not, and groups stay separate."""

import numpy as np
import pytest

from otoscope.metrics.record import Record
from otoscope.protocols.strict.tasks import (
    Repetitions,
    Task,
    TaskResult,
    available_tasks,
    continuous_task,
    evaluate_task,
    multi_label_task,
    single_label_task,
)

ABOUT = Record(metric="l0", value=0.0, split="test", representation="dense", layer=0)
REPEAT = Repetitions(folds=4)
SPLIT = np.repeat(["train", "valid", "test"], [120, 40, 80])
GROUPS = np.repeat([f"g{i:02d}" for i in range(24)], 10)


def hidden(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return two labels and a value, all linear in 30 features."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((240, 30))
    number = rng.integers(3, size=240)
    features[:, :3] += 4 * np.eye(3)[number]
    colour = np.asarray(["red", "green", "blue"])[number]
    shape = np.where(features[:, 4] > 0, "round", "square")
    return features, np.stack([colour, shape]), 3 + features[:, 5] + 0.1 * rng.standard_normal(240)


def evaluate(task: Task, features: np.ndarray) -> TaskResult:
    return evaluate_task(task, features, split=SPLIT, groups=GROUPS, repeat=REPEAT, about=ABOUT)


def test_evaluate_task_scores_signal_but_not_shuffled_features():
    features, (colour, shape), value = hidden()
    both = multi_label_task({"colour": colour, "shape": shape}, split=SPLIT)
    assert both is not None
    chance = {"colour": 1 / 3, "colour + shape": 0.5, "value": 0.0}
    for task in (single_label_task("colour", colour), both, continuous_task("value", value)):
        test, held = evaluate(task, features).records
        shuffled = evaluate(task, np.random.default_rng(9).permutation(features)).records[0]
        assert test.value > 0.85, task.name
        assert held.value > 0.8
        assert held.split == "valid"
        assert test.low <= test.value <= test.high
        assert test.null_mean == pytest.approx(chance[task.name], abs=0.1)
        assert shuffled.value == pytest.approx(chance[task.name], abs=0.15)
        assert (test.n, test.groups) == (80, 8)


def test_evaluate_task_divides_the_score_among_the_answers_of_test_clips():
    features, (colour, shape), value = hidden()
    both = multi_label_task({"colour": colour, "shape": shape}, split=SPLIT)
    assert both is not None
    noise = np.random.default_rng(4).permutation(features)
    for task in (single_label_task("colour", colour), both):
        for units in (features, noise):
            found = evaluate(task, units)
            assert found.shares.sum() == pytest.approx(found.records[0].value)
            assert not found.shares[SPLIT != "test"].any()
    assert not evaluate(continuous_task("value", value), features).shares.any()


def test_evaluate_task_predicts_rare_classes():
    rng = np.random.default_rng(1)
    rare = rng.random(240) < 0.1
    features = rng.standard_normal((240, 4)) + 3 * rare[:, None]
    task = single_label_task("rare", np.where(rare, "yes", "no"))
    assert evaluate(task, features).records[0].value > 0.9


def test_evaluate_task_scores_multi_label_noise_at_chance():
    _, (colour, shape), _ = hidden()
    task = multi_label_task({"colour": colour, "shape": shape}, split=SPLIT)
    assert task is not None
    noise = np.random.default_rng(3).standard_normal((240, 5))
    assert evaluate(task, noise).records[0].value == pytest.approx(0.5, abs=0.12)
    assert set(task.classes) == {"colour=red", "colour=green", "colour=blue", "shape=round", "shape=square"}


def test_evaluate_task_excludes_unknown_rows():
    features, (colour, _), value = hidden()
    colour = colour.copy()
    colour[GROUPS == "g23"] = ""
    value[GROUPS == "g22"] = np.nan
    assert evaluate(single_label_task("colour", colour), features).records[0].n == 70
    assert evaluate(continuous_task("value", value), features).records[0].groups == 7


def test_evaluate_task_validation_score_ignores_test_targets():
    features, (colour, _), _ = hidden()
    other = colour.copy()
    other[SPLIT == "test"] = "red"
    first, second = (
        evaluate(single_label_task("colour", values), features).records[1].value for values in (colour, other)
    )
    assert first == second


def test_available_tasks_by_labels_and_factors():
    _, (colour, shape), value = hidden()
    factors = np.stack([value, value], axis=1)
    names = ("pitch", "level")

    def kinds(labels: dict[str, np.ndarray], target: str | None) -> list[str]:
        return [task.kind for task in available_tasks(labels, factors, names, split=SPLIT, target=target)]

    assert kinds({"colour": colour}, None) == ["single"]
    assert kinds({"colour": colour, "shape": shape}, "level") == ["single", "single", "several", "continuous"]
    assert kinds({}, "pitch") == ["continuous"]
    rare = np.where(np.arange(240) == 3, "once", "always")
    assert multi_label_task({"rare": rare, "same": np.full(240, "x")}, split=SPLIT) is None
