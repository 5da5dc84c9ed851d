import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otoscope.activations.windows import Window, hop_samples, place_frames, plan_windows, time_steps
from otoscope.encoders.base import Frames, frame_spans
from otoscope.errors import ConfigError, EncoderError


def convolution(field: int, hop: int):
    """Frames that lie wholly inside the sound, as convolutions without padding give them."""
    return lambda samples: max((samples - field) // hop + 1, 0)


def centred(hop: int):
    """Frames whose centre lies inside the sound, as Whisper gives them."""
    return lambda samples: -(-samples // hop)


@st.composite
def cuts(draw: st.DrawFn):
    hop = draw(st.integers(1, 50))
    field = draw(st.integers(hop, 3 * hop))
    steps = draw(st.sampled_from([convolution(field, hop), centred(hop)]))
    window = draw(st.integers(field + hop, field + 40 * hop))
    overlap = draw(st.integers(0, max(steps(window) - 1, 0)))
    samples = draw(st.integers(field, 10 * window))
    return samples, window, hop, steps, overlap


@given(cuts())
def test_kept_steps_tile_the_clip_without_a_gap_or_a_double(case):
    samples, window, hop, steps, overlap = case
    windows = plan_windows(samples, window=window, hop=hop, steps=steps, overlap=overlap)
    kept = [step for w in windows for step in range(w.first_step + w.keep_from, w.first_step + w.keep_to)]
    assert kept == list(range(steps(samples)))


@given(cuts())
def test_every_window_fits_the_encoder_starts_on_a_frame_and_holds_what_it_keeps(case):
    samples, window, hop, steps, overlap = case
    for w in plan_windows(samples, window=window, hop=hop, steps=steps, overlap=overlap):
        assert w.start == w.first_step * hop
        assert 0 < w.stop - w.start <= window
        assert w.stop <= samples
        assert 0 <= w.keep_from < w.keep_to <= steps(w.stop - w.start)


@given(cuts())
def test_seams_lie_half_an_overlap_from_the_windows_edges(case):
    samples, window, hop, steps, overlap = case
    windows = plan_windows(samples, window=window, hop=hop, steps=steps, overlap=overlap)
    for before, after in pairwise(windows):
        assert after.keep_from >= overlap // 2
        assert steps(before.stop - before.start) - before.keep_to >= overlap // 2


@given(cuts())
def test_no_window_of_a_long_clip_is_a_scrap(case):
    samples, window, hop, steps, overlap = case
    windows = plan_windows(samples, window=window, hop=hop, steps=steps, overlap=overlap)
    if len(windows) > 1:
        assert all(w.stop - w.start > window - hop for w in windows)


@given(st.integers(1, 2000), st.integers(4, 40), st.floats(0.0, 0.05))
def test_times_of_windows_are_the_times_of_the_whole_clip(steps: int, per_window: int, offset_s: float):
    hop, rate_hz = 160, 8000

    def frames(samples: int) -> Frames:
        return frame_spans(samples // hop, rate_hz=rate_hz / hop, offset_s=offset_s)

    windows = plan_windows(steps * hop, window=per_window * hop, hop=hop, steps=lambda n: n // hop)
    placed = [place_frames(frames(w.stop - w.start), w, rate_hz=rate_hz).frames for w in windows]
    whole = frames(steps * hop)
    np.testing.assert_allclose(np.concatenate([p.start_s for p in placed]), whole.start_s, atol=1e-9)
    np.testing.assert_allclose(np.concatenate([p.end_s for p in placed]), whole.end_s, atol=1e-9)


def test_patches_of_one_moment_share_a_step_and_keep_their_frequencies():
    moments = frame_spans(4, rate_hz=10.0, offset_s=0.05)
    frames = Frames(
        np.tile(moments.start_s, 2),
        np.tile(moments.end_s, 2),
        np.repeat([0.0, 1000.0], 4),
        np.repeat([1000.0, 2000.0], 4),
    )
    assert time_steps(frames).n_steps == 4
    placed = place_frames(frames, Window(800, 1600, 1, 1, 3), rate_hz=8000)
    assert placed.keep.tolist() == [False, True, True, False] * 2
    assert placed.frames.low_hz is not None
    assert placed.frames.low_hz.tolist() == [0.0, 0.0, 1000.0, 1000.0]
    np.testing.assert_allclose(placed.frames.start_s, [0.2, 0.3, 0.2, 0.3])


def test_an_overlap_as_long_as_the_window_is_refused():
    with pytest.raises(ConfigError, match="windows of 5 time steps cannot overlap by 5; allowed: 0 to 4"):
        plan_windows(100, window=10, hop=2, steps=lambda n: n // 2, overlap=5)


@given(st.floats(20.0, 400.0), st.integers(2, 40), st.integers(1, 100_000), st.integers(0, 3))
def test_frames_between_samples_tile_the_clip_within_half_a_sample_of_their_place(hop, per_window, samples, overlap):
    window = round(hop * per_window)

    def steps(given_samples: int) -> int:
        return min(per_window, max(0, math.ceil(given_samples / hop - 0.5)))

    windows = plan_windows(samples, window=window, hop=hop, steps=steps, overlap=min(overlap, per_window - 1))
    kept = [step for w in windows for step in range(w.first_step + w.keep_from, w.first_step + w.keep_to)]
    assert kept == list(range(len(kept)))
    assert len(kept) == pytest.approx(samples / hop, abs=1.01)
    for w in windows:
        assert abs(w.start - w.first_step * hop) <= 0.5
        assert w.stop - w.start <= window
    assert samples - windows[-1].stop < hop


def test_a_hop_is_whole_where_only_the_rounding_of_times_says_otherwise():
    assert hop_samples(frame_spans(3, rate_hz=8000 / 160.001, offset_s=0.0), 8000) == 160
    assert hop_samples(frame_spans(1001, rate_hz=8000 / 160.5, offset_s=0.1), 8000) == pytest.approx(160.5, abs=1e-9)
    with pytest.raises(EncoderError, match="at least two time steps"):
        hop_samples(frame_spans(1, rate_hz=50.0, offset_s=0.0), 8000)
