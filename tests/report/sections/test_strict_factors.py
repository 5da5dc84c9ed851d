"""Findings on factors follow from the rows: how many are predicted, and from how many dimensions."""

from dataclasses import replace

import pytest

from otoscope.formatting import comma_list
from otoscope.metrics.record import Record
from otoscope.metrics.representation import DENSE
from otoscope.report.sections.strict_factors import compactness_findings, factor_findings, few_dimension_findings
from tests.support.strict_rows import against, codes, row, rows_of


@pytest.mark.parametrize(
    ("low", "high", "said"), [(0.2, 0.6, "more compact"), (1.3, 1.8, "less compact"), (0.4, 1.4, "Undecided")]
)
def test_compactness_is_decided_by_the_ratio_paired_by_factor(low: float, high: float, said: str):
    rows = rows_of(
        row("effective_latents", DENSE, 5.0, low=4.0, high=6.0),
        codes("effective_latents", 2.5, low=1.0, high=7.0),
        against("effective_latents", low, high),
        row("effective_latents", "start", 3.0, low=2.0, high=5.0),
        against("effective_latents", 0.6, 1.1, "start"),
    )
    (finding,) = compactness_findings(rows)
    assert said in finding.text
    assert "They do not take fewer, beyond the interval, than SAE before training. Compactness alone" in finding.text
    assert f"(ratio {(low + high) / 2:.2f} ({low:.2f} to {high:.2f}))" in finding.text


def test_compactness_names_the_baselines_that_take_fewer_dimensions():
    rows = rows_of(
        row("effective_latents", DENSE, 5.0),
        codes("effective_latents", 8.0),
        against("effective_latents", 0.8, 2.9),
        *(row("effective_latents", name, 3.0) for name in ("logmel", "pca", "permuted")),
        *(against("effective_latents", 2.0, 4.0, name) for name in ("logmel", "pca", "permuted")),
        *(row("effective_latents", "kmeans", 16.0), against("effective_latents", 0.3, 0.7, "kmeans")),
    )
    (finding,) = compactness_findings(rows)
    more = "The codes take more, beyond the interval, than principal components (ratio 3.00 (2.00 to 4.00)) and log-mel"
    assert more in finding.text
    assert "do not take fewer" not in finding.text
    assert "They take fewer, beyond the interval, than k-means." in finding.text


def test_factor_findings_count_the_factors_that_mostly_tell_groups_apart():
    shares = [row("predicted_share", DENSE, 0.5), codes("predicted_share", 0.5)]
    nulls = {"f0": (0.9, 0.8), "f1": (0.9, 0.1), "f2": (0.3, 0.28)}
    factors = [
        row("factor_r2", DENSE, value, target=name, null_mean=null, null_high=null + 0.05)
        for name, (value, null) in nulls.items()
    ]
    (finding,) = factor_findings(rows_of(*shares, *factors))
    said = "1 of those predicted from the layer mostly tells groups apart: clips permuted within groups keep more than"
    assert said in finding.text
    (finding,) = factor_findings(rows_of(*shares, factors[1]))
    assert "groups apart" not in finding.text


def test_factor_findings_name_the_baselines_that_predict_more():
    records = [row("predicted_share", DENSE, 0.5), codes("predicted_share", 0.5)]
    records += [row("mean_factor_r2", DENSE, 0.5), codes("mean_factor_r2", 0.5), against("mean_factor_r2", -0.1, 0.1)]
    records += [against("mean_factor_r2", -0.3, -0.1, "start"), against("mean_factor_r2", -0.3, 0.1, "logmel")]
    records += [against("mean_factor_r2", -0.3, -0.1, "pca"), codes("factor_r2", 0.4, target="f0")]
    records += [against("mean_factor_r2", 0.1, 0.3, name) for name in ("kmeans", "permuted")]
    values = {"start": 0.5, "pca": 0.4, "kmeans": 0.3}
    records += [row("factor_r2", name, value, target="f0") for name, value in values.items()]
    (finding,) = factor_findings(rows_of(*records))
    assert finding.text.endswith(
        "By ridge regression on the same clips, of 4 baselines 2 are higher (SAE before training, codes minus this "
        "−0.20 (−0.30 to −0.10); principal components, codes minus this −0.20 (−0.30 to −0.10), but not by LASSO) and "
        "1 is lower (k-means, codes minus this 0.20 (0.10 to 0.30)) than the codes beyond the interval, which is not "
        "corrected for their number; 1 undecided."
    )


@pytest.mark.parametrize(
    ("low", "high", "by_lasso", "said"),
    [
        (-0.3, -0.1, 0.3, "so the codes predict less (by LASSO over all factors 0.30 against 0.50)"),
        (-0.3, -0.1, 0.6, "but by LASSO over all factors 0.60 against 0.50: this depends on the reader"),
        (0.1, 0.3, 0.6, "so the codes predict more (by LASSO over all factors 0.60 against 0.50)"),
        (0.1, 0.3, 0.4, "but by LASSO over all factors 0.40 against 0.50: this depends on the reader"),
        (-0.1, 0.3, 0.4, ""),
    ],
)
def test_codes_predict_less_or_more_only_where_ridge_and_lasso_agree(
    low: float, high: float, by_lasso: float, said: str
):
    records = [row("predicted_share", DENSE, 0.5), codes("predicted_share", 0.5), against("mean_factor_r2", low, high)]
    records += [row("mean_factor_r2", DENSE, 0.5), codes("mean_factor_r2", 0.5 + (low + high) / 2)]
    records += [row("factor_r2", DENSE, 0.5, target="f0"), codes("factor_r2", by_lasso, target="f0")]
    records += [row("effective_latents", DENSE, 5.0), codes("effective_latents", 8.0)]
    results = rows_of(*records)
    (finding,), (compactness,) = factor_findings(results), compactness_findings(results)
    assert said in finding.text
    assert ("predict less" in finding.text) is (high < 0 and by_lasso < 0.5)
    assert ("also predict less" in compactness.text) is (high < 0 and by_lasso < 0.5)
    assert ("By ridge alone" in compactness.text) is (high < 0 and by_lasso > 0.5)


def test_factor_findings_give_the_range_over_seeds_and_the_best_baseline_by_mean_r2():
    records = [row("predicted_share", DENSE, 0.4), codes("predicted_share", 0.4), codes("predicted_share", 0.6, seed=1)]
    records += [row("predicted_share", "logmel", 0.2), row("predicted_share", "pca", 0.9)]
    records += [row("mean_factor_r2", DENSE, 0.5), codes("mean_factor_r2", 0.5)]
    records += [row("mean_factor_r2", "logmel", 0.6), row("mean_factor_r2", "start", 0.5)]
    records += [against("mean_factor_r2", -0.2, 0.0, "logmel"), against("mean_factor_r2", -0.1, 0.1, "start")]
    (finding,) = factor_findings(rows_of(*records))
    count = "20 of 40 from the codes (mean of 2 seeds, ranging from 16 to 24). Counts have no interval and do not rank."
    assert count in finding.text
    assert "The best of 2 baselines, log-mel statistics, reaches 0.60 (codes minus it −0.10 (−0.20 to 0.00))." in (
        finding.text
    )
    assert "SAE before training reaches 0.50 (codes minus it 0.00 (−0.10 to 0.10))." in finding.text
    assert "principal components" not in finding.text
    assert "Over the 40 that the layer or all 2 seeds of the codes predict, losses included" in finding.text


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([(0.05, 0.15), (0.1, 0.3)], "higher than the layer, paired by factor beyond the intervals"),
        ([(-0.15, -0.05), (-0.3, -0.1)], "lower than the layer, paired by factor beyond the intervals"),
        ([(-0.1, 0.15), (-0.1, 0.3)], "higher than the layer, within the intervals"),
        (
            [(-0.1, 0.1), (-0.3, 0.1)],
            "At no number of dimensions up to 8 do the codes predict more beyond the interval",
        ),
        (
            [(-0.1, 0.2), (-0.3, 0.1)],
            "At no number of dimensions up to 8 do the codes predict more beyond the interval",
        ),
        ([(0.05, 0.15), (-0.3, 0.1)], "The codes predict more at some numbers of dimensions only"),
    ],
)
def test_few_dimensions_answer_the_plain_test(found: list[tuple[float, float]], said: str):
    records: list[Record] = []
    for k, dense, ends in zip((1, 8), (0.2, 0.4), found, strict=True):
        records += [row("sparse_r2", DENSE, dense, dimensions=k)]
        records += [codes("sparse_r2", dense + sum(ends) / 2, dimensions=k), against("sparse_r2", *ends, dimensions=k)]
    (finding,) = few_dimension_findings(rows_of(*records, row("sparse_r2", "logmel", 0.9, dimensions=8)))
    assert said in finding.text
    lower = [k for k, (_, high) in zip((1, 8), found, strict=True) if high < 0]
    assert ("They predict less, beyond the interval, from" in finding.text) is bool(lower)
    last = found[1]
    difference = f"(codes minus layer {sum(last) / 2:.2f} ({last[0]:.2f} to {last[1]:.2f}))".replace("-", "−")
    assert f"0.90 from log-mel statistics, the best baseline {difference} (intervals over factors)." in finding.text
    more = [row("sparse_r2", DENSE, 0.6, dimensions=64), codes("sparse_r2", 0.4, dimensions=64)]
    many = rows_of(*records, *more, against("sparse_r2", -0.3, -0.1, dimensions=64))
    each = comma_list([*lower, 64])
    assert f"They predict less, beyond the interval, from {each} dimensions." in few_dimension_findings(many)[0].text
    tie = [row("sparse_r2", name, 0.9, dimensions=8) for name in ("logmel", "egemaps")]
    (finding,) = few_dimension_findings(rows_of(*records, *tie))
    assert "0.90 from log-mel statistics and eGeMAPS descriptors, the best baselines" in finding.text
    (undecided,) = few_dimension_findings(rows_of(*(replace(r, groups=2) for r in records)))
    assert "2 test groups are too few" in undecided.text


def test_few_dimensions_state_the_upper_end_of_each_null():
    of = {"low": 0.1, "high": 0.4, "dimensions": 8}
    records = [row("sparse_r2", DENSE, 0.2, null_high=0.1, **of), codes("sparse_r2", 0.3, null_high=0.15, **of)]
    records += [row("sparse_r2", "logmel", 0.35, null_high=0.2, **of)]
    (finding,) = few_dimension_findings(rows_of(*records))
    scores = (
        "8 dimensions: 0.30 (0.10 to 0.40; permuted up to 0.15) from the codes, 0.20 (0.10 to 0.40; permuted up to "
        "0.10) from the dense layer and 0.35 (0.10 to 0.40; permuted up to 0.20) from log-mel statistics, the best"
    )
    assert scores in finding.text


@pytest.mark.parametrize("with_factors", [True, False])
@pytest.mark.parametrize(
    ("start", "baselines"),
    [
        (0.86, "86\xa0% from SAE before training and 93\xa0% from principal components, the best of 2 baselines."),
        (0.94, "and 94\xa0% from SAE before training, the best of 2 baselines."),
    ],
)
def test_few_dimensions_state_the_accuracy_of_tasks(with_factors: bool, start: float, baselines: str):
    metric, of = "sparse_probe_balanced_accuracy", {"target": "digit", "dimensions": 8}
    records = [codes(metric, 0.88, **of, null_high=0.13), codes(metric, 0.9, **of, null_high=0.13, seed=1)]
    records += [row(metric, DENSE, 0.77, **of, low=0.6, high=0.9), row(metric, "start", start, **of)]
    records += [row(metric, "pca", 0.93, **of), row(metric, DENSE, 0.99, target="digit", dimensions=64)]
    records += [row("sparse_r2", DENSE, 0.2, dimensions=8), codes("sparse_r2", 0.3, dimensions=8)] * with_factors
    (finding,) = few_dimension_findings(rows_of(*records))
    assert ("Mean R²" in finding.text) is with_factors
    assert "Balanced accuracy of tasks from the best 8 dimensions (" in finding.text
    of_both = "digit 89\xa0% (permuted up to 13\xa0%) from the codes, 77\xa0% (60\xa0% to 90\xa0%) from the dense layer"
    assert of_both in finding.text
    assert finding.text.endswith(baselines)
