import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from otoscope.errors import ConfigError, DamagedArtifact
from otoscope.sae.sparsifiers import build_sparsifier, sparsifier_from_card
from otoscope.sae.sparsifiers.base import k_from_sparsity
from otoscope.sae.sparsifiers.topk import TopK


@pytest.mark.parametrize(
    ("sparsity", "k"), [(0.75, 512), (0.80, 409), (0.85, 307), (0.90, 204), (0.95, 102), (0.99, 20)]
)
def test_budgets_of_the_paper(sparsity: float, k: int):
    assert k_from_sparsity(2048, sparsity) == k


@settings(deadline=None)
@given(hnp.arrays("float32", (3, 9), elements=st.integers(-3, 3).map(float)), st.integers(1, 9))
def test_what_is_kept_is_at_least_as_large_as_what_is_not(pre, k: int):
    pre = torch.from_numpy(pre)
    codes = TopK(k)(pre)
    assert ((codes > 0).sum(dim=1) == (pre > 0).sum(dim=1).clamp(max=k)).all()
    assert ((codes == 0) | (codes == pre)).all()
    for row, kept in zip(pre, codes > 0, strict=True):
        if kept.any() and (~kept).any():
            assert row[kept].min() >= row[~kept].max()


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, float("nan")])
def test_refuses_impossible_sparsity(sparsity: float):
    with pytest.raises(ConfigError, match=r"sparsity must be at least 0 and below 1"):
        k_from_sparsity(2048, sparsity)


def test_refuses_a_budget_that_keeps_nothing():
    with pytest.raises(ConfigError, match=r"k must be at least 1, got 0 of 64 latents"):
        k_from_sparsity(64, 0.99)
    with pytest.raises(ConfigError, match=r"k must be at least 1"):
        TopK(0)


def test_refuses_a_budget_above_the_latents():
    with pytest.raises(ConfigError, match=r"k=65 exceeds latents=64"):
        build_sparsifier("topk", k=65, latents=64)
    with pytest.raises(ConfigError, match=r"k=5 exceeds latents=4"):
        TopK(5)(torch.zeros(1, 4))


def test_unknown_names_get_a_suggestion():
    with pytest.raises(ConfigError, match=r"no sparsifier 'topkk'; did you mean topk\?"):
        build_sparsifier("topkk", k=1, latents=4)


@pytest.mark.parametrize("card", [{}, {"name": "topk"}, {"name": "nope", "k": 3}, {"name": "topk", "k": 3, "z": 1}])
def test_a_card_that_describes_no_sparsifier_is_damage(card: dict[str, object]):
    with pytest.raises(DamagedArtifact, match=r"cannot be built"):
        sparsifier_from_card(card, latents=8)
