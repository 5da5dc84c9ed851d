import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from otoscope.errors import AudioError, MissingExtra
from otoscope.factors import egemaps
from otoscope.factors.egemaps import RATE_HZ, measure_egemaps

PITCH = "F0semitoneFrom27.5Hz_sma3nz_amean"
LOUDNESS = "equivalentSoundLevel_dBp"


def tone(f0_hz: float, seconds: float = 0.5, peak: float = 0.5) -> np.ndarray:
    """Twenty harmonics falling by 6 dB per octave."""
    times = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    wave = sum(np.sin(2 * np.pi * k * f0_hz * times) / k for k in range(1, 21))
    return (peak * wave / np.abs(wave).max()).astype(np.float32)


def clips(waves: Mapping[str, np.ndarray]) -> tuple[pl.DataFrame, Callable[[Mapping[str, object]], np.ndarray]]:
    rows = [
        {
            "clip_id": name,
            "path": name,
            "start_s": 0.0,
            "duration_s": len(wave) / RATE_HZ,
            "digest": wave.tobytes().hex()[:80],
        }
        for name, wave in waves.items()
    ]

    def load(row: Mapping[str, object]) -> np.ndarray:
        wave = waves[str(row["clip_id"])]
        if not len(wave):
            raise AudioError(f"{row['clip_id']}: holds no sound")
        return wave

    return pl.DataFrame(rows), load


def test_egemaps_measures_pitch_and_level_of_a_tone(tmp_path: Path) -> None:
    table, load = clips({"low": tone(110), "high": tone(220), "soft": tone(220, peak=0.05)})
    found = measure_egemaps(table, tmp_path, load=load).table
    pitch = dict(zip(found["clip_id"], found[PITCH], strict=True))
    # semitones above 27.5 Hz: two octaves and three
    assert pitch["low"] == pytest.approx(24, abs=0.1)
    assert pitch["high"] == pytest.approx(36, abs=0.1)
    level = dict(zip(found["clip_id"], found[LOUDNESS], strict=True))
    assert level["high"] - level["soft"] == pytest.approx(20, abs=0.5)
    assert found.width == 89
    assert found["clip_id"].to_list() == ["low", "high", "soft"]


def test_egemaps_full_scale_does_not_overflow(tmp_path: Path) -> None:
    table, load = clips({"full": tone(220, peak=1.0), "over": 1.2 * tone(220, peak=1.0), "near": tone(220, peak=0.99)})
    found = measure_egemaps(table, tmp_path, load=load).table
    jitter = found["HNRdBACF_sma3nz_amean"]
    assert jitter[0] == pytest.approx(jitter[2], abs=0.1)
    assert found[PITCH][1] == pytest.approx(found[PITCH][2], abs=0.1)


def test_egemaps_failed_clip_is_nan_with_reason(tmp_path: Path) -> None:
    table, load = clips({"short": tone(200, 0.05), "broken": np.zeros(0, np.float32), "good": tone(200)})
    found = measure_egemaps(table, tmp_path, load=load, cache=tmp_path / "cache")
    values = found.table.drop("clip_id").to_numpy()
    np.testing.assert_array_equal(np.isnan(values).all(axis=1), [True, True, False])
    assert np.isfinite(values[2]).all()
    reasons = dict(found.failed.rows())
    assert reasons == {"short": "50 ms is too short for openSMILE (60 ms)", "broken": "broken: holds no sound"}


def test_egemaps_of_silence_are_finite(tmp_path: Path) -> None:
    table, load = clips({"silent": np.zeros(RATE_HZ, np.float32)})
    assert np.isfinite(measure_egemaps(table, tmp_path, load=load).table.drop("clip_id").to_numpy()).all()


def test_egemaps_do_not_depend_on_threads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table, load = clips(
        {f"{i:02d}": tone(100 + 20 * i, 0.2) + rng.normal(0, 0.01, 3200).astype(np.float32) for i in range(12)}
    )
    one = measure_egemaps(table, tmp_path, load=load, workers=1).table
    many = measure_egemaps(table, tmp_path, load=load, workers=6).table
    assert one.equals(many, null_equal=True)


def test_egemaps_cache_is_keyed_by_content(tmp_path: Path) -> None:
    waves = {"a": tone(150, 0.2), "b": tone(170, 0.2), "copy of a": tone(150, 0.2)}
    table, load = clips(waves)
    calls: list[str] = []

    def counted(row: Mapping[str, object]) -> np.ndarray:
        calls.append(str(row["clip_id"]))
        return load(row)

    told: list[tuple[int, int]] = []
    first = measure_egemaps(table, tmp_path, load=counted, cache=tmp_path / "c", on_progress=lambda *x: told.append(x))
    assert len(calls) == 2
    assert told[-1] == (3, 3)
    renamed = table.with_columns(pl.col("clip_id") + "!")
    again = measure_egemaps(renamed, tmp_path, load=counted, cache=tmp_path / "c")
    assert len(calls) == 2
    assert again.table.drop("clip_id").equals(first.table.drop("clip_id"))
    segment = table[:1].with_columns(duration_s=pl.lit(0.1))
    measure_egemaps(segment, tmp_path, load=counted, cache=tmp_path / "c")
    assert len(calls) == 3


def test_egemaps_resume_after_a_killed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egemaps, "CLIPS_PER_PART", 2)
    table, load = clips({str(i): tone(150 + 10 * i, 0.1) for i in range(6)})
    whole = measure_egemaps(table, tmp_path, load=load).table

    def killed(row: Mapping[str, object]) -> np.ndarray:
        if row["clip_id"] == "4":
            raise KeyboardInterrupt
        return load(row)

    with pytest.raises(KeyboardInterrupt):
        measure_egemaps(table, tmp_path, load=killed, cache=tmp_path / "c", workers=1)
    calls: list[str] = []

    def counted(row: Mapping[str, object]) -> np.ndarray:
        calls.append(str(row["clip_id"]))
        return load(row)

    resumed = measure_egemaps(table, tmp_path, load=counted, cache=tmp_path / "c").table
    assert sorted(calls) == ["4", "5"]
    assert resumed.equals(whole)


def test_egemaps_damaged_cache_is_measured_again(tmp_path: Path) -> None:
    table, load = clips({"a": tone(150, 0.2)})
    first = measure_egemaps(table, tmp_path, load=load, cache=tmp_path / "c").table
    part = next((tmp_path / "c").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    assert measure_egemaps(table, tmp_path, load=load, cache=tmp_path / "c").table.equals(first)


def test_egemaps_without_opensmile_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opensmile", None)
    table, load = clips({"a": tone(150, 0.2)})
    with pytest.raises(MissingExtra, match=r'pip install "otoscope\[factors\]", or set'):
        measure_egemaps(table, tmp_path, load=load)
