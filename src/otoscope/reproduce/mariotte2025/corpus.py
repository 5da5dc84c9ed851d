"""Corpus of the study: VocalSet files, their sides, and the crops taken from each file."""

import math
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import soundfile

from otoscope.config.mariotte2025 import ReproductionSettings
from otoscope.corpus.catalog import build_corpus
from otoscope.corpus.checks import make_clip_id
from otoscope.corpus.datasets.vocalset import ENDINGS, VocalSetCorpus
from otoscope.corpus.listing import ProgressCallback
from otoscope.corpus.splits import Splits, assign_splits, rank_by_hash
from otoscope.corpus.table import Corpus
from otoscope.errors import SplitError
from otoscope.reproduce.mariotte2025.encoder import CROP_S

Take = Literal["train", "valid", "test", "whole"]

VALID_SHARE = 0.2
LABEL = "technique"


def list_vocalset(root: Path, settings: ReproductionSettings) -> Corpus:
    """Return the corpus from file names and headers, without decoding; digests are empty."""
    listing = VocalSetCorpus(root=root, vowels=ENDINGS).listing(root)
    seconds, rates = zip(*(_header(listing.root / path) for path in listing.clips["path"]), strict=True)
    known = {"duration_s": pl.Series(seconds, dtype=pl.Float64), "rate_hz": pl.Series(rates, dtype=pl.Int64)}
    clips = listing.clips.with_columns(**known, clip_id=pl.col("path"), digest=pl.lit(""), start_s=pl.lit(0.0))
    clips = assign_splits(clips.filter(pl.col("rate_hz") > 0), Splits())
    return _filtered(Corpus(listing.name, listing.root, clips, listing.set_aside), settings)


def read_vocalset(
    root: Path, settings: ReproductionSettings, *, cache: Path, on_progress: ProgressCallback | None = None
) -> Corpus:
    """Return VocalSet with the filter of the study: ten techniques, names that end in a vowel, c, f or spoken.

    The test split is the five published singers. Raises what `build_corpus` raises.
    """
    spec = VocalSetCorpus(root=root, vowels=ENDINGS)
    return _filtered(build_corpus(spec, Splits(), cache=cache, on_progress=on_progress), settings)


def _filtered(corpus: Corpus, settings: ReproductionSettings) -> Corpus:
    misspelt = pl.col("path").map_elements(_is_vibrado, return_dtype=pl.Boolean)
    if settings.vibrado == "drop":
        corpus = replace(corpus, clips=corpus.clips.filter(~misspelt))
    # the study draws validation files from the training singers, so the split is train and test only
    sides = pl.when(pl.col("split") == "test").then(pl.lit("test")).otherwise(pl.lit("train"))
    return replace(corpus, clips=corpus.clips.with_columns(sides.alias("split")))


def assign_sides(corpus: Corpus, settings: ReproductionSettings) -> dict[str, Take]:
    """Return the side of each file by path; a fifth of the training files, or singers, is used for validation.

    Files are ranked by a hash of seed and name. The authors shuffle a list in file system order, so their exact
    split cannot be reproduced.
    """
    by = "path" if settings.valid_split == "files" else "group"
    train = corpus.clips.filter(pl.col("split") == "train")
    ranked = rank_by_hash(train[by].unique().to_list(), seed=settings.seed)
    held_out = set(ranked[: max(1, round(VALID_SHARE * len(ranked)))])
    sides: dict[str, Take] = {
        path: "valid" if key in held_out else "train" for path, key in zip(train["path"], train[by], strict=True)
    }
    if set(sides.values()) != {"train", "valid"}:
        raise SplitError(
            f"{train.height} training files of {len(ranked)} {by}s cannot be split into train and valid; "
            "add recordings of training singers"
        )
    sides.update((path, "test") for path in corpus.clips.filter(pl.col("split") == "test")["path"])
    return sides


def cut_takes(corpus: Corpus, settings: ReproductionSettings) -> pl.DataFrame:
    """Return the takes of each file: the columns of `Corpus.clips` and `take, crop, file_s`.

    Training files give `crops` random crops of 5 s, validation and test files their first 5 s, test files also
    the whole file. A file of at most 5 s has one crop.
    """
    side = assign_sides(corpus, settings)
    rows: list[dict[str, object]] = []
    for clip in corpus.clips.iter_rows(named=True):
        take = side[clip["path"]]
        for crop, start_s in enumerate(_starts(clip["path"], clip["duration_s"], take, settings)):
            length_s = min(CROP_S, clip["duration_s"] - start_s)
            cut = {"start_s": start_s, "duration_s": length_s, "clip_id": make_clip_id(clip["path"], start_s, length_s)}
            rows.append({**clip, **cut, "take": take, "crop": crop, "file_s": clip["duration_s"]})
        if take == "test":
            rows.append({**clip, "take": "whole", "crop": 0, "file_s": clip["duration_s"]})
    return pl.DataFrame(
        rows, schema={**corpus.clips.schema, "take": pl.String(), "crop": pl.Int64(), "file_s": pl.Float64()}
    )


def _header(path: Path) -> tuple[float, int]:
    """Return duration and sample rate from the header, zeros if it cannot be read."""
    try:
        header = soundfile.info(path)
    except (soundfile.SoundFileError, OSError):
        return 0.0, 0
    return header.duration, header.samplerate


def _is_vibrado(path: str) -> bool:
    return re.search("vibrado", path, re.IGNORECASE) is not None


def _starts(path: str, duration_s: float, take: Take, settings: ReproductionSettings) -> list[float]:
    spare_s = duration_s - CROP_S
    if take != "train" or spare_s <= 0:
        return [0.0]
    rng = np.random.default_rng([settings.seed, zlib.crc32(path.encode())])
    # milliseconds keep crop names short; equal starts are one clip
    return sorted({math.floor(1000 * start) / 1000 for start in rng.uniform(0, spare_s, settings.crops)})
