import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile as sf
from PIL import Image

from otoscope.errors import DamagedArtifact
from otoscope.explain import (
    ActivatingClip,
    LatentChoice,
    Sound,
    TimedCodes,
    read_top_clips,
    top_activating_clips,
    write_top_clips,
)

RATE_HZ = 8000


def choice() -> LatentChoice:
    return LatentChoice(
        factor="F0",
        score=0.9,
        latent=12,
        train_r=0.8,
        test_r=0.7,
        null_high=0.2,
        p_value=0.01,
        overall_r=0.5,
        within=True,
        test_clips=9,
        test_groups=3,
        firing=0.5,
    )


def clip(peak_s: float | None, seconds: float = 10.0) -> ActivatingClip:
    start_s = np.arange(int(seconds * 10)) / 10 if peak_s is not None else np.zeros(0)
    return ActivatingClip(
        latent=12,
        rank=0,
        clip_id="a/b.wav",
        group="a",
        strength=2.0,
        activation=np.exp(-((start_s + 0.05 - (peak_s or 0)) ** 2)),
        start_s=start_s,
        end_s=start_s + 0.1,
        peak_s=peak_s,
    )


def ramp(_clip: str) -> Sound:
    """Ten seconds in which each sample tells its own time."""
    return Sound(np.linspace(0, 1, 10 * RATE_HZ, endpoint=False).astype(np.float32), RATE_HZ)


def write(folder: Path, peak_s: float | None) -> dict:
    written = write_top_clips(folder, [(choice(), [clip(peak_s)])], sound_of=ramp, card={"layer": 3})
    return written.rows.row(0, named=True)


@pytest.mark.parametrize(("peak_s", "from_s"), [(5.0, 2.0), (0.5, 0.0), (9.9, 4.0), (None, 2.0)])
def test_a_long_clip_is_cut_around_its_peak(tmp_path: Path, peak_s: float | None, from_s: float) -> None:
    row = write(tmp_path, peak_s)
    assert row["from_s"] == pytest.approx(from_s)
    assert row["duration_s"] == pytest.approx(6.0)
    wave, rate_hz = sf.read(tmp_path / row["audio"])
    assert rate_hz == RATE_HZ
    assert wave[0] == pytest.approx(from_s / 10, abs=1e-4)
    if peak_s is not None:
        peak = int(np.argmax(row["activation"]))
        assert (row["start_s"][peak] + row["end_s"][peak]) / 2 == pytest.approx(peak_s - from_s, abs=0.06)


def test_sound_is_lossless_at_16_bits(tmp_path: Path) -> None:
    row = write(tmp_path, 1.0)
    wave, _ = sf.read(tmp_path / row["audio"], dtype="int16")
    np.testing.assert_allclose(wave / 32768, ramp("").wave[: 6 * RATE_HZ], atol=1 / 32768)


def test_what_was_written_is_read_and_an_unfinished_folder_is_not(tmp_path: Path) -> None:
    written = write_top_clips(
        tmp_path,
        [(choice(), [clip(1.0)])],
        sound_of=ramp,
        card={"layer": 3},
        splits={"a/b.wav": "test"},
        factor_values=lambda _factor, _clip: 440.0,
    )
    found = read_top_clips(tmp_path)
    assert found is not None
    assert found.rows.equals(written.rows)
    assert found.card["layer"] == 3
    assert found.rows.row(0, named=True)["split"] == "test"
    assert found.rows.row(0, named=True)["factor_value"] == 440.0
    with Image.open(io.BytesIO((tmp_path / found.rows["picture"][0]).read_bytes())) as picture:
        assert picture.size[0] > 100
    (tmp_path / "card.json").unlink()
    assert read_top_clips(tmp_path) is None


def test_write_top_clips_gives_the_same_bytes_for_the_same_clips(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, 1.0)
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("one", "two"))
    assert one == two


def test_read_top_clips_reads_tables_without_correlations_of_further_classes(tmp_path: Path) -> None:
    write(tmp_path, 1.0)
    path = tmp_path / "top_clips.parquet"
    pl.read_parquet(path).drop("other_test_r", "other_train_r").write_parquet(path)
    found = read_top_clips(tmp_path)
    assert found is not None
    assert found.rows["other_train_r"].to_list() == [[]] * found.rows.height


def test_no_choice_gives_an_empty_table(tmp_path: Path) -> None:
    assert write_top_clips(tmp_path, [], sound_of=ramp, card={}).rows.is_empty()


@pytest.mark.parametrize("column", ["audio", "picture"])
@pytest.mark.parametrize("name", ["../secret.txt", "/{}/secret.txt", "link.flac"])
def test_read_top_clips_refuses_files_outside_the_folder(tmp_path: Path, column: str, name: str) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "explain"
    write_top_clips(folder, [(choice(), [clip(5.0)])], sound_of=lambda _: Sound(np.zeros(RATE_HZ), RATE_HZ), card={})
    (folder / "link.flac").symlink_to(tmp_path / "secret.txt")
    table = pl.read_parquet(folder / "top_clips.parquet")
    table.with_columns(pl.lit(name.format(tmp_path)).alias(column)).write_parquet(folder / "top_clips.parquet")
    with pytest.raises(DamagedArtifact, match=r"is not inside this folder|is a link out of"):
        read_top_clips(folder)


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
