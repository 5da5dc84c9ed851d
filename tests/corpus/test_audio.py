"""Decoding: what comes out is the sound that went in, or the reason why it cannot."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from otoscope.artifacts import digest
from otoscope.corpus.audio import decode, load_clip, resample, write_audio
from otoscope.corpus.streaming import StreamedClip
from otoscope.errors import AudioError, StorageFull

FORMATS = [
    ("WAV", "PCM_16"),
    ("WAV", "PCM_24"),
    ("WAV", "FLOAT"),
    ("WAV", "ULAW"),
    ("RF64", "PCM_16"),
    ("W64", "PCM_16"),
    ("AIFF", "PCM_16"),
    ("AU", "PCM_16"),
    ("CAF", "PCM_16"),
    ("NIST", "PCM_16"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]


def peak_hz(wave: np.ndarray, rate_hz: int) -> float:
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
    return float(np.argmax(spectrum) * rate_hz / len(wave))


def level_db(wave: np.ndarray) -> float:
    return 20 * np.log10(np.sqrt(np.mean(np.square(wave, dtype=np.float64))) + 1e-12)


@pytest.mark.parametrize(("form", "subtype"), FORMATS)
def test_a_tone_survives_every_format(record, tone, form, subtype):
    rate_hz = 48_000
    path = record(f"tone.{form.lower()}", tone(1000, rate_hz=rate_hz), rate_hz=rate_hz, format=form, subtype=subtype)
    sound = decode(path)
    assert sound.rate_hz == rate_hz
    assert sound.wave.dtype == np.float32
    assert peak_hz(sound.wave, rate_hz) == pytest.approx(1000, abs=rate_hz / len(sound.wave))


@pytest.mark.parametrize(("form", "subtype"), FORMATS)
@pytest.mark.parametrize("left", [0.98, 0.5])
def test_a_cut_file_is_found_out_in_every_format(record, tone, form, subtype, left):
    wave = tone(300, rate_hz=48_000, seconds=1.5)
    path = record(f"cut.{form.lower()}", wave, rate_hz=48_000, format=form, subtype=subtype)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * left)])
    with pytest.raises(AudioError, match=r"truncated: the header declares|lost sync"):
        decode(path)


def test_no_cut_of_a_wav_passes_for_whole(record, tone):
    path = record("cut.wav", tone(seconds=0.1))
    whole = path.read_bytes()
    for kept in [*range(64), *range(64, len(whole), 61), len(whole) - 1]:
        path.write_bytes(whole[:kept])
        with pytest.raises(AudioError, match=r"truncated|empty file|cannot be decoded|too short: 0 samples"):
            decode(path)


def test_a_stream_of_unstated_length_is_read_to_its_end(record, tone):
    path = record("pipe.wav", tone())
    data = bytearray(path.read_bytes())
    at = data.find(b"data")
    data[4:8] = data[at + 4 : at + 8] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert len(decode(path).wave) == len(tone())


def test_a_chunk_of_odd_length_before_the_sound_is_stepped_over(record, tone):
    path = record("noted.wav", tone())
    data = path.read_bytes()
    note = b"note" + (3).to_bytes(4, "little") + b"abc\0"  # bodies are padded to even
    path.write_bytes(data[:12] + note + data[12:])
    assert len(decode(path).wave) == len(tone())
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(AudioError, match="truncated"):
        decode(path)


def test_eight_channels_become_their_mean(record):
    channels = np.random.default_rng(1).uniform(-0.5, 0.5, (2000, 8)).astype(np.float32)
    sound = decode(record("eight.wav", channels, subtype="FLOAT"))
    np.testing.assert_allclose(sound.wave, channels.mean(axis=1), atol=1e-7)


def test_192_khz_come_down_with_pitch_and_level_kept(record, tone, tmp_path):
    record("high.wav", tone(1000, rate_hz=192_000, seconds=0.5), rate_hz=192_000)
    wave = load_clip(tmp_path, {"path": "high.wav", "start_s": 0.0, "duration_s": None}, rate_hz=16_000)
    assert len(wave) == 8000
    assert peak_hz(wave, 16_000) == pytest.approx(1000, abs=2)
    assert level_db(wave[800:-800]) == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.01)


def test_a_segment_is_a_slice_of_the_whole(record):
    path = record("noise.wav", np.random.default_rng(2).uniform(-0.9, 0.9, 22_050), rate_hz=22_050, subtype="FLOAT")
    whole = decode(path).wave
    np.testing.assert_array_equal(decode(path, start_s=0.2, duration_s=0.5).wave, whole[4410 : 4410 + 11_025])
    np.testing.assert_array_equal(decode(path, start_s=0.6).wave, whole[13_230:])


BAD_WAVES = {
    "3 samples": (np.full(3, 0.5), "too short: 3 samples at 16000 Hz; at least 10 ms"),
    "no samples": (np.zeros(0), "too short: 0 samples"),
    "zeros": (np.zeros(1600), "silent: all its samples are equal"),
    "a faint tone": (
        np.sin(np.arange(1600)) * 3e-5,
        r"silent: its peak is 90\.4 dB below full scale; allowed: up to 90 dB",
    ),
    "a constant offset": (np.full(1600, 0.25), "silent: all its samples are equal"),
    "opposite channels": (np.sin(np.arange(1600))[:, None] * [0.5, -0.5], "its channels cancel in the mono mean"),
    "16-bit integers": (np.sin(np.arange(1600)) * 16384, r"its peak is 163\d\d\.?\d*, full scale is 1 \(allowed: 32\)"),
    "integers in one channel": (np.outer(np.sin(np.arange(1600)), [0.1, 99.0]), "integers stored as floats; divide"),
    "NaN": (np.where(np.arange(1600) < 7, np.nan, 0.1), "NaN or infinity in 7 of 1600 samples"),
    "infinity": (np.where(np.arange(1600) == 9, np.inf, 0.1), "NaN or infinity in 1 of 1600 samples"),
}


@pytest.mark.parametrize("name", BAD_WAVES)
def test_sound_that_is_none_is_refused_with_the_reason(record, name):
    wave, reason = BAD_WAVES[name]
    path = record("bad.wav", wave.astype(np.float32), subtype="FLOAT")
    with pytest.raises(AudioError, match=reason):
        decode(path)


@pytest.mark.parametrize("peak", [1.5, 31.0])
def test_float_sound_above_full_scale_is_kept(record, peak):
    wave = (peak * np.sin(np.arange(1600))).astype(np.float32)
    np.testing.assert_array_equal(decode(record("loud.wav", wave, subtype="FLOAT")).wave, wave)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty file"), (b"not a sound at all" * 99, "cannot be decoded"), (b"RIFF\x00\x00", "cannot be decoded")],
)
@pytest.mark.parametrize("name", ["x.wav", "x.flac", "x.mp3", "x.raw"])
def test_files_that_are_no_audio_are_refused(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AudioError, match=reason):
        decode(tmp_path / name)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(AudioError, match="no such file"):
        decode(tmp_path / "absent.wav")
    with pytest.raises(AudioError, match="is a folder"):
        decode(tmp_path)
    (tmp_path / "dangling.wav").symlink_to(tmp_path / "gone.wav")
    with pytest.raises(AudioError, match="broken link"):
        decode(tmp_path / "dangling.wav")


@pytest.mark.parametrize(
    ("start_s", "duration_s", "reason"),
    [
        (0.2, 0.2, "exceeds the recording: the segment lasts from 0.2 s to 0.4 s, the recording 0.25 s"),
        (3.0, None, "exceeds the recording: the segment lasts from 3 s to its end, the recording 0.25 s"),
        (-1.0, None, "starts at 0 s or later; got start_s=-1"),
        (float("nan"), None, "starts at 0 s or later; got start_s=nan"),
        (0.0, 0.0, "lasts more than 0 s; got duration_s=0"),
        (0.0, 0.001, "too short: 16 samples"),
        (0.0, 1 / 16_000, "too short: 1 sample at"),
        (100.0, 120.0, "lasts from 100 s to 220 s, the recording 0.25 s; are its times in milliseconds"),
        (1000.0, 2000.0, "lasts from 1000 s to 3000 s, the recording 0.25 s; are its times in samples"),
    ],
)
def test_segments_outside_the_recording_are_refused(record, start_s, duration_s, reason):
    path = record("quarter.wav")
    with pytest.raises(AudioError, match=reason):
        decode(path, start_s=start_s, duration_s=duration_s)


@given(damage=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("form", ["wav", "flac", "aiff", "ogg"])
def test_damaged_headers_give_sound_or_a_reason_never_a_crash(tmp_path_factory, form, damage):
    path = tmp_path_factory.mktemp("damage") / f"x.{form}"
    soundfile.write(path, np.sin(np.arange(4000) / 9) / 2, 8000)
    data = bytearray(path.read_bytes())
    for at, value in damage:
        data[at] = value
    path.write_bytes(data)
    try:
        sound = decode(path)
    except AudioError:
        return  # any other exception fails the test
    assert np.isfinite(sound.wave).all()
    assert sound.rate_hz > 0


def test_resampling_keeps_what_fits_and_removes_what_does_not(tone):
    low = resample(tone(1000, rate_hz=48_000, seconds=1), from_hz=48_000, to_hz=16_000)
    high = resample(tone(10_000, rate_hz=48_000, seconds=1), from_hz=48_000, to_hz=16_000)
    inner = slice(800, -800)  # the ends ring where the tone is cut off
    np.testing.assert_allclose(low[inner], tone(1000, rate_hz=16_000, seconds=1)[inner], atol=2e-5)
    assert level_db(high[inner]) < -90.0


@given(samples=st.integers(200, 5000), to_hz=st.sampled_from([8000, 16_000, 22_050, 24_000, 48_000]))
@settings(max_examples=30, deadline=None)
def test_resampled_length_follows_the_rates(samples, to_hz):
    wave = np.random.default_rng(samples).uniform(-0.5, 0.5, samples).astype(np.float32)
    assert len(resample(wave, from_hz=44_100, to_hz=to_hz)) == pytest.approx(samples * to_hz / 44_100, abs=1)


def test_the_same_rate_changes_nothing_and_zero_is_no_rate(tone):
    np.testing.assert_array_equal(resample(tone(), from_hz=16_000, to_hz=16_000), tone())
    with pytest.raises(AudioError, match="must be positive; got 16000 Hz to 0 Hz"):
        resample(tone(), from_hz=16_000, to_hz=0)


def test_a_bad_clip_is_named(record, tmp_path):
    record("sung/flat.wav", np.zeros(1600))
    with pytest.raises(AudioError, match=r"sung/flat\.wav: silent"):
        load_clip(tmp_path, {"path": "sung/flat.wav", "start_s": 0.0, "duration_s": None}, rate_hz=16_000)
    with pytest.raises(AudioError, match=r"seconds as floats; got '0', None"):
        load_clip(tmp_path, {"path": "sung/flat.wav", "start_s": "0", "duration_s": None}, rate_hz=16_000)


def test_a_file_that_changed_after_the_corpus_stage_is_refused(record, tone, tmp_path):
    path = record("x.wav", tone(440))
    clip = {"path": "x.wav", "start_s": 0.0, "duration_s": None, "digest": digest(path)}
    assert len(load_clip(tmp_path, clip, rate_hz=16_000)) == 4000
    state, data = path.stat(), path.read_bytes()
    record("x.wav", tone(550))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))  # same size, same time of modification
    for load in (lambda: load_clip(tmp_path, clip, rate_hz=16_000), lambda: StreamedClip(tmp_path, clip, rate_hz=8000)):
        with pytest.raises(AudioError, match=r"x\.wav: changed after the corpus stage .* run `otoscope corpus` again"):
            load()
    path.write_bytes(data)
    assert len(load_clip(tmp_path, clip, rate_hz=16_000)) == 4000


def test_a_file_that_changes_while_it_is_streamed_is_refused(record, tone, tmp_path):
    path = record("x.wav", tone(440, seconds=1.0))
    clip = {"path": "x.wav", "start_s": 0.0, "duration_s": None, "digest": digest(path)}
    streamed = StreamedClip(tmp_path, clip, rate_hz=16_000)
    record("x.wav", tone(550, seconds=1.0))
    with pytest.raises(AudioError, match="changed after the corpus stage"):
        streamed[0:16_000]


@given(wave=arrays(np.float32, st.integers(200, 400), elements=st.floats(-1, 1, width=32)))
@settings(max_examples=40, deadline=None)
def test_written_sound_reads_back_to_half_a_step(tmp_path_factory, wave):
    path = tmp_path_factory.mktemp("written") / "x.wav"
    write_audio(path, wave, 16_000)
    back, rate_hz = soundfile.read(path, dtype="float32")
    assert rate_hz == 16_000
    # full scale itself has no step of its own: +1 becomes 32767 / 32768
    np.testing.assert_allclose(back, np.minimum(wave, 32767 / 32768), atol=2.0**-16)


def test_the_same_sound_is_the_same_bytes(tmp_path, tone):
    for name in ("a.wav", "b.wav"):
        write_audio(tmp_path / name, tone(), 16_000)
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


@pytest.mark.parametrize(("value", "reason"), [(1.5, "the peak is 1.5"), (np.nan, "the peak is nan")])
def test_sound_that_would_clip_is_not_written(tmp_path, value, reason):
    with pytest.raises(AudioError, match=reason):
        write_audio(tmp_path / "x.wav", np.full(400, value, dtype=np.float32), 16_000)
    with pytest.raises(AudioError, match=r"only; got x\.mp3"):
        write_audio(tmp_path / "x.mp3", np.zeros(400, dtype=np.float32), 16_000)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file(tmp_path, tone, monkeypatch):
    write_audio(tmp_path / "x.wav", tone(440), 16_000)
    before = (tmp_path / "x.wav").read_bytes()

    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageFull, match="no room left"):
        write_audio(tmp_path / "x.wav", tone(880), 16_000)
    assert [p.name for p in tmp_path.iterdir()] == ["x.wav"]
    assert (tmp_path / "x.wav").read_bytes() == before


@pytest.mark.parametrize("name", ["ann_0.WAV", "ann_0", "Ann_0.flac"])
def test_a_file_that_differs_in_case_or_extension_is_named(record, tmp_path, name):
    path = record("ann_0.wav")
    with pytest.raises(AudioError, match=r"no such file: its folder has 'ann_0\.wav'"):
        decode(path.with_name(name))
    with pytest.raises(AudioError, match=r"no such file$"):
        decode(tmp_path / "bob_0.wav")
