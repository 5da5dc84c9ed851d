"""Mutated sound files: each has the length that ffmpeg or the original has, or is set aside with a reason."""

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from otoscope.corpus.audio import load_audio
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
    """Samples per channel and rate, as ffmpeg decodes them."""

    samples: float
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
    return Decoded((len(done.stdout) - offset) / (4 * channels), rate_hz)


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
        readings = [decoded(path), decoded(path, "-ignore_length", "true") if path.suffix == ".wav" else None]
        found = [reading for reading in readings if reading is not None]
        equal = any(
            abs(length_s - one.samples / one.rate_hz) <= slack_s + 1e-9
            # ffmpeg rounds a rate that is no whole number of hertz down
            or (abs(clip.samples - one.samples) <= slack and abs(clip.rate_hz - one.rate_hz) <= 1)
            for one in found
        )
        assert equal, f"{clip.samples} at {clip.rate_hz} Hz; ffmpeg {found}, original {truth_s:.4f} s"
