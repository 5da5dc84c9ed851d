"""By how much the best single latent predicts a factor better than the next (SAP; Kumar et al., ICLR 2018)."""

import math

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from otoscope.errors import EvaluationError
from otoscope.evaluate.mig import Gap, gap_of
from otoscope.linear.gram import live_columns
from otoscope.resampling.groups import patterns, rows_of


def predictability_gap(
    codes: Float[np.ndarray, "rows latents"],
    factors: Float[np.ndarray, "rows factors"],
    *,
    split: Shaped[np.ndarray, " rows"],
    predicted: Bool[np.ndarray, " factors"] | None = None,
) -> Gap:
    """Return the separated attribute predictability (SAP) of every continuous factor.

    The score of a latent is the R2, on test rows, of the straight line fitted on training and
    validation rows, relative to their mean and at least 0; SAP is the gap of the two best. The paper
    scores the rows it fitted. NaN for a factor that no latent predicts, that is constant or missing,
    or that is not `predicted`; latents that are constant on the fitted rows score 0.
    """
    fitted, judged = _parts(codes, split)
    if len(codes) != len(factors):
        raise EvaluationError(f"{len(codes)} rows of codes but {len(factors)} of factors; give one each a row")
    scores = np.full((codes.shape[1], factors.shape[1]), math.nan)
    for members, present in patterns(~np.isnan(factors)):
        if (present & fitted).sum() > 1 and (present & judged).any():
            scores[:, members] = _line_r2(codes, factors[:, members], present & fitted, present & judged)
    if predicted is not None:
        if predicted.shape != (factors.shape[1],) or predicted.dtype != np.bool_:
            raise EvaluationError(f"`predicted` must hold one boolean a factor ({factors.shape[1]})")
        scores[:, ~predicted] = math.nan
    return gap_of(scores)


def class_gap(
    codes: Float[np.ndarray, "rows latents"],
    labels: Shaped[np.ndarray, " rows"],
    *,
    split: Shaped[np.ndarray, " rows"],
) -> float:
    """Return the SAP of a label: the gap in balanced accuracy between the two best single latents.

    A latent tells classes apart by the nearest class mean of the fitted rows; its balanced accuracy
    on test rows is rescaled so that chance (1 / classes) is 0 and at least 0. Rows without a label
    (None or empty) are left out. NaN where no latent beats chance.
    """
    fitted, judged = _parts(codes, split)
    names = np.asarray(["" if x is None else str(x) for x in labels], dtype=np.str_)
    fitted, judged = fitted & (names != ""), judged & (names != "")
    classes, numbers = np.unique(names[fitted], return_inverse=True)
    if len(classes) < 2 or not judged.any():
        raise EvaluationError(f"a label needs two classes among the fitted rows and a test row; got {classes.tolist()}")
    known = judged & np.isin(names, classes)
    truth = np.searchsorted(classes, names[known])
    guess = _nearest(codes[fitted].astype(np.float64), numbers, codes[known].astype(np.float64), len(classes))
    recall = np.stack([(guess[truth == c] == c).mean(axis=0) for c in np.unique(truth)])
    chance = 1 / len(classes)
    scores = np.maximum((recall.mean(axis=0) - chance) / (1 - chance), 0)
    return gap_of(np.where(live_columns(codes[fitted]), scores, 0.0)[:, None]).value


def _line_r2(
    codes: Float[np.ndarray, "rows latents"],
    factors: Float[np.ndarray, "rows factors"],
    fitted: Bool[np.ndarray, " rows"],
    judged: Bool[np.ndarray, " rows"],
) -> Float[np.ndarray, "latents factors"]:
    live = live_columns(codes[fitted])
    x, y = codes[:, live].astype(np.float64), factors.astype(np.float64)
    x -= x[fitted].mean(axis=0)
    x /= x[fitted].std(axis=0)
    y -= y[fitted].mean(axis=0)
    slope = x[fitted].T @ y[fitted] / fitted.sum()
    explained = 2 * slope * (x[judged].T @ y[judged]) - slope**2 * (x[judged] ** 2).sum(axis=0)[:, None]
    total = (y[judged] ** 2).sum(axis=0)
    defined = live_columns(factors[fitted]) & (total > 0)
    scores = np.zeros((codes.shape[1], factors.shape[1]))
    scores[live] = np.maximum(explained / np.where(defined, total, 1), 0)
    scores[:, ~defined] = math.nan
    return scores


def _nearest(
    fitted: Float[np.ndarray, "fitted latents"],
    numbers: Int[np.ndarray, " fitted"],
    others: Float[np.ndarray, "judged latents"],
    n_classes: int,
) -> Int[np.ndarray, "judged latents"]:
    """Return the class whose mean is nearest, by each latent alone."""
    nearest = np.full(others.shape, np.inf)
    guess = np.zeros(others.shape, dtype=np.int64)
    for c in range(n_classes):
        away = np.abs(others - fitted[numbers == c].mean(axis=0))
        guess[away < nearest] = c
        nearest = np.minimum(nearest, away)
    return guess


def _parts(
    codes: Float[np.ndarray, "rows latents"], split: Shaped[np.ndarray, " rows"]
) -> tuple[Bool[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]:
    """Return the fitted rows (train and valid) and the test rows."""
    if codes.ndim != 2 or not np.isfinite(codes).all():
        raise EvaluationError(f"codes must be finite and [rows, latents], got shape {codes.shape}")
    judged = rows_of(split, "test", len(codes))
    return rows_of(split, "train", len(codes)) | (np.asarray(split) == "valid"), judged
