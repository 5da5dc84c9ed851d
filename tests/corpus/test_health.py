"""Broken data that can be decoded are listed with the rule that they meet; healthy sound is not."""

import numpy as np
import polars as pl
import pytest
import soundfile

from otoscope.corpus.checks import check_clips
from otoscope.corpus.health import count_suspects, health_summary
from otoscope.corpus.listing import Listing, listing_table

RATE_HZ = 16_000


def speech(seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    """Return smooth noise with syllables, faded at both ends."""
    rng = np.random.default_rng(seed)
    samples = round(seconds * RATE_HZ)
    smooth = np.convolve(rng.standard_normal(samples + 30), np.hanning(31), "valid")
    time_s = np.arange(samples) / RATE_HZ
    fade = np.minimum(1, np.minimum(time_s, time_s[::-1]) / 0.1)
    return 0.05 * smooth * fade * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time_s))


def turns(seconds: float = 4.0) -> np.ndarray:
    """Return two speakers who take turns of a second, each on a channel."""
    wave = speech(seconds)
    is_first = (np.arange(len(wave)) // RATE_HZ) % 2 == 0
    return np.stack([wave * is_first, wave * ~is_first], axis=1)


def padded(seconds: float) -> np.ndarray:
    return np.concatenate([speech(1.0), np.zeros(round(seconds * RATE_HZ))])


def lost_byte(wave: np.ndarray) -> np.ndarray:
    """Return 16-bit samples after a quarter of which a byte is lost."""
    data = np.round(wave * 32767).astype("<i2").tobytes()
    cut = len(data) // 8 * 2
    return np.frombuffer(data[:cut] + data[cut + 1 :] + b"\0", "<i2")


BROKEN = {
    "noise": (lost_byte(6 * speech()), "75%"),
    "anti-phase": (speech()[:, None] * [1.0, -0.9], "-23 dB"),
    "speakers": (turns(), "50% and 50% of the time"),
    "dead channel": (speech()[:, None] * [1.0, 0.0], "2 of 2"),
    "offset": (speech() - speech().mean() + 0.3, "+0.300"),
    "silence": (padded(3.0), "75%"),
    "loud": (speech() * 20, None),
    "clipped": (np.clip(3 * speech(), -0.1, 0.1), None),
    "cut": (speech()[: 3 * RATE_HZ // 2], None),
}

HEALTHY = {
    "speech": speech(),
    "stereo": np.stack([speech(), 0.5 * speech() + 0.5 * speech(seed=1)], axis=1),
    "ambience": np.stack([speech(), speech(seed=1)], axis=1),
    "a pause": np.concatenate([speech(), np.zeros(RATE_HZ // 2), speech(seed=2)]),
    "a small offset": speech() + 0.004,
    "a low sine": speech(8.0)[: RATE_HZ * 4] * 0.01
    + 0.5
    * np.sin(2 * np.pi * 50 * np.arange(4 * RATE_HZ) / RATE_HZ)
    * np.minimum(1, (4 - np.arange(4 * RATE_HZ) / RATE_HZ) / 0.1),
}


def lossy(tmp_path, peak: float, subtype: str):
    """Return the findings on a recording whose decoded peak is about `peak`, in a lossy format."""
    wave = speech()
    soundfile.write(tmp_path / "x.ogg", peak * wave / np.abs(wave).max(), RATE_HZ, subtype=subtype)
    rows = [{"path": "x.ogg", "group": "x"}]
    return check_clips(Listing("x", tmp_path, "", "", listing_table(rows))).suspects.rows()


def suspects(tmp_path, waves: dict[str, np.ndarray]) -> list[tuple[str, str, str]]:
    for name, wave in waves.items():
        subtype = "PCM_16" if wave.dtype == np.int16 else "FLOAT"
        soundfile.write(tmp_path / f"{name}.wav", wave, RATE_HZ, subtype=subtype)
    rows = [{"path": f"{name}.wav", "group": name} for name in waves]
    return check_clips(Listing("x", tmp_path, "", "", listing_table(rows))).suspects.rows()


@pytest.mark.parametrize("finding", BROKEN)
def test_each_kind_of_broken_data_is_found(tmp_path, finding):
    wave, detail = BROKEN[finding]
    found = suspects(tmp_path, {finding: wave})
    assert all(clip_id == f"{finding}.wav" for clip_id, _, _ in found)
    assert found[0][1] == finding
    assert detail in (None, found[0][2])


def test_flat_tops_are_counted_across_blocks_and_in_one_channel_of_two(tmp_path):
    clipped = np.clip(3 * speech(6.0), -0.1, 0.1)
    (found,) = suspects(tmp_path, {"stereo": np.stack([clipped, speech(6.0, seed=1)], axis=1)})
    assert found[:2] == ("stereo.wav", "clipped")
    tops = int(found[2].split()[0].replace(",", ""))
    runs = np.diff(np.flatnonzero(np.abs(np.diff((np.abs(clipped) >= 0.1).astype(int)))))[::2]
    assert 0.5 * np.count_nonzero(runs >= 3) <= tops <= np.count_nonzero(runs >= 3)
    few = speech(6.0)
    few[RATE_HZ : RATE_HZ + 5] = 1.0
    assert suspects(tmp_path, {"few": few}) == []


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_the_overshoot_of_lossy_formats_is_no_suspect(tmp_path, subtype):
    assert lossy(tmp_path, 1.3, subtype) == []
    ((_, finding, detail),) = lossy(tmp_path, 3.0, subtype)
    assert finding == "loud"
    assert float(detail) > 2


def test_a_finding_on_a_quarter_of_the_clips_is_a_property_of_the_corpus(tmp_path):
    healthy, cut = {str(seed): speech(1.0, seed) for seed in range(8)}, speech()[: 3 * RATE_HZ // 2]
    waves = healthy | {"cut1": cut, "cut2": cut * 0.9, "cut3": cut * 0.8}
    for name, wave in waves.items():
        soundfile.write(tmp_path / f"{name}.wav", wave, RATE_HZ, subtype="FLOAT")

    def found(*names: str) -> tuple[list[tuple[str | None, str, str]], list[str]]:
        table = listing_table([{"path": f"{name}.wav", "group": name} for name in names])
        checked = check_clips(Listing("x", tmp_path, "", "", table))
        suspects = checked.suspects.with_columns(detail=pl.col("detail").str.replace(".*dB", "dB"))
        return suspects.rows(), health_summary(checked.suspects, checked.clips)

    rows, lines = found(*waves)
    assert rows == [(None, "cut", "3 of 11 clips")]
    assert lines == [
        "property of the corpus: 3 of 11 clips with no fade at the end: the last 10 ms are as loud as the whole clip, "
        "within 6 dB"
    ]
    rows, lines = found(*healthy, "cut1", "cut2")
    assert rows == [("cut1.wav", "cut", "dB"), ("cut2.wav", "cut", "dB")]
    assert lines[0].startswith("suspect: 2 clips with no fade at the end")


def test_copies_and_noise_are_listed_however_many(tmp_path):
    waves = {str(at): lost_byte(6 * speech()) for at in range(12)}
    found = suspects(tmp_path, waves)
    assert len([row for row in found if row[1] == "copy"]) == 12
    assert len([row for row in found if row[1] == "noise"]) == 12
    table = pl.DataFrame(found, schema=["clip_id", "finding", "detail"], orient="row")
    assert count_suspects(table) == "12 suspects with 24 findings"


def test_healthy_sound_is_no_suspect(tmp_path):
    assert suspects(tmp_path, HEALTHY) == []


def test_copies_are_found_across_formats_and_names(record, tmp_path):
    wave = np.round(speech() * 32767).astype(np.int16)
    for name in ("a.wav", "b/c.flac", "b/d.aiff"):
        record(name, wave)
    record("other.wav", np.round(speech(seed=3) * 32767).astype(np.int16))
    rows = [{"path": path, "group": path} for path in ("a.wav", "b/c.flac", "b/d.aiff", "other.wav")]
    checked = check_clips(Listing("x", tmp_path, "", "", listing_table(rows)))
    assert checked.suspects.rows() == [
        ("a.wav", "copy", "b/c.flac"),
        ("b/c.flac", "copy", "a.wav"),
        ("b/d.aiff", "copy", "a.wav"),
    ]
    assert health_summary(checked.suspects, checked.clips) == [
        "suspect: 3 clips with the same sound under another name (a.wav, b/c.flac, b/d.aiff)"
    ]


def test_a_header_that_contradicts_the_sound_is_reported(record, tmp_path):
    path = record("x.wav", speech())
    data = bytearray(path.read_bytes())
    at = data.find(b"data") + 4
    data[at : at + 4] = bytes(4)
    path.write_bytes(data)
    listing = Listing("x", tmp_path, "", "", listing_table([{"path": "x.wav", "group": "x"}]))
    assert check_clips(listing).suspects.rows() == [
        ("x.wav", "header", "its header declares 0 bytes of sound, 64,000 were read")
    ]


def test_clips_of_one_length_are_named(tmp_path):
    waves = {str(seed): speech(1.0, seed) for seed in range(10)}
    for name, wave in waves.items():
        soundfile.write(tmp_path / f"{name}.wav", wave, RATE_HZ, subtype="FLOAT")
    listing = Listing("x", tmp_path, "", "", listing_table([{"path": f"{name}.wav", "group": name} for name in waves]))
    checked = check_clips(listing)
    (line,) = health_summary(checked.suspects, checked.clips)
    assert line == "property of the corpus: 10 of 10 files last exactly 1 s, as if cut or padded"
    assert health_summary(checked.suspects, checked.clips, lengths=False) == []
    assert health_summary(checked.suspects, checked.clips.head(9)) == []


def test_the_level_of_an_end_as_loud_as_the_clip_has_no_minus_sign(tmp_path):
    wave = (0.2 * np.sign(np.sin(np.arange(RATE_HZ) * 0.3))).astype(np.float32)
    wave[-200:] *= 0.995
    ((_, finding, detail),) = suspects(tmp_path, {"square": wave})
    assert (finding, detail) == ("cut", "+0 dB")
