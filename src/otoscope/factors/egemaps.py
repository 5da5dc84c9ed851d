"""The 88 functionals of eGeMAPSv02 for every clip, measured once per content.

The Geneva minimalistic acoustic parameter set, extended (Eyben et al., IEEE Trans. Affective
Computing 7(2), 2016), through openSMILE (extra `factors`). openSMILE's licence allows private,
research and educational use only; commercial use needs a licence from audEERING.

All clips are resampled to one rate first, so that factors are comparable within a corpus of mixed
rates. openSMILE releases the GIL and creates a new engine for every clip, so threads are efficient;
values do not depend on their number. Workers on other machines measure into the same cache.
"""

import math
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float32, Float64

from otoscope.artifacts import fingerprint, read_table, write_table
from otoscope.corpus.audio import load_clip
from otoscope.errors import AudioError, DamagedArtifact, MissingExtra
from otoscope.executors.base import Executor, run_tasks
from otoscope.hardware import available_cores

SOURCE = "eGeMAPSv02"
"""Source of the factors on their cards."""

RATE_HZ = 16_000
"""Sample rate of the measurement."""

SHORTEST_S = 0.060
"""Length of openSMILE's longest window; shorter clips have no functionals."""

FACTORS = 88

CLIPS_PER_PART = 128
"""Clips written to the cache at once; a killed run loses at most this many."""

Load = Callable[[Mapping[str, object]], Float32[np.ndarray, " samples"]]
_Item = tuple[str, Mapping[str, object]]


class Egemaps(NamedTuple):
    """Result: `table` with `clip_id` and 88 factors (NaN if not measured), `failed` with `clip_id, reason`."""

    table: pl.DataFrame
    failed: pl.DataFrame


class _Measured(NamedTuple):
    values: Float64[np.ndarray, " factors"]
    reason: str | None = None
    cacheable: bool = True


def _failure(reason: str, *, cacheable: bool) -> _Measured:
    return _Measured(np.full(FACTORS, math.nan), reason, cacheable)


def measure_egemaps(
    clips: pl.DataFrame,
    root: Path,
    *,
    cache: Path | None = None,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    load: Load | None = None,
) -> Egemaps:
    """Measure every clip of `Corpus.clips`, in the same order.

    Args:
        clips: with `clip_id, path, start_s, duration_s, digest`, and any `channel`.
        root: folder that `path` is relative to.
        cache: folder of finished clips, keyed by content; a killed run resumes from it.
        workers: threads; default: all cores.
        on_progress: called with the number of clips done and the total.
        load: decoder of one row at `RATE_HZ`; default: `load_clip`.

    The values of a clip that is too short, cannot be decoded or makes openSMILE fail are NaN, with a
    reason in `failed`. Raises `MissingExtra` without openSMILE.
    """
    names = feature_names()
    loader = load or partial(load_clip, root, rate_hz=RATE_HZ)
    rows = list(clips.select("clip_id", "path", "start_s", "duration_s", "digest", "^channel$").iter_rows(named=True))
    keys = [clip_key(row) for row in rows]
    known = dict(_read_cache(cache, names)) if cache is not None else {}
    waiting = {key: row for key, row in zip(keys, rows, strict=True) if key not in known}
    done = len(rows) - sum(key in waiting for key in keys)
    copies = Counter(keys)
    report = on_progress or _ignore_progress
    if done:
        report(done, len(rows))

    with warnings.catch_warnings(), ThreadPoolExecutor(workers or available_cores()) as pool:
        # openSMILE's wrapper warns about clips without values; the reason is reported instead
        warnings.simplefilter("ignore", UserWarning)
        for part in _parts(list(waiting.items()), CLIPS_PER_PART):
            fresh: dict[str, _Measured] = {}
            for key, measured in zip((k for k, _ in part), pool.map(partial(_measure, loader), part), strict=True):
                fresh[key] = measured
                done += copies[key]
                report(done, len(rows))
            known |= fresh
            if cache is not None:
                _write_part(cache, {key: measured for key, measured in fresh.items() if measured.cacheable}, names)

    values = np.stack([known[key].values for key in keys])
    reasons = [(row["clip_id"], known[key].reason) for row, key in zip(rows, keys, strict=True) if known[key].reason]
    table = pl.DataFrame({"clip_id": clips["clip_id"]}).hstack(pl.DataFrame(values, schema=list(names), orient="row"))
    return Egemaps(table, pl.DataFrame(reasons, schema={"clip_id": pl.String, "reason": pl.String}, orient="row"))


def feature_names() -> tuple[str, ...]:
    """Return the names of the 88 functionals, in openSMILE's order; raise `MissingExtra` without it."""
    return tuple(_smile().feature_names)


def egemaps_identity() -> str:
    """Return the version and the rate of the measurement; "absent" without openSMILE."""
    try:
        return f"eGeMAPSv02 opensmile-{version('opensmile')} {RATE_HZ} Hz"
    except PackageNotFoundError:
        return "absent"


def clip_key(clip: Mapping[str, object]) -> str:
    """Return a fingerprint of a clip's audio and of the measurement."""
    channel = clip.get("channel")
    sound = (clip["digest"], clip["start_s"], clip["duration_s"], *(() if channel is None else (channel,)))
    return fingerprint(*sound, egemaps_identity())


def _smile() -> Any:
    try:
        import opensmile
    except ImportError as error:
        raise MissingExtra(
            'eGeMAPS factors need openSMILE; pip install "otoscope[factors]", or set factors.egemaps to false'
        ) from error
    return opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02, feature_level=opensmile.FeatureLevel.Functionals
    )


_LOCAL = threading.local()


def _measure(load: Load, item: _Item) -> _Measured:
    try:
        wave = load(item[1])
    except AudioError as error:
        return _failure(str(error), cacheable=False)
    if len(wave) < SHORTEST_S * RATE_HZ:
        return _failure(
            f"{len(wave) / RATE_HZ * 1000:.0f} ms is too short for openSMILE ({SHORTEST_S * 1000:.0f} ms)",
            cacheable=True,
        )
    if not hasattr(_LOCAL, "smile"):
        _LOCAL.smile = _smile()
    # openSMILE's wrapper casts to 16 bits without clipping: full scale would overflow to the opposite sign
    safe = np.clip(wave, -1.0, 1.0 - 2.0**-15)
    try:
        values = np.asarray(_LOCAL.smile(safe, RATE_HZ), dtype=np.float64).reshape(-1)
    except Exception as error:  # noqa: BLE001 - one failure must not stop the other clips
        return _failure(f"openSMILE failed: {error}", cacheable=False)
    if not np.isfinite(values).all():
        return _failure("openSMILE gave no value", cacheable=True)
    return _Measured(values)


def _read_cache(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, _Measured]]:
    for path in sorted(folder.glob("*.parquet")):
        part = None
        with suppress(DamagedArtifact):
            part = read_table(path)
        if part is None or part.columns != ["key", "reason", *names]:
            # the clips are measured again
            path.unlink(missing_ok=True)
            continue
        values = part.select(names).to_numpy()
        for key, reason, row in zip(part["key"], part["reason"], values, strict=True):
            yield key, _Measured(row, reason)


def _write_part(folder: Path, measured: Mapping[str, _Measured], names: Sequence[str]) -> None:
    if not measured:
        return
    values = np.stack([one.values for one in measured.values()])
    reasons = pl.Series("reason", [one.reason for one in measured.values()], dtype=pl.String)
    part = pl.DataFrame({"key": list(measured), "reason": reasons}).hstack(
        pl.DataFrame(values, schema=list(names), orient="row")
    )
    # the name is a fingerprint of the content, so that runs can share a cache
    write_table(folder / f"{fingerprint(list(measured))}.parquet", part)


def _parts(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _ignore_progress(_done: int, _total: int) -> None:
    """Ignore progress."""


def measure_in_parallel(
    clips: pl.DataFrame,
    root: Path,
    *,
    cache: Path,
    executor: Executor,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Measure eGeMAPS functionals with an executor into a cache that all workers can access.

    Cached clips are skipped; values do not depend on the worker. Raises `MissingExtra` without
    openSMILE, before any task is started.
    """
    feature_names()
    parts = [clips[start : start + CLIPS_PER_PART] for start in range(0, clips.height, CLIPS_PER_PART)]
    done = 0
    for index, _ in run_tasks(executor, partial(_Measurer, root, cache), parts):
        done += parts[index].height
        if on_progress is not None:
            on_progress(done, clips.height)


class _Measurer:
    """Worker that measures parts of a corpus."""

    def __init__(self, root: Path, cache: Path) -> None:
        self._root, self._cache = root, cache

    def __call__(self, clips: pl.DataFrame) -> int:
        measure_egemaps(clips, self._root, cache=self._cache, workers=1)
        return clips.height
