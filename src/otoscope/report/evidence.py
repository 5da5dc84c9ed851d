"""Size of the test split behind a run's numbers, and the warning where it is too small for a claim."""

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
    """Count the test clips of a corpus and their groups."""
    test = clips.filter(pl.col("split") == "test")
    return Evidence(test.height, test["group"].n_unique())


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
