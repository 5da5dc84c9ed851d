"""Test clips and groups behind a run's numbers, their cross-fitting, and the warning if they are too few."""

from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

import polars as pl

from otoscope.corpus.table import SPLITS, groups_by_split
from otoscope.formatting import NBSP, comma_list, count, decimal, first_few, percent
from otoscope.metrics.results import ResultsTable
from otoscope.report.run_data import RunData
from otoscope.resampling.intervals import MIN_GROUPS

MIN_CLIPS = 20
"""Test clips needed for a claim: with fewer, a single one moves an accuracy by more than five points."""


class Evidence(NamedTuple):
    """Clips and groups behind the tested numbers: of the test split, or of all folds of a cross-fit.

    `labels`: some of the numbers are accuracies.
    """

    clips: int
    groups: int
    folds: int = 1
    labels: bool = True

    @classmethod
    def of(cls, clips: pl.DataFrame, *, folds: int = 1, labels: bool = True) -> "Evidence":
        """Count clips and their groups."""
        return cls(clips.height, clips["group"].n_unique(), folds, labels)

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

    @property
    def test(self) -> str:
        """Name of the test that the clips belong to."""
        return "test split" if self.folds == 1 else f"cross-fit over {self.folds} folds"

    @property
    def remedy(self) -> str:
        """Advice to get more groups or clips tested."""
        if self.folds > 1:
            return "Add recordings of other groups"
        return (
            "Add recordings of other groups, give more groups to test (splits.test or splits.test_groups), or test "
            "every group once (splits.cross=5)"
        )


def evidence_of_clips(clips: pl.DataFrame, *, labels: bool = True) -> Evidence:
    """Count the test clips of a corpus and their groups; cross-fitting tests all clips."""
    folds = count_folds(clips)
    return Evidence.of(clips if folds > 1 else clips.filter(pl.col("split") == "test"), folds=folds, labels=labels)


def count_folds(clips: pl.DataFrame | None) -> int:
    """Return the number of folds in which readers are fitted; 1 for the one split."""
    return 1 if clips is None or "fold" not in clips.columns else clips["fold"].n_unique()


def thin_classes(
    clips: pl.DataFrame, label: str, *, noun: str = "group", unscored: Sequence[str] = (), counts: bool = True
) -> str:
    """Return the classes with at most one group in train or test, or none in valid; empty if there are none.

    `unscored` classes are left out, and the numbers of groups without `counts`. A cross-fit tests every group, so that
    no class depends on one split.
    """
    if "fold" in clips.columns:
        return ""
    numbers = {name: of for name, of in groups_by_split(clips, label).items() if name not in unscored}
    thin = [name for name, (train, valid, test) in numbers.items() if min(train, test) < 2 or not valid]
    if not thin:
        return ""
    shown = (f"{name} {'/'.join(map(str, numbers[name]))}" if counts else name for name in thin)
    each = first_few(shown, MAX_NAMED)
    of = f"{noun}s in {'/'.join(SPLITS)}: " if counts else ""
    return (
        f"{classes_of(label, len(thin))} with at most one {noun} in train or test, or none in valid "
        f"({of}{each}): scores of such a class may not hold for other {noun}s"
    )


def classes_of(label: str, number: int) -> str:
    """Return a number of classes of a label.

    >>> classes_of("sex", 1), classes_of("class", 2)
    ('1 class of sex', '2 classes')
    """
    return count(number, "class", "classes") + ("" if label == "class" else f" of {label}")


NEARLY_ALL = 0.75
"""Share of the other clips above which their class distinguishes nothing."""


def containing_classes(clips: pl.DataFrame, labels: Sequence[str]) -> dict[str, list[str]]:
    r"""Return, by class, the classes of other labels that have all of its clips, as phrases after "its clips are".

    Left out are classes of nearly all other clips, and labels whose every class is divided further by another label.

    >>> containing_classes(pl.DataFrame({"label_a": list("xyyzz"), "label_b": list("uuvuv")}), ["a", "b"])
    {'a x': ['all of b u, as are 50\xa0% of the others']}
    """
    found: dict[str, list[str]] = {}
    for label, other in permutations(labels, 2):
        known = clips.select(pl.col(f"label_{label}").alias("own"), pl.col(f"label_{other}").alias("other"))
        sizes, total = dict(known["other"].drop_nulls().value_counts().iter_rows()), known["other"].count()
        classes = known.drop_nulls("own").group_by("own", maintain_order=True)
        of = classes.agg(pl.col("other").n_unique().alias("classes"), pl.col("other").first(), pl.len().alias("clips"))
        inside = of.filter(classes=1).drop_nulls("other")
        for name, _, holds, size in inside.iter_rows():
            more, rest = sizes[holds] - size, total - size
            if rest and not more:
                phrase = f"the same {count(size, 'clip')} as those of {other} {holds}"
            elif rest and inside.height < of.height and more / rest <= NEARLY_ALL:
                phrase = f"all of {other} {holds}, as are {percent(more / rest, 0)} of the others"
            else:
                continue
            found.setdefault(f"{label} {name}", []).append(phrase)
    return found


def coinciding_classes(clips: pl.DataFrame, labels: Sequence[str]) -> list[str]:
    """Return a sentence for labels of the same classes under any names, and for classes that are others' clips.

    >>> coinciding_classes(pl.DataFrame({"label_a": list("xxyz"), "label_b": list("uuvv")}), ["a", "b"])
    ['a x and b u are the same 2 clips: what is found of one may be due to the other']
    """
    members: dict[tuple[int, ...], list[str]] = {}
    partitions: dict[frozenset[tuple[int, ...]], list[str]] = {}
    for label in labels:
        known = clips.select(pl.col(f"label_{label}").alias("class")).with_row_index("row").drop_nulls("class")
        classes = {
            str(name): tuple(rows) for name, rows in known.group_by("class", maintain_order=True).agg("row").rows()
        }
        alike = partitions.setdefault(frozenset(classes.values()), [])
        alike.append(label)
        for name, rows in classes.items() if len(alike) == 1 else ():
            members.setdefault(rows, []).append(f"{label} {name}")
    either = "what is found of one may be due to the other"
    found = [
        f"{comma_list(alike)} divide the clips into the same {len(classes)} classes: {either}"
        for classes, alike in partitions.items()
        if len(alike) > 1 and len(classes) > 1
    ]
    found += [
        f"{comma_list(names)} are the same {count(len(rows), 'clip')}: {either}"
        for rows, names in members.items()
        if len(names) > 1 and len(rows) < clips.height
    ]
    return found + [
        f"the clips of {name} are {phrase}: {either}"
        for name, phrases in containing_classes(clips, labels).items()
        for phrase in phrases
        if phrase.startswith("all ")
    ]


MAX_NAMED = 5
"""Classes that are named."""


def reader_names(*, labels: bool, factors: bool) -> str:
    """Return the readers of a run that are fitted and tested; empty if there are none.

    >>> reader_names(labels=True, factors=False), reader_names(labels=False, factors=False)
    ('probes', '')
    """
    return " and ".join(name for name, is_fitted in (("probes", labels), ("regressions", factors)) if is_fitted)


def cross_fit_line(clips: pl.DataFrame, *, per_fold: bool = False) -> str:
    """Describe the folds of a cross-fit in one line of a terminal; `per_fold`: each has separate dictionaries.

    >>> cross_fit_line(pl.DataFrame({"group": list("abcde"), "fold": range(5)}))
    'cross-fitted over 5 folds that share dictionaries; each of the 5 groups (5 clips) is tested once'
    """
    groups, of_clips = count(clips["group"].n_unique(), "group"), count(clips.height, "clip")
    dictionaries = "with dictionaries of their own" if per_fold else "that share dictionaries"
    return (
        f"cross-fitted over {count_folds(clips)} folds {dictionaries}; each of the {groups} ({of_clips}) is tested once"
    )


def cross_fit_note(run: RunData, readers: str = "probes and regressions") -> str:
    """Describe which numbers are cross-fitted and which use a single split; empty without cross-fitting or readers."""
    clips = run.clips
    if clips is None or "fold" not in clips.columns or not readers:
        return ""
    dictionaries = (
        "The dictionaries behind these scores were trained anew in each fold, without labels, on the fold's training "
        "groups; explained variance, agreement between seeds and the explanations of latents are those of dictionaries "
        "trained on the train groups of one split, on its test groups"
        if run.per_fold
        else "The dictionaries were trained once, without labels, on the train groups of one split, which other folds "
        "test: only readers of their codes are tested on unseen groups; explained variance and the explanations of "
        "latents are of that split's test groups"
    )
    return (
        f"Cross-fitted over {clips['fold'].n_unique()} folds: each of the {clips['group'].n_unique()} groups is tested "
        f"once, by {readers} fitted, tuned and standardised on the other groups. {dictionaries}"
        f"{_choice_note(run.results)}"
    )


def describe_training(run: RunData, names: Sequence[str]) -> str:
    """Describe the rows and groups on which dictionaries were trained; empty if no card states rows.

    The first phrase is of the dictionaries of these `names`, followed by those of other presets.
    """
    phrases: dict[str, str] = {}
    for name in (*names, *run.cards):
        card = run.cards.get(name, {})
        rows, latents = (card.get("training") or {}).get("train_rows"), card.get("latents")
        if rows and latents:
            unit = "pooled clip" if card.get("pooling") == "pool_then_encode" else "frame"
            per = decimal(rows / latents, 1 if rows >= latents else 2)
            phrases.setdefault(f"{count(rows, unit)} ({per} per latent)", str(card.get("preset") or "others"))
    if not phrases:
        return ""
    first, *others = phrases
    text = "; ".join([first, *(f"preset {phrases[other]}: {other}" for other in others)])
    clips = run.clips
    if clips is None:
        return text
    noun = str(run.corpus.get("group_noun") or "group")
    trained, total = clips.filter(pl.col("split") == "train")["group"].n_unique(), clips["group"].n_unique()
    text += f"; of {trained} of the {total} {noun}s"
    if "fold" in clips.columns and not run.per_fold:
        text += f", which are tested too: only readers are tested on unseen {noun}s"
    return text


CHOOSING = "choosing_folds"
"""Metric of a run whose strict protocol chose between layers."""


def _choice_note(results: ResultsTable) -> str:
    """Describe how far choices on the mean of the folds look too good, as sentences after a full stop."""
    protocols, layers = results.unique("protocol"), results.unique("layer")
    if "strict" in protocols:
        layer = "chooses the layer in each fold separately, and the sparsity" if results.where(metric=CHOOSING) else ""
        return (
            f". The strict protocol {layer or 'chooses the sparsity'} on the mean of the folds: in simulations of six "
            "equally good sparsities, its interval covers its score on new groups in "
            f"93{NBSP}% of cases or more"
        )
    if len(layers) == 1:
        return ""
    return (
        ". A layer chosen on the mean of the folds looks too good: in simulations of six equally good layers, its "
        f"interval covers its score on new groups in 88{NBSP}% of cases instead of 95{NBSP}%"
    )


def scored_on(clips: pl.DataFrame | None) -> str:
    """Return the groups that scores are computed on, as the object of "computed on".

    >>> scored_on(None)
    'test groups, which were not used for any fit or choice'
    """
    if count_folds(clips) == 1:
        return "test groups, which were not used for any fit or choice"
    return "each group in turn, by readers fitted and tuned on other groups"


def choices(layers: pl.DataFrame, clips: pl.DataFrame | None, *, layer: bool, sparsity: bool) -> str:
    """Describe the choices of the strict protocol; empty if layer and sparsity were set.

    `layers` has the number of folds (`value`) that chose each layer; it is empty if a single layer has dictionaries.

    >>> folds = pl.DataFrame({"layer": [2, 3], "value": [1.0, 4.0]})
    >>> choices(folds, pl.DataFrame({"fold": range(5)}), layer=True, sparsity=False)
    'each fold chose a layer on its own fitted groups: layer 3 in 4 folds and layer 2 in 1 fold'
    """
    groups, folds = "on groups left out of the fits, never on test groups", count_folds(clips)
    if folds == 1:
        names = [name for name, asked in (("layer", layer and layers.height), ("sparsity", sparsity)) if asked]
        return f"{comma_list(names)} chosen {groups}" if names else ""
    chosen = layers.sort("value", descending=True).select("layer", "value").rows() if layer else []
    each = [f"layer {of} in {count(round(number), 'fold')}" for of, number in chosen]
    parts = [f"each fold chose a layer on its own fitted groups: {comma_list(each)}"] if each else []
    parts += ["the sparsity was chosen on the mean of the folds, which also test these groups"] if sparsity else []
    return "; ".join(parts)


def evidence_of_results(results: ResultsTable, *, folds: int = 1) -> Evidence | None:
    """Return the most clips and groups behind a probe or a factor; None where there is neither."""
    tested = results.where(split="test", metric=("probe_accuracy", "factor_r2"))
    clips, groups = tested.rows.select(pl.col("n", "groups").max()).row(0)
    return Evidence(clips or 0, groups or 0, folds, bool(tested.where(metric="probe_accuracy"))) if tested else None


def readers_of_run(run: RunData) -> str:
    """Return the readers behind the results of a run."""
    return reader_names(labels=bool(run.labels), factors=bool(run.results.factors))


def evidence_of_run(run: RunData) -> Evidence | None:
    """Return the evidence behind a run's numbers: the tested clips of the results, or else the test split."""
    tested = evidence_of_results(run.results.shown, folds=count_folds(run.clips))
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
    if not evidence.labels:
        return f"an R² on {count(evidence.clips, 'clip')} is too uncertain to decide anything"
    return f"one clip more or less moves an accuracy by {100 / max(evidence.clips, 1):.0f} points"


def warning(evidence: Evidence) -> str | None:
    """Return the line for a terminal; None where the evidence suffices."""
    if not evidence.thin:
        return None
    return (
        f"warning: a {evidence.test} of {evidence.description} supports no claim: {weakness(evidence)}; at least "
        f"{MIN_GROUPS} groups and about {MIN_CLIPS} clips are needed. {evidence.remedy}"
    )


def caution(evidence: Evidence | None) -> str:
    """Return the reason why nothing can be claimed, and the remedy; empty if the evidence suffices."""
    if evidence is None or not evidence.thin:
        return ""
    return (
        f"They rest on a {evidence.test} of {evidence.description}: {weakness(evidence)}. A claim needs at least "
        f"{MIN_GROUPS} test groups (with fewer the page of claims decides nothing) and about {MIN_CLIPS} test clips. "
        f"{evidence.remedy}. Until then the page shows that the run works, not what the model represents."
    )
