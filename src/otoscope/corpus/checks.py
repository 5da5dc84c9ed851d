"""Checks of a corpus: decode every clip once; find classes with too few clips and recordings in several groups.

Decoding gives the actual length and rate and a digest, or the reason why a clip is set aside. The other checks never
stop a run: a class without clips in train or test cannot be scored, so averages use the other classes and name it.
"""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import polars as pl

from otoscope.artifacts import digest
from otoscope.corpus.decoding import open_sound
from otoscope.corpus.health import HealthFinding, suspects_table
from otoscope.corpus.listing import EACH, Listing, ProgressCallback
from otoscope.corpus.streaming import measure_clip
from otoscope.corpus.table import SPLITS
from otoscope.errors import AudioError, CorpusError
from otoscope.formatting import count
from otoscope.hardware import available_cores


class CheckedClips(NamedTuple):
    """Usable clips with `clip_id, rate_hz, digest` and their real `duration_s`, the clips set aside, and suspects."""

    clips: pl.DataFrame
    set_aside: pl.DataFrame
    suspects: pl.DataFrame


class TooManySetAside(CorpusError):
    """More clips are unusable than allowed; `set_aside` lists all of them: `path, reason`."""

    def __init__(self, message: str, set_aside: pl.DataFrame) -> None:
        super().__init__(message)
        self.set_aside = set_aside


class _DecodedClip(NamedTuple):
    """Result of decoding the clip of a `row`; `reason` is set if it is unusable."""

    clip_id: str
    duration_s: float
    rate_hz: int
    digest: str
    reason: str | None
    channel: int | None
    channels: int | None
    row: int
    findings: Sequence[HealthFinding] = ()
    content: str = ""


class _Clip(NamedTuple):
    row: int
    path: str
    start_s: float
    duration_s: float | None
    channel: int | None


def make_clip_id(
    path: str, start_s: float, duration_s: float | None, channel: int | None = None, *, end_s: float | None = None
) -> str:
    """Return a clip's identifier: its path, `#START-END` in seconds for a segment, `#channelN` for a channel.

    >>> make_clip_id("ann/scale.wav", 0.0, None), make_clip_id("ann/scale.wav", 1.5, 0.25, 2)
    ('ann/scale.wav', 'ann/scale.wav#1.5-1.75#channel2')
    """
    of_channel = f"#channel{channel}" if channel else ""
    if start_s == 0.0 and duration_s is None:
        return path + of_channel
    end = end_s if duration_s is None else start_s + duration_s
    return f"{path}#{_seconds(start_s)}-{'end' if end is None else _seconds(end)}{of_channel}"


def check_clips(
    listing: Listing,
    *,
    fail_fast: bool = False,
    max_set_aside: float = 0.2,
    on_progress: ProgressCallback | None = None,
    threads: int | None = None,
) -> CheckedClips:
    """Decode every listed clip once, in threads; the result does not depend on their number.

    An unusable clip is set aside with its reason. With `fail_fast`, raises `AudioError` at the first one in path order.
    Raises `TooManySetAside` with the most frequent reasons if more than the share `max_set_aside` is unusable, or all.
    """
    if fail_fast and not listing.set_aside.is_empty():
        path, reason = listing.set_aside.row(0)
        raise AudioError(f"{path}: {reason}")
    ordered = listing.clips.sort("path", "start_s", "duration_s", nulls_last=True)
    decoded = _decode_all(listing.root, ordered, strict=fail_fast, on_progress=on_progress, threads=threads)
    measured = pl.DataFrame([clip[:7] for clip in decoded], schema=_DECODED_COLUMNS, orient="row")
    if "channel" not in ordered.columns:
        measured = measured.drop("channel")
    if measured["channels"].max() == 1:
        measured = measured.drop("channels")
    listed = ordered[[clip.row for clip in decoded]].drop("duration_s", "channel", strict=False)
    merged = pl.concat([listed, measured], how="horizontal")
    bad = merged.filter(pl.col("reason").is_not_null())
    set_aside = listing.set_aside.vstack(bad.select(path="clip_id", reason="reason")).sort("path", "reason")
    _check_share(listing, set_aside, total=merged.height + listing.set_aside.height, allowed=max_set_aside)
    usable = [clip for clip in decoded if clip.reason is None]
    suspects = suspects_table(
        [(clip.clip_id, clip.content) for clip in usable],
        [(clip.clip_id, finding) for clip in usable for finding in clip.findings],
    )
    clips = merged.filter(pl.col("reason").is_null()).drop("reason").sort("clip_id")
    return CheckedClips(clips, set_aside, suspects)


_DECODED_COLUMNS: dict[str, pl.DataType] = {
    "clip_id": pl.String(),
    "duration_s": pl.Float64(),
    "rate_hz": pl.Int64(),
    "digest": pl.String(),
    "reason": pl.String(),
    "channel": pl.Int64(),
    "channels": pl.Int64(),
}


def _decode_all(
    root: Path, ordered: pl.DataFrame, *, strict: bool, on_progress: ProgressCallback | None, threads: int | None
) -> list[_DecodedClip]:
    columns = ordered.with_row_index("row").select("row", "path", "start_s", "duration_s", "^channel$")
    clips = [_Clip(*row, *([None] if len(row) == 4 else [])) for row in columns.iter_rows()]
    files = [list(of_file) for _, of_file in groupby(clips, key=lambda clip: clip.path)]
    decoded: list[_DecodedClip] = []
    pool = ThreadPoolExecutor(threads or min(8, available_cores()))
    try:
        pending = [pool.submit(_decode_file, root, of_file) for of_file in files]
        for future in pending:  # in path order, regardless of completion order
            of_file = future.result()
            decoded.extend(of_file)
            failed = next((clip for clip in of_file if clip.reason), None)
            if strict and failed is not None:
                raise AudioError(f"{failed.clip_id}: {failed.reason}")
            if on_progress is not None:
                on_progress(decoded[-1].row + 1, len(clips))
    finally:
        pool.shutdown(cancel_futures=True)  # on an interrupt, do not wait for the rest of the corpus
    return decoded


def _decode_file(root: Path, clips: Sequence[_Clip]) -> list[_DecodedClip]:
    """Hash a file once and decode each of its clips, or each channel of a clip."""
    path = root / clips[0].path
    try:
        sha256 = digest(path)
    except OSError:
        sha256 = ""  # decoding reports the reason
    channels = _channels(path) if any(clip.channel == EACH for clip in clips) else [None]
    return [
        _decode_clip(path, clip._replace(channel=channel), sha256)
        for clip in clips
        for channel in (channels if clip.channel == EACH else [clip.channel])
    ]


def _channels(path: Path) -> Sequence[int | None]:
    """Return the channels of a file; None alone for one of a single channel, and for one that cannot be opened."""
    try:
        with open_sound(path) as sound:
            return range(1, sound.channels + 1) if sound.channels > 1 else [None]
    except AudioError:
        return [None]  # decoding reports the reason


def _decode_clip(path: Path, clip: _Clip, sha256: str) -> _DecodedClip:
    row, channel = clip.row, clip.channel
    try:
        length = measure_clip(path, start_s=clip.start_s, duration_s=clip.duration_s, channel=channel)
    except AudioError as error:
        return _DecodedClip(make_clip_id(*clip[1:]), 0.0, 0, sha256, str(error), channel, None, row)
    duration_s = length.samples / length.rate_hz
    clip_id = make_clip_id(*clip[1:], end_s=clip.start_s + duration_s)
    found = (length.findings, length.content)
    return _DecodedClip(clip_id, duration_s, length.rate_hz, sha256, None, channel, length.channels, row, *found)


def _check_share(listing: Listing, set_aside: pl.DataFrame, *, total: int, allowed: float) -> None:
    share = set_aside.height / total if total else 1.0
    if share <= allowed and set_aside.height < total:
        return
    raise TooManySetAside(
        f"{set_aside.height} of {total} clips under {listing.root} cannot be used (allowed: {allowed:.0%})."
        f" Most frequent reasons: {_frequent_reasons(set_aside)}. Repair, remove or exclude them, or raise"
        " max_set_aside (--set max_set_aside=0.5 allows one half)",
        set_aside,
    )


def _frequent_reasons(set_aside: pl.DataFrame) -> str:
    """Return the most frequent kinds of reasons with their numbers, and an example of the first."""
    # the numbers in a reason differ between files; the first words are shared
    named = [str(reason).split(":")[0].split("(")[0].strip() for reason in set_aside["reason"]]
    kinds = Counter(named)
    frequent = "; ".join(f"{n} x {kind}" for kind, n in kinds.most_common(3))
    rest = sum(n for _, n in kinds.most_common()[3:])
    others = f"; {rest} x others" if rest else ""
    first = named.index(kinds.most_common(1)[0][0]) if named else 0
    example = f". The first of these is {set_aside['path'][first]} ({set_aside['reason'][first]})" if named else ""
    return f"{frequent}{others}{example}"


MAX_REASONS = 4
"""Clips set aside whose reasons are printed one by one."""


def describe_set_aside(set_aside: pl.DataFrame) -> str:
    """Return the number of clips set aside and their reasons; of very many, the most frequent ones.

    >>> describe_set_aside(pl.DataFrame({"path": ["a.wav"], "reason": ["no such file"]}))
    '1 clip set aside: a.wav (no such file)'
    """
    clips = f"{count(set_aside.height, 'clip')} set aside"
    if set_aside.height > MAX_REASONS:
        return f"{clips}: {_frequent_reasons(set_aside)}"
    return f"{clips}: {'; '.join(f'{path} ({reason})' for path, reason in set_aside.select('path', 'reason').rows())}"


def _seconds(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")


def class_support(clips: pl.DataFrame) -> pl.DataFrame:
    """Count the clips and groups of every class of every label per split.

    Columns: `label, class, clips, groups`, clips in `train, valid, test`, `usable` (clips in train and in test, or in
    three folds of a cross-fit), `reason` (null if usable). Clips with an unknown label (null) are not counted. Rows are
    sorted by label and class.
    """
    tables = [_support(clips, column) for column in sorted(clips.columns) if column.startswith("label_")]
    return pl.concat(tables) if tables else pl.DataFrame(schema=_SUPPORT)


def shared_recordings(clips: pl.DataFrame) -> pl.DataFrame:
    """Return clips that share audio (the same file bytes and channel, overlapping segments) in more than one group.

    Columns: `digest, clip_ids, groups, splits, leaks` (`leaks`: in more than one split or fold, so that test clips
    occur in train), one row per run of overlapping segments. Rows are sorted by their first clip.
    """
    channel = pl.col("channel") if "channel" in clips.columns else pl.lit(None, dtype=pl.Int64())
    ends = clips.with_columns(
        end_s=pl.col("start_s") + pl.col("duration_s"),
        # the mean of all channels shares sound with each of them
        channel=pl.when(channel.is_null().any().over("digest")).then(0).otherwise(channel),
    ).sort("digest", "channel", "start_s", "end_s")
    # a clip that starts before the latest end so far belongs to the same run
    latest_s = pl.col("end_s").cum_max().shift(1).over("digest", "channel")
    runs = ends.with_columns(run=(pl.col("start_s") > latest_s - OVERLAP_S).fill_null(True).cum_sum())
    return (
        runs.group_by("digest", "run")
        .agg(
            clip_ids=pl.col("clip_id").sort(),
            groups=pl.col("group").unique().sort(),
            splits=pl.col("split").unique().sort(),
            folds=(pl.col("fold") if "fold" in clips.columns else pl.lit(0)).n_unique(),
        )
        .filter(pl.col("groups").list.len() > 1)
        .with_columns(leaks=(pl.col("splits").list.len() > 1) | (pl.col("folds") > 1))
        .sort(pl.col("clip_ids").list.first())
        .select("digest", "clip_ids", "groups", "splits", "leaks")
    )


OVERLAP_S = 0.010
"""Segments that overlap by less only share a rounded boundary."""

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
            folds=pl.col("fold").n_unique() if "fold" in clips.columns else pl.lit(None, dtype=pl.UInt32()),
        )
    )
    reason = (
        pl.when(pl.col("clips") == 1)
        .then(pl.lit("one clip only"))
        .when(pl.col("folds") < 3)
        .then(pl.lit("in fewer than three folds"))
        .when(pl.col("folds") >= 3)
        .then(None)
        .when(pl.col("train") == 0)
        .then(pl.lit("no clip in train"))
        .when(pl.col("test") == 0)
        .then(pl.lit("no clip in test"))
    )
    support = counts.with_columns(reason=reason).with_columns(usable=pl.col("reason").is_null())
    return support.sort("class").select(*_SUPPORT).cast(pl.Schema(_SUPPORT))
