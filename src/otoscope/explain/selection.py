"""Selection of the best latent for each factor, or for each class of a label."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from otoscope.errors import EvaluationError
from otoscope.explain.firing import diverse
from otoscope.formatting import LARGEST_SCORE, nothing_exceeds
from otoscope.resampling.exchange import PERMUTATIONS, deviations, exchange, left_by_classes
from otoscope.resampling.groups import group_sums, null_summary
from otoscope.resampling.intervals import FISHER, MIN_GROUPS, jackknife_sums
from otoscope.resampling.nulls import compare_with_maximum

PREDICTED_R2 = 0.1
"""Held-out R² from which a factor counts as predicted, if it also exceeds its null."""

MIN_GROUP_R = 0.1
"""Size from which on the correlation within a single test group agrees with that within all."""

MIN_ROWS = 8
"""Minimum number of clips with a known factor value, and of clips in which a latent fires, for a correlation."""


class LatentOutcome(StrEnum):
    """Decision of the test groups on a latent that training and validation groups chose."""

    CONFIRMED = "confirmed"
    TOO_FEW_GROUPS = "too few groups"
    """Beyond chance, but fewer than `MIN_GROUPS` groups agree, or not most of those compared."""
    TOO_FEW_CLIPS = "too few clips"
    """Fewer than `MIN_ROWS` test clips."""
    NOT_TESTABLE = "not testable"
    """Too few clips or groups can be exchanged for a correlation beyond chance to exist."""
    BETWEEN_GROUPS = "between groups only"
    CHANCE = "not beyond chance"
    OPPOSITE = "opposite sign"

    @property
    def refutes(self) -> bool:
        """True if test clips contradict the training clips."""
        return self in (LatentOutcome.BETWEEN_GROUPS, LatentOutcome.CHANCE, LatentOutcome.OPPOSITE)


class WithinClasses(StrEnum):
    """Decision on a latent of a factor that differs between classes: it may follow the classes alone."""

    NOT_ASKED = ""
    """The factor does not differ between the classes of any label."""
    HOLDS = "holds"
    OPEN = "open"
    BETWEEN_CLASSES = "between classes only"


@dataclass(frozen=True, kw_only=True)
class LatentChoice:
    """The latent whose pooled code follows a factor best.

    `train_r` is Pearson's correlation over the clips on which the latent was chosen, `test_r` over clips of other
    groups, both of deviations from the mean of each group if `within`, because otherwise a latent of a singer's sex
    would stand for pitch. A factor that is constant within groups is compared over all clips. `null_high` is the
    largest |test_r| with a `p_value` above 0.05 when the test clips are permuted within groups, or their groups, and
    all chosen latents are one family (1 if there are too few);
    `test_r_high` is the end of the 95 % interval of `test_r` over groups that is farther from 0, in size;
    `overall_r` is the test correlation with the differences between groups, `group_r` that within each test group (NaN
    where the factor is constant, 0 where the latent alone is, empty if not `within`). `also` lists lower-ranked factors
    with the same best latent. `seeds_found` of `seeds_asked` dictionaries trained with other seeds contain the latent
    again; both are None if this was not tested. With a `label`, `factor` is one of its classes, as 1 in its clips and 0
    in others; `other_classes` are further classes of the label with a correlation above `null_high` on test clips, and
    `next_class` the class with the largest test correlation, `next_r`, of all others.

    `class_labels` are the labels whose classes differ in the factor, `class_r` the test correlation within groups and
    these classes, `class_null_high` its 95 % point for permuted clips, `of_class` the class with most of the latent.
    """

    factor: str
    label: str = ""
    score: float
    latent: int
    train_r: float
    test_r: float
    null_high: float
    p_value: float
    overall_r: float
    within: bool
    test_clips: int
    test_groups: int
    firing: float
    test_r_high: float = math.nan
    group_r: tuple[float, ...] = ()
    also: tuple[str, ...] = ()
    seeds_found: int | None = None
    seeds_asked: int | None = None
    within_classes: WithinClasses = WithinClasses.NOT_ASKED
    class_labels: tuple[str, ...] = ()
    class_r: float = math.nan
    class_null_high: float = math.nan
    of_class: str = ""
    other_classes: tuple[str, ...] = ()
    next_class: str = ""
    next_r: float = math.nan

    @property
    def compared_groups(self) -> int:
        """Number of test groups in which the factor varies; all groups if `group_r` is empty."""
        return sum(not math.isnan(r) for r in self.group_r) if self.group_r else self.test_groups

    @property
    def agreeing_groups(self) -> int:
        """Number of test groups in each of which the correlation has the sign of `train_r` and is at least 0.1 in size.

        Where `test_r` is smaller, its size is enough; all groups if `group_r` is empty.
        """
        sign, least = math.copysign(1.0, self.train_r), min(MIN_GROUP_R, abs(self.test_r))
        return sum(sign * r >= least for r in self.group_r) if self.group_r else self.test_groups

    @property
    def outcome(self) -> LatentOutcome:
        """Decision of the test groups.

        The test correlation must exceed its null in size and have the sign of the training correlation. It is
        computed within groups: a latent that follows a factor between groups only, such as one of the singer's sex, is
        not a latent of the factor. This is decided only where the interval of the correlation within groups ends below
        that of an R² of `PREDICTED_R2`: a weak relation within groups is not beyond chance either. A latent is
        confirmed if `MIN_GROUPS` test groups or more agree, and most of those compared: a few clips of one group can
        make up a correlation, and of many groups three agree by chance.
        """
        if self.test_clips < MIN_ROWS:
            return LatentOutcome.TOO_FEW_CLIPS
        if nothing_exceeds(self.null_high):
            return LatentOutcome.NOT_TESTABLE
        if math.isnan(self.test_r) or abs(self.test_r) <= self.null_high:
            between = self.within and abs(self.overall_r) > self.null_high and self.test_r_high**2 < PREDICTED_R2
            return LatentOutcome.BETWEEN_GROUPS if between else LatentOutcome.CHANCE
        if (self.test_r >= 0) != (self.train_r >= 0):
            return LatentOutcome.OPPOSITE
        agree = self.agreeing_groups >= max(MIN_GROUPS, self.compared_groups // 2 + 1)
        return LatentOutcome.CONFIRMED if agree else LatentOutcome.TOO_FEW_GROUPS


def choose_latents(
    codes: Float[np.ndarray, "clips latents"],
    factors: Float[np.ndarray, "clips factors"],
    names: Sequence[str],
    *,
    scores: Sequence[float],
    train_mask: Bool[np.ndarray, " clips"],
    test_mask: Bool[np.ndarray, " clips"],
    groups: Sequence[str],
    labels: Mapping[str, Shaped[np.ndarray, " clips"]] | None = None,
    top: int = 10,
    min_score: float = 0.1,
    seed: int = 0,
    allowed: Bool[np.ndarray, " latents"] | None = None,
) -> list[LatentChoice]:
    """Choose the latent with the largest |Pearson correlation| within groups for each of the best-predicted factors.

    `scores` rank the factors (held-out R² of the codes); factors with NaN or less than `min_score` are excluded, as are
    latents that are not `allowed`. The latent is chosen on `train_mask` (training and validation groups), and its
    correlation is reported on `test_mask`. Each latent is listed once: later factors with the same latent go to its
    `also`. Returns at most `top` choices, best factor first. A choice states whether it holds within the classes of the
    `labels` that differ in the factor. Raises `EvaluationError` if shapes disagree or the masks overlap.
    """
    _check(codes, factors, names, scores, train_mask, test_mask, groups)
    if allowed is not None:
        codes = np.where(allowed, codes, 0)
    order = sorted(range(len(names)), key=lambda i: (-scores[i] if np.isfinite(scores[i]) else np.inf, names[i]))
    found = [
        (LatentChoice(factor=names[i], score=float(scores[i]), **choice.numbers), choice.null)
        for i in order
        if scores[i] >= min_score
        and (choice := _choose_one(codes, factors[:, i], train_mask, test_mask, np.asarray(groups), seed)) is not None
    ]
    chosen = _first_per_latent(found, top)
    if not labels:
        return chosen
    columns = {name: codes[:, i].astype(np.float64) for name, i in ((c.factor, c.latent) for c in chosen)}
    of = {name: factors[:, names.index(name)] for name in columns}
    asked = {label: np.asarray(values).astype(str) for label, values in labels.items()}
    return [
        replace(c, **_within_classes(columns[c.factor], of[c.factor], asked, np.asarray(groups), test_mask, seed))
        if c.within and math.isfinite(c.test_r)
        else c
        for c in chosen
    ]


def _within_classes(
    latent: Float[np.ndarray, " clips"],
    values: Float[np.ndarray, " clips"],
    labels: Mapping[str, Shaped[np.ndarray, " clips"]],
    groups: Shaped[np.ndarray, " clips"],
    test: Bool[np.ndarray, " clips"],
    seed: int,
) -> dict[str, Any]:
    """Return the fields of a choice on the classes between which its factor differs; empty if it does not.

    It differs between the classes of a label that explain `PREDICTED_R2` of its variance within groups. Means of groups
    and of all these classes are removed from latent and factor. A correlation beyond its null on test clips holds. Any
    other is between the classes only if its interval over the groups of all clips ends below `PREDICTED_R2`; the latent
    was chosen on some of these clips, which raises the correlation.
    """
    known = np.isfinite(values)
    both, tested = np.stack([latent, values], axis=1), test & known
    alone, freedom = left_by_classes(both[known], groups[known])

    def differs(classes: Shaped[np.ndarray, " clips"]) -> bool:
        if MIN_ROWS * len(np.unique(classes[known])) > known.sum():
            return False
        left, fewer = left_by_classes(both[known, 1:], groups[known], classes[known])
        return bool((left**2).sum() / fewer <= (1 - PREDICTED_R2) * (alone[:, 1] ** 2).sum() / freedom)

    found = {name: classes for name, classes in labels.items() if differs(classes)}
    if not found:
        return {}
    inside = {f"{name} {one}": classes[known] == one for name, classes in found.items() for one in np.unique(classes)}
    most = correlations(alone[:, :1], np.stack(list(inside.values()), axis=1).astype(np.float64))[0]
    fields = {"class_labels": tuple(found), "of_class": list(inside)[int(np.nanargmax(most))]}

    def strata(rows: Bool[np.ndarray, " clips"]) -> list[Shaped[np.ndarray, " rows"]]:
        return [groups[rows], *(classes[rows] for classes in found.values())]

    left, freedom = left_by_classes(both[tested], *strata(tested))
    if freedom < MIN_ROWS:
        return {**fields, "within_classes": WithinClasses.OPEN}
    shuffled = [left[order, 1] for order in exchange(values[tested], groups[tested]).orders(seed=seed)]
    if not shuffled:
        return {**fields, "within_classes": WithinClasses.OPEN}
    shuffled = left_by_classes(np.stack(shuffled, axis=1), *strata(tested))[0]
    null = float(null_summary(np.abs(correlations(left[:, :1], shuffled))[0])[1])
    if nothing_exceeds(null):
        return {**fields, "within_classes": WithinClasses.OPEN}
    r = float(np.nan_to_num(correlations(left[:, :1], left[:, 1:])[0, 0]))
    fields |= {"class_r": r, "class_null_high": null}
    if abs(r) > null:
        return {**fields, "within_classes": WithinClasses.HOLDS}
    everywhere = left_by_classes(both[known], *strata(known))[0]
    end = _farther_end(everywhere[:, :1], everywhere[:, 1:], groups[known])
    between = not everywhere.any(axis=0).all() or end**2 < PREDICTED_R2
    return {**fields, "within_classes": WithinClasses.BETWEEN_CLASSES if between else WithinClasses.OPEN}


def choose_class_latents(
    codes: Float[np.ndarray, "clips latents"],
    labels: Mapping[str, Shaped[np.ndarray, " clips"]],
    *,
    train_mask: Bool[np.ndarray, " clips"],
    test_mask: Bool[np.ndarray, " clips"],
    groups: Sequence[str],
    top: int = 12,
    seed: int = 0,
    allowed: Bool[np.ndarray, " latents"] | None = None,
) -> list[LatentChoice]:
    """Choose the latent that is stronger in the clips of each class than in others, for every class of the labels.

    As `choose_latents`, with the class as a factor of 1 and 0 (missing labels excluded), and only positive
    correlations. Classes with fewer than `MIN_ROWS` training clips are left out. Returns at most `top` choices: the
    best class of each label, then the second of each, labels that vary within groups before others. They are sorted by
    label, each label's by their training correlation, which is also the `score`. A choice lists every other class of
    its label that the test clips confirm as well.

    >>> codes = np.eye(3)[np.arange(60) % 3]
    >>> word = np.array(["yes", "no", "stop"])[np.arange(60) % 3]
    >>> test = np.arange(60) >= 30
    >>> groups = [f"speaker{i // 6}" for i in range(60)]
    >>> found = choose_class_latents(codes, {"word": word}, train_mask=~test, test_mask=test, groups=groups)
    >>> sorted((choice.factor, choice.latent) for choice in found)
    [('no', 1), ('stop', 2), ('yes', 0)]
    """
    if allowed is not None:
        codes = np.where(allowed, codes, 0)
    found: list[tuple[LatentChoice, Float[np.ndarray, " permutations"]]] = []
    for label, values in labels.items():
        known = _labelled(values)
        names, counts = np.unique(values[known & train_mask].astype(str), return_counts=True)
        of_label: list[tuple[LatentChoice, Float[np.ndarray, " permutations"]]] = []
        for name in names[counts >= MIN_ROWS].tolist():
            inside = np.where(known, (values == name).astype(float), math.nan)
            _check(codes, inside[:, None], [name], [0.0], train_mask, test_mask, groups)
            choice = _choose_one(codes, inside, train_mask, test_mask, np.asarray(groups), seed, rising=True)
            if choice is not None:
                numbers = choice.numbers
                of_label.append((LatentChoice(factor=name, label=label, score=choice.train_r, **numbers), choice.null))
        found += sorted(of_label, key=lambda one: -one[0].score)
    varied = [i for i, (choice, _) in enumerate(found) if choice.within]
    constant = [i for i, (choice, _) in enumerate(found) if not choice.within]
    names = [choice.label for choice, _ in found]
    chosen = _first_per_latent([found[i] for i in (*diverse(varied, names), *diverse(constant, names))], top)
    of = np.asarray(groups)
    chosen = [_with_other_classes(one, codes, labels[one.label], test_mask, of) for one in chosen]
    return sorted(chosen, key=lambda choice: list(labels).index(choice.label))


def _labelled(classes: Shaped[np.ndarray, " clips"]) -> Bool[np.ndarray, " clips"]:
    """Return which clips have a class."""
    return np.array([name is not None and name != "" for name in classes])


def _with_other_classes(
    choice: LatentChoice,
    codes: Float[np.ndarray, "clips latents"],
    classes: Shaped[np.ndarray, " clips"],
    test: Bool[np.ndarray, " clips"],
    groups: Shaped[np.ndarray, " clips"],
) -> LatentChoice:
    """Return the choice with the other classes of its label that are above chance on test clips, and the next."""
    known = _labelled(classes)
    names = [name for name in np.unique(classes[known].astype(str)).tolist() if name != choice.factor]
    inside = np.stack([classes == name for name in names], axis=1).astype(np.float64) if names else np.empty((0, 0))
    latent = codes[:, [choice.latent]].astype(np.float64)

    if not names or not math.isfinite(choice.test_r):
        return choice
    rows = test & known
    both = [deviations(array[rows], groups[rows]) if choice.within else array[rows] for array in (latent, inside)]
    tested = np.nan_to_num(correlations(*both)[0], nan=-1.0)
    order = np.argsort(-tested, kind="stable").tolist()
    # what test clips do not confirm of the class itself is not said of others
    beyond = choice.test_r > choice.null_high
    named = [i for i in order if beyond and tested[i] > choice.null_high]
    left = [i for i in order if i not in named]
    others = tuple(names[i] for i in named)
    return replace(
        choice,
        other_classes=others,
        also=tuple(name for name in choice.also if name not in others),
        next_class=names[left[0]] if left else "",
        next_r=float(tested[left[0]]) if left else math.nan,
    )


def _first_per_latent(
    found: Sequence[tuple[LatentChoice, Float[np.ndarray, " permutations"]]], top: int
) -> list[LatentChoice]:
    """Return the first `top` latents; what follows with the same latent goes to its `also`."""
    chosen: dict[int, LatentChoice] = {}
    nulls: list[Float[np.ndarray, " permutations"]] = []
    for choice, null in found:
        if choice.latent in chosen:
            first = chosen[choice.latent]
            chosen[choice.latent] = replace(first, also=(*first.also, choice.factor))
        elif len(chosen) < top:
            chosen[choice.latent] = choice
            nulls.append(null)
    return _tested_as_family(list(chosen.values()), nulls)


def _tested_as_family(
    choices: list[LatentChoice], nulls: list[Float[np.ndarray, " permutations"]]
) -> list[LatentChoice]:
    """Return the choices with threshold and p of the largest correlation among all of them under permutation."""
    if not choices:
        return choices
    found = compare_with_maximum(np.abs([choice.test_r for choice in choices]), np.stack(nulls, axis=1))
    return [
        replace(
            choice,
            null_high=math.nan if math.isnan(choice.test_r) else float(min(high, LARGEST_SCORE)),
            p_value=float(p),
        )
        for choice, p, high in zip(choices, found.p_value, found.high, strict=True)
    ]


def correlations(
    codes: Float[np.ndarray, "rows latents"], values: Float[np.ndarray, "rows targets"]
) -> Float[np.ndarray, "latents targets"]:
    """Return Pearson's correlation of each latent with each target; NaN where either is constant.

    >>> correlations(np.array([[0.0], [1.0], [2.0]]), np.array([[1.0], [3.0], [5.0]])).round(6).tolist()
    [[1.0]]
    """
    a, b = _standardised(codes), _standardised(values)
    return a.T @ b / codes.shape[0]


def _standardised(columns: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows columns"]:
    centred = columns - columns.mean(axis=0, keepdims=True)
    spread = centred.std(axis=0)
    spread[spread <= 1e-12 * np.maximum(np.abs(columns).max(axis=0), 1e-300)] = np.nan
    return centred / spread


class _Chosen(NamedTuple):
    numbers: dict[str, Any]
    """Fields of `LatentChoice` except its name and score."""
    null: Float[np.ndarray, " permutations"]

    @property
    def train_r(self) -> float:
        return self.numbers["train_r"]


def _choose_one(
    codes: Float[np.ndarray, "clips latents"],
    values: Float[np.ndarray, " clips"],
    train_mask: Bool[np.ndarray, " clips"],
    test_mask: Bool[np.ndarray, " clips"],
    groups: Shaped[np.ndarray, " clips"],
    seed: int,
    *,
    rising: bool = False,
) -> _Chosen | None:
    """Return the latent of one factor; with `rising` only positive correlations count."""
    known = np.isfinite(values)
    train, test = train_mask & known, test_mask & known
    if train.sum() < MIN_ROWS:
        return None
    usable = np.flatnonzero((codes[train] != 0).sum(axis=0) >= MIN_ROWS)
    columns, targets = codes[:, usable].astype(np.float64), values[:, None]
    within = exchange(values[train], groups[train]).within

    def compared(
        array: Float[np.ndarray, "clips columns"], rows: Bool[np.ndarray, " clips"]
    ) -> Float[np.ndarray, "rows columns"]:
        return deviations(array[rows], groups[rows]) if within else array[rows]

    strength = correlations(compared(columns, train), compared(targets, train))[:, 0]
    if not np.isfinite(strength).any():
        return None
    best = int(np.nanargmax(strength if rising else np.abs(strength)))
    if rising and strength[best] <= 0:
        return None
    one = columns[:, [best]]
    numbers: dict[str, Any] = {
        "latent": int(usable[best]),
        "train_r": float(strength[best]),
        "test_r": math.nan,
        "null_high": math.nan,
        "p_value": math.nan,
        "test_r_high": math.nan,
        "overall_r": math.nan,
        "within": within,
        "test_clips": int(test.sum()),
        "test_groups": len(np.unique(groups[test])),
        "firing": float((one != 0).mean()),
    }
    untested = np.full(PERMUTATIONS, math.nan)
    if test.sum() < MIN_ROWS:
        return _Chosen(numbers, untested)
    latent, factor = compared(one, test), compared(targets, test)
    test_r = float(correlations(latent, factor)[0, 0])
    overall_r = float(correlations(one[test], targets[test])[0, 0])
    exchanged = exchange(values[test], groups[test])
    testable = replace(exchanged, testable=exchanged.testable and exchanged.within == within)
    shuffled = [factor[order, 0] for order in testable.orders(seed=seed)]
    null = np.abs(correlations(latent, np.stack(shuffled, axis=1))[0]) if shuffled else untested
    tested: dict[str, Any] = {"test_r": test_r, "overall_r": overall_r}
    tested["test_r_high"] = _farther_end(latent, factor, groups[test])
    if within:
        tested["group_r"] = _by_group(one[test], targets[test], groups[test])
    return _Chosen({**numbers, **tested}, null)


def _by_group(
    latent: Float[np.ndarray, "rows 1"], factor: Float[np.ndarray, "rows 1"], groups: Shaped[np.ndarray, " rows"]
) -> tuple[float, ...]:
    """Return the correlation within each group: NaN where the factor is constant, 0 where the latent alone is.

    A latent that is silent in a group does not follow a factor that varies there.
    """
    parts = [(latent[here], factor[here]) for here in (groups == group for group in np.unique(groups))]
    found = [float(correlations(codes, values)[0, 0]) for codes, values in parts]
    varies = [values.min() < values.max() for _, values in parts]
    return tuple(0.0 if changes and math.isnan(r) else r for r, changes in zip(found, varies, strict=True))


def _farther_end(
    latent: Float[np.ndarray, "rows 1"], factor: Float[np.ndarray, "rows 1"], groups: Shaped[np.ndarray, " rows"]
) -> float:
    """Return the end of the interval over groups of a correlation that is farther from 0, in size."""
    x, y = (values[:, 0] - values.mean() for values in (latent, factor))
    sums = group_sums(np.stack([x * y, x**2, y**2], axis=-1), groups)

    def correlation(drawn: Float[np.ndarray, "drawn 3"]) -> Float[np.ndarray, " drawn"]:
        size = np.sqrt(drawn[..., 1] * drawn[..., 2])
        return np.divide(drawn[..., 0], size, out=np.full(size.shape, math.nan), where=size > 0)

    _, low, high = jackknife_sums(sums, correlation, scale=FISHER)
    return float(np.maximum(np.abs(low), np.abs(high)))


def _check(
    codes: Float[np.ndarray, "clips latents"],
    factors: Float[np.ndarray, "clips factors"],
    names: Iterable[str],
    scores: Sequence[float],
    train_mask: Bool[np.ndarray, " clips"] | Int[np.ndarray, " clips"],
    test_mask: Bool[np.ndarray, " clips"] | Int[np.ndarray, " clips"],
    groups: Sequence[str],
) -> None:
    clips = codes.shape[0]
    lengths = {"factors": len(factors), "train_mask": len(train_mask), "test_mask": len(test_mask)}
    for name, length in {**lengths, "groups": len(groups)}.items():
        if length != clips:
            raise EvaluationError(f"{name} has {length} rows, codes have {clips}; pass the same clips to both")
    if not len(list(names)) == len(scores) == factors.shape[1]:
        raise EvaluationError(
            f"{len(list(names))} names and {len(scores)} scores for {factors.shape[1]} factors; give one of each"
        )
    if bool(np.any(train_mask & test_mask)):
        raise EvaluationError("train_mask and test_mask share clips; test clips must be held out")
