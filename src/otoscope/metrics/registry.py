"""Every metric of a results table, defined once.

`Record` checks names against `METRICS` and takes unit and direction from it; the strict protocol computes every metric
that has `over_factors`; the report takes descriptions and axes; the laws in the tests take bounds and undefined cases.
To add a metric, write its function and one entry here; `docs/methods.md` must mention it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from otoscope.errors import EvaluationError, suggest
from otoscope.formatting import count
from otoscope.metrics import structure

SHARE = (0.0, 1.0)
COSINE = (-1.0, 1.0)
R2 = (-math.inf, 1.0)
POSITIVE = (0.0, math.inf)
ANY = (-math.inf, math.inf)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Definition of a metric: `description` is a phrase of one line, without a full stop."""

    name: str
    description: str
    unit: str = "fraction"
    higher_is_better: bool | None = True
    """None: neither direction is better."""
    bounds: tuple[float, float] = SHARE
    per_clip: bool = False
    """The number of rows behind a value counts clips; False: the rows that the SAE was trained on."""
    over_factors: structure.OverFactors | None = None
    """Metric of structure over the factors that dense activations and codes both predict."""
    has_null: bool = True
    """False: the value depends on the size of the representation alone."""
    undefined_without_factors: bool = False
    """The value is NaN if no factor is predicted."""
    axis: str = ""
    """Axis title in the figure of structure; empty: listed in its table only."""
    logarithmic: bool = False
    """Drawn on a logarithmic axis; its interval is computed on the logarithm."""
    difference: str = ""
    """Name of the metric that holds paired differences of codes to other representations; empty: there is none."""


def _by_name(*metrics: Metric) -> dict[str, Metric]:
    by_name = {metric.name: metric for metric in metrics}
    if len(by_name) < len(metrics):
        raise EvaluationError("two metrics in the registry have the same name; rename one")
    return by_name


def _difference(of: str, description: str, *, undefined_without_factors: bool = False) -> Metric:
    """Return the metric of codes (mean over seeds) minus the row's representation, on the same clips or factors."""
    return Metric(
        name=f"{of}_difference",
        unit="difference",
        bounds=ANY,
        description=description,
        undefined_without_factors=undefined_without_factors,
    )


METRICS: Mapping[str, Metric] = _by_name(
    # Reconstruction
    Metric(
        name="explained_variance",
        bounds=R2,
        description="share of the variance around the training mean that the reconstruction explains",
    ),
    Metric(
        name="mse",
        unit="squared activation",
        higher_is_better=False,
        bounds=POSITIVE,
        description="mean squared error of the reconstruction, in squared units of the activations",
    ),
    Metric(
        name="cosine",
        unit="cosine",
        bounds=COSINE,
        description="mean cosine similarity of a row and its reconstruction",
    ),
    Metric(
        name="l0",
        unit="latents",
        higher_is_better=None,
        bounds=POSITIVE,
        description="mean number of active latents per row",
    ),
    Metric(
        name="dead_fraction",
        higher_is_better=False,
        description="share of latents that are active on no row",
    ),
    Metric(
        name="always_on_fraction",
        higher_is_better=False,
        description="share of latents that are active on at least 99 % of the rows",
    ),
    # Probes and factors, held-out and mariotte2025 protocols
    Metric(
        name="probe_accuracy",
        per_clip=True,
        description="share of clips that a linear probe classifies correctly",
    ),
    Metric(
        name="probe_balanced_accuracy",
        per_clip=True,
        description="recall of a linear probe, averaged over the classes",
    ),
    Metric(
        name="probe_macro_f1",
        per_clip=True,
        description="F1 of a linear probe, averaged over the classes",
    ),
    Metric(
        name="factor_r2",
        bounds=R2,
        per_clip=True,
        description="R² of one factor on held-out groups",
    ),
    Metric(
        name="factor_r2_within",
        bounds=R2,
        per_clip=True,
        description="the same for deviations from the mean of each group: differences between groups do not count",
    ),
    Metric(
        name="factor_r2_given",
        bounds=R2,
        per_clip=True,
        description="the same for deviations from the mean of each class of the covariates",
    ),
    # Structure over factors, in the order in which the strict protocol writes them
    Metric(
        name="completeness",
        over_factors=structure.mean_completeness,
        undefined_without_factors=True,
        axis="completeness",
        difference="completeness_difference",
        description="1 if one dimension carries a factor, 0 if all carry it equally; scaled by the size of the code",
    ),
    Metric(
        name="effective_latents",
        unit="dimensions",
        higher_is_better=False,
        bounds=(1.0, math.inf),
        over_factors=structure.mean_effective_latents,
        undefined_without_factors=True,
        axis="effective dimensions (log)",
        logarithmic=True,
        difference="effective_latents_ratio",
        description="effective number of dimensions over which the weights of a factor's regression are spread",
    ),
    Metric(
        name="disentanglement",
        over_factors=structure.weighted_disentanglement,
        undefined_without_factors=True,
        axis="disentanglement",
        description="1 if each dimension serves one factor only",
    ),
    Metric(
        name="explicitness",
        bounds=COSINE,
        over_factors=structure.mean_explicitness,
        undefined_without_factors=True,
        axis="explicitness",
        description=(
            "1 if a linear map predicts all that can be predicted, 0 if each larger map predicts more, below 0 if only "
            "the largest predicts anything"
        ),
    ),
    Metric(
        name="relative_size",
        bounds=POSITIVE,
        over_factors=structure.size_ratio,
        has_null=False,
        description="common factors per dimension that varies: 1 for equal numbers, near 0 for a wide code",
    ),
    Metric(
        name="mig",
        over_factors=structure.mean_information_gap,
        undefined_without_factors=True,
        description="mutual information gap: difference between a factor's most and second most informative dimension, "
        "chosen on other clips",
    ),
    Metric(
        name="sap",
        over_factors=structure.mean_predictability_gap,
        undefined_without_factors=True,
        description="the same gap for the R² of a linear regression on one dimension",
    ),
    Metric(
        name="infom",
        over_factors=structure.infomec_modularity,
        undefined_without_factors=True,
        description="share of the information that dimensions hold on one factor each, chosen on other clips",
    ),
    Metric(
        name="infoc",
        over_factors=structure.infomec_compactness,
        undefined_without_factors=True,
        description="share of the information that one dimension per factor holds, chosen on other clips",
    ),
    Metric(
        name="infoe",
        over_factors=structure.infomec_explicitness,
        undefined_without_factors=True,
        description="explicitness as InfoMEC defines it: share of what can be predicted that a linear model predicts",
    ),
    # The study's figures on factors
    Metric(
        name="factor_r2_in_sample",
        per_clip=True,
        description="R² of one factor on the clips it was fitted on, as in the study",
    ),
    Metric(name="top_r2_in_sample", description="mean of that over the ten best factors"),
    Metric(name="top_completeness", description="mean completeness of ten factors, as in the study"),
    Metric(
        name="category_count",
        unit="factors",
        higher_is_better=None,
        bounds=(0.0, 10.0),
        description="factors of a category among the ten best",
    ),
    Metric(
        name="factor_entropy",
        unit="bits",
        higher_is_better=None,
        bounds=(0.0, math.log2(10)),
        per_clip=True,
        description="entropy of a factor's values in ten bins",
    ),
    Metric(
        name="completeness_against_entropy",
        unit="correlation",
        higher_is_better=None,
        bounds=COSINE,
        description="correlation of completeness with that entropy",
    ),
    # Strict protocol
    Metric(name="predicted_share", description="share of the factors that are predicted well"),
    Metric(
        name="effective_rank",
        unit="dimensions",
        higher_is_better=None,
        bounds=(1.0, math.inf),
        description="number of independent directions in which the factors vary",
    ),
    Metric(
        name="choosing_folds",
        unit="folds",
        higher_is_better=None,
        bounds=POSITIVE,
        description="number of folds whose train and validation groups chose the layer",
    ),
    Metric(
        name="sparse_r2",
        bounds=R2,
        undefined_without_factors=True,
        difference="sparse_r2_difference",
        description="mean R² of the factors that layer or codes predict, each from its best dimensions, at least 0",
    ),
    Metric(
        name="sparse_probe_balanced_accuracy",
        description="balanced accuracy from the best dimensions",
    ),
    Metric(
        name="mean_max_cosine",
        unit="cosine",
        bounds=COSINE,
        description="mean over atoms of the cosine similarity to the nearest atom of another seed",
    ),
    Metric(
        name="matched_correlation",
        unit="correlation",
        bounds=COSINE,
        description="mean correlation of latents with their matches in another seed",
    ),
    Metric(
        name="reappearing_share",
        description="share of the latents that have a match in at least 80 % of the other seeds",
    ),
    Metric(name="category_r2", description="mean R² of a category's factors, each at least 0, as are interval ends"),
    Metric(
        name="centre_layer",
        unit="layers",
        higher_is_better=None,
        bounds=POSITIVE,
        description="mean layer number, weighted by a category's R² in each layer",
    ),
    Metric(
        name="earliest_layer",
        unit="layers",
        higher_is_better=None,
        bounds=POSITIVE,
        description="first layer that reaches 90 % of a category's best R²",
    ),
    Metric(
        name="layer_lead",
        unit="layers",
        higher_is_better=None,
        bounds=ANY,
        description="number of layers by which one category's centre precedes another's; negative: follows it",
    ),
    Metric(
        name="layer_lead_p",
        unit="probability",
        higher_is_better=False,
        description="share of random assignments of factors to the two categories with a lead as large, either way",
    ),
    Metric(
        name="layer_lead_of_blocks",
        unit="layers",
        higher_is_better=None,
        bounds=ANY,
        description="the same without layer 0, the input of the first block",
    ),
    Metric(
        name="sparsity_limit",
        description="highest sparsity such that no level up to it loses more than the margin against the densest level",
    ),
    Metric(
        name="sparsity_knee",
        description="sparsity at which two straight lines fitted to the curve meet",
    ),
    Metric(
        name="task_balanced_accuracy",
        difference="task_balanced_accuracy_difference",
        description="balanced accuracy of the linear reader that scores highest on left-out groups",
    ),
    Metric(name="task_r2", bounds=R2, difference="task_r2_difference", description="R² of the same reader"),
    Metric(
        name="mean_factor_r2",
        difference="mean_factor_r2_difference",
        description=(
            "mean R², each at least 0, as are interval ends, of the factors that the layer or every seed of the codes "
            "predicts, from a ridge regression on all dimensions"
        ),
    ),
    # Codes against another representation, which the column `representation` names
    _difference("task_balanced_accuracy", "balanced accuracy of the codes minus that of the representation"),
    _difference("task_r2", "R² of the codes minus that of the representation"),
    _difference("mean_factor_r2", "mean R² of these factors from the codes minus that from the representation"),
    _difference("sparse_r2", "the same from the best dimensions of either", undefined_without_factors=True),
    _difference(
        "completeness",
        "completeness of the codes minus that of the representation",
        undefined_without_factors=True,
    ),
    Metric(
        name="effective_latents_ratio",
        unit="ratio",
        higher_is_better=False,
        bounds=POSITIVE,
        undefined_without_factors=True,
        description="effective dimensions of the codes over those of the representation",
    ),
)
"""Metrics by name; names are fixed identifiers in the column `metric`."""

STRUCTURE: Mapping[str, structure.OverFactors] = {
    name: metric.over_factors for name, metric in METRICS.items() if metric.over_factors is not None
}
"""Metrics of structure over the common factors, in the order in which a table holds them."""


def find_metric(name: str) -> Metric:
    """Return a metric by name; raise `EvaluationError` if it is not registered."""
    if name not in METRICS:
        raise EvaluationError(f"unknown metric {name!r}; {suggest(name, METRICS)}")
    return METRICS[name]


def describe_rows(row: Mapping[str, Any]) -> str:
    """Return the number of rows and groups behind a number of a results table.

    >>> describe_rows({"n": 6000, "groups": 3, "pooling": "encode_then_pool", "metric": "explained_variance"})
    '6,000 frames of 3 groups'
    """
    metric = METRICS.get(row["metric"])
    noun = "clip"
    if metric is None or not metric.per_clip:
        noun = {"encode_then_pool": "frame", "pool_then_encode": "clip"}.get(row["pooling"], "row")
    of_groups = f" of {count(int(row['groups']), 'group')}" if row["groups"] else ""
    return f"{count(row['n'] or 0, noun)}{of_groups}"
