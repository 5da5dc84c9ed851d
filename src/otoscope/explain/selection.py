"""Selection of the best latent for each factor, or for each class of a label."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from otoscope.errors import EvaluationError
from otoscope.explain.firing import diverse
from otoscope.explain.latent_choice import (
    MIN_ROWS,
    PREDICTED_R2,
    LatentChoice,
    WithinClasses,
    by_group,
    correlations,
    farther_end,
)
from otoscope.formatting import LARGEST_SCORE, nothing_exceeds
from otoscope.resampling.exchange import PERMUTATIONS, deviations, exchange, left_by_classes
from otoscope.resampling.groups import null_summary
from otoscope.resampling.nulls import compare_with_maximum


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
    end = farther_end(everywhere[:, :1], everywhere[:, 1:], groups[known])
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
    its label that is above chance on test clips.

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
    chosen = [_with_other_classes(one, codes, labels[one.label], train_mask, test_mask, of) for one in chosen]
    return sorted(chosen, key=lambda choice: list(labels).index(choice.label))


def _labelled(classes: Shaped[np.ndarray, " clips"]) -> Bool[np.ndarray, " clips"]:
    """Return which clips have a class."""
    return np.array([name is not None and name != "" for name in classes])


def _with_other_classes(
    choice: LatentChoice,
    codes: Float[np.ndarray, "clips latents"],
    classes: Shaped[np.ndarray, " clips"],
    train: Bool[np.ndarray, " clips"],
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

    def of_classes(rows: Bool[np.ndarray, " clips"]) -> Float[np.ndarray, " classes"]:
        both = [deviations(array[rows], groups[rows]) if choice.within else array[rows] for array in (latent, inside)]
        return correlations(*both)[0]

    tested, trained = np.nan_to_num(of_classes(test & known), nan=-1.0), of_classes(train & known)
    order = np.argsort(-tested, kind="stable").tolist()
    # what test clips do not confirm of the class itself is not said of others
    beyond = choice.test_r > choice.null_high
    named = [i for i in order if beyond and tested[i] > choice.null_high]
    left = [i for i in order if i not in named]
    others = tuple(names[i] for i in named)
    return replace(
        choice,
        other_classes=others,
        other_test_r=tuple(float(tested[i]) for i in named),
        other_train_r=tuple(float(trained[i]) for i in named),
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
    tested["test_r_high"] = farther_end(latent, factor, groups[test])
    if within:
        tested["group_r"] = by_group(one[test], targets[test], groups[test])
    return _Chosen({**numbers, **tested}, null)


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
