"""Sing a whole corpus into a folder: in threads, skipping what is already there."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import polars as pl

from otoscope.artifacts import environment, read_json, read_table, write_json, write_table
from otoscope.corpus.audio import write_audio
from otoscope.corpus.listing import Progress, listed
from otoscope.corpus.synth.sing import Performance, sing
from otoscope.corpus.synth.spec import SynthCorpus, Task
from otoscope.errors import CorpusError

CARD, CLIPS, TRUTH = "synth.json", "clips.parquet", "truth.parquet"
BEGUN = ".synth.json"
"""Says whose a folder is while it is sung into, so that a song that was cut off can go on."""


class _Sung(NamedTuple):
    row: dict[str, object]
    truth: pl.DataFrame


def sing_all(
    spec: SynthCorpus, root: Path, *, on_progress: Progress | None = None, threads: int | None = None
) -> pl.DataFrame:
    """Sing every clip of `spec` under `root`; return the listing's table.

    The card is written last: with it in place only missing WAV files are sung again, without it (a run that
    was cut off) all are sung and the missing ones written. Files never differ between the two, nor with `threads`.
    """
    tasks = spec.tasks()
    whole = _is_whole(spec, root)
    due = [task for task in tasks if not (root / task.path).is_file()] if whole else tasks
    if not whole:
        write_json(root / BEGUN, {"fingerprint": spec.fingerprint})
    sung = _sing_in_threads(due, spec, root, on_progress=on_progress, threads=threads)
    if whole:
        return read_table(root / CLIPS)
    clips = listed([one.row for one in sung])
    write_table(root / TRUTH, pl.concat([one.truth for one in sung]))
    write_table(root / CLIPS, clips)
    card = {"fingerprint": spec.fingerprint, "spec": spec.model_dump(mode="json"), "clips": clips.height}
    write_json(root / CARD, {**card, "environment": environment()})
    (root / BEGUN).unlink(missing_ok=True)
    return clips


def refuse_others(spec: SynthCorpus, root: Path) -> None:
    """Raise `CorpusError` unless `spec` may be sung into a folder: a new or an empty one, or one that it was sung into.

    Among other recordings sung ones would be taken for theirs; among those of other settings, old sound for new.
    """
    if root.exists() and not root.is_dir():
        raise CorpusError(f"{root} is a file; name a new folder to sing into")
    for name in (CARD, BEGUN):
        if (root / name).is_file():
            if read_json(root / name)["fingerprint"] == spec.fingerprint:
                return
            raise CorpusError(f"{root} holds a corpus sung with other settings; name a new or an empty folder")
    others = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    if others:
        some = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        raise CorpusError(f"{root} holds what synth did not write ({some}); name a new or an empty folder")


def _is_whole(spec: SynthCorpus, root: Path) -> bool:
    if not all((root / name).is_file() for name in (CARD, CLIPS, TRUTH)):
        return False
    return read_json(root / CARD)["fingerprint"] == spec.fingerprint


def _sing_in_threads(
    tasks: Sequence[Task], spec: SynthCorpus, root: Path, *, on_progress: Progress | None, threads: int | None
) -> list[_Sung]:
    sung: list[_Sung] = []

    def one_task(task: Task) -> _Sung:
        return _sing_one(task, spec, root)

    # the kernels, the FFT and the random numbers release the interpreter's lock
    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        for done, one in enumerate(pool.map(one_task, tasks), start=1):
            sung.append(one)
            if on_progress is not None:
                on_progress(done, len(tasks))
    return sung


def sing_task(task: Task, spec: SynthCorpus) -> Performance:
    """Sing one clip of a corpus."""
    return sing(
        task.who,
        task.technique,
        task.vowel,
        task.pattern,
        duration_s=spec.duration_s,
        rate_hz=spec.rate_hz,
        seed=task.seed,
    )


def _sing_one(task: Task, spec: SynthCorpus, root: Path) -> _Sung:
    clip = sing_task(task, spec)
    path = root / task.path
    if not path.is_file():
        write_audio(path, clip.wave, clip.rate_hz)
    row: dict[str, object] = {
        "path": task.path,
        "group": task.who.name,
        "label_technique": task.technique,
        "label_vowel": task.vowel,
        "label_context": task.pattern,
        "label_gender": task.who.gender,
        **{f"factor_{name}": value for name, value in clip.factors.items()},
    }
    truth = pl.DataFrame(
        {
            "path": [task.path] * len(clip.f0_hz),
            "time_s": clip.frame_times_s,
            "f0_hz": clip.f0_hz,
            "loudness_db": clip.loudness_db,
        }
    )
    return _Sung(row, truth)
