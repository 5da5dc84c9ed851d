"""How much a test split can carry, and what to say where that is too little for a claim."""

from typing import NamedTuple

import polars as pl

from otoscope.formatting import count
from otoscope.protocols.comparing import MIN_GROUPS
from otoscope.report.run_data import RunData

MIN_CLIPS = 20
"""Test clips below which a single one moves an accuracy by more than five points."""


REMEDY = "Add recordings of other groups, or give more groups to test (splits.test)"
"""What to do about it."""


class Evidence(NamedTuple):
    """Clips and groups that the numbers of a test split rest on."""

    clips: int
    groups: int

    @property
    def thin(self) -> bool:
        """Whether it is too little for a claim."""
        return self.clips < MIN_CLIPS or self.groups < MIN_GROUPS

    @property
    def description(self) -> str:
        """It in words.

        >>> Evidence(3, 1).told
        '3 clips of 1 group'
        """
        return f"{count(self.clips, 'clip')} of {count(self.groups, 'group')}"


def evidence_of_clips(clips: pl.DataFrame) -> Evidence:
    """Count the test clips of a corpus and their groups."""
    test = clips.filter(pl.col("split") == "test")
    return Evidence(test.height, test["group"].n_unique())


def evidence_of_results(rows: pl.DataFrame) -> Evidence | None:
    """Return the most clips and groups that a probe or a factor was tested on; None where there is neither."""
    tested = rows.filter((pl.col("split") == "test") & pl.col("metric").is_in(["probe_accuracy", "factor_r2"]))
    found = tested.select(pl.col("n", "groups").max()).row(0)
    return Evidence(*(number or 0 for number in found)) if tested.height else None


def evidence_of_run(run: RunData) -> Evidence | None:
    """Return what a run's numbers rest on: the tested clips of the results, or else the corpus's test split."""
    tested = evidence_of_results(run.results.shown)
    return tested if tested or run.clips is None else evidence_of_clips(run.clips)


def why_thin(evidence: Evidence) -> str:
    """Say what little evidence does to the numbers, as a clause.

    >>> why_thin(Evidence(3, 1))
    'with a single group no number has an interval over groups, so none says what another group would give'
    """
    if evidence.groups < 2:
        return "with a single group no number has an interval over groups, so none says what another group would give"
    if evidence.groups < MIN_GROUPS:
        return f"an interval over {evidence.groups} groups merely spans their values"
    return f"one clip more or less moves an accuracy by {100 / max(evidence.clips, 1):.0f} points"


def warning(evidence: Evidence) -> str | None:
    """Return the line for a terminal; None where there is enough."""
    if not evidence.thin:
        return None
    return (
        f"warning: nothing can be claimed from a test split of {evidence.description}: {why_thin(evidence)}; "
        f"at least {MIN_GROUPS} groups and about {MIN_CLIPS} clips are needed. {REMEDY}"
    )


def caution(rests_on: Evidence | None) -> str:
    """Return why nothing can be claimed, and what to do; empty where the evidence suffices."""
    if rests_on is None or not rests_on.thin:
        return ""
    return (
        f"They rest on a test split of {rests_on.description}: {why_thin(rests_on)}. "
        f"A claim needs at least {MIN_GROUPS} test groups (with fewer this program's page of claims decides "
        f"nothing) and about {MIN_CLIPS} test clips. {REMEDY}. Until then the page shows that the "
        "run works, not what the model hears."
    )
