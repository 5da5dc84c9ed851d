"""The clips in which a latent fires most."""

import numpy as np
import pytest

from otoscope.explain import TimedCodes, top_activating_clips


def bump(clip_id: str) -> TimedCodes:
    """A latent 2 that peaks in the frame its clip is named for."""
    codes = np.zeros((20, 4))
    codes[int(clip_id), 2] = 5.0
    start_s = np.arange(20) * 0.02
    return TimedCodes(codes, start_s, start_s + 0.02)


def test_the_strongest_clip_of_each_group_comes_first() -> None:
    strength = np.array([5.0, 4.0, 3.0, 2.0, 0.0])
    clips = top_activating_clips(
        2, strength, ["11", "12", "13", "14", "15"], ["a", "a", "b", "c", "d"], codes_of=bump, top=5
    )
    assert [m.clip_id for m in clips] == ["11", "13", "14", "12"]
    assert [m.rank for m in clips] == [0, 1, 2, 3]
    assert clips[0].peak_s == pytest.approx(11 * 0.02 + 0.01)
    assert clips[0].activation.argmax() == 11


def test_pooled_codes_alone_give_clips_without_a_curve() -> None:
    (clip,) = top_activating_clips(0, np.array([1.0, 0.0]), ["x", "y"], ["a", "b"], codes_of=None)
    assert clip.clip_id == "x"
    assert clip.peak_s is None
    assert clip.activation.size == 0
