"""Rows with a known structure: sparse positive mixtures of atoms, with noise that is shared within a group."""

import numpy as np

from otoscope.sae.data import ArrayRows


def planted(
    *groups: int, frames: int = 400, width: int = 24, atoms: int = 60, active: float = 0.06, seed: int = 0
) -> ArrayRows:
    """Return `frames` rows a group: neighbours share their mixture, groups differ by an offset and a gain."""
    shape = np.random.default_rng(seed)
    directions = shape.normal(size=(atoms, width))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    colour = shape.normal(size=(width, width)) / width
    parts = []
    for group in groups:
        rng = np.random.default_rng((seed, group))
        held = np.repeat(rng.random((frames // 4 + 1, atoms)) < active, 4, axis=0)[:frames]
        strengths = held * rng.exponential(1.0, size=(frames, atoms))
        noise = rng.normal(size=(frames, width)) @ colour
        parts.append(strengths @ directions * rng.uniform(0.8, 1.2) + 0.3 * noise + 0.2 * rng.normal(size=width) + 2.0)
    return ArrayRows(np.concatenate(parts).astype(np.float32))
