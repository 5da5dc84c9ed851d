"""Described frames of singers of which the class, the pitch and the level are known, and a latent of high pitch."""

import numpy as np

from otoscope.explain.frame_descriptors import DESCRIPTORS, FrameTable

GROUPS, CLIPS, ROWS = 6, 8, 60


def contour(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    walk = np.cumsum(rng.normal(size=ROWS))
    return low + (high - low) * (walk - walk.min()) / np.ptp(walk)


def planted_frames() -> FrameTable:
    """Return frames of noise in which pitch, level and voicing move, and one vowel has more energy in every band."""
    rng = np.random.default_rng(0)
    clips = np.repeat(np.arange(GROUPS * CLIPS), ROWS)
    pitch = np.concatenate([contour(rng, 20, 50) for _ in range(GROUPS * CLIPS)])
    level = np.concatenate([contour(rng, -60, -20) for _ in range(GROUPS * CLIPS)])
    pitch[np.concatenate([contour(rng, 0, 1) for _ in range(GROUPS * CLIPS)]) < 0.3] = np.nan
    descriptors = {name: rng.normal(size=len(clips)) for name in DESCRIPTORS}
    descriptors |= {"f0_semitones": pitch, "level_db": level}
    for name, descriptor in DESCRIPTORS.items():
        if descriptor.voiced:
            descriptors[name] = np.where(np.isnan(pitch), np.nan, descriptors[name])
    vowel = np.array(["a", "i", "u", "o"])[clips % 4]
    spectra = rng.normal(size=(len(clips), 6)) + 3 * (vowel == "i")[:, None]
    return FrameTable(
        descriptors=descriptors,
        spectra=spectra,
        labels={"vowel": vowel},
        groups=np.array([f"g{i}" for i in clips // CLIPS]),
        clips=clips,
    )


def halves(frames: FrameTable) -> tuple[np.ndarray, np.ndarray]:
    fit = np.isin(frames.groups, ["g0", "g1", "g2"])
    return fit, ~fit


def high_pitch(frames: FrameTable) -> np.ndarray:
    pitch = np.nan_to_num(frames.descriptors["f0_semitones"], nan=0.0)
    return np.where((pitch > 30) & (pitch < 40), 1.0, 0.0) * np.random.default_rng(1).uniform(0.5, 1, len(pitch))
