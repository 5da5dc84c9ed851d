"""The numbers of the three claims from held-out groups: what the strict protocol says of them."""

from dataclasses import replace

import polars as pl

from otoscope.protocols.comparing import Number, alike, mean_of, number_of
from otoscope.protocols.strict import NAME as STRICT
from otoscope.report.baselines import best_baseline
from otoscope.report.claims.numbers import EARLY_LATE, FEW, Claims, Compact, Kept, Order, Sides, beside_codes

UNLEARNED = {
    "frozen_decoder": "codes over frozen random atoms",
    "untrained_sae": "codes of an untrained encoder",
}
"""What is sparse as well, and learned less or nothing."""


def strict_claims(results: pl.DataFrame) -> Claims:
    """Return what held-out groups say: each number with its interval over groups and its null."""
    rows = results.filter((pl.col("protocol") == STRICT) & (pl.col("split") == "test"))
    return Claims(_kept_strictly(rows), _compact_strictly(rows), _order_strictly(rows))


def _kept_strictly(rows: pl.DataFrame) -> Kept | None:
    tasks = rows.filter(pl.col("metric").is_in(["task_balanced_accuracy", "task_r2"]) & pl.col("value").is_not_nan())
    codes = tasks.filter(pl.col("representation") == "sae")
    if codes.is_empty():
        return None
    target, metric = codes.sort(pl.col("metric") == "task_r2", maintain_order=True).select("target", "metric").row(0)
    same = (pl.col("target") == target) & (pl.col("metric") == metric)
    of_target = codes.filter(same)
    codes = _one_of_each(of_target)
    layer = codes["layer"][0]
    dense = tasks.filter(same & (pl.col("representation") == "dense") & (pl.col("layer") == layer))
    if dense.is_empty():
        return None
    limits = rows.filter((pl.col("metric") == "sparsity_limit") & pl.col("target").str.ends_with(": task"))
    own = limits.filter(pl.col("target") == f"{codes['preset'][0]}: task")
    limit = next((number_of(row) for row in (own if own.height else limits.tail(1)).iter_rows(named=True)), None)
    found = {float(row["sparsity"]): number_of(row) for row in codes.iter_rows(named=True)}
    kept = Kept(number_of(dense.row(0, named=True)), found, target, limit=limit)
    shown = codes.filter(pl.col("sparsity") == kept.sparsity).row(0, named=True)
    same_kind = alike(of_target, shown["sae_id"])
    found[kept.sparsity] = number_of(mean_of(same_kind))
    clips = 0 if metric == "task_r2" else int(shown["n"])
    return replace(kept, beside=beside_codes(tasks, shown), seeds=tuple(same_kind["value"]), clips=clips)


def _one_of_each(codes: pl.DataFrame) -> pl.DataFrame:
    """Keep one dictionary a sparsity: of the layer, recipe and size with most sparsities, the first seed."""
    stem = pl.col("sae_id").str.replace(r"-k\d+-seed\d+$", "")
    codes = codes.with_columns(stem.alias("stem"))
    best = codes.group_by("stem", maintain_order=True).agg(pl.col("sparsity").n_unique().alias("sparsities"))
    chosen = best.sort("sparsities", descending=True, maintain_order=True)["stem"][0]
    return codes.filter(pl.col("stem") == chosen).sort("sparsity", "seed").unique("sparsity", maintain_order=True)


def _compact_strictly(rows: pl.DataFrame) -> Compact | None:
    completeness, dimensions = (
        _sides(rows.filter(pl.col("metric") == m)) for m in ("completeness", "effective_latents")
    )
    if completeness is None:
        return None
    curve = rows.filter(pl.col("metric") == "sparse_r2")
    few_k = min(curve["dimensions"].drop_nulls(), key=lambda k: (abs(k - FEW), k), default=FEW)
    few = _sides(curve.filter(pl.col("dimensions") == few_k))
    taken = rows.filter((pl.col("metric") == "effective_latents") & (pl.col("target") == ""))
    unlearned = {
        UNLEARNED[row["representation"]]: number_of(row)
        for row in taken.filter(pl.col("value").is_not_nan()).sort("seed", maintain_order=True).rows(named=True)
        if row["representation"] in UNLEARNED
    }
    codes = taken.filter((pl.col("representation") == "sae") & pl.col("value").is_not_nan()).sort("seed")
    seeds = tuple(alike(codes, codes["sae_id"][0])["value"]) if codes.height else ()
    few_best = best_baseline(curve.filter((pl.col("dimensions") == few_k) & (pl.col("target") == "")))
    return Compact(completeness, 1, dimensions, few, few_k, completeness.codes.n, unlearned, seeds, few_best)


def _sides(rows: pl.DataFrame) -> Sides | None:
    """Return a quantity over all factors together, of codes the mean over seeds."""
    found = [
        rows.filter((pl.col("target") == "") & (pl.col("representation") == side)).sort("seed", maintain_order=True)
        for side in ("dense", "sae")
    ]
    if any(side.is_empty() for side in found):
        return None
    dense, codes = found
    return Sides(number_of(dense.row(0, named=True)), number_of(mean_of(alike(codes, codes["sae_id"][0]))))


def _order_strictly(rows: pl.DataFrame) -> Order | None:
    leads = rows.filter(pl.col("metric") == "layer_lead")
    if leads.is_empty():
        return None
    curves = rows.filter((pl.col("metric") == "category_r2") & pl.col("target").is_in(EARLY_LATE))
    of_blocks = rows.filter(pl.col("metric") == "layer_lead_of_blocks")
    return Order(leads=_by_target(leads), of_blocks=_by_target(of_blocks), by_layer=curves)


def _by_target(rows: pl.DataFrame) -> dict[str, Number]:
    return {row["target"]: number_of(row) for row in rows.iter_rows(named=True)}
