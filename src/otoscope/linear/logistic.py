"""Batched multinomial logistic regression: many problems on the same rows.

Minimises (weighted) mean cross-entropy + penalty/2 |W|^2, intercepts unpenalised. Two exact changes of
coordinates: the optimum under an L2 penalty lies in the span of the rows, so features are first rotated into it
(at most as many columns as rows, same optimum); there the Gram matrix is diagonal, and so is Böhning's
bound on the Hessian (Ann. Inst. Stat. Math. 44, 1992), which scales the coordinates before L-BFGS (Liu and
Nocedal, Math. Program. 45, 1989).
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

MEMORY = 8
HALVINGS = 30
ITERATIONS = 500
NEGLIGIBLE = 1e-12


class Span(NamedTuple):
    """Rows in principal coordinates of the fitted rows, and the mean square along each.

    The last column of `rows` is 1 for the intercept, so it is one longer than `variance`.
    """

    rows: Float[np.ndarray, "rows q"]
    variance: Float[np.ndarray, " rank"]


def rotate(rows: Float[np.ndarray, "rows p"], *, fitted: int) -> Span:
    """Return all rows in the principal coordinates of the first `fitted` ones.

    Components of other rows outside that span have zero weight and are dropped. The smaller of the two
    Gram matrices is decomposed; directions are formed only if p is the smaller dimension. Directions with less than
    `NEGLIGIBLE` of the largest mean square are rounding errors and are dropped.
    """
    if rows.shape[1] <= fitted:
        variance, directions = np.linalg.eigh(rows[:fitted].T @ rows[:fitted] / fitted)
        keep = variance > NEGLIGIBLE * variance[-1]
        turned = rows @ directions[:, keep]
    else:
        products = rows @ rows[:fitted].T / fitted
        variance, left = np.linalg.eigh(products[:fitted])
        keep = variance > NEGLIGIBLE * variance[-1]
        turned = products @ (left[:, keep] * np.sqrt(fitted / variance[keep]))
    return Span(np.concatenate([turned, np.ones((len(rows), 1))], axis=1), variance[keep])


def fit_logistic(
    rows: Float[np.ndarray, "rows q"],
    classes: Int[np.ndarray, "problems rows"],
    *,
    n_classes: int,
    penalties: Float[np.ndarray, " problems"],
    variance: Float[np.ndarray, " rank"],
    weights: Float[np.ndarray, "problems rows"] | None = None,
    start: Float[np.ndarray, "problems q classes"] | None = None,
    tolerance: float = 1e-4,
) -> Float[np.ndarray, "problems q classes"]:
    """Return the weights of each problem; `rows` come from `rotate` (q = rank + 1).

    Every class must occur in every problem. `weights` of the rows have a mean of 1 per problem; default: all 1. A
    problem is solved once its scaled gradient falls to `tolerance` times that at zero weights, or after `ITERATIONS`
    (the objective falls in each, so the result is only less exact).
    """
    problems = len(penalties)
    ridge = np.repeat(penalties[:, None], rows.shape[1], axis=1)
    ridge[:, -1] = 0
    bound = 0.5 * np.append(variance, 1.0) + ridge
    scale = 1 / np.sqrt(bound)
    targets = _one_hot(classes, n_classes)
    if weights is not None:
        targets *= weights.T[:, :, None]
    state = _Batch(rows, targets, ridge[:, :, None], scale[:, :, None])
    point = np.zeros((problems, rows.shape[1], n_classes))
    _, slope = state.loss_and_slope(point)
    enough = tolerance * _norm(slope)
    if start is not None:
        point = start / state.scale
    return _descend(state, point, enough) * scale[:, :, None]


class _Batch(NamedTuple):
    """Problems on shared rows; points are in scaled coordinates, targets hold the weight of a row at its class."""

    rows: Float[np.ndarray, "rows q"]
    targets: Float[np.ndarray, "rows problems classes"]
    ridge: Float[np.ndarray, "problems q 1"]
    scale: Float[np.ndarray, "problems q 1"]

    def loss_and_slope(
        self, point: Float[np.ndarray, "problems q classes"]
    ) -> tuple[Float[np.ndarray, " problems"], Float[np.ndarray, "problems q classes"]]:
        n, problems, classes = self.targets.shape
        weights = point * self.scale
        flat = weights.transpose(1, 0, 2).reshape(-1, problems * classes)
        logits = (self.rows @ flat).reshape(n, problems, classes)
        logits -= logits.max(axis=2, keepdims=True)
        picked = np.einsum("npc,npc->p", logits, self.targets)
        np.exp(logits, out=logits)
        total = logits.sum(axis=2, keepdims=True)
        weight = self.targets.sum(axis=2)
        loss = ((weight * np.log(total[:, :, 0])).sum(axis=0) - picked) / n + 0.5 * (self.ridge * weights**2).sum(
            axis=(1, 2)
        )
        logits *= weight[:, :, None] / total
        logits -= self.targets
        slope = (self.rows.T @ logits.reshape(n, -1)).reshape(-1, problems, classes).transpose(1, 0, 2) / n
        return loss, (slope + self.ridge * weights) * self.scale

    def only(self, keep: Int[np.ndarray, " kept"]) -> "_Batch":
        return _Batch(self.rows, self.targets[:, keep], self.ridge[keep], self.scale[keep])


def _descend(
    batch: _Batch,
    start: Float[np.ndarray, "problems q classes"],
    enough: Float[np.ndarray, " problems"],
) -> Float[np.ndarray, "problems q classes"]:
    found = start.copy()
    open_problems = np.arange(len(start))
    point, history = start, list[_Pair]()
    loss, slope = batch.loss_and_slope(point)
    for _ in range(ITERATIONS):
        going = np.flatnonzero(_norm(slope) > enough[open_problems])
        if len(going) < len(open_problems):
            found[open_problems] = point
            batch, open_problems = batch.only(going), open_problems[going]
            point, loss, slope = point[going], loss[going], slope[going]
            history = [_Pair(*(part[going] for part in pair)) for pair in history]
        if not len(open_problems):
            return found
        direction = -_inverse_times(history, slope)
        next_point, next_loss, next_slope = _step(batch, point, direction, loss, slope)
        moved, bent = next_point - point, next_slope - slope
        curvature = _dot(moved, bent)
        # a pair without curvature (no step taken) is kept out by weight 0
        history = [*history[-(MEMORY - 1) :], _Pair(moved, bent, np.where(curvature > 0, curvature, np.inf))]
        stuck = next_loss >= loss
        point, loss, slope = next_point, next_loss, next_slope
        if stuck.all():
            break
    found[open_problems] = point
    return found


class _Pair(NamedTuple):
    moved: NDArray[Any]
    bent: NDArray[Any]
    curvature: Float[np.ndarray, " problems"]


def _inverse_times(history: list[_Pair], slope: NDArray[Any]) -> NDArray[Any]:
    """Return the L-BFGS estimate of inverse Hessian times slope (the two-loop recursion)."""
    result = slope.copy()
    shares: list[NDArray[Any]] = []
    for pair in reversed(history):
        share = _dot(pair.moved, result) / pair.curvature
        result -= share[:, None, None] * pair.bent
        shares.append(share)
    if history:
        last = history[-1]
        known = np.isfinite(last.curvature)
        size = np.where(known, last.curvature, 1) / np.where(known, np.maximum(_dot(last.bent, last.bent), 1e-300), 1)
        result *= size[:, None, None]
    for pair, share in zip(history, reversed(shares), strict=True):
        result += (share - _dot(pair.bent, result) / pair.curvature)[:, None, None] * pair.moved
    return result


def _step(
    batch: _Batch,
    point: NDArray[Any],
    direction: NDArray[Any],
    loss: Float[np.ndarray, " problems"],
    slope: NDArray[Any],
) -> tuple[NDArray[Any], Float[np.ndarray, " problems"], NDArray[Any]]:
    """Halve each problem's step until its loss falls enough; problems whose loss cannot fall stay unchanged."""
    fall = _dot(direction, slope)
    length = np.where(fall < 0, 1.0, 0.0)
    poor = length < 0
    for _ in range(HALVINGS):
        trial = point + length[:, None, None] * direction
        trial_loss, trial_slope = batch.loss_and_slope(trial)
        poor = (trial_loss > loss + 1e-4 * length * fall) & (length > 0)
        if not poor.any():
            return trial, trial_loss, trial_slope
        length[poor] /= 2
    length[poor] = 0
    trial = point + length[:, None, None] * direction
    return trial, *batch.loss_and_slope(trial)


def _one_hot(classes: Int[np.ndarray, "problems rows"], n_classes: int) -> Float[np.ndarray, "rows problems classes"]:
    return np.eye(n_classes)[classes.T]


def _dot(a: NDArray[Any], b: NDArray[Any]) -> Float[np.ndarray, " problems"]:
    return np.einsum("pqc,pqc->p", a, b)


def _norm(a: NDArray[Any]) -> Float[np.ndarray, " problems"]:
    return np.sqrt(_dot(a, a))
