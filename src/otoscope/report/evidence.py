"""Test clips and groups behind a run's numbers, how they were cross-fitted, and the warning where they are too few."""

from typing import NamedTuple

import polars as pl

from otoscope.formatting import count
from otoscope.metrics.results import ResultsTable
from otoscope.protocols.comparison import MIN_GROUPS
from otoscope.report.run_data import RunData

MIN_CLIPS = 20
"""Test clips needed for a claim: with fewer, a single one moves an accuracy by more than five points."""

REMEDY = "Add recordings of other groups, or give more groups to test (splits.test)"


class Evidence(NamedTuple):
    """Clips and groups behind the numbers of a test split."""

    clips: int
    groups: int

    @property
    def thin(self) -> bool:
        """True if the split is too small for a claim."""
        return self.clips < MIN_CLIPS or self.groups < MIN_GROUPS

    @property
    def description(self) -> str:
        """Clips and groups in words.

        >>> Evidence(3, 1).description
        '3 clips of 1 group'
        """
        return f"{count(self.clips, 'clip')} of {count(self.groups, 'group')}"


def evidence_of_clips(clips: pl.DataFrame) -> Evidence:
    """Count the test clips of a corpus and their groups; cross-fitting tests all clips."""
    test = clips if "fold" in clips.columns else clips.filter(pl.col("split") == "test")
    return Evidence(test.height, test["group"].n_unique())


def cross_fit_note(clips: pl.DataFrame | None) -> str:
    """Return which numbers are cross-fitted, and which rest on the one split; empty without cross-fitting.

    >>> cross_fit_note(pl.DataFrame({"group": list("abcde"), "fold": range(5)})).split(":")[0]
    'Cross-fitted over 5 folds'
    """
    if clips is None or "fold" not in clips.columns:
        return ""
    return (
        f"Cross-fitted over {clips['fold'].n_unique()} folds: each of the {clips['group'].n_unique()} groups is tested "
        "once, by probes and regressions that the other groups fitted, tuned and standardised. The dictionaries were "
        "trained once, without labels, on the train groups of one split; explained variance and the explanations of "
        "latents are of that split's test groups. Layer and sparsity are chosen on the mean of the folds, so that "
        "what is chosen looks slightly too good"
    )


def evidence_of_results(results: ResultsTable) -> Evidence | None:
    """Return the most clips and groups behind a probe or a factor; None where there is neither."""
    tested = results.where(split="test", metric=("probe_accuracy", "factor_r2"))
    clips, groups = tested.rows.select(pl.col("n", "groups").max()).row(0)
    return Evidence(clips or 0, groups or 0) if tested else None


def evidence_of_run(run: RunData) -> Evidence | None:
    """Return the evidence behind a run's numbers: the tested clips of the results, or else the test split."""
    tested = evidence_of_results(run.results.shown)
    return tested if tested or run.clips is None else evidence_of_clips(run.clips)


def weakness(evidence: Evidence) -> str:
    """Return the effect of a small test split on the numbers, as a clause.

    >>> weakness(Evidence(3, 1))
    'with a single group no number has an interval over groups, so nothing is known about other groups'
    """
    if evidence.groups < 2:
        return "with a single group no number has an interval over groups, so nothing is known about other groups"
    if evidence.groups < MIN_GROUPS:
        return f"an interval over {evidence.groups} groups is too wide to decide anything"
    return f"one clip more or less moves an accuracy by {100 / max(evidence.clips, 1):.0f} points"


def warning(evidence: Evidence) -> str | None:
    """Return the line for a terminal; None where the evidence suffices."""
    if not evidence.thin:
        return None
    return (
        f"warning: a test split of {evidence.description} supports no claim: {weakness(evidence)}; at least "
        f"{MIN_GROUPS} groups and about {MIN_CLIPS} clips are needed. {REMEDY}"
    )


def caution(evidence: Evidence | None) -> str:
    """Return why nothing can be claimed, and what to do; empty where the evidence suffices."""
    if evidence is None or not evidence.thin:
        return ""
    return (
        f"They rest on a test split of {evidence.description}: {weakness(evidence)}. A claim needs at least "
        f"{MIN_GROUPS} test groups (with fewer the page of claims decides nothing) and about {MIN_CLIPS} test clips. "
        f"{REMEDY}. Until then the page shows that the run works, not what the model represents."
    )
