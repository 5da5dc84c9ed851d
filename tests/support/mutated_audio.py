"""Sound files of every container, and seeded mutations of their bytes."""

import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from otoscope.corpus.containers.mpeg import parse_frame

RATE_HZ = 16_000

FORMS: dict[str, tuple[str, str]] = {
    "pcm16.wav": ("WAV", "PCM_16"),
    "pcm24.wav": ("WAV", "PCM_24"),
    "float.wav": ("WAV", "FLOAT"),
    "ulaw.wav": ("WAV", "ULAW"),
    "adpcm.wav": ("WAV", "IMA_ADPCM"),
    "long.wav": ("RF64", "PCM_16"),
    "pcm16.w64": ("W64", "PCM_16"),
    "pcm16.aiff": ("AIFF", "PCM_16"),
    "float.aiff": ("AIFF", "FLOAT"),
    "pcm16.au": ("AU", "PCM_16"),
    "pcm16.caf": ("CAF", "PCM_16"),
    "pcm16.sph": ("NIST", "PCM_16"),
    "pcm16.voc": ("VOC", "PCM_16"),
    "pcm16.flac": ("FLAC", "PCM_16"),
    "vorbis.ogg": ("OGG", "VORBIS"),
    "opus.ogg": ("OGG", "OPUS"),
    "vbr.mp3": ("MP3", "MPEG_LAYER_III"),
}
"""Files that libsndfile writes."""

ENCODED = {
    "aac.m4a": ("-c:a", "aac"),
    "wma.wma": (),
    "opus.webm": ("-c:a", "libopus"),
    "alac.caf": ("-c:a", "alac"),
    "flac.oga": ("-c:a", "flac"),
    "mp3.wav": ("-c:a", "libmp3lame"),
}
"""Files that ffmpeg writes, and its options."""

SLACK = {"adpcm.wav": 505, "vorbis.ogg": 2048, "opus.ogg": 960, "vbr.mp3": 1152, "bare.mp3": 1152, "mp3.wav": 1152}
SLACK |= {"aac.m4a": 1024, "wma.wma": 2048, "opus.webm": 960}
"""Samples of a codec's frame; 0 for all others."""


class SoundFile(NamedTuple):
    """Bytes of a file, and its samples per channel."""

    name: str
    data: bytes
    samples: int


def write_all(folder: Path, wave: np.ndarray) -> list[SoundFile]:
    """Write a wave of 16 kHz in every container that can be written here."""
    for name, (form, subtype) in FORMS.items():
        soundfile.write(folder / name, wave, RATE_HZ, format=form, subtype=subtype)
    mp3 = (folder / "vbr.mp3").read_bytes()
    first = parse_frame(mp3)
    assert first is not None
    (folder / "bare.mp3").write_bytes(mp3[first.length :])
    names = [*FORMS, "bare.mp3"]
    program = shutil.which("ffmpeg")
    for name, options in ENCODED.items() if program else ():
        command = [program, "-nostdin", "-v", "error", "-y", "-i", folder / "pcm16.wav", *options, folder / name]
        subprocess.run(command, check=True)
        names.append(name)
    return [SoundFile(name, (folder / name).read_bytes(), len(wave)) for name in names]


def mutate(file: SoundFile, other: SoundFile, rng: np.random.Generator) -> bytes:
    """Return the bytes of a file with one mutation; `other` is another file to splice with."""
    kinds = [_flip, _flip_header, _truncate, _splice, _lose, _field, _zero, _not_a_number, _append, _repeat]
    kind: Callable[[bytearray, SoundFile, np.random.Generator], bytearray] = kinds[rng.integers(len(kinds))]
    return bytes(kind(bytearray(file.data), other, rng))


def _flip(data: bytearray, _: SoundFile, rng: np.random.Generator) -> bytearray:
    for at in rng.integers(0, len(data), rng.integers(1, 9)):
        data[at] ^= 1 << int(rng.integers(8))
    return data


def _flip_header(data: bytearray, _: SoundFile, rng: np.random.Generator) -> bytearray:
    for at in rng.integers(0, min(128, len(data)), rng.integers(1, 4)):
        data[at] = int(rng.integers(256))
    return data


def _truncate(data: bytearray, _: SoundFile, rng: np.random.Generator) -> bytearray:
    return data[: int(rng.integers(1, len(data)))]


def _splice(data: bytearray, other: SoundFile, rng: np.random.Generator) -> bytearray:
    start, at = int(rng.integers(len(other.data))), int(rng.integers(len(data)))
    return data[:at] + other.data[start : start + int(rng.integers(1, 5000))] + data[at:]


def _lose(data: bytearray, _: SoundFile, rng: np.random.Generator) -> bytearray:
    at = int(rng.integers(len(data)))
    return data[:at] + data[at + int(rng.choice([1, 2, 7, 512, 4096])) :]


def _field(data: bytearray, _: SoundFile, rng: np.random.Generator) -> bytearray:
    """Write an extreme number over four bytes of the header."""
    values = [0, 1, 0x7F, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, int(rng.integers(1 << 32))]
    at = int(rng.integers(0, min(100, len(data) - 4)))
    data[at : at + 4] = struct.pack(rng.choice(["<I", ">I"]), values[rng.integers(len(values))])
    return data


def _zero(data: bytearray, _: SoundFile, rng: np.random.Generator) -> bytearray:
    at, count = int(rng.integers(len(data))), int(rng.integers(1, 4000))
    data[at : at + count] = bytes(len(data[at : at + count]))
    return data


def _not_a_number(data: bytearray, _: SoundFile, rng: np.random.Generator) -> bytearray:
    at = int(rng.integers(len(data) // 2, len(data) - 4)) // 4 * 4
    data[at : at + 4] = struct.pack("<f", np.nan)
    return data


def _append(data: bytearray, _: SoundFile, rng: np.random.Generator) -> bytearray:
    tails = [bytes(5000), b"\n<html>" * 500, rng.integers(0, 256, 3000, dtype=np.uint8).tobytes(), b"LIST\4\0\0\0INFO"]
    return data + tails[rng.integers(len(tails))]


def _repeat(data: bytearray, _: SoundFile, rng: np.random.Generator) -> bytearray:
    return data + data[: len(data) if rng.integers(2) else int(rng.integers(1, len(data)))]
