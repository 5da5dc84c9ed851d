"""VocalSet's folder tree with synthesised clips, for tests without the download."""

import re
import zlib
from pathlib import Path
from typing import Literal

from otoscope.corpus.audio import write_audio
from otoscope.corpus.datasets.vocalset import TEST_SINGERS
from otoscope.corpus.synth.dataset import SynthCorpus, render_task

Layout = Literal["by_singer", "train_test"]

IRREGULAR_ONE_IN = 4


def write_vocalset_tree(
    folder: Path, spec: SynthCorpus, *, layout: Layout = "by_singer", irregular: bool = False
) -> list[Path]:
    """Render `spec` into `folder/FULL` in the layout of VocalSet; return the written paths, sorted.

    `by_singer` gives `FULL/female1/long_tones/vibrato/f1_long_vibrato_a.wav`, `train_test` puts `train` or
    `test` (the five published test singers) above the singer. With `irregular`, a quarter of the names have
    errors of the published ones: no singer, a blank, `vibrado`, `straight_tone`.
    """
    written: list[Path] = []
    for task in spec.tasks():
        relative = Path(task.path)
        if irregular:
            relative = relative.with_name(misspelt(relative.name))
        side = ("test" if task.who.name in TEST_SINGERS else "train") if layout == "train_test" else ""
        path = folder / "FULL" / side / relative
        clip = render_task(task, spec)
        write_audio(path, clip.wave, clip.rate_hz)
        written.append(path)
    return sorted(written)


def misspelt(name: str) -> str:
    """Return a name with an error of the published ones; three in four stay unchanged.

    >>> misspelt("f4_scales_straight_u.wav")
    'f4_scales_straight_u.wav'
    """
    draw = zlib.crc32(name.encode())
    if draw % IRREGULAR_ONE_IN:
        return name
    faults = [re.sub(r"^[fm]\d+_", "", name), name.replace("_", "_ ", 1)]
    if "vibrato" in name:
        faults.append(name.replace("vibrato", "vibrado"))
    if "straight" in name:
        faults.append(name.replace("straight", "straight_tone"))
    return faults[draw // IRREGULAR_ONE_IN % len(faults)]
