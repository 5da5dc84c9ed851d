"""Where patches of a mel spectrogram lie: bands of frequency, moment by moment."""

import numpy as np
from jaxtyping import Float

from otoscope.encoders.base import Frames, Layer, frame_spans


def band_edges_hz(
    *, mels: int, lowest_hz: float, highest_hz: float, scale: str, bands: int, stride: int, covered: int
) -> Float[np.ndarray, "bands 2"]:
    """Return the lowest and highest frequency under each band: the feet of its outer mel triangles.

    A band covers `covered` of the `mels` filters, each `stride` above the one before; `scale` is a
    mel scale of transformers.
    """
    from transformers.audio_utils import hertz_to_mel, mel_to_hertz

    low, high = (float(hertz_to_mel(hz, mel_scale=scale)) for hz in (lowest_hz, highest_hz))
    feet = np.asarray(mel_to_hertz(np.linspace(low, high, mels + 2), mel_scale=scale))
    first = np.arange(bands) * stride
    return np.stack([feet[first], feet[first + covered + 1]], axis=1)


def place_patches(layer: Layer, edges_hz: Float[np.ndarray, "bands 2"], moments: int) -> Frames:
    """Place patches in time and frequency: moment by moment, low to high."""
    bands = len(edges_hz)
    spans = frame_spans(moments, rate_hz=layer.rate_hz, offset_s=layer.offset_s)
    low_hz, high_hz = np.tile(edges_hz, (moments, 1)).T
    return Frames(np.repeat(spans.start_s, bands), np.repeat(spans.end_s, bands), low_hz, high_hz)
