"""Factors as the protocol asks for them: robust, one for each set of near duplicates, none that a few clips rule."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Shaped

from otoscope.errors import EvaluationError
from otoscope.metrics.record import Record
from otoscope.metrics.robust_factors import RobustFactors, effective_rank, make_robust, normal_scores
from otoscope.pipeline.clips import Clips

PITCHES = ("f0_mean_hz", "F0semitoneFrom27.5Hz_sma3nz_amean")
"""The continuous task asks for the first of these that a corpus has, or for its first factor of pitch."""


@dataclass(frozen=True)
class Asked:
    """The clips with the factors that are asked: normal scores, `[clips, factors]`, and each one's category."""

    clips: Clips
    values: Float[np.ndarray, "clips factors"]
    names: tuple[str, ...]
    categories: tuple[str, ...]
    robust: RobustFactors | None

    @property
    def split(self) -> Shaped[np.ndarray, " clips"]:
        """Train, valid or test of each clip."""
        return self.clips.split

    @property
    def groups(self) -> Shaped[np.ndarray, " clips"]:
        """What each clip must not share with another split."""
        return self.clips.groups


def ask_of(clips: Clips, categories: Mapping[str, str], *, near_duplicates: float) -> Asked:
    """Make a corpus's factors robust on its training clips; without a usable factor none are asked."""
    if not clips.factor_names:
        return Asked(clips, np.zeros((len(clips.split), 0)), (), (), None)
    train = clips.split == "train"
    try:
        robust = make_robust(clips.factors, clips.factor_names, train=train, duplicate=near_duplicates)
    except EvaluationError:
        return Asked(clips, np.zeros((len(clips.split), 0)), (), (), None)
    of = tuple(categories.get(name, "other") for name in robust.names)
    return Asked(clips, robust.apply(clips.factors), robust.names, of, robust)


def continuous_target(asked: Asked, wanted: str | None) -> str | None:
    """Return the factor of the continuous task: the one wanted, a pitch, or the first; None without factors.

    Raises `EvaluationError` for a factor that the corpus does not have.
    """
    names = asked.clips.factor_names
    if wanted is not None:
        if wanted not in names:
            raise EvaluationError(f"evaluate.strict.target: no factor {wanted!r}; the corpus has {', '.join(names)}")
        return wanted
    pitches = [name for name in PITCHES if name in names]
    pitches += [name for name, kind in zip(asked.names, asked.categories, strict=True) if kind == "pitch"]
    return next(iter([*pitches, *asked.names]), None)


def counted(asked: Asked, about: Record) -> Iterator[Record]:
    """Yield the effective rank of the factors as given and as asked: on how many facts the numbers rest."""
    if asked.robust is None:
        return
    train = asked.split == "train"
    groups = len(np.unique(asked.groups[train]))
    given = effective_rank(normal_scores(asked.clips.factors[train]))
    for target, value, n in (
        ("as given", given, len(asked.robust.given)),
        ("as asked", asked.robust.effective_rank, len(asked.names)),
    ):
        yield replace(
            about, metric="effective_rank", target=target, split="train", value=value, latents=n, n=int(train.sum()),
            groups=groups,
        )  # fmt: skip
