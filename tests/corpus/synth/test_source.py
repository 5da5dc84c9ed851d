"""The glottal source against the equations and statistics that define it."""

import itertools

import numpy as np
import pytest

from otoscope.corpus.synth.source import RD_RANGE, GlottalSource, glottal_source, lf_shape

TICK_HZ = 1000.0


def source(
    f0_hz: float, *, rate_hz: float = 64_000.0, duration_s: float = 1.0, seed: int = 0, **settings: float
) -> GlottalSource:
    ticks = np.ones(int(duration_s * TICK_HZ))
    plain = {"jitter": 0.0, "shimmer_db": 0.0, "subharmonics": 0.0, "open_share": 1.0, "rd": 1.0} | settings
    return glottal_source(
        f0_hz=ticks * f0_hz,
        gain=ticks,
        rd=ticks * plain.pop("rd"),
        tick_hz=TICK_HZ,
        rate_hz=rate_hz,
        rng=np.random.default_rng(seed),
        **plain,
    )


@pytest.mark.parametrize("rd", np.linspace(*RD_RANGE, 5))
def test_one_period_of_the_lf_model_moves_no_net_air_and_peaks_at_minus_one(rd: float) -> None:
    pulse = source(1.0, rate_hz=200_000.0, rd=rd).pulses
    # at high Rd the derivative is flat at closure and turns a little before it
    assert pulse.min() == pytest.approx(-1.0, abs=4e-3)
    # the table is interpolated in Rd, hence not zero to machine precision
    assert abs(pulse.mean()) < 2e-3 * np.abs(pulse).mean()


def test_a_breathy_pulse_closes_later_and_returns_more_slowly_than_a_pressed_one() -> None:
    pressed, breathy = lf_shape(0.5), lf_shape(2.5)
    assert breathy.closure > pressed.closure
    assert breathy.return_s > 3.0 * pressed.return_s


@pytest.mark.parametrize("f0_hz", [40.0, 111.1, 440.0, 987.0])
def test_pulses_come_at_the_asked_rate_between_samples(f0_hz: float) -> None:
    periods_s = np.diff(source(f0_hz).instants_s)
    np.testing.assert_allclose(periods_s, 1.0 / f0_hz, rtol=1e-9)


@pytest.mark.parametrize("jitter", [0.005, 0.02, 0.08])
def test_jitter_is_the_mean_difference_of_neighbouring_periods(jitter: float) -> None:
    periods_s = np.diff(source(200.0, duration_s=30.0, jitter=jitter).instants_s)
    local = np.abs(np.diff(periods_s)).mean() / periods_s.mean()
    assert local == pytest.approx(jitter, rel=0.05)


def test_shimmer_is_the_mean_difference_of_neighbouring_peaks_in_db() -> None:
    made = source(100.0, duration_s=20.0, shimmer_db=0.8)
    starts = np.round(made.instants_s * 64_000).astype(int)
    peaks = np.array([-made.pulses[a:b].min() for a, b in itertools.pairwise(starts)])
    assert np.abs(np.diff(20.0 * np.log10(peaks))).mean() == pytest.approx(0.8, rel=0.05)


def test_subharmonics_put_energy_at_half_the_pitch() -> None:
    def half_over_whole(amount: float) -> float:
        spectrum = np.abs(np.fft.rfft(source(200.0, subharmonics=amount).pulses * np.hanning(64_000)))
        return spectrum[98:103].max() / spectrum[198:203].max()

    assert half_over_whole(0.0) < 1e-3
    assert half_over_whole(0.6) > 0.1


def test_the_glottis_rests_where_there_is_no_pitch() -> None:
    made = source(0.0)
    assert not made.pulses.any()
    assert len(made.instants_s) == 0
