"""Mutated sound files: each has the length that ffmpeg or the original has, or is set aside with a reason.

Lossless ones also have the samples of either.
"""

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from otoscope.corpus.audio import decode, load_audio
from otoscope.corpus.decoding import open_sound
from otoscope.corpus.streaming import measure_clip
from otoscope.errors import AudioError
from tests.support.fuzzing import limits, mutations
from tests.support.mutated_audio import RATE_HZ, SLACK, SoundFile, mutate, write_all

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg decides")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[SoundFile]:
    """Return a recording of a rooster in every container; without recordings at hand, a noise."""
    recordings = Path(__file__).parents[3] / "shared" / "data" / "esc10" / "009 - Rooster"
    if recordings.is_dir():
        wave = load_audio(min(recordings.iterdir()), rate_hz=RATE_HZ)[: 2 * RATE_HZ + 123]
    else:
        wave = np.random.default_rng(0).uniform(-0.3, 0.3, 2 * RATE_HZ + 123)
    return write_all(tmp_path_factory.mktemp("containers"), np.clip(wave, -0.9, 0.9))


class Decoded(NamedTuple):
    """Mean of the channels and rate, as ffmpeg decodes them."""

    wave: np.ndarray
    rate_hz: int


def decoded(path: Path, *options: str) -> Decoded | None:
    """Return what ffmpeg decodes; None if it finds no sound or reports an error."""
    command = ["ffmpeg", "-nostdin", "-v", "error", *options, "-i", str(path), "-map", "0:a:0"]
    command += ["-c:a", "pcm_f32be", "-f", "au", "-"]
    done = subprocess.run(command, check=False, capture_output=True, timeout=60)
    head = done.stdout[:24]
    if len(head) < 24:
        return None
    offset, _, _, rate_hz, channels = (int.from_bytes(head[at : at + 4], "big") for at in range(4, 24, 4))
    whole = (len(done.stdout) - offset) // (4 * channels) * channels
    return Decoded(np.frombuffer(done.stdout, ">f4", whole, offset).reshape(-1, channels).mean(axis=1), rate_hz)


def readings(path: Path) -> list[Decoded]:
    """Return what ffmpeg reads with and without the length in a WAV header."""
    both = [decoded(path), decoded(path, "-ignore_length", "true") if path.suffix == ".wav" else None]
    return [reading for reading in both if reading is not None]


@pytest.mark.parametrize("seed", mutations(12))
def test_a_mutated_file_is_read_as_ffmpeg_does_or_set_aside(files: list[SoundFile], tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    file, other = files[seed % len(files)], files[rng.integers(len(files))]
    path = tmp_path / file.name
    path.write_bytes(mutate(file, other, rng))
    try:
        with limits():
            clip = measure_clip(path)
            with open_sound(path) as sound:
                channels = sound.channels
    except AudioError:
        return
    slack = SLACK.get(file.name, 0)
    length_s, slack_s = clip.samples / clip.rate_hz, slack / clip.rate_hz
    # a header that misleads ffmpeg leaves the original as the truth, once or twice
    truth_s = file.samples / RATE_HZ
    if channels != 1 or not any(abs(length_s - times * truth_s) <= times * slack_s for times in (1, 2)):
        found = readings(path)
        equal = any(
            abs(length_s - len(one.wave) / one.rate_hz) <= slack_s + 1e-9
            # ffmpeg rounds a rate that is no whole number of hertz down
            or (abs(clip.samples - len(one.wave)) <= slack and abs(clip.rate_hz - one.rate_hz) <= 1)
            for one in found
        )
        lengths = [(len(one.wave), one.rate_hz) for one in found]
        assert equal, f"{clip.samples} at {clip.rate_hz} Hz; ffmpeg {lengths}, original {truth_s:.4f} s"
    if not slack:
        assert_samples(path, file)


def assert_samples(path: Path, file: SoundFile) -> None:
    """Assert that a lossless file is read as the original, once or twice, or as ffmpeg reads it."""
    (path.parent / f"original-{file.name}").write_bytes(file.data)
    wave, original = decode(path).wave, decode(path.parent / f"original-{file.name}").wave
    changed = np.count_nonzero(~np.isclose(wave, original, atol=1e-4)) if len(wave) == len(original) else len(wave)
    # a few bytes of uncompressed sound may have changed where ffmpeg refuses the header
    if changed > MOST_FLIPS and not is_same(wave, np.tile(original, 2)):
        assert any(is_same(wave, one.wave) for one in readings(path)), "other samples than the original and ffmpeg"


MOST_FLIPS = 8
"""Most bytes that a mutation changes one by one."""


def is_same(wave: np.ndarray, expected: np.ndarray) -> bool:
    return len(wave) == len(expected) and np.allclose(wave, expected, rtol=1e-5, atol=1e-4)
