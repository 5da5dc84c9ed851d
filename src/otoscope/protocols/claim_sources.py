"""Numbers of the three claims from each source: the published tables, the study's protocol, and held-out groups."""

import math
from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from otoscope.metrics.representation import CODES, DENSE
from otoscope.metrics.results import ResultsTable, Row
from otoscope.protocols.claims import (
    FEW,
    HIGH_SPARSITY,
    Claims,
    CompactnessClaim,
    OrderingClaim,
    OtherTargets,
    TargetLoss,
    TaskClaim,
)
from otoscope.protocols.comparison import (
    MARGIN,
    TOLD_BY_GROUPS,
    UNMEASURED,
    Comparison,
    Estimate,
    best_baseline,
    mean_over_seeds,
    readers_of,
    same_but_seed,
)
from otoscope.protocols.mariotte2025 import NAME as MARIOTTE2025
from otoscope.protocols.mariotte2025.published import published
from otoscope.protocols.strict.results import StrictResults

EARLY_LATE = ("pitch", "formants", "mfcc")
"""Categories of the third claim: the first early, the others late."""


def published_claims() -> Claims:
    """Return the published numbers, means over the layers that the study opened."""
    return _claims_by_study_protocol(ResultsTable(published().rename({"model": "encoder"})))


def reproduced_claims(results: ResultsTable) -> Claims:
    """Return the same numbers of this run, computed by the study's protocol.

    Of several presets and widths, the study's own is taken where it was trained; of several seeds the first.
    """
    table = results.where(protocol=MARIOTTE2025, split="test").measured
    if seeds := table.unique("seed"):
        table = table.where(seed=(None, min(seeds)))
    if len(presets := table.unique("preset")) > 1:
        table = table.where(preset=(None, "mariotte2025" if "mariotte2025" in presets else presets[0]))
    if len(widths := table.unique("latents")) > 1:
        table = table.where(latents=(None, 2048 if 2048 in widths else widths[0]))
    return _claims_by_study_protocol(table)


def _claims_by_study_protocol(table: ResultsTable) -> Claims:
    return Claims(_study_task(table), _study_compactness(table), _study_ordering(table))


def _study_task(table: ResultsTable) -> TaskClaim | None:
    probes = table.where(metric="probe_accuracy")
    if not probes:
        return None
    target = probes.values("target")[0]
    # the study trained two runs for some labels; each counts as a layer
    dense, codes = _opened(probes.rows.filter(pl.col("target").str.starts_with(target)))
    if not dense or not codes:
        return None
    means = codes.rows.group_by("sparsity").agg(pl.col("value").mean()).sort("sparsity")
    by_sparsity = {float(sparsity): Estimate(float(value)) for sparsity, value in means.iter_rows()}
    return TaskClaim(Estimate(_mean(dense)), by_sparsity, target, layers=len(dense))


def _study_compactness(table: ResultsTable) -> CompactnessClaim | None:
    dense, codes = _opened(table.where(metric="top_completeness", target="").rows)
    if not dense or not codes:
        return None
    sparsity = min(codes.unique("sparsity"), key=lambda s: (abs(s - HIGH_SPARSITY), s))
    at_sparsity = codes.where(sparsity=sparsity)
    sides = Comparison("completeness", "", Estimate(_mean(dense)), Estimate(_mean(at_sparsity)))
    return CompactnessClaim(sides, layers=len(dense))


def _study_ordering(table: ResultsTable) -> OrderingClaim | None:
    counts = table.where(metric="category_count", representation=CODES).rows
    ends = counts.group_by("encoder").agg(pl.col("layer").min().alias("first"), pl.col("layer").max().alias("last"))
    ends = ends.filter(pl.col("first") < pl.col("last"))
    counts = counts.join(ends, on="encoder")
    if counts.is_empty():
        return None

    def mean_counts(end: str) -> dict[str, float]:
        means = counts.filter(pl.col("layer") == pl.col(end)).group_by("target").agg(pl.col("value").mean())
        by_category = dict(means.iter_rows())
        return {name: float(by_category[name]) for name in EARLY_LATE if name in by_category}

    return OrderingClaim(early=mean_counts("first"), late=mean_counts("last"), layers=ends.height)


def _opened(rows: pl.DataFrame) -> tuple[ResultsTable, ResultsTable]:
    """Return dense rows and rows of codes of the layers that have both."""
    codes = rows.filter(pl.col("representation") == CODES)
    both = codes.select("encoder", "layer").unique()
    dense = rows.filter(pl.col("representation") == DENSE).join(both, on=["encoder", "layer"])
    return ResultsTable(dense), ResultsTable(codes)


def _mean(table: ResultsTable) -> float:
    values: Sequence[float] = table.values()
    return math.fsum(values) / len(values)


def strict_claims(results: ResultsTable) -> Claims:
    """Return the numbers from held-out groups, each with its interval over groups and its null."""
    strict = StrictResults.of(results.rows)
    return Claims(_strict_task(strict), _strict_compactness(strict), _strict_ordering(strict))


def study_preset_claims(results: ResultsTable) -> Claims:
    """Return the first claim by the study's preset on held-out groups; none unless another preset decides it."""
    strict = StrictResults.of(results.rows)
    main = strict.main or {}
    return Claims(
        None if main.get("preset") in (None, MARIOTTE2025) else _strict_task(strict, MARIOTTE2025), None, None
    )


def _strict_task(strict: StrictResults, preset: str | None = None) -> TaskClaim | None:
    """Return the first claim, by dictionaries of one preset or of the preset with most sparsities."""
    tasks = strict.where(metric=("task_balanced_accuracy", "task_r2"), split="test").measured
    questions = tasks.where(representation=CODES).rows.sort(pl.col("metric") == "task_r2", maintain_order=True)
    if questions.is_empty():
        return None
    target, metric = questions.select("target", "metric").row(0)
    question = tasks.where(target=target, metric=metric)
    all_codes = question.where(representation=CODES).rows
    if preset is not None:
        all_codes = all_codes.filter(pl.col("preset") == preset)
    if all_codes.is_empty():
        return None
    codes = _one_per_sparsity(all_codes)
    dense = question.where(representation=DENSE, layer=codes["layer"][0]).first()
    if dense is None:
        return None
    limits = [limit for limit in strict.limits if limit.quantity == "task"]
    own_limit = next((limit for limit in limits if limit.preset == codes["preset"][0]), limits[-1] if limits else None)
    seeds = {float(s): same_but_seed(all_codes, sae_id) for s, sae_id in codes.select("sparsity", "sae_id").rows()}
    by_sparsity = {sparsity: Estimate.from_row(mean_over_seeds(rows)) for sparsity, rows in seeds.items()}
    claim = TaskClaim(Estimate.from_row(dense), by_sparsity, target, limit=own_limit and own_limit.estimate)
    main = codes.filter(pl.col("sparsity") == claim.sparsity).row(0, named=True)
    same_kind = seeds[claim.sparsity]
    changes = {s: strict.difference(metric, target, sae_id) for s, sae_id in codes.select("sparsity", "sae_id").rows()}
    best = best_baseline(question.where(layer=main["layer"]).rows)
    return replace(
        claim,
        changes={sparsity: change for sparsity, change in changes.items() if change.measured},
        first_loss=own_limit and own_limit.first_loss,
        to_baseline=(
            strict.difference(metric, target, main["sae_id"], best.representations[0]) if best else UNMEASURED
        ),
        others=_other_targets(strict, tasks, main),
        best_baseline=best,
        seeds=tuple(same_kind["value"]),
        seed_counts={sparsity: rows.height for sparsity, rows in seeds.items()},
        readers=readers_of(pl.concat([question.where(representation=DENSE, layer=main["layer"]).rows, same_kind])),
        per_frame=main["pooling"] == "encode_then_pool",
        test_clips=0 if metric == "task_r2" else int(main["n"]),
    )


def _one_per_sparsity(codes: pl.DataFrame) -> pl.DataFrame:
    """Return one SAE per sparsity: of the layer, preset and width with most sparsities, the first seed."""
    stem = pl.col("sae_id").str.replace(r"-k\d+-seed\d+$", "")
    codes = codes.with_columns(stem.alias("stem"))
    counted = codes.group_by("stem", maintain_order=True).agg(pl.col("sparsity").n_unique().alias("sparsities"))
    chosen = counted.sort("sparsities", descending=True, maintain_order=True)["stem"][0]
    return codes.filter(pl.col("stem") == chosen).sort("sparsity", "seed").unique("sparsity", maintain_order=True)


def _other_targets(strict: StrictResults, tasks: ResultsTable, codes: Row) -> OtherTargets:
    """Return the losses of the same codes on other targets.

    A target that the layer does not predict better than its null does not count: nothing can be lost on it.
    """
    on_layer = tasks.where(layer=codes["layer"])
    counted, losses = 0, list[TargetLoss]()
    for target, metric in on_layer.rows.select("target", "metric").unique(maintain_order=True).rows():
        question = on_layer.where(target=target, metric=metric)
        dense = question.where(representation=DENSE).first()
        same_kind = same_but_seed(question.where(representation=CODES).rows, codes["sae_id"])
        if (target, metric) == (codes["target"], codes["metric"]) or dense is None or same_kind.is_empty():
            continue
        if Estimate.from_row(dense).at_chance:
            continue
        counted += 1
        change = strict.difference(metric, target, codes["sae_id"])
        if change.value < -MARGIN:
            regression = metric == "task_r2"
            by_groups = regression and (dense["null_mean"] or 0.0) > TOLD_BY_GROUPS
            losses.append(TargetLoss(target, change, regression, by_groups))
    return OtherTargets(counted, tuple(losses))


def _strict_compactness(strict: StrictResults) -> CompactnessClaim | None:
    completeness = strict.comparison("completeness")
    if completeness is None:
        return None
    sizes = strict.where(metric="sparse_r2").unique("dimensions")
    few_k = min(sizes, key=lambda k: (abs(k - FEW), k), default=FEW)
    by_layer = strict.one("predicted_share", DENSE)
    predicted = round(by_layer["value"] * by_layer["n"]) if by_layer is not None else 0
    either = strict.one("mean_factor_r2", DENSE)
    return CompactnessClaim(
        completeness,
        dimensions=strict.comparison("effective_latents"),
        few=strict.comparison("sparse_r2", dimensions=few_k),
        few_k=few_k,
        factors=completeness.codes.n,
        lost=max(predicted - completeness.codes.n, 0),
        gained=max(either["n"] - predicted, 0) if either is not None and by_layer is not None else 0,
        lower_from=strict.lower_from,
        sparsity=strict.main["sparsity"] if strict.main else None,
    )


def _strict_ordering(strict: StrictResults) -> OrderingClaim | None:
    if not strict.leads:
        return None
    return OrderingClaim(leads=strict.leads, curves=strict.where(metric="category_r2", target=EARLY_LATE).rows)
