"""Attribution: a decision as a sum over latents, and the parts of a sound on which a latent depends."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.signal import ShortTimeFFT, get_window

from otoscope.encoders.base import Frames
from otoscope.errors import EvaluationError

WINDOW_S, HOP_S = 0.025, 0.005
"""Window and hop of the short-time Fourier transform in which parts of a sound are silenced."""

Wave = Float[np.ndarray, " samples"]
Score = Callable[[Wave], float]
"""Function of a clip, such as the mean activation of a latent."""


class Decisions(NamedTuple):
    r"""Margins between the two best classes of a linear probe, and the contribution of each latent.

    The margin is `rest` plus the sum of contributions: ablating a latent changes it by its contribution, exactly.
    """

    predicted: Int[np.ndarray, " clips"]
    runner_up: Int[np.ndarray, " clips"]
    margins: Float[np.ndarray, " clips"]
    contributions: Float[np.ndarray, "clips latents"]
    rest: Float[np.ndarray, " clips"]


def attribute(
    codes: Float[np.ndarray, "clips latents"],
    atoms: Float[np.ndarray, "latents width"],
    offset: Float[np.ndarray, " width"],
    weights: Float[np.ndarray, "width classes"],
    bias: Float[np.ndarray, " classes"],
) -> Decisions:
    r"""Split the decisions of a linear probe on mean reconstructions $\bar c A + o$ into contributions of latents.

    With $w$ the difference of the weights of the best and the second-best class, latent $l$ contributes
    $\bar c_l\, a_l \cdot w$. Raises `EvaluationError` for a probe of one class.

    >>> found = attribute(np.array([[2.0, 1.0]]), np.eye(2), np.zeros(2), np.eye(2), np.zeros(2))
    >>> found.margins.tolist(), found.contributions.tolist()
    ([1.0], [[2.0, -1.0]])
    """
    if weights.shape[1] < 2:
        raise EvaluationError("a decision needs two classes; the probe has one")
    scores = (codes @ atoms + offset) @ weights + bias
    order = np.argsort(-scores, axis=1, kind="stable")
    predicted, runner_up = order[:, 0], order[:, 1]
    difference = (weights[:, predicted] - weights[:, runner_up]).T
    rows = np.arange(len(codes))
    margins = scores[rows, predicted] - scores[rows, runner_up]
    contributions = codes * (difference @ atoms.T)
    return Decisions(predicted, runner_up, margins, contributions, margins - contributions.sum(axis=1))


DRAWS = 10
"""Random choices of other latents per decision."""


def flipped_by_ablation(
    codes: Float[np.ndarray, "clips latents"],
    atoms: Float[np.ndarray, "latents width"],
    offset: Float[np.ndarray, " width"],
    weights: Float[np.ndarray, "width classes"],
    bias: Float[np.ndarray, " classes"],
    *,
    removed: int,
) -> tuple[Float[np.ndarray, " clips"], Float[np.ndarray, " clips"]]:
    """Return which decisions flip if the latents that contribute most are ablated, and how often with random ones.

    The control ablates as many random active latents of the same clip; their joint change of the reconstruction is
    scaled to the norm of that of the ablated latents.
    """
    found = attribute(codes, atoms, offset, weights, bias)
    rng = np.random.default_rng(0)
    means = codes @ atoms + offset
    flipped, by_others = np.zeros(len(codes)), np.zeros(len(codes))
    for i, code in enumerate(codes):
        top = np.argsort(-found.contributions[i], kind="stable")[:removed]
        step = code[top] @ atoms[top]
        flipped[i] = ((means[i] - step) @ weights + bias).argmax() != found.predicted[i]
        active = np.setdiff1d(np.flatnonzero(code), top)
        if not len(active):
            by_others[i] = np.nan
            continue
        for _ in range(DRAWS):
            drawn = rng.choice(active, size=min(removed, len(active)), replace=False)
            other = code[drawn] @ atoms[drawn]
            other *= np.linalg.norm(step) / max(float(np.linalg.norm(other)), 1e-12)
            by_others[i] += (((means[i] - other) @ weights + bias).argmax() != found.predicted[i]) / DRAWS
    return flipped, by_others


class Grid(NamedTuple):
    """Edges of the cells of a time-frequency grid."""

    times_s: Float[np.ndarray, " times_and_end"]
    frequencies_hz: Float[np.ndarray, " bands_and_end"]

    @property
    def shape(self) -> tuple[int, int]:
        """Bands and times."""
        return len(self.frequencies_hz) - 1, len(self.times_s) - 1


def even_grid(duration_s: float, rate_hz: int, *, times: int = 8, bands: int = 6) -> Grid:
    """Return a grid of equal times and of bands that are equal on the mel scale (O'Shaughnessy 1987).

    >>> even_grid(1.0, 16_000, times=2, bands=2).frequencies_hz.round().tolist()
    [0.0, 1768.0, 8000.0]
    """
    top = 2595 * np.log10(1 + rate_hz / 2 / 700)
    edges_hz = 700 * (10 ** (np.linspace(0, top, bands + 1) / 2595) - 1)
    return Grid(np.linspace(0, duration_s, times + 1), edges_hz)


class MaskedSound:
    """A clip whose time-frequency cells can be silenced; with nothing silenced it is the clip itself."""

    def __init__(self, wave: Wave, rate_hz: int) -> None:
        window = np.asarray(get_window("hann", round(WINDOW_S * rate_hz)))
        if 2 * len(wave) < len(window):
            raise EvaluationError(f"the clip has {len(wave)} samples; at least {(len(window) + 1) // 2} can be masked")
        self.wave, self.rate_hz = np.asarray(wave, dtype=np.float64), rate_hz
        self.transform = ShortTimeFFT(window, round(HOP_S * rate_hz), rate_hz)
        self.spectrum: Any = self.transform.stft(self.wave)
        self.times_s: Any = self.transform.t(len(wave))
        self.frequencies_hz: Any = self.transform.f

    def keep(self, gains: Float[np.ndarray, "bins hops"] | Bool[np.ndarray, "bins hops"]) -> Wave:
        """Return the sound with each bin of the spectrum multiplied by its gain."""
        masked: Any = self.transform.istft(self.spectrum * gains, k1=len(self.wave))
        return np.real(masked).astype(np.float32)

    def energy(self, gains: Float[np.ndarray, "bins hops"] | Bool[np.ndarray, "bins hops"]) -> float:
        """Return the share of the energy of the spectrum that the gains keep."""
        power = np.abs(self.spectrum) ** 2
        return float((power * gains**2).sum() / max(float(power.sum()), 1e-300))

    def cells(self, grid: Grid, kept: Bool[np.ndarray, "bands times"]) -> Bool[np.ndarray, "bins hops"]:
        """Return the bins that lie in these cells of a grid; bins beyond its ends belong to the outer cells."""
        columns = np.clip(np.searchsorted(grid.times_s, self.times_s, side="right") - 1, 0, kept.shape[1] - 1)
        rows = np.clip(
            np.searchsorted(grid.frequencies_hz, self.frequencies_hz, side="right") - 1, 0, kept.shape[0] - 1
        )
        return kept[np.ix_(rows, columns)]

    def firing_region(self, frames: Frames, firing: Bool[np.ndarray, " frames"]) -> Bool[np.ndarray, "bins hops"]:
        """Return the bins under the firing frames: their times, for patch models also their bands."""
        region = np.zeros(self.spectrum.shape, dtype=bool)
        low = np.zeros(len(firing)) if frames.low_hz is None else frames.low_hz
        high = np.full(len(firing), np.inf) if frames.high_hz is None else frames.high_hz
        for i in np.flatnonzero(firing):
            times = (self.times_s >= frames.start_s[i]) & (self.times_s < frames.end_s[i])
            bands = (self.frequencies_hz >= low[i]) & (self.frequencies_hz <= high[i])
            region |= np.outer(bands, times)
        return region


def occlude(score: Score, sound: MaskedSound, grid: Grid) -> Float[np.ndarray, "bands times"]:
    """Return the decrease of a score when each cell is silenced alone."""
    untouched = score(sound.wave.astype(np.float32))
    relevance = np.zeros(grid.shape)
    for cell in np.ndindex(*grid.shape):
        kept = np.ones(grid.shape, dtype=bool)
        kept[cell] = False
        relevance[cell] = untouched - score(sound.keep(sound.cells(grid, kept)))
    return relevance


class OcclusionCurves(NamedTuple):
    """Score, relative to the untouched clip, after each step of silencing cells, and of restoring them."""

    deletion: Float[np.ndarray, " steps"]
    insertion: Float[np.ndarray, " steps"]

    @property
    def deletion_area(self) -> float:
        """Mean of the deletion curve; low if the first cells matter."""
        return float(np.trapezoid(self.deletion) / (len(self.deletion) - 1))

    @property
    def insertion_area(self) -> float:
        """Mean of the insertion curve; high if the first cells suffice."""
        return float(np.trapezoid(self.insertion) / (len(self.insertion) - 1))


def occlusion_curves(
    score: Score, sound: MaskedSound, grid: Grid, order: Float[np.ndarray, "bands times"], *, steps: int = 6
) -> OcclusionCurves:
    """Silence (and restore) cells from the highest value of `order` on, an equal number per step (arXiv 1806.07421).

    Raises `EvaluationError` if the score of the untouched clip is not above 0.
    """
    untouched = score(sound.wave.astype(np.float32))
    if not untouched > 0:
        raise EvaluationError(f"the score of the untouched clip is {untouched:g}; choose a clip in which it is above 0")
    ranks = np.argsort(np.argsort(-order, axis=None, kind="stable"), kind="stable").reshape(order.shape)
    deletion, insertion = np.zeros(steps + 1), np.zeros(steps + 1)
    for step in range(steps + 1):
        first = ranks < round(order.size * step / steps)
        deletion[step] = score(sound.keep(sound.cells(grid, ~first))) / untouched
        insertion[step] = score(sound.keep(sound.cells(grid, first))) / untouched
    return OcclusionCurves(deletion, insertion)


def cell_energies(sound: MaskedSound, grid: Grid) -> Float[np.ndarray, "bands times"]:
    """Return the energy of each cell: the spectrogram itself, the control of every attribution."""
    energies = np.zeros(grid.shape)
    for cell in np.ndindex(*grid.shape):
        kept = np.zeros(grid.shape, dtype=bool)
        kept[cell] = True
        energies[cell] = sound.energy(sound.cells(grid, kept))
    return energies


def rotated_regions(
    sound: MaskedSound, region: Bool[np.ndarray, "bins hops"], *, draws: int = 3, seed: int = 0
) -> list[Bool[np.ndarray, "bins hops"]]:
    """Return the region moved in time by random amounts (around the ends), among shifts with similar energy.

    All have the same area. Shifts are drawn from the half, of all by at least a tenth of the clip, with the nearest
    energy. Raises `EvaluationError` for a region that is empty or covers more than nine tenths of the clip.
    """
    share = float(region.mean())
    if not 0 < share <= MAX_AREA:
        raise EvaluationError(
            f"the region covers {100 * share:.0f} % of the clip; random masks of equal area need 1 to "
            f"{100 * MAX_AREA:.0f} %"
        )
    times = region.shape[1]
    least = max(times // 10, 1)
    moves = np.unique(np.linspace(least, times - least, 41).astype(int))
    moved = [np.roll(region, int(move), axis=1) for move in moves]
    own = sound.energy(region)
    distance = np.array([abs(np.log(max(sound.energy(mask), 1e-12) / max(own, 1e-12))) for mask in moved])
    near = np.argsort(distance, kind="stable")[: max(len(moved) // 2, draws)]
    chosen = np.random.default_rng(seed).choice(near, size=min(draws, len(near)), replace=False)
    return [moved[i] for i in sorted(chosen.tolist())]


MAX_AREA = 0.9
"""Share of a clip above which a firing region is not compared with random ones."""


def retained(
    activation_of: Callable[[Wave], Float[np.ndarray, " frames"]],
    sound: MaskedSound,
    regions: Sequence[Bool[np.ndarray, "bins hops"]],
) -> Float[np.ndarray, " regions"]:
    """Return the share of the summed activation that remains when only a region of the sound is kept."""
    total = float(activation_of(sound.wave.astype(np.float32)).sum())
    if not total > 0:
        raise EvaluationError("the latent is silent in this clip; choose one in which it fires")
    return np.array([float(activation_of(sound.keep(region)).sum()) / total for region in regions])
