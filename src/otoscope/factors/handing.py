"""Clips measured by many workers into one cache, from where the table is then gathered."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl

from otoscope.executors.base import Engine, results
from otoscope.factors.egemaps import CLIPS_A_PART, feature_names, measure_egemaps


def measure_ahead(
    clips: pl.DataFrame,
    root: Path,
    *,
    cache: Path,
    engine: Engine,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Have the eGeMAPS functionals of clips measured into a cache that all workers reach.

    What is there already is not measured again, and values do not depend on who measured them.
    Raises `MissingExtra` without openSMILE, before anything is handed out.
    """
    feature_names()
    parts = [clips[start : start + CLIPS_A_PART] for start in range(0, clips.height, CLIPS_A_PART)]
    done = 0
    for place, _ in results(engine, partial(_Measurer, root, cache), parts):
        done += parts[place].height
        if on_progress is not None:
            on_progress(done, clips.height)


class _Measurer:
    """Measures parts of a corpus."""

    def __init__(self, root: Path, cache: Path) -> None:
        self._root, self._cache = root, cache

    def __call__(self, clips: pl.DataFrame) -> int:
        measure_egemaps(clips, self._root, cache=self._cache, workers=1)
        return clips.height
