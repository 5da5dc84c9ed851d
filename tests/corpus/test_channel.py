"""The key and the column `channel`: one channel of a file, the mean of all, or a clip per channel."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import soundfile

from otoscope.activations.plan import clip_keys
from otoscope.corpus.audio import decode, load_clip
from otoscope.corpus.catalog import build_corpus, corpus_from_dict
from otoscope.corpus.checks import shared_recordings
from otoscope.corpus.health import health_summary
from otoscope.corpus.splits import Splits
from otoscope.corpus.streaming import StreamedClip
from otoscope.corpus.table import Corpus
from otoscope.errors import AudioError, ConfigError, CorpusError
from otoscope.factors.egemaps import clip_key

RATE_HZ = 16_000
SPLITS = Splits(valid=0.34, test=0.34)


def channels(seconds: float = 1.0, number: int = 2) -> np.ndarray:
    """Return a tone of its own in every channel."""
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    return np.stack([0.4 * np.sin(2 * np.pi * 300 * (at + 1) * time_s) for at in range(number)], axis=1)


def pitch_hz(wave: np.ndarray) -> float:
    return float(np.abs(np.fft.rfft(wave)).argmax() * RATE_HZ / len(wave))


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """Three recordings of two channels, and one of a single channel."""
    root = tmp_path / "talks"
    root.mkdir()
    for name in ("a", "b", "c"):
        soundfile.write(root / f"{name}.wav", channels(seconds=1 + ord(name) / 1000), RATE_HZ)
    soundfile.write(root / "mono.wav", channels()[:, 0], RATE_HZ)
    return root


def built(tmp_path: Path, **settings: object) -> Corpus:
    return build_corpus(corpus_from_dict(settings), SPLITS, cache=tmp_path / "cache", max_set_aside=0.6)


@pytest.mark.parametrize("name", ["x.wav", "x.flac", "x.aiff"])
def test_decode_reads_the_channel_that_is_asked_for(tmp_path: Path, name: str) -> None:
    soundfile.write(tmp_path / name, channels(number=3), RATE_HZ, subtype="PCM_16")
    stored = soundfile.read(tmp_path / name, dtype="float32")[0]
    for channel in (1, 2, 3):
        np.testing.assert_array_equal(decode(tmp_path / name, channel=channel).wave, stored[:, channel - 1])
    with pytest.raises(AudioError, match="has no channel 4: it has 3 channels"):
        decode(tmp_path / name, channel=4)


def test_decode_reads_a_channel_by_ffmpeg(tmp_path: Path, ffmpeg) -> None:
    soundfile.write(tmp_path / "x.wav", channels(), RATE_HZ)
    encoded = ffmpeg(tmp_path / "x.wav", "x.m4a", "-c:a", "aac")
    assert [pitch_hz(decode(encoded, channel=at).wave) for at in (1, 2)] == pytest.approx([300, 600], abs=2)


def test_a_streamed_channel_is_that_of_the_whole_file(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", channels(), RATE_HZ)
    row = {"path": "x.wav", "start_s": 0.1, "duration_s": 0.5, "channel": 2}
    streamed = StreamedClip(tmp_path, row, rate_hz=RATE_HZ)
    np.testing.assert_array_equal(streamed[0 : len(streamed)], load_clip(tmp_path, row, rate_hz=RATE_HZ))
    with pytest.raises(AudioError, match="channel must be a number from 1 on; got 'left'"):
        load_clip(tmp_path, row | {"channel": "left"}, rate_hz=RATE_HZ)


def test_each_channel_becomes_a_clip_of_the_same_group(tmp_path: Path, talks: Path) -> None:
    corpus = built(tmp_path, kind="folder", root=talks, channel="each")
    names = [f"{name}.wav#channel{at}" for name in "abc" for at in (1, 2)]
    assert corpus.clips["clip_id"].to_list() == [*names, "mono.wav"]
    assert corpus.clips["group"].to_list() == [*(f"{name}.wav" for name in "aabbcc"), "mono.wav"]
    waves = [load_clip(corpus.root, row, rate_hz=RATE_HZ) for row in corpus.clips.iter_rows(named=True)]
    assert [pitch_hz(wave) for wave in waves] == pytest.approx([300, 600] * 3 + [300], abs=1)
    corpus.save(tmp_path / "corpus.parquet")
    assert Corpus.load(tmp_path / "corpus.parquet").fingerprint == corpus.fingerprint


def test_a_file_without_the_channel_is_set_aside(tmp_path: Path, talks: Path) -> None:
    corpus = built(tmp_path, kind="folder", root=talks, channel=2)
    assert corpus.clips["clip_id"].to_list() == ["a.wav#channel2", "b.wav#channel2", "c.wav#channel2"]
    assert corpus.set_aside.rows() == [("mono.wav#channel2", "has no channel 2: it has 1 channel")]


def test_an_unreadable_file_is_set_aside_once(tmp_path: Path, talks: Path) -> None:
    (talks / "bad.wav").write_bytes(b"no sound")
    corpus = built(tmp_path, kind="folder", root=talks, channel="each")
    assert corpus.set_aside["path"].to_list() == ["bad.wav"]


def test_a_table_gives_each_speaker_a_channel(tmp_path: Path, talks: Path) -> None:
    rows = [f"{name}.wav,{at},speaker{name}{at}" for name in "abc" for at in (1, 2)]
    (tmp_path / "talks.csv").write_text("\n".join(["path,channel,group", *rows, "mono.wav,,ann"]) + "\n")
    corpus = built(tmp_path, kind="manifest", table=tmp_path / "talks.csv", root=talks)
    assert corpus.labels == corpus.factors == []
    assert corpus.clips["channel"].to_list() == [1, 2, 1, 2, 1, 2, None]
    assert corpus.clips["group"].n_unique() == 7
    assert shared_recordings(corpus.clips).is_empty()
    mixed = corpus.clips.with_columns(channel=pl.when(pl.col("group") == "speakera1").then(None).otherwise("channel"))
    assert shared_recordings(mixed)["clip_ids"].to_list() == [["a.wav#channel1", "a.wav#channel2"]]
    by_key = clip_keys(corpus, None)
    assert by_key["a.wav#channel1"] != by_key["a.wav#channel2"]
    assert len({clip_key(row) for row in corpus.clips.iter_rows(named=True)}) == 7


@pytest.mark.parametrize("value", ["0", "1.5", "-1", "4000"])
def test_channels_of_a_table_that_no_file_has_are_refused(tmp_path: Path, talks: Path, value: str) -> None:
    (tmp_path / "talks.csv").write_text(f"path,channel\na.wav,1\nb.wav,{value}\n")
    with pytest.raises(CorpusError, match=r"channel is \S+ in line 3; channels are counted from 1 to 1024"):
        built(tmp_path, kind="manifest", table=tmp_path / "talks.csv", root=talks)


@pytest.mark.parametrize("value", [0, -1, 2000, 1.5, True, "left", None])
def test_other_values_of_the_key_are_refused(value: object) -> None:
    with pytest.raises(
        ConfigError, match=r"^corpus\.channel: a channel is a number from 1 to 1024, mean, or each; got"
    ):
        corpus_from_dict({"kind": "folder", "root": "x", "channel": value})


def test_warnings_on_channels_name_the_key_and_end_with_it(tmp_path: Path) -> None:
    wave = channels(seconds=4.0)[:, 0] * np.hanning(4 * RATE_HZ)
    is_first = (np.arange(len(wave)) // RATE_HZ) % 2 == 0
    odd = {
        "anti-phase": wave[:, None] * [1.0, -0.9],
        "speakers": np.stack([wave * is_first, wave * ~is_first], axis=1),
        "dead channel": wave[:, None] * [1.0, 0.0],
        "cancelled": wave[:, None] * [1.0, -1.0],
    }
    for at, (name, sound) in enumerate(odd.items()):
        soundfile.write(tmp_path / f"{name}.wav", sound[at * 100 :], RATE_HZ)
    mean = built(tmp_path, kind="folder", root=tmp_path)
    lines = health_summary(mean.suspects, mean.clips)
    assert all("`channel: " in line for line in lines if "copy" not in line)
    assert mean.suspects["finding"].to_list() == ["anti-phase", "speakers", "dead channel"]
    assert mean.set_aside.rows()[0][1].endswith("its channels cancel in the mono mean; `channel: 1` reads one of them")
    first = built(tmp_path, kind="folder", root=tmp_path, channel=1)
    assert first.clips.height == 4
    assert not {"anti-phase", "speakers", "dead channel"} & set(first.suspects["finding"])
