"""What the verdicts rest on, so that the page can be read alone: sound, groups, layers, dictionaries, seeds, nulls."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from otoscope.protocols.mariotte2025 import NAME as COMPAT
from otoscope.protocols.strict import NAME as STRICT
from otoscope.report import words
from otoscope.report.folder import Run
from otoscope.report.formants import formants_told
from otoscope.report.html import Html, element
from otoscope.report.strict_rows import strict_rows

USES = {"train": "training", "valid": "validation", "test": "test"}
"""What each split is for."""


def setting(run: Run) -> Html:
    """Return a table of what was asked, from the results and, where they lie beside them, configuration and corpus."""
    rows = run.results.rows.filter(pl.col("protocol").is_in([COMPAT, STRICT]))
    told = {
        "Encoder": words.listed(dict.fromkeys(name for name in rows["encoder"] if name)),
        "Corpus": _corpus(run.corpus, run.clips),
        "Held-out groups": _held_out(rows),
        "Formants": formants_told(run, _asked(rows)),
        "Layers": (
            f"{words.listed(rows['layer'].drop_nulls().unique().sort())} (0: the input of the first block; i: the "
            "output of block i)"
        ),
        "Compared in full": _compared(rows),
        "Seeds": _seeds(rows),
        "Nulls and intervals": _nulls(run.config, rows),
    }
    found = [element("tr", element("th", k, scope="row"), element("td", v)) for k, v in told.items() if v]
    return element("table", element("tbody", *found), class_="settings")


def _corpus(card: Mapping[str, Any], clips: pl.DataFrame | None) -> str:
    parts = [str(card["name"])] if card.get("name") else []
    if clips is not None:
        parts.append(f"{words.count(clips.height, 'clip')} of {words.count(clips['group'].n_unique(), 'group')}")
        of_splits = [
            f"{words.count(of.height, 'clip')} of {words.count(of['group'].n_unique(), 'group')} for {use}"
            for split, use in USES.items()
            if (of := clips.filter(pl.col("split") == split)).height
        ]
        parts.append(words.listed(of_splits))
    elif card.get("clips"):
        parts.append(words.count(int(card["clips"]), "clip"))
    return "; ".join(parts)


def _held_out(rows: pl.DataFrame) -> str:
    strict = rows.filter((pl.col("protocol") == STRICT) & (pl.col("split") == "test"))
    tasks = strict.filter(pl.col("metric").str.starts_with("task_") & (pl.col("groups") > 0))
    if strict.is_empty():
        return "none: nothing was asked of held-out groups"
    if tasks.is_empty():
        return ""
    clips, groups = tasks.select("n", "groups").row(0)
    return (
        f"test numbers of the task rest on {words.count(clips, 'clip')} of {words.count(groups, 'independent group')}"
    )


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
    return f"layer {strict.layer}{codes} at {words.sparsity(main['sparsity'])} sparsity{budget}"


def _seeds(rows: pl.DataFrame) -> str:
    seeds = rows.filter(pl.col("representation") == "sae")["seed"].drop_nulls().unique().sort().to_list()
    if not seeds:
        return ""
    first = "; numbers of codes at the sparsity compared are their means" if len(seeds) > 1 else ""
    return f"{words.count(len(seeds), 'seed')} of the dictionaries ({words.listed(seeds)}){first}"


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
            f"95{words.NBSP}% intervals of {resamples} resamples of whole groups (for layers of factors, too; for "
            "dimensions from leaving out one factor at a time)"
        )
    return "; ".join(said)
