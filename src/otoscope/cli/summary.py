"""Summary of a run in the terminal: key numbers with their intervals and nulls, and clips of its corpus."""

from collections.abc import Mapping
from io import StringIO
from typing import Any

import polars as pl
from rich.table import Table

from otoscope.artifacts import read_table
from otoscope.corpus.table import Corpus
from otoscope.factors.readable_names import readable_name
from otoscope.formatting import count, known
from otoscope.metrics.predictions import accuracies_of_few_groups
from otoscope.metrics.representation import CODES, DENSE, REPRESENTATIONS, WITHOUT_MODEL
from otoscope.metrics.results import ResultsTable, Row, load_results
from otoscope.protocols.strict.results import StrictResults
from otoscope.report import evidence
from otoscope.report.estimates import dimensions_read
from otoscope.report.run_data import has_fold_dictionaries, read_config
from otoscope.runs.cards import RunSummary
from otoscope.runs.folder import RunFolder
from otoscope.runs.terminal import plain_console


def clip_lines(corpus: Corpus, clips: int) -> list[str]:
    """Return clips, evenly spaced over the corpus, with their groups, splits, labels and factors, one line each."""
    last, shown = corpus.clips.height - 1, min(clips, corpus.clips.height)
    rows = [round(at * last / max(shown - 1, 1)) for at in range(shown)]
    return [_clip_line(clip) for clip in corpus.clips[rows].iter_rows(named=True)]


def _clip_line(clip: Mapping[str, Any]) -> str:
    facts = {"group": clip["group"], "split": clip["split"], "seconds": f"{clip['duration_s']:.2f}"}
    facts |= {name.removeprefix("label_"): value for name, value in clip.items() if name.startswith("label_")}
    factors = [(name.removeprefix("factor_"), value) for name, value in clip.items() if name.startswith("factor_")]
    facts |= {name: None if value is None else f"{value:g}" for name, value in factors[:MAX_FACTORS_SHOWN]}
    more = f"  and {len(factors) - MAX_FACTORS_SHOWN} more factors" if len(factors) > MAX_FACTORS_SHOWN else ""
    texts = (f"{name}: {'(missing)' if value is None else value}" for name, value in facts.items())
    return f"{clip['clip_id']}  {', '.join(texts)}{more}"


MAX_FACTORS_SHOWN = 8
"""Factors of a clip that are printed."""


def summary_tables(summary: RunSummary) -> str:
    """Return the key numbers of a run as text; empty without results."""
    if summary.results is None:
        return ""
    text = StringIO()
    console = plain_console(file=text)
    results = load_results(summary.results)
    corpus = RunFolder(summary.run).corpus
    clips = read_table(corpus) if corpus.is_file() else None
    folds = evidence.count_folds(clips)
    tested = evidence.evidence_of_results(results, folds=folds)
    if tested is not None and (warning := evidence.warning(tested)):
        console.print(warning, soft_wrap=True)
        console.print()
    if tested is not None and clips is not None and folds > 1:
        readers = evidence.reader_names(labels=tested.labels, factors=bool(results.where(metric="factor_r2")))
        per_fold = has_fold_dictionaries(read_config(summary.run))
        console.print(f"{readers}: {evidence.cross_fit_line(clips, per_fold=per_fold)}", soft_wrap=True)
        console.print()
    strict = strict_table(StrictResults.of(results.rows))
    stored = RunFolder(summary.run).predictions
    predictions = read_table(stored) if stored.is_file() else None
    tables = [probe_table(results, predictions), *sparsity_tables(results), strict]
    for table in filter(None, tables):
        console.print(table)
        console.print()
    if not any(tables):
        asked = (read_config(summary.run).get("evaluate") or {}).get("labels")
        reason = "evaluate.labels is empty" if asked == [] else "no label of the corpus can be probed"
        console.print(
            f"no table of accuracies: {reason}; other numbers are in the results and the report", soft_wrap=True
        )
    return text.getvalue()


def probe_table(results: ResultsTable, predictions: pl.DataFrame | None = None) -> Table | None:
    """Return the accuracy of probes on dense layers, then of those without any model; None without probes.

    With `predictions`, the accuracies of few groups stand beside the intervals that they leave wide.
    """
    tested = results.where(metric="probe_accuracy", split="test", representation=(DENSE, *WITHOUT_MODEL)).rows
    is_dense = pl.col("representation") == DENSE
    probes = tested.sort("protocol", "target", ~is_dense, "representation", "layer")
    if probes.filter(is_dense).is_empty():
        return None
    groups = int(probes["groups"].to_numpy().max())
    of_groups = f", {count(groups, 'unseen group')}" if groups else ""
    extra = _dimensions_read(probes) | _per_group(probes, predictions)
    title = f"Linear probes on dense layers{of_groups}{_all_read(probes)}"
    varying = _varying(probes, "protocol")
    table = _table(title, *varying, "label", "layer", *PROBE_COLUMNS, *extra)
    for at, row in enumerate(probes.iter_rows(named=True)):
        name = row["representation"]
        layer = str(row["layer"]) if name == DENSE else REPRESENTATIONS[name].short_label
        own = (cells[at] for cells in extra.values())
        table.add_row(*(row[key] for key in varying), row["target"], layer, *_probe_cells(row), *own)
    return table


PER_GROUP = "% per group"
"""Column of the accuracies of few groups, beside the intervals that they leave wide."""


def _per_group(rows: pl.DataFrame, predictions: pl.DataFrame | None) -> dict[str, list[str]]:
    """Return the cells of the column `PER_GROUP`; empty where no interval is wide for want of groups."""
    found = [accuracies_of_few_groups(predictions, row["target"], row) for row in rows.iter_rows(named=True)]
    cells = [" ".join(f"{100 * accuracy:.0f}" for accuracy in accuracies) for accuracies in found]
    return {PER_GROUP: cells} if any(cells) else {}


def sparsity_tables(results: ResultsTable) -> list[Table]:
    """Return accuracy and explained variance by sparsity, per pooling, at the layer chosen on validation groups."""
    codes = results.where(representation=CODES)
    scored = codes.where(metric="probe_balanced_accuracy", split="valid")
    if not scored:
        return []
    # the first label, as in the report
    label = scored.values("target")[0]
    best = scored.where(target=label).rows.sort("value", descending=True).row(0, named=True)
    chosen = codes.where(layer=best["layer"], seed=best["seed"])
    poolings = sorted(set(chosen.values("pooling")))
    return [_sparsity_table(results, chosen.where(pooling=pooling, split="test"), label) for pooling in poolings]


def _sparsity_table(results: ResultsTable, codes: ResultsTable, label: str) -> Table:
    explained = {row["sae_id"]: row["value"] for row in codes.where(metric="explained_variance")}
    of_layer = {name: codes.values(name)[0] for name in ("layer", "pooling")}
    of_components = results.where(metric="explained_variance", representation="pca", split="test", **of_layer)
    components = {row["k"]: row["value"] for row in of_components}
    accuracy = codes.where(metric="probe_accuracy", target=label).rows
    varying = _varying(accuracy, "protocol", "preset", "latents")
    accuracy = accuracy.sort("protocol", "preset", "latents", "sparsity")
    pooling, read = of_layer["pooling"].replace("_", " "), _dimensions_read(accuracy)
    title = f"Sparse codes of layer {of_layer['layer']} ({pooling}), {label}{_all_read(accuracy)}"
    table = _table(title, *varying, "sparsity", "k", *PROBE_COLUMNS, *read, "explained", "PCA at k")
    for at, row in enumerate(accuracy.iter_rows(named=True)):
        shares = [explained.get(row["sae_id"]), components.get(row["k"])]
        settings = (*(str(row[name]) for name in varying), f"{row['sparsity']:.0%}", str(row["k"]))
        own = (cells[at] for cells in read.values())
        texts = ("" if share is None else f"{share:.3f}" for share in shares)
        table.add_row(*settings, *_probe_cells(row), *own, *texts)
    return table


def _varying(rows: pl.DataFrame, *names: str) -> list[str]:
    """Return the columns in which rows differ; only these appear in a table."""
    return [name for name in names if rows[name].n_unique() > 1]


def _dimensions_read(rows: pl.DataFrame) -> dict[str, list[str]]:
    """Return the cells of the column of dimensions that each probe reads; empty where all read all of them.

    Of folds that differ, a cell holds the range: the table must fit into 80 columns.
    """
    each = [dimensions_read(reader or "").replace(" or ", ", ").split(", ") for reader in rows["reader"]]
    cells = ["–".join(dict.fromkeys((read[0], read[-1]))) for read in each]
    return {} if set(cells) <= {"", "all"} else {"reads": cells}


def _all_read(rows: pl.DataFrame) -> str:
    """Return the end of a title where every probe reads all dimensions."""
    return ", all dimensions read" if set(rows["reader"]) == {"all dimensions"} else ""


PROBE_COLUMNS = ("accuracy", "95 % interval", "permuted labels")


def _probe_cells(row: Row) -> tuple[str, str, str]:
    interval = f"{row['low']:.1%} to {row['high']:.1%}" if known(row["low"]) else ""
    return f"{row['value']:.1%}", interval, _null_cell(row["null_mean"], row["null_high"], ".1%")


def _null_cell(mean: float | None, high: float | None, digits: str) -> str:
    """Return the mean of a null; the reason if the clips cannot be permuted, which leaves only its upper end of 1."""
    if mean is not None and known(mean):
        return format(mean, digits)
    return NO_NULL if high == 1 else ""


NO_NULL = "too few"
"""Text in the place of a null that would need more clips or groups; it fits below `permuted` in one line."""


def strict_table(results: StrictResults) -> Table | None:
    """Return layer, codes and best baseline on every task of the strict protocol; None without tasks."""
    factors = results.comparison("mean_factor_r2")
    comparisons = [*results.task_comparisons, *([factors] if factors else [])]
    if not comparisons:
        return None
    columns = ("question", "dense layer", "SAE codes", "best baseline", "which", "permuted targets")
    table = _table(f"Strict protocol, layer {results.layer}", *columns)
    for comparison in comparisons:
        best, codes = comparison.best_baseline, comparison.codes
        table.add_row(
            readable_name(comparison.target) or "mean R² of factors either predicts",
            f"{comparison.dense.value:.3f}",
            f"{codes.value:.3f}",
            *((f"{best.estimate.value:.3f}", best.label) if best else ("", "")),
            _null_cell(codes.null_mean, codes.null_high, ".3f"),
        )
    return table


WHOLE_COLUMNS = ("protocol", "layer", "preset", "sparsity", "k", "accuracy", "95 % interval", "reads", "explained")
"""Columns that stay whole in a narrow terminal; labels, and headings of several words, may take two lines."""


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=None, title_justify="left")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=name in WHOLE_COLUMNS, overflow="fold")
    return table
