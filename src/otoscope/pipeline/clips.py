"""Clips and their representations, as arrays."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped


@dataclass(frozen=True)
class Clips:
    """What is known of each clip, the same for every representation; all arrays share the clips' order."""

    split: Shaped[np.ndarray, " clips"]
    groups: Shaped[np.ndarray, " clips"]
    labels: dict[str, Shaped[np.ndarray, " clips"]]
    factors: Float[np.ndarray, "clips factors"]
    factor_names: tuple[str, ...]


class Features(NamedTuple):
    """One representation of clips: rows for probes, and rows in which a column is a latent or a unit."""

    probe: Float[np.ndarray, "clips statistics"]
    units: Float[np.ndarray, "clips units"]
