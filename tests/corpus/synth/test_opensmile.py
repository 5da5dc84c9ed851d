"""300 sung clips, measured by openSMILE: an outside reference for the known factors.

Populations. All clips are long tones (a scale moves F0 far more than a vibrato does). F0: all techniques that have
a pitch above 55 Hz, the lowest that eGeMAPS looks for, and a regular one: not vocal fry, not inhaled. Harmonics to
noise: the sustained ones without trill, trillo or lips that beat; the raw figure mixes in that openSMILE's value
rises with F0 whatever the noise (its autocorrelation is not corrected for the window), hence also the partial one.
F0 deviation: the same without inhaled, whose pitch drifts, with trillo; as the range from the 20th to the
80th percentile, because a single octave error of openSMILE outweighs any vibrato in the standard deviation.

Formants are measured by openSMILE's linear prediction, but not by eGeMAPS: cFormantLpc takes the roots of a
polynomial whose coefficients have the wrong sign, so that a resonance at 800 Hz and one at 1500 Hz read alike
(the last test shows it). Its other way, the peaks of the prediction's spectrum, is sound and is used here.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
import soxr
from scipy.signal import lfilter
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from otoscope.corpus.synth import SynthCorpus, synthesise

opensmile = pytest.importorskip("opensmile", reason="the extra `factors` is not installed")

pytestmark = pytest.mark.slow

SUSTAINED = ("belt", "breathy", "straight", "vibrato")
PITCHED = (*SUSTAINED, "lip_trill", "spoken", "trill", "trillo")
FORMANT_RATE_HZ = 11_000

FORMANTS = r"""
[componentInstances:cComponentManager]
instance[dataMemory].type=cDataMemory

\{\cm[source{?}:include external source]}

[componentInstances:cComponentManager]
instance[frames].type=cFramer
instance[emphasis].type=cVectorPreemphasis
instance[window].type=cWindower
instance[prediction].type=cLpc
instance[formants].type=cFormantLpc

[frames:cFramer]
reader.dmLevel=wave
writer.dmLevel=frames
frameSize=0.030
frameStep=0.020

[emphasis:cVectorPreemphasis]
reader.dmLevel=frames
writer.dmLevel=emphasised
k=0.97

[window:cWindower]
reader.dmLevel=emphasised
writer.dmLevel=windowed
winFunc=hamming

[prediction:cLpc]
reader.dmLevel=windowed
writer.dmLevel=prediction
p=12
method=acf
lpSpectrum=1
lpSpecBins=512

[formants:cFormantLpc]
reader.dmLevel=prediction
writer.dmLevel=lld
nFormants=5
saveBandwidths=0
minF=150
maxF=5400
useLpSpec=1

\{\cm[sink{?}:include external sink]}
"""


class Measured(NamedTuple):
    """The true factors and labels of 300 clips, eGeMAPS of all, first two formants of the sustained ones."""

    truth: pl.DataFrame
    egemaps: np.ndarray
    names: list[str]
    formants_hz: np.ndarray

    def feature(self, name: str) -> np.ndarray:
        return self.egemaps[:, self.names.index(name)]

    def among(self, *techniques: str) -> np.ndarray:
        return self.truth["technique"].is_in(techniques).to_numpy()


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    config = tmp_path_factory.mktemp("opensmile") / "formants.conf"
    config.write_text(FORMANTS)
    formants = opensmile.Smile(feature_set=str(config), feature_level="lld")
    egemaps = opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02, feature_level=opensmile.FeatureLevel.Functionals
    )
    spec = SynthCorpus(singers=10, takes=3, patterns=("long_tones",), duration_s=1.6)
    truth, features, peaks_hz = [], [], []
    for task in spec.tasks():
        clip = synthesise(
            task.who, task.technique, task.vowel, task.pattern, duration_s=spec.duration_s, seed=task.seed
        )
        truth.append({"technique": task.technique, "singer": task.who.name, **clip.factors})
        features.append(egemaps.process_signal(clip.wave, clip.rate_hz).to_numpy()[0])
        if task.technique in SUSTAINED:
            slow = soxr.resample(clip.wave[4800:-4800], clip.rate_hz, FORMANT_RATE_HZ)
            found = formants.process_signal(slow, FORMANT_RATE_HZ).to_numpy()
            peaks_hz.append(np.median(found[:, :2], axis=0))
        else:
            peaks_hz.append([np.nan, np.nan])
    return Measured(pl.DataFrame(truth), np.array(features), list(egemaps.feature_names), np.array(peaks_hz))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def without(values: np.ndarray, other: np.ndarray) -> np.ndarray:
    """What of `values` a straight line in `other` does not explain."""
    design = np.column_stack([np.ones_like(other), other])
    return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]


def test_measured_pitch_is_the_true_one(measured: Measured) -> None:
    keep = measured.among(*PITCHED)
    true = 12.0 * np.log2(measured.truth["f0_mean_hz"].to_numpy() / 27.5)
    assert keep.sum() == 240
    assert correlation(measured.feature("F0semitoneFrom27.5Hz_sma3nz_amean")[keep], true[keep]) > 0.98


@pytest.mark.parametrize(("formant", "least"), [(1, 0.9), (2, 0.8)])
def test_measured_formants_are_the_true_ones(measured: Measured, formant: int, least: float) -> None:
    keep = measured.among(*SUSTAINED)
    true_hz = measured.truth[f"f{formant}_hz"].to_numpy()
    assert correlation(measured.formants_hz[keep, formant - 1], true_hz[keep]) > least


def test_harmonics_to_noise_fall_with_aspiration(measured: Measured) -> None:
    keep = measured.among(*SUSTAINED, "inhaled")
    hnr_db = measured.feature("HNRdBACF_sma3nz_amean")[keep]
    aspiration_db = measured.truth["aspiration_db"].to_numpy()[keep]
    pitch = np.log2(measured.truth["f0_mean_hz"].to_numpy()[keep])
    assert correlation(hnr_db, aspiration_db) < -0.75
    assert correlation(without(hnr_db, pitch), without(aspiration_db, pitch)) < -0.8


def test_pitch_deviation_grows_with_vibrato(measured: Measured) -> None:
    keep = measured.among(*SUSTAINED, "trillo")
    spread = measured.feature("F0semitoneFrom27.5Hz_sma3nz_pctlrange0-2")[keep]
    assert correlation(spread, measured.truth["vibrato_extent_semitones"].to_numpy()[keep]) > 0.8


def test_techniques_are_told_apart_across_singers_but_not_trivially(measured: Measured) -> None:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    told = cross_val_predict(
        model,
        measured.egemaps,
        measured.truth["technique"].to_numpy(),
        groups=measured.truth["singer"].to_numpy(),
        cv=GroupKFold(5),
    )
    assert 0.60 < np.mean(told == measured.truth["technique"].to_numpy()) < 0.97


def test_egemaps_formants_do_not_tell_one_resonance_from_another(tmp_path: Path) -> None:
    config = tmp_path / "formants.conf"
    config.write_text(FORMANTS)
    peaks = opensmile.Smile(feature_set=str(config), feature_level="lld")
    egemaps = opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02, feature_level=opensmile.FeatureLevel.LowLevelDescriptors
    )

    def median_hz(measure: Callable[[np.ndarray, int], pl.DataFrame], wave: np.ndarray, column: str) -> float:
        return float(measure(wave, FORMANT_RATE_HZ)[column].median())

    noise = np.random.default_rng(0).standard_normal(FORMANT_RATE_HZ)
    waves = []
    for centre_hz in (800.0, 1500.0):
        radius = np.exp(-np.pi * 80.0 / FORMANT_RATE_HZ)
        poles = [1.0, -2.0 * radius * np.cos(2.0 * np.pi * centre_hz / FORMANT_RATE_HZ), radius**2]
        wave = lfilter([1.0], poles, noise)
        waves.append((0.5 * wave / np.abs(wave).max()).astype(np.float32))
    by_roots = [median_hz(egemaps.process_signal, wave, "F1frequency_sma3nz") for wave in waves]
    by_peaks = [median_hz(peaks.process_signal, wave, "formantFreqLpc[1]") for wave in waves]
    assert by_peaks == pytest.approx([800.0, 1500.0], rel=0.05)
    assert abs(by_roots[1] - by_roots[0]) < 150.0
