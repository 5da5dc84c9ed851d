"""Which files the study hears, on which side, and which seconds of each."""

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


def glance(root: Path, settings: ReproductionSettings) -> Corpus:
    """Return what `read_vocalset` would, by names and headers alone: nothing is decoded, digests are empty."""
    listing = VocalSetCorpus(root=root, vowels=ENDINGS).listing(root)
    seconds, rates = zip(*(_header(listing.root / path) for path in listing.clips["path"]), strict=True)
    known = {"duration_s": pl.Series(seconds, dtype=pl.Float64), "rate_hz": pl.Series(rates, dtype=pl.Int64)}
    clips = listing.clips.with_columns(**known, clip_id=pl.col("path"), digest=pl.lit(""), start_s=pl.lit(0.0))
    clips = assign_splits(clips.filter(pl.col("rate_hz") > 0), Splits())
    return _filtered(Corpus(listing.name, listing.root, clips, listing.set_aside), settings)


def read_vocalset(
    root: Path, settings: ReproductionSettings, *, cache: Path, on_progress: ProgressCallback | None = None
) -> Corpus:
    """Return VocalSet as the study filters it: ten techniques, and names that end in a vowel, c, f or spoken.

    Test are the five published singers. Raises what `build_corpus` raises.
    """
    spec = VocalSetCorpus(root=root, vowels=ENDINGS)
    return _filtered(build_corpus(spec, Splits(), cache=cache, on_progress=on_progress), settings)


def _filtered(corpus: Corpus, settings: ReproductionSettings) -> Corpus:
    named = pl.col("path").map_elements(_says_vibrado, return_dtype=pl.Boolean)
    if settings.vibrado == "drop":
        corpus = replace(corpus, clips=corpus.clips.filter(~named))
    # the study's validation files come out of the training singers, so singers are on two sides here: train and test
    sides = pl.when(pl.col("split") == "test").then(pl.lit("test")).otherwise(pl.lit("train"))
    return replace(corpus, clips=corpus.clips.with_columns(sides.alias("split")))


def sides(corpus: Corpus, settings: ReproductionSettings) -> dict[str, Take]:
    """Return the side of each file by its path: a fifth of the training files, or singers, validates.

    Files are ranked by a hash of seed and name: the authors shuffle a list whose order is the file system's, so
    their very split cannot be had.
    """
    by = "path" if settings.valid_split == "files" else "group"
    train = corpus.clips.filter(pl.col("split") == "train")
    ranked = rank_by_hash(train[by].unique().to_list(), seed=settings.seed)
    held = set(ranked[: max(1, round(VALID_SHARE * len(ranked)))])
    found: dict[str, Take] = {
        path: "valid" if key in held else "train" for path, key in zip(train["path"], train[by], strict=True)
    }
    if set(found.values()) != {"train", "valid"}:
        raise SplitError(
            f"{train.height} training files of {len(ranked)} {by}s cannot be shared out between train and valid; "
            "add recordings of training singers"
        )
    found.update((path, "test") for path in corpus.clips.filter(pl.col("split") == "test")["path"])
    return found


def takes(corpus: Corpus, settings: ReproductionSettings) -> pl.DataFrame:
    """Return what is heard of each file: the columns of `Corpus.clips`, and `take, crop, file_s`.

    Training files in `crops` random crops of 5 s, validation and test files in their first 5 s, test files
    whole as well. A file of 5 s or less has one crop, which stands for all.
    """
    side = sides(corpus, settings)
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
    """Return length and rate as the header has them, zeros where there is none to read."""
    try:
        found = soundfile.info(path)
    except (soundfile.SoundFileError, OSError):
        return 0.0, 0
    return found.duration, found.samplerate


def _says_vibrado(path: str) -> bool:
    return re.search("vibrado", path, re.IGNORECASE) is not None


def _starts(path: str, duration_s: float, take: Take, settings: ReproductionSettings) -> list[float]:
    spare_s = duration_s - CROP_S
    if take != "train" or spare_s <= 0:
        return [0.0]
    draw = np.random.default_rng([settings.seed, zlib.crc32(path.encode())])
    # milliseconds, so that names of crops are short; equal ones would be one clip
    return sorted({math.floor(1000 * start) / 1000 for start in draw.uniform(0, spare_s, settings.crops)})
