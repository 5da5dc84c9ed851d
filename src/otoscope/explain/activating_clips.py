"""The clips in which a latent fires most."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class TimedCodes(NamedTuple):
    """Codes of a clip's frames, and start and end of each frame in seconds from the start of the clip."""

    codes: Float[np.ndarray, "frames latents"]
    start_s: Float[np.ndarray, " frames"]
    end_s: Float[np.ndarray, " frames"]


@dataclass(frozen=True, kw_only=True)
class ActivatingClip:
    """A clip in which a latent fires strongly; `rank` 0 is the strongest.

    `activation` is the code over time with the frames' `start_s` and `end_s`. All three are empty, and `peak_s` is
    None, if only pooled codes exist.
    """

    latent: int
    rank: int
    clip_id: str
    group: str
    strength: float
    activation: Float[np.ndarray, " frames"]
    start_s: Float[np.ndarray, " frames"]
    end_s: Float[np.ndarray, " frames"]
    peak_s: float | None


def top_activating_clips(
    latent: int,
    strength: Float[np.ndarray, " clips"],
    clip_ids: Sequence[str],
    groups: Sequence[str],
    *,
    codes_of: Callable[[str], TimedCodes] | None,
    top: int = 3,
) -> list[ActivatingClip]:
    """Return the clips in which a latent is strongest: first the best clip of each group, then the others.

    `strength` is the latent's pooled code per clip; clips with zero or less are excluded. `codes_of` returns a clip's
    codes over time; pass None if only pooled codes exist.
    """
    indices = _one_per_group_first(strength, clip_ids, groups)[:top]
    return [_activating_clip(latent, rank, i, strength, clip_ids, groups, codes_of) for rank, i in enumerate(indices)]


def _one_per_group_first(
    strength: Float[np.ndarray, " clips"], clip_ids: Sequence[str], groups: Sequence[str]
) -> list[int]:
    firing = [i for i in range(len(clip_ids)) if strength[i] > 0]
    firing.sort(key=lambda i: (-strength[i], clip_ids[i]))
    seen: set[str] = set()
    first: list[int] = []
    later: list[int] = []
    for i in firing:
        (later if groups[i] in seen else first).append(i)
        seen.add(groups[i])
    return first + later


def _activating_clip(
    latent: int,
    rank: int,
    index: int,
    strength: Float[np.ndarray, " clips"],
    clip_ids: Sequence[str],
    groups: Sequence[str],
    codes_of: Callable[[str], TimedCodes] | None,
) -> ActivatingClip:
    empty = np.zeros(0)
    activation, start_s, end_s = empty, empty, empty
    peak_s: float | None = None
    if codes_of is not None:
        timed = codes_of(clip_ids[index])
        activation = timed.codes[:, latent].astype(np.float64)
        start_s, end_s = timed.start_s.astype(np.float64), timed.end_s.astype(np.float64)
        if activation.size:
            peak = int(activation.argmax())
            peak_s = float(start_s[peak] + end_s[peak]) / 2
    return ActivatingClip(
        latent=latent,
        rank=rank,
        clip_id=clip_ids[index],
        group=groups[index],
        strength=float(strength[index]),
        activation=activation,
        start_s=start_s,
        end_s=end_s,
        peak_s=peak_s,
    )
