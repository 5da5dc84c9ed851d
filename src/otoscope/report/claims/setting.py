"""Provenance of the claims: encoder, corpus, groups, formants, layers, SAEs, seeds, nulls."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from otoscope.formatting import NBSP, comma_list, count, decimal, sparsity
from otoscope.metrics.representation import CODES
from otoscope.metrics.results import ResultsTable
from otoscope.protocols.mariotte2025 import NAME as MARIOTTE2025
from otoscope.protocols.strict import NAME as STRICT
from otoscope.protocols.strict.results import StrictResults
from otoscope.report.claim_factors import describe_formants, describe_pitch
from otoscope.report.estimates import DENSE_SHARE, layer_width
from otoscope.report.evidence import describe_training
from otoscope.report.run_data import RunData
from otoscope.runs.training import unlearned

USES = {"train": "training", "valid": "validation", "test": "test"}
"""Use of each split."""


def setting(run: RunData) -> list[tuple[str, str]]:
    """Return the rows of the table of settings, from results, configuration and corpus."""
    table = run.results.where(protocol=(MARIOTTE2025, STRICT))
    strict = StrictResults.of(table.rows)
    layers = comma_list(sorted(table.unique("layer")))
    settings = {
        "Encoder": comma_list(name for name in table.unique("encoder") if name),
        "Corpus": _corpus(run.corpus, run.clips),
        "Held-out groups": _held_out(strict),
        "Pitch": describe_pitch(run, strict.targets("factor_r2")),
        "Formants": describe_formants(run, strict.targets("factor_r2")),
        "Layers": f"{layers} (0: the input of the first block; i: the output of block i)",
        "Compared in full": _compared(strict, run),
        "Training of dictionaries": describe_training(run, strict.sae_ids),
        "Codes of clips": _pooling(strict),
        "The study's sparsities": _study_sparsities(strict, run),
        "Seeds": _seeds(table),
        "Nulls and intervals": _nulls() if strict else "",
    }
    return [(name, text) for name, text in settings.items() if text]


def _corpus(card: Mapping[str, Any], clips: pl.DataFrame | None) -> str:
    parts = [str(card["name"])] if card.get("name") else []
    if clips is not None:
        parts.append(_clips_and_groups(clips))
        splits = ((use, clips.filter(pl.col("split") == split)) for split, use in USES.items())
        parts.append(comma_list(f"{_clips_and_groups(part)} for {use}" for use, part in splits if part.height))
    elif card.get("clips"):
        parts.append(count(int(card["clips"]), "clip"))
    return "; ".join(parts)


def _clips_and_groups(clips: pl.DataFrame) -> str:
    return f"{count(clips.height, 'clip')} of {count(clips['group'].n_unique(), 'group')}"


def _held_out(strict: StrictResults) -> str:
    test = strict.where(split="test")
    if not test:
        return "none: the run did not evaluate on held-out groups"
    tasks = test.rows.filter(pl.col("metric").str.starts_with("task_") & (pl.col("groups") > 0))
    if tasks.is_empty():
        return ""
    clips, groups = tasks.select("n", "groups").row(0)
    return f"test numbers of the task rest on {count(clips, 'clip')} of {count(groups, 'independent group')}"


def _compared(strict: StrictResults, run: RunData) -> str:
    if (main := strict.main) is None:
        return ""
    codes = f", its codes with {main['latents']} latents" if main["latents"] else ""
    budget = f" (k={main['k']})" if main["k"] else ""
    found = unlearned({main["sae_id"]: run.cards.get(main["sae_id"], {})})
    not_learned = "".join(f"; these are {label}: {reason}" for label, reason, _ in found)
    return f"layer {strict.layer}{codes} at {sparsity(main['sparsity'])} sparsity{budget}{not_learned}"


def _pooling(strict: StrictResults) -> str:
    """Return how frames become the code of a clip, because a mean over frames is less sparse than a frame."""
    if strict.main is None or strict.main["pooling"] != "encode_then_pool":
        return ""
    return (
        "each frame has k active latents; scores are read from the mean over a clip's frames, in which more latents "
        "are active. The study encodes one row per clip, so that its codes are as sparse as stated"
    )


STUDY_SPARSITIES = (0.75, 0.8, 0.85, 0.9, 0.95, 0.99)


def _study_sparsities(strict: StrictResults, run: RunData) -> str:
    """Return the number of active latents at the study's sparsities, relative to the width of this layer."""
    main = strict.main or {}
    width = layer_width(run.cards, str(main.get("sae_id")))
    if not width or not main.get("latents"):
        return ""
    active = {s: int((1 - s) * main["latents"]) for s in STUDY_SPARSITIES}
    each = comma_list(f"{sparsity(s)} (k={k}, {decimal(k / width, 2)})" for s, k in active.items())
    many = sum(k >= DENSE_SHARE * width for k in active.values())
    text = f"with {main['latents']} latents and {width} dimensions, k and its ratio to the dimensions are: {each}"
    if many:
        text += (
            f"; at {many} of the six at least a quarter, where principal axes reconstruct as well as true features and "
            "explained variance does not tell them apart"
        )
    return text


def _seeds(table: ResultsTable) -> str:
    seeds = sorted(table.where(representation=CODES).unique("seed"))
    if not seeds:
        return ""
    means = "; numbers of codes at the sparsity compared are their means" if len(seeds) > 1 else ""
    return f"{count(len(seeds), 'seed')} of the SAEs ({comma_list(seeds)}){means}"


def _nulls() -> str:
    return (
        "nulls from test clips permuted within groups, or groups where each has one class; for leads in layers, from "
        "the categories permuted over the factors; "
        f"95{NBSP}% intervals from leaving out one group at a time (for layers also factors; for dimensions "
        "and R² from few dimensions only factors)"
    )
