"""Sentences on a latent of the gallery: the decision of test groups, correlations beside chance, limits, and values.

Values are those of the factor in a clip, compared with the other clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Shaped

from otoscope import formatting
from otoscope.artifacts import read_table
from otoscope.explain.latent_choice import MIN_GROUP_R, MIN_ROWS, LatentOutcome, WithinClasses
from otoscope.factors.readable_names import readable_name
from otoscope.formatting import comma_list, count, decimal, percent
from otoscope.metrics.robust_factors import without_sentinels
from otoscope.report.estimates import capitalised
from otoscope.report.run_data import RunData
from otoscope.report.sections.opening import FEW_GROUPS

MAX_ALSO = 5
"""Maximum number of further factors of a latent that are named; the rest is counted."""

OUTCOMES = {
    LatentOutcome.CONFIRMED: "{inside}{subject} contain more of it{than}",
    LatentOutcome.TOO_FEW_GROUPS: "In the clips of {groups}, too few for a claim, {subject} contain more of it{than}",
    LatentOutcome.TOO_FEW_CLIPS: (
        f"Not tested, on fewer than {MIN_ROWS} test clips; "
        "of training and validation clips, {subject} contain more of it{than}"
    ),
    LatentOutcome.NOT_TESTABLE: "Too few test clips or groups to test",
    LatentOutcome.BETWEEN_GROUPS: "Between groups only",
    LatentOutcome.CHANCE: "Not beyond chance on test clips",
    LatentOutcome.OPPOSITE: "Opposite sign on test clips",
}
"""The decision of the test groups in words."""


def outcome_text(row: Mapping[str, Any]) -> str:
    """Return which clips contain more of a latent, or why test clips do not confirm it.

    `row` is a latent of a factor or, with a `label`, of a class of that label.
    """
    subject, than = f"clips with a {'higher' if row['train_r'] >= 0 else 'lower'} value", ""
    if row["label"]:
        subject, than = "clips of this class", " than others"
    groups, agree = count(row["compared_groups"], "test group"), row["agreeing_groups"]
    inside = f"in the clips of {agree} of {groups}, " if agree < row["compared_groups"] else ""
    groups = f"{agree} of {groups}" if inside else groups
    text = OUTCOMES[LatentOutcome(row["outcome"])].format(subject=subject, than=than, groups=groups, inside=inside)
    return capitalised(text)


def within_classes_note(row: Mapping[str, Any]) -> str:
    """Return the correlation within the classes that differ in a factor, and what it tells; empty without such classes.

    >>> row = {"within_classes": "open", "class_labels": ["vowel"], "class_r": 0.1, "class_null_high": 0.3}
    >>> within_classes_note({**row, "of_class": "vowel a"}).split(":")[0]
    'Not told apart from the classes of vowel (most in vowel a)'
    """
    within = WithinClasses(row["within_classes"])
    if within is WithinClasses.NOT_ASKED:
        return ""
    classes = f"the classes of {comma_list(row['class_labels'])}"
    if not formatting.known(row["class_r"]):
        return f"Not told apart from {classes}: too few test clips within them."
    chance = decimal(row["class_null_high"], 2)
    found = f"the correlation is {decimal(row['class_r'], 2)} (chance |r| up to {chance})."
    if within is WithinClasses.HOLDS:
        return f"Within {classes} {found}"
    relation = "Not told apart from" if within is WithinClasses.OPEN else "Between"
    only = "" if within is WithinClasses.OPEN else " only"
    return f"{relation} {classes}{only} (most in {row['of_class']}): within them {found}"


def shared_clips(shared: Mapping[str, Sequence[str]], names: Sequence[str]) -> list[str]:
    """Return a sentence for each class whose clips are all of a class of another label (`containing_classes`)."""
    said: list[str] = []
    for name in dict.fromkeys(names):
        # two classes of the same clips are named once
        new = [
            phrase
            for phrase in shared.get(name, ())
            if not (phrase.startswith("the same") and any(f"those of {name}" in one for one in said))
        ]
        if new:
            said.append(f"The clips of {name} are {comma_list(new)}: what is found of one may be due to the other.")
    return said


def class_note(firing: pl.DataFrame | None, row: Mapping[str, Any], named: Sequence[str]) -> str:
    """Note that a latent fires more often for another class than those of its card; empty if it does not.

    The class of a card is chosen by the mean code of clips, in which strong firing counts more. `named` are the classes
    of the card's sentence, as `label=class`: a sentence without the card's own contradicts its title.
    """
    label, own = row["label"], row["factor"]
    of_label = [one.removeprefix(f"{label}=") for one in named if one.startswith(f"{label}=")]
    rates: dict[str, float] = {}
    if firing is not None:
        rates = dict(firing.filter(pl.col("latent") == row["latent"], by=label).select("class", "rate").iter_rows())
    most = max(rates, key=lambda name: rates[name], default=own)
    other = of_label[0] if of_label and own not in of_label else most
    if other == own:
        return ""
    each = [f"{percent(rates.get(name, 0.0), 0)} of them for {label} {name}" for name in (own, other)]
    shares = f": over all clips, in {comma_list(each)}" if rates else ""
    return f"Counted in frames, it does not fire for this class alone{shares}."


def correlation_facts(row: dict[str, Any], noun: str) -> list[str]:
    """Return the correlation over test clips, their number, chance, and the correlation over all of them."""
    on = f"on {count(row['test_clips'], 'clip')} of {count(row['test_groups'], 'group')}"
    if not formatting.known(row["test_r"]):
        return [f"no test correlation {on}"]
    found, *chance = _phrases(row, noun)
    if not row["within"]:
        return [f"test {found} {on}", *chance]
    overall = f"over all of these clips, differences between {noun}s included, {decimal(row['overall_r'], 2)}"
    return [f"test {found} {on}", *chance, overall]


def correlation_phrases(row: dict[str, Any], noun: str) -> list[str]:
    """Return the correlation over test clips, chance where it is known, and the loss by differences between groups."""
    return [*_phrases(row, noun), *_lost_over_all(row, noun)]


def _phrases(row: dict[str, Any], noun: str) -> list[str]:
    where = f"within {noun}s" if row["within"] else f"between {noun}s only"
    tested = formatting.known(row["null_high"]) and not formatting.nothing_exceeds(row["null_high"])
    # a value just above chance needs another digit to be told from it
    near = tested and decimal(abs(row["test_r"]), 2) == decimal(row["null_high"], 2)
    digits = 3 if near else 2
    chance = [f"chance |r| up to {decimal(row['null_high'], digits)}"] if tested else []
    found = f"correlation {where} {decimal(row['test_r'], digits)}"
    others = [*_other_classes(row), *_next_class(row, digits)]
    return [found, *_by_group(row, noun), *chance, *others]


def _by_group(row: dict[str, Any], noun: str) -> list[str]:
    """Return the correlation within each test group where groups are few; empty if there are more, or one."""
    if not 1 < len(row["group_r"]) <= FEW_GROUPS:
        return []
    each = [decimal(r, 2) if formatting.known(r) else "undefined" for r in row["group_r"]]
    return [f"by {noun} {comma_list(each)}"]


def _other_classes(row: dict[str, Any]) -> list[str]:
    """Return the further classes above chance on test clips, on which they were found, with both correlations."""
    each = list(row["other_classes"])
    if row["other_test_r"]:
        both = zip(each, row["other_test_r"], row["other_train_r"], strict=True)
        each = [f"{name} (test {decimal(test, 2)}, training {decimal(train, 2)})" for name, test, train in both]
    return [f"also above chance on test clips: {comma_list(each)}"] if each else []


def _next_class(row: dict[str, Any], digits: int) -> list[str]:
    """Return the correlation with the class that follows those above chance; empty if there is none above 0."""
    if not formatting.known(row["next_r"]) or row["next_r"] <= 0:
        return []
    return [f"next class {row['next_class']} {decimal(row['next_r'], digits)}"]


def _lost_over_all(row: dict[str, Any], noun: str) -> list[str]:
    """Return a warning if differences between groups turn the sign of the correlation, or hide half of it or more."""
    within, overall = row["test_r"], row["overall_r"]
    if not row["within"] or not (formatting.known(within) and formatting.known(overall)):
        return []
    why = f"over all clips, because {noun}s differ ({decimal(overall, 2)})"
    if overall * within < 0 and abs(overall) >= MIN_GROUP_R:
        return [f"of the opposite sign {why}"]
    if abs(within) < MIN_GROUP_R or overall * within >= within**2 / 2:
        return []
    return [f"{'near 0' if abs(overall) < MIN_GROUP_R else 'at most half as large'} {why}"]


def also_sentence(factors: list[str]) -> str:
    """Return the further factors of which a latent is the best one."""
    names, rest = list(map(readable_name, factors[:MAX_ALSO])), len(factors) - MAX_ALSO
    more = [count(rest, "further factor")] if rest > 0 else []
    of = comma_list([*names, *more])
    return f"Also the best single latent for {of} on training and validation groups; not tested on others."


@dataclass(frozen=True)
class FactorRanks:
    """Values of each factor over the clips of a corpus, NaN where unknown, and the group of each clip."""

    values: dict[str, Float[np.ndarray, " clips"]]
    groups: Shaped[np.ndarray, " clips"]

    def span(self, factor: str) -> str | None:
        """Return minimum, median and maximum as a phrase; None for a factor without values."""
        if (values := self.values.get(factor)) is None:
            return None
        low, middle, high = (short(float(v)) for v in np.nanquantile(values, [0.0, 0.5, 1.0]))
        return f"over all clips the factor ranges from {low} to {high}, median {middle}"

    def rank(self, factor: str, value: float, *, group: str | None = None, sign: float = 0.0) -> str | None:
        r"""Return the share of clips with a lower value, or with a higher value if that share is larger.

        With a `group`, clips of that group are compared. `sign` is that of the correlation of latent and factor: a rank
        on the other side is called an exception.

        >>> ranks = FactorRanks({"f0": np.array([100.0, 200.0, 300.0, 400.0])}, np.array(["a", "a", "b", "b"]))
        >>> ranks.rank("f0", 390.0)
        'higher than in 75\xa0% of all clips'
        >>> ranks.rank("f0", 200.0, group="a", sign=-1.0)
        "higher than in 50\xa0% of the group's clips, an exception"
        """
        if (values := self.values.get(factor)) is None:
            return None
        of = np.isfinite(values) if group is None else np.isfinite(values) & (self.groups == group)
        if not of.any():
            return None
        below, above = float((values[of] < value).mean()), float((values[of] > value).mean())
        share, way = (below, "higher") if below >= above else (above, "lower")
        where = "of all clips" if group is None else "of the group's clips"
        exception = ", an exception" if sign * (below - above) < 0 else ""
        return f"{way} than in {percent(share, 0)} {where}{exception}"


def factor_ranks(run: RunData) -> FactorRanks:
    """Load the factor values that are known in each of a run's clips; empty if the run folder has none."""
    path = run.folder / "factors.parquet"
    if not path.is_file():
        return FactorRanks({}, np.zeros(0, dtype=np.str_))
    rows = read_table(path)
    group_of = {} if run.clips is None else dict(run.clips.select("clip_id", "group").iter_rows())
    groups = np.array([str(group_of.get(clip, "")) for clip in rows["clip_id"]])
    table = rows.drop("clip_id").cast(pl.Float64)
    measured = without_sentinels(table.to_numpy(), table.columns)
    columns = zip(table.columns, np.where(np.isfinite(measured), measured, np.nan).T, strict=True)
    return FactorRanks({name: values for name, values in columns if np.isfinite(values).any()}, groups)


def short(value: float) -> str:
    """Return a value with four digits and a true minus sign.

    >>> short(-12.3456)
    '−12.35'
    """
    return f"{value:.4g}".replace("-", "−")
