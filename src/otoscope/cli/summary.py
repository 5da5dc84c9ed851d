"""One screen at the end of a run: what was found, each number beside its null."""

import polars as pl
from rich.console import Console
from rich.table import Table

from otoscope.artifacts import read_table
from otoscope.formatting import count, known
from otoscope.pipeline.run import RunSummary
from otoscope.report import evidence
from otoscope.report.claims.page import PAGE
from otoscope.report.sections.strict_rows import strict_rows
from otoscope.runs.folder import RunFolder


def print_summary(summary: RunSummary, folder: RunFolder) -> None:
    """Print what a run came to and where its artifacts are."""
    console = Console(highlight=False)
    if summary.results is not None:
        results = read_table(summary.results)
        if (rests_on := evidence.evidence_of_results(results)) and (said := evidence.warning(rests_on)):
            console.print(said, soft_wrap=True)
            console.print()
        for table in (_probes(results), _sparsities(results), _strict(results)):
            if table is not None:
                console.print(table)
                console.print()
    aside = f", {summary.set_aside} set aside" if summary.set_aside else ""
    clips = count(summary.clips, "clip")
    console.print(f"{clips}{aside}; {summary.seconds:,.1f} s, at most {summary.peak_rss_mb:,.0f} MB of memory")
    console.print(f"run      {folder.root}", soft_wrap=True)
    if summary.results is not None:
        console.print(f"results  {summary.results}", soft_wrap=True)
    if summary.report is not None:
        console.print(f"report   {summary.report}  (open it in a browser)", soft_wrap=True)
        if (claims := summary.report.with_name(PAGE)).is_file():
            console.print(f"claims   {claims}", soft_wrap=True)


def _probes(results: pl.DataFrame) -> Table | None:
    found = results.filter(
        (pl.col("metric") == "probe_accuracy") & (pl.col("split") == "test") & (pl.col("representation") == "dense")
    ).sort("target", "layer")
    if found.is_empty():
        return None
    groups = int(found["groups"].to_numpy().max())
    of_groups = f", {count(groups, 'unseen group')}" if groups else ""
    table = Table(title=f"Linear probes on dense layers{of_groups}", box=None, title_justify="left")
    for name in ("label", "layer", "accuracy", "95 % interval", "permuted labels"):
        table.add_column(name, justify="right")
    for row in found.iter_rows(named=True):
        table.add_row(row["target"], str(row["layer"]), *_cells(row))
    return table


def _sparsities(results: pl.DataFrame) -> Table | None:
    """At the layer that the validation groups choose: accuracy and explained variance by sparsity."""
    codes = results.filter(pl.col("representation") == "sae")
    probes = codes.filter(pl.col("metric") == "probe_accuracy")
    by_valid = (pl.col("metric") == "probe_balanced_accuracy") & (pl.col("split") == "valid")
    chosen = codes.filter(by_valid)
    if not chosen.is_empty():
        # the first label, as in the report
        chosen = chosen.filter(pl.col("target") == chosen["target"][0]).sort("value", descending=True)
    if chosen.is_empty():
        return None
    best = chosen.row(0, named=True)
    same = pl.all_horizontal(pl.col(name) == best[name] for name in ("layer", "pooling", "seed"))
    accuracy = probes.filter(same & (pl.col("target") == best["target"]) & (pl.col("split") == "test"))
    variance = results.filter(same & (pl.col("metric") == "explained_variance") & (pl.col("split") == "test"))
    explained = dict(variance.select("sae_id", "value").iter_rows())
    table = Table(
        title=f"Sparse codes of layer {best['layer']} ({best['pooling'].replace('_', ' ')}), {best['target']}",
        box=None,
        title_justify="left",
    )
    accuracy = accuracy.rename({"preset": "recipe"})
    # a grid of one recipe and one size needs no column to say so
    told = [name for name in ("recipe", "latents") if accuracy[name].n_unique() > 1]
    for name in (*told, "sparsity", "k", "accuracy", "95 % interval", "permuted labels", "explained variance"):
        table.add_column(name, justify="right")
    for row in accuracy.sort("recipe", "latents", "sparsity").iter_rows(named=True):
        share = explained.get(row["sae_id"])
        shown = "" if share is None else f"{share:.3f}"
        which = (str(row[name]) for name in told)
        table.add_row(*which, f"{row['sparsity']:.0%}", str(row["k"]), *_cells(row), shown)
    return table


def _cells(row: dict[str, float]) -> tuple[str, str, str]:
    interval = f"{row['low']:.1%} to {row['high']:.1%}" if known(row["low"]) else ""
    null = f"{row['null_mean']:.1%}" if known(row["null_mean"]) else ""
    return f"{row['value']:.1%}", interval, null


def _strict(results: pl.DataFrame) -> Table | None:
    """What the strict protocol read: from the layer, from its codes, and from the best of what these must beat."""
    rows = strict_rows(results)
    if not rows.present:
        return None
    table = Table(title=f"Asked strictly, layer {rows.layer}", box=None, title_justify="left")
    for name in ("question", "dense layer", "SAE codes", "best baseline", "which", "permuted targets"):
        table.add_column(name, justify="right")
    for metric, target in [*rows.tasks, ("mean_factor_r2", "")]:
        dense, codes = rows.one(metric, "dense", target), rows.one(metric, "sae", target)
        best = rows.best(metric, target)
        if dense is None or codes is None:
            continue
        shown = [f"{row['value']:.3f}" for row in (dense, codes)]
        beside = (f"{best.number.value:.3f}", best.told) if best else ("", "")
        null = f"{codes['null_mean']:.3f}" if known(codes["null_mean"]) else ""
        table.add_row(target or "common factors", *shown, *beside, null)
    return table if table.row_count else None
