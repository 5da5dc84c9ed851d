"""The 88 functionals of eGeMAPSv02 for every clip, measured once per content.

The Geneva minimalistic acoustic parameter set, extended (Eyben et al., IEEE Trans. Affective
Computing 7(2), 2016), through openSMILE (extra `factors`). openSMILE's licence allows private,
research and educational use only; commercial use needs a licence from audEERING.

Every clip is brought to one rate first, so that the factors of a corpus of mixed rates can be
compared. openSMILE leaves Python's lock while it works and opens a new engine for every clip, so
threads serve; values do not depend on their number.

Clips measured by many workers into one cache, from where the table is then gathered.
"""

import math
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from os import sched_getaffinity
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float32, Float64

from otoscope.artifacts import fingerprint, read_table, write_table
from otoscope.corpus.audio import load_clip
from otoscope.errors import AudioError, DamagedArtifact, MissingExtra
from otoscope.executors.base import Executor, run_tasks

RATE_HZ = 16_000
"""Rate at which all clips are measured."""

SHORTEST_S = 0.060
"""openSMILE's longest window; a shorter clip has no functionals."""

FACTORS = 88

CLIPS_A_PART = 128
"""A killed run loses at most this many clips."""

Load = Callable[[Mapping[str, object]], Float32[np.ndarray, " samples"]]
_Item = tuple[str, Mapping[str, object]]


class Egemaps(NamedTuple):
    """`table` holds `clip_id` and the 88 factors, NaN where not measured; `failed` `clip_id, reason`."""

    table: pl.DataFrame
    failed: pl.DataFrame


class _Measured(NamedTuple):
    values: Float64[np.ndarray, " factors"]
    reason: str | None = None
    lasting: bool = True


def _nothing(reason: str, *, lasting: bool) -> _Measured:
    return _Measured(np.full(FACTORS, math.nan), reason, lasting)


def measure_egemaps(
    clips: pl.DataFrame,
    root: Path,
    *,
    cache: Path | None = None,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    load: Load | None = None,
) -> Egemaps:
    """Measure every clip of `Corpus.clips`, in its order.

    Args:
        clips: with `clip_id, path, start_s, duration_s, digest`.
        root: folder that `path` is relative to.
        cache: folder of finished clips, keyed by content; a killed run continues from it.
        workers: threads; all cores if absent.
        on_progress: called with clips done and clips in all.
        load: decoder of one row at `RATE_HZ`; `load_clip` if absent.

    A clip that is too short, cannot be decoded or that openSMILE fails on is NaN throughout, with a
    reason in `failed`. Raises `MissingExtra` without openSMILE.
    """
    names = feature_names()
    loader = load or partial(load_clip, root, rate_hz=RATE_HZ)
    rows = list(clips.select("clip_id", "path", "start_s", "duration_s", "digest").iter_rows(named=True))
    keys = [clip_key(row) for row in rows]
    known = dict(_read_cache(cache, names)) if cache is not None else {}
    waiting = {key: row for key, row in zip(keys, rows, strict=True) if key not in known}
    done = len(rows) - sum(key in waiting for key in keys)
    copies = Counter(keys)
    tell = on_progress or _say_nothing
    if done:
        tell(done, len(rows))

    with warnings.catch_warnings(), ThreadPoolExecutor(workers or len(sched_getaffinity(0))) as pool:
        # openSMILE's wrapper warns where a clip gives nothing; that is told as a reason instead
        warnings.simplefilter("ignore", UserWarning)
        for part in _parts(list(waiting.items()), CLIPS_A_PART):
            fresh: dict[str, _Measured] = {}
            for key, found in zip((k for k, _ in part), pool.map(partial(_measure, loader), part), strict=True):
                fresh[key] = found
                done += copies[key]
                tell(done, len(rows))
            known |= fresh
            if cache is not None:
                _write_part(cache, {key: found for key, found in fresh.items() if found.lasting}, names)

    values = np.stack([known[key].values for key in keys])
    reasons = [(row["clip_id"], known[key].reason) for row, key in zip(rows, keys, strict=True) if known[key].reason]
    table = pl.DataFrame({"clip_id": clips["clip_id"]}).hstack(pl.DataFrame(values, schema=list(names), orient="row"))
    return Egemaps(table, pl.DataFrame(reasons, schema={"clip_id": pl.String, "reason": pl.String}, orient="row"))


def feature_names() -> tuple[str, ...]:
    """Return the names of the 88 functionals, in openSMILE's order; raise `MissingExtra` without it."""
    return tuple(_smile().feature_names)


def egemaps_identity() -> str:
    """Return what a measurement depends on beside the clip; "absent" without openSMILE."""
    try:
        return f"eGeMAPSv02 opensmile-{version('opensmile')} {RATE_HZ} Hz"
    except PackageNotFoundError:
        return "absent"


def clip_key(clip: Mapping[str, object]) -> str:
    """Return the identity of a clip's sound and of the way it is measured."""
    return fingerprint(clip["digest"], clip["start_s"], clip["duration_s"], egemaps_identity())


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
        return _nothing(str(error), lasting=False)
    if len(wave) < SHORTEST_S * RATE_HZ:
        return _nothing(
            f"{len(wave) / RATE_HZ * 1000:.0f} ms is too short for openSMILE ({SHORTEST_S * 1000:.0f} ms)", lasting=True
        )
    if not hasattr(_LOCAL, "smile"):
        _LOCAL.smile = _smile()
    # openSMILE's wrapper casts to 16 bits without clipping: full scale would wrap round to the other sign
    safe = np.clip(wave, -1.0, 1.0 - 2.0**-15)
    try:
        values = np.asarray(_LOCAL.smile(safe, RATE_HZ), dtype=np.float64).reshape(-1)
    except Exception as error:  # noqa: BLE001 - whatever the engine raises, the other clips go on
        return _nothing(f"openSMILE failed: {error}", lasting=False)
    if not np.isfinite(values).all():
        return _nothing("openSMILE gave no value", lasting=True)
    return _Measured(values)


def _read_cache(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, _Measured]]:
    for path in sorted(folder.glob("*.parquet")):
        try:
            part = read_table(path)
        except DamagedArtifact:
            # nothing is lost: the clips are measured again
            path.unlink(missing_ok=True)
            continue
        values = part.select(names).to_numpy()
        for key, reason, row in zip(part["key"], part["reason"], values, strict=True):
            yield key, _Measured(row, reason)


def _write_part(folder: Path, found: Mapping[str, _Measured], names: Sequence[str]) -> None:
    if not found:
        return
    values = np.stack([one.values for one in found.values()])
    reasons = pl.Series("reason", [one.reason for one in found.values()], dtype=pl.String)
    part = pl.DataFrame({"key": list(found), "reason": reasons}).hstack(
        pl.DataFrame(values, schema=list(names), orient="row")
    )
    # named by content, so that several runs can share a cache
    write_table(folder / f"{fingerprint(list(found))}.parquet", part)


def _parts(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _say_nothing(_done: int, _total: int) -> None:
    """Ignore progress."""


def measure_ahead(
    clips: pl.DataFrame,
    root: Path,
    *,
    cache: Path,
    executor: Executor,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Have the eGeMAPS functionals of clips measured into a cache that all workers reach.

    What is there already is not measured again, and values do not depend on who measured them.
    Raises `MissingExtra` without openSMILE, before anything is handed out.
    """
    feature_names()
    parts = [clips[start : start + CLIPS_A_PART] for start in range(0, clips.height, CLIPS_A_PART)]
    done = 0
    for place, _ in run_tasks(executor, partial(_Measurer, root, cache), parts):
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
