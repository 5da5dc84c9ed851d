"""Validation on held-out rows, calibration of thresholds, and warnings attached to a trained SAE."""

from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from otoscope.hardware import WITHOUT_FLOAT64, column_sums
from otoscope.sae.data import RowSource, chunks
from otoscope.sae.losses import gather_forward, use_gather
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.sparsifiers.base import Calibrated, Sparsifier
from otoscope.sae.statistics import RowStatistics, require_finite

VALIDATION_BATCH = 1024
"""Rows that are validated together."""

L0_TOLERANCE = 1.05
"""Active latents per row, relative to k, up to which states are ranked by their error alone."""


class Validation(NamedTuple):
    """Measures of a model on all validation rows, in the encoder's units with two exceptions.

    `inner_mse` is in normalised units; `standardised_explained_variance` gives every varying dimension the same
    weight.
    """

    mse: float
    inner_mse: float
    explained_variance: float
    standardised_explained_variance: float
    l0: float
    dead_fraction: float


@torch.no_grad()
def calibrate(sae: SparseAutoencoder, rows: RowSource) -> None:
    """Calibrate the sparsifier's threshold on these rows, if it has one."""
    if isinstance(sae.sparsifier, Calibrated):
        sae.sparsifier.calibrate(_preactivations(sae, rows))


def _preactivations(sae: SparseAutoencoder, rows: RowSource) -> Iterator[Float[Tensor, "rows latents"]]:
    for start, chunk in chunks(rows, VALIDATION_BATCH):
        require_finite(rows, chunk, start, "validation")
        yield sae.preactivate(sae.normalise(torch.from_numpy(chunk).to(sae.device)))


@torch.no_grad()
def validate(sae: SparseAutoencoder, rows: RowSource, statistics: RowStatistics) -> Validation:
    """Evaluate a model on all rows: `1 - sum |x - rebuilt|^2 / sum |x - training mean|^2` and related measures."""
    training = sae.training
    sae.eval()
    exact = torch.float32 if sae.device.type in WITHOUT_FLOAT64 else torch.float64
    mean = torch.from_numpy(statistics.mean).to(sae.device, exact)
    residual, total = torch.zeros(2, sae.width, dtype=torch.float64)
    fired = torch.zeros(sae.latents, dtype=torch.int64, device=sae.device)
    for start, chunk in chunks(rows, VALIDATION_BATCH):
        require_finite(rows, chunk, start, "validation")
        batch = torch.from_numpy(chunk).to(sae.device)
        inner_rebuilt, batch_fired = _rebuild(sae, sae.normalise(batch))
        rebuilt = inner_rebuilt * sae.scale + sae.centre
        residual += column_sums((batch - rebuilt).square())
        total += column_sums((batch - mean).square())
        fired += batch_fired
    sae.train(training)
    entries = rows.height * rows.width
    varying = torch.from_numpy(statistics.varying)
    variance = torch.from_numpy(statistics.variance)[varying]
    return Validation(
        mse=residual.sum().item() / entries,
        inner_mse=(residual / sae.scale.cpu().double().square()).sum().item() / entries,
        explained_variance=_explained_variance(residual, total),
        standardised_explained_variance=_explained_variance(residual[varying] / variance, total[varying] / variance),
        l0=float(fired.sum()) / rows.height,
        dead_fraction=1.0 - float((fired > 0).float().mean()),
    )


def _explained_variance(residual: Float[Tensor, " width"], total: Float[Tensor, " width"]) -> float:
    return 1.0 - (residual.sum() / total.sum()).item() if total.any() else float("nan")


def _rebuild(
    sae: SparseAutoencoder, inner: Float[Tensor, "rows width"]
) -> tuple[Float[Tensor, "rows width"], Int[Tensor, " latents"]]:
    """Return normalised rows reconstructed, and the number of rows in which each latent was active."""
    selecting = use_gather(sae)
    if selecting is not None:
        batch = gather_forward(sae, selecting, inner)
        return batch.rebuilt, batch.fired
    codes = sae.sparsifier(sae.preactivate(inner))
    return sae.rebuild(codes), (codes > 0).sum(dim=0)


SAMPLE_ROWS = 512
"""Rows, evenly spaced, from which the sufficient budget and the active latents are measured."""


@torch.no_grad()
def sufficient_budget(sae: SparseAutoencoder, rows: RowSource, share: float) -> int:
    """Return the smallest number of largest latents per row that explain a share of what k latents explain.

    Explained is the mean square of the normalised rows less that of the error. If k exceeds the number of active
    features, a smaller budget suffices; below it every latent counts.
    """
    inner = _sample(sae, rows)
    pre, k = sae.preactivate(inner), sae.sparsifier.k
    values, indices = pre.topk(k, dim=1)
    total = inner.square().mean()

    def explained(budget: int) -> float:
        codes = torch.zeros_like(pre).scatter(1, indices[:, :budget], values[:, :budget].relu())
        return (total - (sae.rebuild(codes) - inner).square().mean()).item()

    wanted = share * explained(k)
    return bisect_left(range(1, k), True, key=lambda budget: explained(budget) >= wanted) + 1


def _sample(sae: SparseAutoencoder, rows: RowSource) -> Float[Tensor, "sample width"]:
    taken = np.linspace(0, rows.height - 1, min(SAMPLE_ROWS, rows.height)).astype(np.int64)
    return sae.normalise(torch.from_numpy(rows.take(taken)).to(sae.device))


UNCHANGED_COSINE = 0.9
"""Cosine of an atom with its start from which it counts as unchanged."""
UNCHANGED_SHARE = 0.5
"""Share of unchanged atoms from which an SAE counts as its start; measured: below .1 or 1 (docs/methods.md)."""


@torch.no_grad()
def unchanged_share(sae: SparseAutoencoder, start: Float[Tensor, "latents width"], rows: RowSource) -> float:
    """Return the share of active latents whose atom has a cosine of at least `UNCHANGED_COSINE` with its start.

    Silent latents do not count, because most of them keep their start in any case. NaN if none is active.
    """
    active = (sae.sparsifier(sae.preactivate(_sample(sae, rows))) > 0).any(dim=0).cpu()
    cosines = F.cosine_similarity(sae.decoder.detach().cpu(), start, dim=1)
    return (cosines[active] >= UNCHANGED_COSINE).float().mean().item()


def data_warnings(height: int, valid_height: int, *, latents: int) -> list[str]:
    """Return warnings about the number of training and validation rows.

    >>> data_warnings(300, 40, latents=200)
    []
    """
    warnings: list[str] = []
    if height < latents:
        warnings.append(
            f"{height} training rows for {latents} latents: the SAE can memorise them; "
            "judge it on held-out groups only, and use more rows or fewer latents"
        )
    if valid_height == 1:
        warnings.append(
            "1 validation row: the choice of the best state and all valid_* rest on it; give more, of complete groups"
        )
    return warnings


ATOMS_AT_ONCE = 1024
"""Atoms whose cosines with all others are computed together."""


@torch.no_grad()
def mean_atom_cosine(atoms: Float[Tensor, "latents width"]) -> float:
    """Return the mean absolute cosine of two different atoms (decoder-cosine criterion, arXiv 2508.16560).

    Directions at random have about `sqrt(2 / (pi * width))`. The criterion takes the k with the lowest mean for the
    number of active features, but on planted features that k is too large: atoms near principal axes, which hold no
    feature, are lowest (docs/methods.md). NaN for one atom.

    >>> round(mean_atom_cosine(torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])), 6)
    0.333333
    """
    directions, pairs = F.normalize(atoms.detach().float(), dim=1), len(atoms) * (len(atoms) - 1)
    total = sum((rows @ directions.T).abs().sum(dtype=torch.float32).item() for rows in directions.split(ATOMS_AT_ONCE))
    return (total - directions.square().sum().item()) / pairs if pairs else float("nan")


DEAD_SHARE = 0.3
"""Share of dead latents from which a result carries a warning."""
EXPECTED_FIRINGS = 10.0
"""Activations that a latent of average frequency has on the validation rows, from which silence counts as death."""


def sparsity_warnings(valid: Validation, *, height: int, latents: int, k: int) -> list[str]:
    """Return warnings about dead latents and about more active latents than `k`, on `height` validation rows.

    >>> valid = Validation(1.0, 1.0, 0.9, 0.9, l0=4.0, dead_fraction=0.5)
    >>> sparsity_warnings(valid, height=1000, latents=64, k=4)
    ['50 % of 64 latents are dead: no validation row activates them; take fewer latents or more rows']
    """
    warnings: list[str] = []
    if valid.dead_fraction > DEAD_SHARE and height * k >= EXPECTED_FIRINGS * latents:
        warnings.append(
            f"{100 * valid.dead_fraction:.0f} % of {latents} latents are dead: no validation row activates them; "
            "take fewer latents or more rows"
        )
    if valid.l0 > L0_TOLERANCE * k:
        warnings.append(
            f"{valid.l0:.1f} active latents per validation row at k={k}: the sparsity did not converge; "
            "train longer, or use a sparsifier without penalty (topk)"
        )
    return warnings


AXES_START, OTHER_START = "principal axes", "initial atoms"
"""Names of the atoms that a start gives."""


def start_warnings(
    sparsifier: Sparsifier, *, start: str, best_step: int, steps: int, l0: float, unchanged: float | None
) -> list[str]:
    """Return the warning for a model that is still its start; `l0` is that of the last state.

    >>> from otoscope.sae.sparsifiers.topk import TopK
    >>> found = {"start": AXES_START, "steps": 9, "l0": 8.0}
    >>> start_warnings(TopK(8), best_step=0, unchanged=1.0, **found)[0].split(":")[0]
    'principal axes, not learned'
    >>> start_warnings(TopK(8), best_step=3, unchanged=0.96, **found)[0].split(";")[0]
    'principal axes, hardly changed: 96 % of the active atoms have a cosine of at least 0.9 with their start'
    >>> start_warnings(TopK(8), best_step=3, unchanged=0.1, **found)
    []
    """
    k = sparsifier.k
    if best_step:
        if unchanged is None or not unchanged >= UNCHANGED_SHARE:  # NaN counts as changed
            return []
        advice = "train longer" if best_step == steps else "use more rows or a lower learning rate"
        return [
            f"{start}, hardly changed: {100 * unchanged:.0f} % of the active atoms have a cosine of at least "
            f"{UNCHANGED_COSINE} with their start; best step {best_step} of {steps}; {advice}"
        ]
    advice = "use more rows or a lower learning rate"
    if l0 > L0_TOLERANCE * k:
        advice = f"the last state has {l0:.1f} active latents per row at k={k}; use a sparsifier without penalty (topk)"
    return [
        f"{start}, not learned: none of {steps} steps improved on the start on the validation rows (best step 0); "
        f"{advice}"
    ]
