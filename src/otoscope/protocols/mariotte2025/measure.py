"""All records of the study on one representation: probes, factors and reconstruction."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from otoscope.config.mariotte2025 import Mariotte2025Settings
from otoscope.metrics.record import Record
from otoscope.protocols.mariotte2025.factors import (
    TopFactors,
    count_categories,
    entropy_bits,
    included_factors,
    mean_over_top,
    score_factors,
)
from otoscope.protocols.mariotte2025.metrics import fit_probe


class SplitFeatures(NamedTuple):
    """One representation by split: `train` holds several crops per file, `whole` the rows for fitting factors."""

    train: Float[np.ndarray, "crops files width"]
    valid: Float[np.ndarray, "valid width"]
    test: Float[np.ndarray, "test width"]
    whole: Float[np.ndarray, "measured width"]


@dataclass(frozen=True)
class ClipTargets:
    """Labels by name, singers and factors, in the row order of `SplitFeatures`; factors belong to `whole`."""

    train_labels: dict[str, Shaped[np.ndarray, " files"]]
    valid_labels: dict[str, Shaped[np.ndarray, " valid"]]
    test_labels: dict[str, Shaped[np.ndarray, " test"]]
    test_groups: Shaped[np.ndarray, " test"]
    whole_groups: Shaped[np.ndarray, " measured"]
    factors: Float[np.ndarray, "measured factors"]
    factor_names: tuple[str, ...]


def measure_probes(
    views: SplitFeatures, known: ClipTargets, settings: Mariotte2025Settings, about: Record
) -> Iterator[Record]:
    """Yield the accuracy of the study's probe per label, on test clips and on validation clips (best epoch)."""
    for label, train in known.train_labels.items():
        valid, test = known.valid_labels[label], known.test_labels[label]
        # an unknown label is the empty string; exclude such clips
        on = [side != "" for side in (train, valid, test)]
        codes = _class_indices([side[chosen] for side, chosen in zip((train, valid, test), on, strict=True)])
        if not all(map(len, codes)):
            continue
        probe = fit_probe(
            np.ascontiguousarray(views.train[:, on[0]]),
            codes[0],
            np.ascontiguousarray(views.valid[on[1]]),
            codes[1],
            epochs=settings.probe_epochs,
            seed=settings.seed,
        )
        groups = len(np.unique(known.test_groups[on[2]]))
        shared = replace(about, metric="probe_accuracy", target=label)
        accuracy = probe.accuracy(np.ascontiguousarray(views.test[on[2]]), codes[2])
        yield replace(shared, split="test", value=accuracy, n=len(codes[2]), groups=groups)
        accuracy = probe.accuracy(np.ascontiguousarray(views.valid[on[1]]), codes[1])
        yield replace(shared, split="valid", value=accuracy, n=len(codes[1]))


def measure_factors(
    views: SplitFeatures, known: ClipTargets, settings: Mariotte2025Settings, about: Record, *, width: int, dense: bool
) -> Iterator[Record]:
    """Yield R2 and completeness per factor, means over the ten best factors, category counts and entropies.

    Factors without any value are excluded, then clips with a missing factor.
    """
    rows, columns = complete_rows(known.factors)
    if not columns.any() or rows.sum() < 2:
        return
    factors, names = known.factors[np.ix_(rows, columns)], _select_names(known.factor_names, columns)
    included = included_factors(factors, settings)
    factors, names = factors[:, included], _select_names(names, included)
    if not names:
        return
    groups = known.whole_groups[rows]
    scores = score_factors(views.whole[rows], factors, groups, settings, width=width)
    entropy = entropy_bits(factors)
    about = replace(about, split="test", n=len(factors), groups=len(np.unique(groups)))
    for j, name in enumerate(names):
        one = replace(about, target=name)
        yield replace(one, metric="factor_r2_in_sample", value=float(scores.r2[j]))
        yield replace(one, metric="completeness", value=float(scores.completeness[j]))
        if dense:
            yield replace(one, metric="factor_entropy", value=float(entropy[j]))
    best = mean_over_top(scores.r2, by=scores.r2, settings=settings)
    yield from _mean_records("top_r2_in_sample", best, about)
    by = scores.r2 if dense and settings.reference_ranking == "r2" else scores.completeness
    yield from _mean_records("top_completeness", mean_over_top(scores.completeness, by=by, settings=settings), about)
    for group, number in count_categories([names[j] for j in best.members], settings).items():
        yield replace(about, metric="category_count", target=group, value=float(number))
    correlation = _correlation(scores.completeness, entropy)
    yield replace(about, metric="completeness_against_entropy", value=correlation)
    yield replace(about, metric="disentanglement", value=scores.disentanglement)


def measure_reconstruction(
    rows: Float[np.ndarray, "rows width"],
    rebuilt: Float[np.ndarray, "rows width"],
    codes: Float[np.ndarray, "rows latents"],
    mean_train: Float[np.ndarray, " width"],
    about: Record,
) -> Iterator[Record]:
    """Yield the study's mean squared error in raw units, explained variance, and active and dead latents."""
    error = float(np.mean((rows - rebuilt) ** 2, dtype=np.float64))
    spread = float(np.mean((rows - mean_train) ** 2, dtype=np.float64))
    about = replace(about, split="test", n=len(rows))
    yield replace(about, metric="mse", value=error)
    yield replace(about, metric="explained_variance", value=1 - error / spread if spread > 0 else float("nan"))
    yield replace(about, metric="l0", value=float((codes > 0).sum(axis=1).mean()))
    yield replace(about, metric="dead_fraction", value=float((codes == 0).all(axis=0).mean()))


def complete_rows(
    factors: Float[np.ndarray, "rows factors"],
) -> tuple[Bool[np.ndarray, " rows"], Bool[np.ndarray, " factors"]]:
    """Return the mask of rows without a missing factor and that of factors with any value."""
    missing = np.isnan(factors)
    columns = np.logical_not(missing.all(axis=0))
    return np.logical_not(missing[:, columns].any(axis=1)), columns


def _mean_records(metric: str, found: TopFactors, about: Record) -> Iterator[Record]:
    yield replace(about, metric=metric, value=found.mean)
    yield replace(about, metric=metric, target="deviation", value=found.deviation)


def _select_names(names: Sequence[str], mask: Bool[np.ndarray, " factors"]) -> tuple[str, ...]:
    return tuple(name for name, taken in zip(names, mask, strict=True) if taken)


def _class_indices(sides: list[Shaped[np.ndarray, " rows"]]) -> list[Int[np.ndarray, " rows"]]:
    """Number the classes, training classes first, so that unseen classes exceed the outputs of the probe."""
    order: dict[str, int] = {}
    for side in sides:
        for name in sorted(set(side.tolist()) - order.keys()):
            order[name] = len(order)
    return [np.array([order[name] for name in side.tolist()], dtype=np.int64) for side in sides]


def _correlation(a: Float[np.ndarray, " factors"], b: Float[np.ndarray, " factors"]) -> float:
    both = ~(np.isnan(a) | np.isnan(b))
    if both.sum() < 3 or np.ptp(a[both]) == 0 or np.ptp(b[both]) == 0:
        return float("nan")
    return float(np.corrcoef(a[both], b[both])[0, 1])
