"""What the verdicts rest on, so that the page can be read alone: sound, groups, layers, dictionaries, seeds, nulls.

What goes by the name of formants in a run: true resonances, openSMILE's measurements, and how far they agree.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import polars as pl

from otoscope.artifacts import read_table
from otoscope.formatting import NBSP, comma_list, count, decimal, known, sparsity
from otoscope.protocols.mariotte2025 import NAME as COMPAT
from otoscope.protocols.strict import NAME as STRICT
from otoscope.report.run_data import RunData
from otoscope.report.sections.strict_rows import strict_rows

PAIRS = tuple((f"f{n}_hz", f"F{n}frequency_sma3nz_amean") for n in (1, 2, 3))
"""A formant's true frequency on a clip and eGeMAPSv02's mean of it, by their names in the table of factors."""

CATEGORY = "formants"
CLOSE = 0.7
"""Correlation with the truth below which half of a measurement's variance is something else."""
MEASURED = "eGeMAPSv02"


def formants_told(run: RunData, asked: Sequence[str]) -> str:
    """Say which of the factors asked are formants, by source, and what measured ones are worth; empty without any."""
    sources = {f["name"]: str(f.get("source") or "unknown") for f in run.factors.get("factors", [])}
    members = [name for name in asked if run.category(name) == CATEGORY]
    if not members:
        return ""
    of = [sources.get(name, "unknown") for name in members]
    own = comma_list(name for name, source in zip(members, of, strict=True) if source == "truth")
    kinds = {"truth": f"known to the synthesiser: {own}", "unknown": "of unrecorded source"}
    each = [f"{of.count(source)} {kinds.get(source, f'of {source}')}" for source in dict.fromkeys(of)]
    said = f"{count(len(members), 'factor')} ({comma_list(each)})"
    if MEASURED not in of:
        return said
    if agreement := dict(_agreement(run)):
        each = [f"{decimal(r, 2)} ({name})" for name, r in agreement.items()]
        so = f"{said}; on these clips openSMILE's mean frequencies correlate with the true ones at {comma_list(each)}"
        if max(agreement.values()) < CLOSE:
            so += ": these are no reliable formants here, and the verdict is mostly about them"
        return so
    return (
        f"{said}; where true resonances are known (on the synthesiser's clips) openSMILE's frequencies hardly follow "
        "them, so the verdict is about these descriptors"
    )


def _agreement(run: RunData) -> Iterator[tuple[str, float]]:
    """Yield the correlation over clips of each measured formant with the true one, where both are known."""
    path = run.folder / "factors.parquet"
    if not path.is_file():
        return
    table = read_table(path)
    for true, measured in PAIRS:
        if {true, measured} <= set(table.columns):
            both = table.select(true, measured).fill_nan(None).drop_nulls()
            r: float | None = both.select(pl.corr(true, measured)).item() if both.height > 2 else None
            if r is not None and known(r):
                yield true.removesuffix("_hz").upper(), r


USES = {"train": "training", "valid": "validation", "test": "test"}
"""What each split is for."""


def setting(run: RunData) -> list[tuple[str, str]]:
    """Return the rows of the table of settings, from results, configuration and corpus."""
    rows = run.results.rows.filter(pl.col("protocol").is_in([COMPAT, STRICT]))
    told = {
        "Encoder": comma_list(dict.fromkeys(name for name in rows["encoder"] if name)),
        "Corpus": _corpus(run.corpus, run.clips),
        "Held-out groups": _held_out(rows),
        "Formants": formants_told(run, _asked(rows)),
        "Layers": (
            f"{comma_list(rows['layer'].drop_nulls().unique().sort())} (0: the input of the first block; i: the "
            "output of block i)"
        ),
        "Compared in full": _compared(rows),
        "Seeds": _seeds(rows),
        "Nulls and intervals": _nulls(run.config, rows),
    }
    return [(name, text) for name, text in told.items() if text]


def _corpus(card: Mapping[str, Any], clips: pl.DataFrame | None) -> str:
    parts = [str(card["name"])] if card.get("name") else []
    if clips is not None:
        parts.append(f"{count(clips.height, 'clip')} of {count(clips['group'].n_unique(), 'group')}")
        of_splits = [
            f"{count(of.height, 'clip')} of {count(of['group'].n_unique(), 'group')} for {use}"
            for split, use in USES.items()
            if (of := clips.filter(pl.col("split") == split)).height
        ]
        parts.append(comma_list(of_splits))
    elif card.get("clips"):
        parts.append(count(int(card["clips"]), "clip"))
    return "; ".join(parts)


def _held_out(rows: pl.DataFrame) -> str:
    strict = rows.filter((pl.col("protocol") == STRICT) & (pl.col("split") == "test"))
    tasks = strict.filter(pl.col("metric").str.starts_with("task_") & (pl.col("groups") > 0))
    if strict.is_empty():
        return "none: nothing was asked of held-out groups"
    if tasks.is_empty():
        return ""
    clips, groups = tasks.select("n", "groups").row(0)
    return f"test numbers of the task rest on {count(clips, 'clip')} of {count(groups, 'independent group')}"


def _asked(rows: pl.DataFrame) -> list[str]:
    """Return the factors that the strict protocol asks."""
    strict = rows.filter((pl.col("protocol") == STRICT) & (pl.col("metric") == "factor_r2"))
    return strict["target"].unique(maintain_order=True).to_list()


def _compared(rows: pl.DataFrame) -> str:
    strict = strict_rows(rows)
    if (main := strict.main) is None:
        return ""
    codes = f", its codes with {main['latents']} latents" if main["latents"] else ""
    budget = f" (k={main['k']})" if main["k"] else ""
    return f"layer {strict.layer}{codes} at {sparsity(main['sparsity'])} sparsity{budget}"


def _seeds(rows: pl.DataFrame) -> str:
    seeds = rows.filter(pl.col("representation") == "sae")["seed"].drop_nulls().unique().sort().to_list()
    if not seeds:
        return ""
    first = "; numbers of codes at the sparsity compared are their means" if len(seeds) > 1 else ""
    return f"{count(len(seeds), 'seed')} of the dictionaries ({comma_list(seeds)}){first}"


def _nulls(config: Mapping[str, Any], rows: pl.DataFrame) -> str:
    evaluate = config.get("evaluate") or {}
    strict = evaluate.get("strict") or {}
    if STRICT not in set(rows["protocol"]):
        return ""
    said: list[str] = []
    if permutations := strict.get("permutations"):
        said.append(f"nulls of {permutations} refits on permuted targets")
    if resamples := evaluate.get("resamples"):
        said.append(
            f"95{NBSP}% intervals of {resamples} resamples of whole groups (for layers of factors, too; for "
            "dimensions from leaving out one factor at a time)"
        )
    return "; ".join(said)
