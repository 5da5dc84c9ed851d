"""Decode every clip once before anything is built on it: real length, real rate, digest, or a reason why not.

What a reader of results should know of a corpus: classes too thin to score, one recording in two groups.

Neither stops a run. A class that train never shows cannot be recognised and one that test never
shows cannot be scored: averages over classes take the usable ones and say which were left out.
"""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import polars as pl

from otoscope.artifacts import digest
from otoscope.corpus.listing import Listing, ProgressCallback
from otoscope.corpus.streaming import measure_clip
from otoscope.corpus.table import SPLITS
from otoscope.errors import AudioError, CorpusError


class CheckedClips(NamedTuple):
    """Usable clips with `clip_id, rate_hz, digest` and their real `duration_s`, and what was set aside."""

    clips: pl.DataFrame
    set_aside: pl.DataFrame


class _Fact(NamedTuple):
    """What decoding one clip showed."""

    clip_id: str
    duration_s: float
    rate_hz: int
    digest: str
    reason: str | None


class _Clip(NamedTuple):
    path: str
    start_s: float
    duration_s: float | None


def make_clip_id(path: str, start_s: float, duration_s: float | None, *, end_s: float | None = None) -> str:
    """Return a clip's identifier: its path, and `#START-END` in seconds for a segment of a file.

    >>> make_clip_id("ann/scale.wav", 0.0, None), make_clip_id("ann/scale.wav", 1.5, 0.25)
    ('ann/scale.wav', 'ann/scale.wav#1.5-1.75')
    """
    if start_s == 0.0 and duration_s is None:
        return path
    end = end_s if duration_s is None else start_s + duration_s
    return f"{path}#{_seconds(start_s)}-{'end' if end is None else _seconds(end)}"


def check_clips(
    listing: Listing,
    *,
    fail_fast: bool = False,
    max_set_aside: float = 0.2,
    on_progress: ProgressCallback | None = None,
    threads: int | None = None,
) -> CheckedClips:
    """Decode every listed clip once, in threads; the result does not depend on their number.

    A clip that cannot be used is set aside with its reason. Raises `AudioError` at the first such
    clip in path order when `strict`; `CorpusError` when more than the share `max_set_aside` of all
    clips is unusable, or none is left, with the commonest reasons.
    """
    if fail_fast and not listing.set_aside.is_empty():
        path, reason = listing.set_aside.row(0)
        raise AudioError(f"{path}: {reason}")
    ordered = listing.clips.sort("path", "start_s", "duration_s", nulls_last=True)
    facts = _facts(listing.root, ordered, strict=fail_fast, on_progress=on_progress, threads=threads)
    measured = pl.DataFrame(facts, schema=_FACTS, orient="row")
    merged = pl.concat([ordered.drop("duration_s"), measured], how="horizontal")
    bad = merged.filter(pl.col("reason").is_not_null())
    set_aside = listing.set_aside.vstack(bad.select(path="clip_id", reason="reason")).sort("path", "reason")
    _check_share(listing, set_aside, total=ordered.height + listing.set_aside.height, allowed=max_set_aside)
    return CheckedClips(merged.filter(pl.col("reason").is_null()).drop("reason").sort("clip_id"), set_aside)


_FACTS: dict[str, pl.DataType] = {
    "clip_id": pl.String(),
    "duration_s": pl.Float64(),
    "rate_hz": pl.Int64(),
    "digest": pl.String(),
    "reason": pl.String(),
}


def _facts(
    root: Path, ordered: pl.DataFrame, *, strict: bool, on_progress: ProgressCallback | None, threads: int | None
) -> list[_Fact]:
    clips = [_Clip(*row) for row in ordered.select("path", "start_s", "duration_s").iter_rows()]
    files = [list(of_file) for _, of_file in groupby(clips, key=lambda clip: clip.path)]
    facts: list[_Fact] = []
    pool = ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1))
    try:
        pending = [pool.submit(_inspect_file, root, of_file) for of_file in files]
        for future in pending:  # in path order, whichever ends first
            of_file = future.result()
            facts.extend(of_file)
            failed = next((fact for fact in of_file if fact.reason), None)
            if strict and failed is not None:
                raise AudioError(f"{failed.clip_id}: {failed.reason}")
            if on_progress is not None:
                on_progress(len(facts), len(clips))
    finally:
        pool.shutdown(cancel_futures=True)  # an interrupt does not wait for the rest of the corpus
    return facts


def _inspect_file(root: Path, clips: Sequence[_Clip]) -> list[_Fact]:
    """Hash a file once and decode each of its clips."""
    path = root / clips[0].path
    try:
        sha256 = digest(path)
    except OSError:
        sha256 = ""  # decoding says what is wrong with the file
    return [_inspect_clip(path, clip, sha256) for clip in clips]


def _inspect_clip(path: Path, clip: _Clip, sha256: str) -> _Fact:
    try:
        found = measure_clip(path, start_s=clip.start_s, duration_s=clip.duration_s)
    except AudioError as error:
        return _Fact(make_clip_id(*clip), 0.0, 0, sha256, str(error))
    duration_s = found.samples / found.rate_hz
    clip_id = make_clip_id(*clip, end_s=clip.start_s + duration_s)
    return _Fact(clip_id, duration_s, found.rate_hz, sha256, None)


def _check_share(listing: Listing, set_aside: pl.DataFrame, *, total: int, allowed: float) -> None:
    share = set_aside.height / total if total else 1.0
    if share <= allowed and set_aside.height < total:
        return
    # a reason's figures differ from file to file; its opening words are what files share
    kinds = Counter(str(reason).split(":")[0].split("(")[0].strip() for reason in set_aside["reason"])
    commonest = "; ".join(f"{n} x {kind}" for kind, n in kinds.most_common(3))
    rest = sum(n for _, n in kinds.most_common()[3:])
    others = f"; {rest} x others" if rest else ""
    example = f", such as {set_aside['path'][0]} ({set_aside['reason'][0]})" if set_aside.height else ""
    raise CorpusError(
        f"{set_aside.height} of {total} clips under {listing.root} cannot be used (allowed: {allowed:.0%})."
        f" Commonest reasons: {commonest}{others}{example}. Mend or remove them, or raise max_set_aside"
    )


def _seconds(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")


def class_support(clips: pl.DataFrame) -> pl.DataFrame:
    """Count, for every class of every label, its clips and groups in each split.

    Columns: `label, class, clips, groups`, clips in `train, valid, test`, `usable` (clips in train
    and in test), `reason` (why not, else null). Clips with an unknown label (null) are not counted.
    Rows are sorted by label and class.
    """
    tables = [_support(clips, column) for column in sorted(clips.columns) if column.startswith("label_")]
    return pl.concat(tables) if tables else pl.DataFrame(schema=_SUPPORT)


def shared_recordings(clips: pl.DataFrame) -> pl.DataFrame:
    """Find clips with the same sound (bytes of the file and segment) in more than one group.

    Columns: `digest, clip_ids, groups, splits, leaks` (`leaks`: they lie in more than one split, so
    a result on test knows the answer from train). Rows are sorted by their first clip.
    """
    return (
        clips.group_by("digest", "start_s", "duration_s")
        .agg(
            clip_ids=pl.col("clip_id").sort(),
            groups=pl.col("group").unique().sort(),
            splits=pl.col("split").unique().sort(),
        )
        .filter(pl.col("groups").list.len() > 1)
        .with_columns(leaks=pl.col("splits").list.len() > 1)
        .sort(pl.col("clip_ids").list.first())
        .select("digest", "clip_ids", "groups", "splits", "leaks")
    )


_SUPPORT: dict[str, pl.DataType] = {
    "label": pl.String(),
    "class": pl.String(),
    "clips": pl.Int64(),
    "groups": pl.Int64(),
    **dict.fromkeys(SPLITS, pl.Int64()),
    "usable": pl.Boolean(),
    "reason": pl.String(),
}


def _support(clips: pl.DataFrame, column: str) -> pl.DataFrame:
    counts = (
        clips.filter(pl.col(column).is_not_null())
        .group_by(pl.col(column).alias("class"))
        .agg(
            pl.lit(column.removeprefix("label_")).alias("label"),
            pl.len().alias("clips"),
            pl.col("group").n_unique().alias("groups"),
            *((pl.col("split") == split).sum().alias(split) for split in SPLITS),
        )
    )
    reason = (
        pl.when(pl.col("clips") == 1)
        .then(pl.lit("one clip only"))
        .when(pl.col("train") == 0)
        .then(pl.lit("no clip in train"))
        .when(pl.col("test") == 0)
        .then(pl.lit("no clip in test"))
    )
    judged = counts.with_columns(reason=reason).with_columns(usable=pl.col("reason").is_null())
    return judged.sort("class").select(*_SUPPORT).cast(pl.Schema(_SUPPORT))
