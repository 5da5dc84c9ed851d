"""Acoustic descriptors and log-mel spectra at the frames of an encoder.

Level and log-mel spectrum are computed here; pitch, harmonics-to-noise ratio, formants and spectral balance are
low-level descriptors of eGeMAPSv02 (Eyben et al. 2016) through openSMILE (extra `factors`), averaged over the frame.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import NDArray

from otoscope.encoders.base import Frames
from otoscope.factors.logmel import FLOOR, HOP_SAMPLES, RATE_HZ, WINDOW_SAMPLES
from otoscope.hardware import available_cores
from otoscope.resampling.exchange import deviations

BANDS = 40
"""Mel bands of a frame's spectrum, from 0 to 8 kHz."""

SHORTEST_S = 0.060
"""Length of openSMILE's longest window."""


class Descriptor(NamedTuple):
    """Name and unit of a descriptor in words, openSMILE's name if it comes from there, and whether it needs voicing.

    `true` is the factor that holds its true values, where a corpus has them. `functionals` are the beginnings of the
    names of eGeMAPS functionals that rest on it.
    """

    label: str
    unit: str
    smile: str | None = None
    voiced: bool = False
    true: str | None = None
    functionals: tuple[str, ...] = ()


def _formant(number: int, *others: str) -> Descriptor:
    smile, true = f"F{number}frequency_sma3nz", f"f{number}_hz"
    return Descriptor(f"openSMILE's F{number}", "Hz", smile, True, true, (f"F{number}", *others))


DESCRIPTORS: dict[str, Descriptor] = {
    "level_db": Descriptor("level", "dB"),
    "f0_semitones": Descriptor(
        "pitch", "semitones above 27.5 Hz", "F0semitoneFrom27.5Hz_sma3nz", True, "f0_mean_hz", ("F0semitoneFrom27.5Hz",)
    ),
    "hnr_db": Descriptor("harmonics-to-noise ratio", "dB", "HNRdBACF_sma3nz", voiced=True),
    "f1_hz": _formant(1),
    "f2_hz": _formant(2),
    "f3_hz": _formant(3, "logRelF0-H1-A3"),
    "alpha_ratio_db": Descriptor("level above relative to below 1 kHz", "dB", "alphaRatio_sma3"),
    "h1_h2_db": Descriptor("level of H1 relative to H2", "dB", "logRelF0-H1-H2_sma3nz", voiced=True),
    "spectral_flux": Descriptor("spectral flux", "", "spectralFlux_sma3"),
}
"""Descriptors of a frame; those of voiced frames are NaN elsewhere."""


REFERENCE_HZ = 27.5
"""Pitch of 0 semitones, as in eGeMAPS."""


def pitch_hz(semitones: float) -> float:
    """Return the frequency of a pitch in semitones above `REFERENCE_HZ`.

    >>> pitch_hz(48.0)
    440.0
    """
    return REFERENCE_HZ * 2.0 ** (semitones / 12)


class DescribedFrames(NamedTuple):
    """Descriptors `DESCRIPTORS` and log-mel spectrum of the frames of a clip, NaN where unknown."""

    values: Float[np.ndarray, "frames descriptors"]
    spectra: Float[np.ndarray, "frames bands"]


@dataclass(frozen=True, kw_only=True)
class FrameTable:
    """Frames of some clips: descriptors by name, log-mel spectra, labels by name, group and clip of each frame.

    `unreliable` are the descriptors that name no latent (`unreliable_descriptors`).
    """

    descriptors: Mapping[str, Float[np.ndarray, " rows"]]
    spectra: Float[np.ndarray, "rows bands"]
    labels: Mapping[str, Shaped[np.ndarray, " rows"]]
    groups: Shaped[np.ndarray, " rows"]
    clips: Int[np.ndarray, " rows"]
    unreliable: frozenset[str] = frozenset()

    def take(self, chosen: Bool[np.ndarray, " rows"]) -> "FrameTable":
        """Return some of the frames."""
        return replace(
            self,
            descriptors={name: values[chosen] for name, values in self.descriptors.items()},
            spectra=self.spectra[chosen],
            labels={name: values[chosen] for name, values in self.labels.items()},
            groups=self.groups[chosen],
            clips=self.clips[chosen],
        )

    @property
    def reliable(self) -> dict[str, Float[np.ndarray, " rows"]]:
        """Descriptors that may name a latent."""
        return {name: values for name, values in self.descriptors.items() if name not in self.unreliable}

    @property
    def voiced(self) -> Bool[np.ndarray, " rows"]:
        """True for frames with a pitch."""
        return np.isfinite(self.descriptors["f0_semitones"])

    @property
    def embedding(self) -> Float[np.ndarray, "rows dimensions"]:
        """Descriptors that may name a latent, those of voiced frames 0 elsewhere, and a column for voicing."""
        columns = [np.nan_to_num(values, nan=0.0) for values in self.reliable.values()]
        return np.stack([*columns, self.voiced.astype(np.float64)], axis=1)


def frame_table(
    described: Sequence[DescribedFrames], *, groups: Sequence[str], labels: Mapping[str, Sequence[str]] | None = None
) -> FrameTable:
    """Return the described frames of clips as one table; groups and labels are given per clip."""
    counts = [len(one.values) for one in described]
    values = np.concatenate([one.values for one in described])
    return FrameTable(
        descriptors={name: values[:, column] for column, name in enumerate(DESCRIPTORS)},
        spectra=np.concatenate([one.spectra for one in described]),
        labels={name: np.repeat(np.asarray(classes), counts) for name, classes in (labels or {}).items()},
        groups=np.repeat(np.asarray(groups), counts),
        clips=np.repeat(np.arange(len(described)), counts),
    )


RELIABLE_R = 0.5
"""Correlation with the true values within groups below which a measured quantity names no latent."""

MIN_KNOWN = 8
"""Fewest clips with both values beyond the number of groups for that correlation."""


def true_agreement(
    measured: Mapping[str, Float[np.ndarray, " clips"]],
    true: Mapping[str, Float[np.ndarray, " clips"]],
    groups: Shaped[np.ndarray, " clips"],
) -> dict[str, float]:
    """Return the correlation of clip means with true values within groups, by descriptor.

    `measured` are means by descriptor, `true` factors by name; descriptors without known and varying values have none.

    >>> hz = np.array([300.0, 350, 400, 450, 500, 550, 600, 650, 700])
    >>> {name: round(r, 2) for name, r in true_agreement({"f1_hz": hz**2}, {"f1_hz": hz}, np.zeros(9)).items()}
    {'f1_hz': 0.99}
    """
    found: dict[str, float] = {}
    for name, values in measured.items():
        if (truth := true.get(DESCRIPTORS[name].true or "")) is None:
            continue
        both = np.stack([values, truth], axis=1)
        known = np.isfinite(both).all(axis=1)
        away, size = deviations(both[known], groups[known]), np.abs(both[known]).max(axis=0, initial=0.0)
        norms = np.sqrt(np.square(away).mean(axis=0)) if len(away) else np.zeros(2)
        if len(away) - len(np.unique(groups[known])) >= MIN_KNOWN and (norms > 1e-9 * size).all():
            found[name] = float((away[:, 0] * away[:, 1]).mean() / norms.prod())
    return found


def unreliable_descriptors(agreement: Mapping[str, float]) -> frozenset[str]:
    """Return the descriptors whose agreement (`true_agreement`) is below `RELIABLE_R`."""
    return frozenset(name for name, r in agreement.items() if r < RELIABLE_R)


def descriptors_behind(factor: str) -> set[str]:
    """Return the descriptors on which an eGeMAPS functional rests, of those that have `functionals`.

    >>> descriptors_behind("F3bandwidth_sma3nz_amean"), descriptors_behind("f3_hz")
    ({'f3_hz'}, set())
    """
    return {name for name, one in DESCRIPTORS.items() if "_sma3" in factor and factor.startswith(one.functionals)}


def unreliable_functionals(
    names: Sequence[str],
    factors: Float[np.ndarray, "clips factors"],
    true: Mapping[str, Float[np.ndarray, " clips"]],
    groups: Sequence[str],
) -> set[str]:
    """Return the eGeMAPS functionals that rest on a descriptor whose mean does not follow its true values."""
    columns = dict(zip(names, factors.T, strict=True))
    means = {name: columns[mean] for name, one in DESCRIPTORS.items() if (mean := f"{one.smile}_amean") in columns}
    unreliable = unreliable_descriptors(true_agreement(means, true, np.asarray(groups)))
    return {name for name in names if descriptors_behind(name) & unreliable}


def describe_frames(wave: Float[np.ndarray, " samples"], frames: Frames) -> DescribedFrames:
    """Return the descriptors of each frame of a clip.

    `wave` is mono at 16 kHz; `frames` places the frames in seconds. A frame averages the analysis windows (every 10 ms)
    whose centre it contains, or the nearest one. Level is that of the frame's own samples in dB relative to full scale.
    Without openSMILE, only the level and the spectrum are known.

    >>> from otoscope.encoders.base import frame_spans
    >>> tone = 0.1 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    >>> described = describe_frames(tone, frame_spans(50, rate_hz=50.0, offset_s=0.01))
    >>> float(described.values[25, list(DESCRIPTORS).index("level_db")].round(1))
    -23.0
    """
    times = _Centres(frames.start_s, frames.end_s)
    spectra = times.mean(log_mel(wave))
    values = np.full((len(frames.start_s), len(DESCRIPTORS)), np.nan)
    levels = _low_level(wave)
    for column, (name, descriptor) in enumerate(DESCRIPTORS.items()):
        if name == "level_db":
            values[:, column] = _levels_db(wave, frames)
        elif levels is not None and descriptor.smile is not None:
            values[:, column] = times.mean(levels[descriptor.smile][:, None])[:, 0]
    return DescribedFrames(values, spectra)


def describe_clips(
    clip_ids: Sequence[str],
    *,
    wave_of: Callable[[str], NDArray[np.float32]],
    frames_of: Callable[[str], Frames],
    on_clip: Callable[[], object],
) -> list[DescribedFrames]:
    """Return the descriptors of clips, in order; `wave_of` decodes at 16 kHz."""

    def describe(clip_id: str) -> DescribedFrames:
        return describe_frames(wave_of(clip_id), frames_of(clip_id))

    described: list[DescribedFrames] = []
    with ThreadPoolExecutor(available_cores()) as pool:  # openSMILE releases the GIL
        for result in pool.map(describe, clip_ids):
            described.append(result)
            on_clip()
    return described


class _Centres:
    """Analysis windows every 10 ms, averaged over frames."""

    def __init__(self, start_s: NDArray[np.float64], end_s: NDArray[np.float64]) -> None:
        self.start_s, self.end_s = start_s, end_s

    def mean(self, windows: Float[np.ndarray, "windows columns"]) -> Float[np.ndarray, "frames columns"]:
        """Return the mean over the windows in each frame, ignoring NaN; NaN if none is known."""
        known = np.isfinite(windows)
        sums = np.concatenate([np.zeros((1, windows.shape[1])), np.cumsum(np.where(known, windows, 0.0), axis=0)])
        counts = np.concatenate([np.zeros((1, windows.shape[1])), np.cumsum(known, axis=0)])
        # window i is centred at i * hop + half a window
        first_s, hop_s = WINDOW_SAMPLES / 2 / RATE_HZ, HOP_SAMPLES / RATE_HZ
        low = np.ceil((self.start_s - first_s) / hop_s - 1e-9).astype(int)
        high = np.ceil((self.end_s - first_s) / hop_s - 1e-9).astype(int)
        nearest = np.round(((self.start_s + self.end_s) / 2 - first_s) / hop_s).astype(int)
        empty = high <= low
        low, high = np.where(empty, nearest, low), np.where(empty, nearest + 1, high)
        low, high = np.clip(low, 0, len(windows) - 1), np.clip(high, 1, len(windows))
        high = np.maximum(high, low + 1)
        number = counts[high] - counts[low]
        return np.divide(sums[high] - sums[low], number, out=np.full(number.shape, np.nan), where=number > 0)


def log_mel(wave: Float[np.ndarray, " samples"]) -> Float[np.ndarray, "windows bands"]:
    """Return the log-mel spectrum of a clip at 16 kHz in dB, one row per 10 ms."""
    from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

    filters = mel_filter_bank(
        WINDOW_SAMPLES // 2 + 1, BANDS, 0.0, RATE_HZ / 2, RATE_HZ, norm="slaney", mel_scale="slaney"
    )
    padded = np.pad(wave.astype(np.float64), (0, max(0, WINDOW_SAMPLES - len(wave))))
    window = window_function(WINDOW_SAMPLES, "hann")
    levels = spectrogram(
        padded, window, WINDOW_SAMPLES, HOP_SAMPLES, power=2.0, center=False, mel_filters=filters, mel_floor=FLOOR,
        log_mel="log10",
    )  # fmt: skip
    return 10 * levels.T


def _levels_db(wave: Float[np.ndarray, " samples"], frames: Frames) -> Float[np.ndarray, " frames"]:
    energy = np.concatenate([[0.0], np.cumsum(np.square(wave, dtype=np.float64))])
    low = np.clip(np.round(frames.start_s * RATE_HZ).astype(int), 0, len(wave) - 1)
    high = np.clip(np.round(frames.end_s * RATE_HZ).astype(int), low + 1, len(wave))
    return 10 * np.log10(np.maximum((energy[high] - energy[low]) / (high - low), FLOOR))


_LOCAL = threading.local()


def _low_level(wave: Float[np.ndarray, " samples"]) -> dict[str, NDArray[np.float64]] | None:
    """Return openSMILE's low-level descriptors every 10 ms, NaN where a voiced one has no voicing; None without it."""
    if len(wave) < SHORTEST_S * RATE_HZ:
        return None
    smile = _smile()
    if smile is None:
        return None
    # openSMILE's wrapper casts to 16 bits without clipping
    levels: NDArray[Any] = np.asarray(smile(np.clip(wave, -1.0, 1.0 - 2.0**-15), RATE_HZ), dtype=np.float64)
    levels = levels.reshape(len(smile.feature_names), -1).T
    columns = dict(zip(smile.feature_names, levels.T, strict=True))
    silent = columns[str(DESCRIPTORS["f0_semitones"].smile)] <= 0
    voiced = {d.smile for d in DESCRIPTORS.values() if d.voiced}
    return {name: np.where(silent, np.nan, column) if name in voiced else column for name, column in columns.items()}


def _smile() -> Any:
    if not hasattr(_LOCAL, "smile"):
        try:
            import opensmile
        except ImportError:
            _LOCAL.smile = None
        else:
            _LOCAL.smile = opensmile.Smile(
                feature_set=opensmile.FeatureSet.eGeMAPSv02,
                feature_level=opensmile.FeatureLevel.LowLevelDescriptors,
            )
    return _LOCAL.smile
