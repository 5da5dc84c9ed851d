"""Factors of pitch and of formants: which count in the order over layers, and how reliable measured formants are."""

import math
from collections.abc import Sequence

import polars as pl

from otoscope.artifacts import read_table
from otoscope.factors.readable_names import readable_name
from otoscope.formatting import NBSP, comma_list, count, decimal
from otoscope.report.run_data import RunData

PITCH, FORMANTS = "pitch", "formants"
MEASURED = "eGeMAPSv02"

FORMANT_COLUMNS = tuple((f"f{n}_hz", f"F{n}frequency_sma3nz_amean") for n in (1, 2, 3))
"""Columns of the factor table: a formant's true frequency on a clip, and openSMILE's mean of it (eGeMAPSv02)."""

RELIABLE_CORRELATION = 0.7
"""Correlation with the truth below which half of a measurement's variance is something else."""


def describe_pitch(run: RunData, factors: Sequence[str]) -> str:
    """Return which factors are of pitch, because level and variation of F0 count alike; empty without any."""
    members = [name for name in factors if run.category(name) == PITCH]
    if not members:
        return ""
    names = comma_list(readable_name(name) for name in members)
    return f"{count(len(members), 'factor')}, of the level of F0 or of its variation: {names}"


def describe_formants(run: RunData, factors: Sequence[str]) -> str:
    """Return which factors are formants, by source, and how reliable measured ones are; empty without formants."""
    source_of = {f["name"]: str(f.get("source") or "unknown") for f in run.factors.get("factors", [])}
    members = [name for name in factors if run.category(name) == FORMANTS]
    if not members:
        return ""
    sources = [source_of.get(name, "unknown") for name in members]
    true = comma_list(name for name, source in zip(members, sources, strict=True) if source == "truth")
    kinds = {"truth": f"known to the synthesiser: {true}", "unknown": "of unrecorded source"}
    each = [f"{sources.count(source)} {kinds.get(source, f'of {source}')}" for source in dict.fromkeys(sources)]
    text = f"{count(len(members), 'factor')} ({comma_list(each)})"
    if levels := sum("amplitudeLogRelF0" in name for name in members):
        verb = "is a level" if levels == 1 else "are levels"
        text += (
            f"; {levels} of these {verb} relative to f0, whose means include openSMILE's −201{NBSP}dB in unvoiced "
            "frames, so that they follow the share of voiced frames too"
        )
    if MEASURED not in sources:
        return text
    path = run.folder / "factors.parquet"
    agreement = formant_agreement(read_table(path)) if path.is_file() else {}
    if not agreement:
        return (
            f"{text}; where true resonances are known (on the synthesiser's clips) openSMILE's frequencies barely "
            "correlate with them, so the verdict is about these descriptors"
        )
    each = [f"{decimal(r, 2)} ({name})" for name, r in agreement.items()]
    text += (
        f"; over all clips of this run, openSMILE's mean frequencies correlate with the true ones at {comma_list(each)}"
    )
    if max(agreement.values()) < RELIABLE_CORRELATION:
        text += ": these are no reliable formants here, and the verdict is mostly about them"
    return text


def formant_agreement(factors: pl.DataFrame) -> dict[str, float]:
    """Return the correlation over clips of each measured formant with the true one, where both are known.

    >>> hz = {"f2_hz": [900.0, 1200.0, 1500.0], "F2frequency_sma3nz_amean": [950.0, 1180.0, 1600.0]}
    >>> {name: round(r, 2) for name, r in formant_agreement(pl.DataFrame(hz)).items()}
    {'F2': 0.99}
    """
    agreement: dict[str, float] = {}
    for true, measured in FORMANT_COLUMNS:
        if {true, measured} <= set(factors.columns):
            both = factors.select(true, measured).fill_nan(None).drop_nulls()
            r: float | None = both.select(pl.corr(true, measured)).item() if both.height > 2 else None
            if r is not None and math.isfinite(r):
                agreement[true.removesuffix("_hz").upper()] = r
    return agreement
