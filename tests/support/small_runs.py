"""Runs small enough for a test: tiny encoders, a few voices, a few dictionaries."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from otoscope.corpus.audio import write_audio

Tiny = Callable[[str], Path]
"""The fixture `tiny`: the folder of a family's checkpoint."""

RATE_HZ = 16_000
VOICES = ("ann", "bob", "cy", "di", "eve")
CLASSES = {"low": 220.0, "high": 440.0}

SMALL: dict[str, Any] = {
    "splits": {"cross": 0},
    "factors": {"egemaps": False},
    "train": {"latents": 64, "sparsities": [0.75, 0.9], "layers": [1, 3]},
    "report": {"factors": 2, "clips": 1},
}
"""Settings of a run of about a second, on any encoder of three blocks."""

SMALL_STRICT: dict[str, Any] = {
    "seeds": 2,
    "folds": 2,
    "sizes": [1, 2],
    "limit_sparsities": [0.75, 0.9],
    "limit_presets": ["default"],
}
"""A small strict protocol; baselines are to be added."""

SUNG: dict[str, Any] = {
    "kind": "synth",
    "singers": 5,
    "takes": 2,
    "duration_s": 0.5,
    "techniques": ["straight", "breathy", "vibrato"],
}

FOLDER: dict[str, Any] = {"kind": "folder", "root": "voices", "group_pattern": r"(?P<group>[a-z]+)_\d"}
"""What `write_voices` writes, with the voice as the group and the pitch as the class."""


def write_config(path: Path, model: Path | str, corpus: Mapping[str, Any], **sections: Any) -> Path:
    """Write a configuration; a section given here is laid over that of `SMALL`, key by key."""
    merged = dict(SMALL)
    for name, given in sections.items():
        merged[name] = {**SMALL.get(name, {}), **given} if isinstance(given, dict) else given
    path.write_text(yaml.safe_dump({"model": str(model), "corpus": dict(corpus), **merged}), encoding="utf-8")
    return path


def write_voices(root: Path, voices: tuple[str, ...] = VOICES, *, takes: int = 3) -> Path:
    """Write buzzing tones, `CLASS/VOICE_TAKE.wav`: the class is the octave, each voice has its own pitch and timbre."""
    for v, voice in enumerate(voices):
        for name, pitch_hz in CLASSES.items():
            for take in range(takes):
                write_audio(
                    root / name / f"{voice}_{take}.wav", tone(pitch_hz * (1 + 0.03 * v), tilt=v, seed=take), RATE_HZ
                )
    return root


def tone(pitch_hz: float, *, tilt: float = 0.0, seed: int = 0, seconds: float = 0.4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    times_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    partials = [
        np.sin(2 * np.pi * pitch_hz * h * times_s + rng.uniform(0, 6)) / h ** (1 + tilt / 4) for h in range(1, 9)
    ]
    return (0.1 * np.sum(partials, axis=0) + 0.003 * rng.standard_normal(len(times_s))).astype(np.float32)


def stages_of_last_run(folder: Path) -> tuple[list[str], list[str]]:
    """Return the stages that the last run did, and those that it skipped."""
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    last = max(i for i, event in enumerate(events) if event["event"] == "run")
    of = {kind: [e["stage"] for e in events[last:] if e["event"] == kind] for kind in ("finished", "skipped")}
    return of["finished"], of["skipped"]
