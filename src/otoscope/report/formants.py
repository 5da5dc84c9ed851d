"""What goes by the name of formants in a run: true resonances, openSMILE's measurements, and how far they agree."""

from collections.abc import Iterator, Sequence

import polars as pl

from otoscope.artifacts import read_table
from otoscope.report import words
from otoscope.report.folder import Run

PAIRS = tuple((f"f{n}_hz", f"F{n}frequency_sma3nz_amean") for n in (1, 2, 3))
"""A formant's true frequency on a clip and eGeMAPSv02's mean of it, by their names in the table of factors."""

CATEGORY = "formants"
CLOSE = 0.7
"""Correlation with the truth below which half of a measurement's variance is something else."""
MEASURED = "eGeMAPSv02"


def formants_told(run: Run, asked: Sequence[str]) -> str:
    """Say which of the factors asked are formants, by source, and what measured ones are worth; empty without any."""
    sources = {f["name"]: str(f.get("source") or "unknown") for f in run.factors.get("factors", [])}
    members = [name for name in asked if run.category(name) == CATEGORY]
    if not members:
        return ""
    of = [sources.get(name, "unknown") for name in members]
    own = words.listed(name for name, source in zip(members, of, strict=True) if source == "truth")
    kinds = {"truth": f"known to the synthesiser: {own}", "unknown": "of unrecorded source"}
    each = [f"{of.count(source)} {kinds.get(source, f'of {source}')}" for source in dict.fromkeys(of)]
    said = f"{words.count(len(members), 'factor')} ({words.listed(each)})"
    if MEASURED not in of:
        return said
    if agreement := dict(_agreement(run)):
        each = [f"{words.decimal(r, 2)} ({name})" for name, r in agreement.items()]
        so = f"{said}; on these clips openSMILE's mean frequencies correlate with the true ones at {words.listed(each)}"
        if max(agreement.values()) < CLOSE:
            so += ": these are no reliable formants here, and the verdict is mostly about them"
        return so
    return (
        f"{said}; where true resonances are known (on the synthesiser's clips) openSMILE's frequencies hardly follow "
        "them, so the verdict is about these descriptors"
    )


def _agreement(run: Run) -> Iterator[tuple[str, float]]:
    """Yield the correlation over clips of each measured formant with the true one, where both are known."""
    path = run.folder / "factors.parquet"
    if not path.is_file():
        return
    table = read_table(path)
    for true, measured in PAIRS:
        if {true, measured} <= set(table.columns):
            both = table.select(true, measured).fill_nan(None).drop_nulls()
            r: float | None = both.select(pl.corr(true, measured)).item() if both.height > 2 else None
            if r is not None and words.known(r):
                yield true.removesuffix("_hz").upper(), r
