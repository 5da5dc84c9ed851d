"""SparseCoder is a scikit-learn transformer."""

import os
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from otoscope import SparseCoder
from otoscope.errors import InputError
from tests.support.planted import planted

QUICK = {"epochs": 2, "init": "tied"}

OTHERS = {
    "check_methods_sample_order_invariance": "has the tolerance of float64, repeated below with that of float32",
    "check_methods_subset_invariance": "has the tolerance of float64, repeated below with that of float32",
    "check_array_api_input": "needs an environment variable, repeated below in a process of its own",
}
CHECKS = [
    check
    for _, check in estimator_checks_generator(SparseCoder(latents=8, k=2, settings=QUICK))
    if check.func.__name__ not in OTHERS
]


@pytest.mark.parametrize("seed", range(3))
def test_sparse_coder_codes_do_not_depend_on_the_order_of_rows(seed: int):
    rows = planted(seed).array
    coder = SparseCoder(latents=48, k=4, settings=QUICK).fit(rows)
    order = np.random.default_rng(seed).permutation(len(rows))
    codes = coder.transform(rows)
    np.testing.assert_allclose(coder.transform(rows[order]), codes[order], rtol=1e-5, atol=1e-6)
    each = np.concatenate([coder.transform(rows[i : i + 1]) for i in range(20)])
    np.testing.assert_allclose(each, codes[:20], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.func.__name__)
def test_sparse_coder_passes_scikit_learn_check(check: partial[None]):
    check(SparseCoder(latents=8, k=2, settings=QUICK))


def test_sparse_coder_codes_do_not_depend_on_array_api_dispatch():
    code = f"""
from otoscope import SparseCoder
from sklearn.utils.estimator_checks import check_array_api_input
coder = SparseCoder(latents=8, k=2, settings={QUICK})
check_array_api_input("SparseCoder", coder, array_namespace="numpy", expect_only_array_outputs=False)
"""
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "SCIPY_ARRAY_API": "1"}, check=True)


def test_sparse_coder_codes_are_those_of_its_sae():
    rows = planted(0, 1).array
    coder = SparseCoder(latents=96, k=6, settings=QUICK).fit(rows)
    codes = coder.transform(rows)
    np.testing.assert_array_equal(codes, coder.sae_.encode(rows))
    np.testing.assert_array_equal(coder.inverse_transform(codes), coder.sae_.decode(codes))
    assert (codes > 0).sum(axis=1).max() <= 6
    assert coder.result_.summary["valid_rows"] == 160
    assert list(coder.get_feature_names_out()[:2]) == ["sparsecoder0", "sparsecoder1"]
    assert coder.get_params()["latents"] == 96


def test_sparse_coder_same_random_state_same_codes():
    rows = planted(0).array
    coder = SparseCoder(latents=48, k=4, settings=QUICK, random_state=3).fit(rows)
    np.testing.assert_array_equal(clone(coder).fit(rows).transform(rows), coder.transform(rows))
    other = clone(coder).set_params(random_state=4).fit(rows)
    assert not np.array_equal(other.transform(rows), coder.transform(rows))


def test_sparse_coder_groups_are_not_split():
    rows, groups = planted(0, 1, 2, 3).array, np.repeat(["a", "b", "c", "d"], 400)
    coder = SparseCoder(latents=48, k=4, settings=QUICK, validation_fraction=0.25).fit(rows, groups=groups)
    assert coder.result_.summary["valid_rows"] == 400
    errors = [
        float(((part - coder.inverse_transform(coder.transform(part))) ** 2).mean())
        for part in (rows[groups == name] for name in "abcd")
    ]
    assert any(error == pytest.approx(coder.result_.summary["valid_mse"], rel=1e-5) for error in errors)
    with pytest.raises(InputError, match=r"groups: expected one per row, 1600, got shape \[3\]"):
        coder.fit(rows, groups=["a", "b", "c"])


def test_sparse_coder_in_a_pipeline():
    rows = planted(0).array
    pipeline = make_pipeline(StandardScaler(), SparseCoder(latents=48, k=4, settings=QUICK))
    assert pipeline.fit_transform(rows).shape == (400, 48)
    assert pipeline.inverse_transform(pipeline.transform(rows)).shape == rows.shape
