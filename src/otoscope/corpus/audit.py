"""What a reader of results should know of a corpus: classes too thin to score, one recording in two groups.

Neither stops a run. A class that train never shows cannot be recognised and one that test never
shows cannot be scored: averages over classes take the usable ones and say which were left out.
"""

import polars as pl

from otoscope.corpus.table import SPLITS


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
