import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_selection import f_classif

from otoscope.errors import EvaluationError
from otoscope.linear.readers import rank_by_f
from otoscope.metrics.sparse_regression import SparseProbeSettings, sparse_probe

GROUPS = np.repeat(np.arange(15), 20)
SPLIT = np.repeat(["train", "valid", "test"], [180, 40, 80])
BRIEF = SparseProbeSettings(sizes=(1, 2, 4), penalties=(1e-3, 1e-1))


def told(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Each of the first four latents fires for one of four classes; the rest is noise."""
    rng = np.random.default_rng(seed)
    number = rng.integers(4, size=300)
    codes = np.maximum(rng.normal(size=(300, 20)) - 1, 0)
    codes[:, :4] = np.eye(4)[number] * rng.uniform(1, 2, (300, 4))
    return codes, np.array(["a", "b", "c", "d"])[number]


def test_rank_by_f_equals_analysis_of_variance() -> None:
    codes, labels = told()
    codes = codes + 0.3 * np.random.default_rng(0).normal(size=codes.shape)
    np.testing.assert_array_equal(rank_by_f(codes, labels), np.argsort(-f_classif(codes, labels)[0]))


def test_sparse_probe_gains_one_class_per_latent() -> None:
    codes, labels = told()
    found = sparse_probe(codes, labels, groups=GROUPS, split=SPLIT, settings=BRIEF)
    assert set(found.chosen) == {0, 1, 2, 3}
    values = [score.value for score in found.scores]
    # k detectors separate k classes from the rest; three suffice for four classes
    np.testing.assert_allclose(values, [0.5, 0.75, 1], atol=0.02)
    assert all(score.null_high < 0.4 for score in found.scores)
    assert (found.n, found.groups) == (80, 4)


@settings(max_examples=6)
@given(st.integers(0, 2**31 - 1))
def test_sparse_probe_ignores_order_scale_and_dead_latents(seed: int) -> None:
    codes, labels = told(seed)
    codes += 0.2 * np.random.default_rng(seed).normal(size=codes.shape)
    rng = np.random.default_rng(seed)
    order = rng.permutation(20)
    changed = np.concatenate([codes[:, order] * rng.uniform(0.01, 100, 20), np.ones((300, 3))], axis=1)
    one, other = (sparse_probe(x, labels, groups=GROUPS, split=SPLIT, settings=BRIEF) for x in (codes, changed))
    np.testing.assert_array_equal(order[other.chosen], one.chosen)
    np.testing.assert_allclose([s.value for s in other.scores], [s.value for s in one.scores], atol=0.03)


def test_sparse_probe_bad_input_is_refused() -> None:
    codes, labels = told()
    with pytest.raises(EvaluationError, match="nothing to choose from"):
        sparse_probe(np.ones((300, 2)), labels, groups=GROUPS, split=SPLIT)
    with pytest.raises(EvaluationError, match="disagree"):
        sparse_probe(codes, labels[:4], groups=GROUPS, split=SPLIT)
    with pytest.raises(EvaluationError, match="must increase"):
        sparse_probe(codes, labels, groups=GROUPS, split=SPLIT, settings=SparseProbeSettings(sizes=()))
