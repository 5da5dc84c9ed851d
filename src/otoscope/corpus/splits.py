"""Assign groups to train, valid and test, so that no group is in two splits."""

import hashlib
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from otoscope.corpus.table import SPLITS, is_constant_within_groups
from otoscope.errors import SplitError, quote, suggest


class Splits(BaseModel):
    """Assignment of groups to splits: by a stable hash, unless groups are named or the corpus states its splits.

    `valid` and `test` are shares of the groups, not of the clips; each split gets at least one group. With `cross`,
    readers are also cross-fitted over folds of groups (`assign_folds`), whatever their split; by default over
    `DEFAULT_FOLDS` if there are fewer than `FEW_GROUPS` groups, and neither settings nor corpus state their splits.
    `dictionaries` are shared by the folds, or trained anew in each on the fold's own training groups.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False)

    seed: int = Field(default=0, description="a different seed assigns the groups differently")
    valid: float = Field(default=0.2, gt=0.0, lt=1.0, description="share of all groups used to choose settings")
    test: float = Field(default=0.3, gt=0.0, lt=1.0, description="share of all groups used for reported results")
    valid_groups: tuple[str, ...] = Field(default=(), description="the groups of valid, by name")
    test_groups: tuple[str, ...] = Field(default=(), description="the groups of test, by name")
    cross: int | None = Field(
        default=None,
        ge=0,
        description="folds of groups over which readers are cross-fitted, 3 or more; 0: one split; "
        "default: 5 with fewer than 15 groups whose splits are not stated",
    )
    dictionaries: Literal["shared", "per_fold"] = Field(
        default="shared",
        description="dictionaries of a cross-fit: shared by its folds, or trained in each on its own training groups",
    )

    @property
    def per_fold(self) -> bool:
        """True if each fold of a cross-fit has dictionaries of its own."""
        return self.dictionaries == "per_fold"

    @field_validator("valid_groups", "test_groups")
    @classmethod
    def _spelled_as_in_the_corpus(cls, groups: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(" ".join(unicodedata.normalize("NFC", group).split()) for group in groups)

    @model_validator(mode="after")
    def _leaves_some_for_train(self) -> "Splits":
        if self.valid + self.test >= 1.0:
            raise ValueError(
                f"valid={self.valid:g} and test={self.test:g} leave nothing for train; their sum must be < 1"
            )
        if both := set(self.valid_groups) & set(self.test_groups):
            raise ValueError(f"groups named for both valid and test: {', '.join(sorted(both))}")
        if self.cross in (1, 2):
            raise ValueError(
                f"cross={self.cross}: each fold needs groups to train, to choose penalties and to test; "
                "give 3 or more folds, or 0 for one split"
            )
        if self.cross == 0 and self.per_fold:
            raise ValueError(
                "dictionaries=per_fold: cross=0 makes one split; give cross 3 or more folds, or dictionaries=shared"
            )
        return self


def assign_splits(clips: pl.DataFrame, splits: Splits, *, stratify: bool = False) -> pl.DataFrame:
    """Return clips with every `split` filled from their `group`; stated splits are kept.

    A clip without a split gets the split stated for its group. With `stratify`, groups are spread over the splits by
    the labels that are constant within groups, such as sex (`group_strata`). Raises `SplitError` as `assign_groups`
    does, and if a stated split is unknown or one group has two.
    """
    assigned = assign_groups(_stated_splits(clips), splits, strata=group_strata(clips) if stratify else None)
    return clips.with_columns(split=pl.col("group").replace_strict(assigned, return_dtype=pl.String()))


FEW_GROUPS = 15
"""Number of groups below which readers are cross-fitted: one split would test on four groups or fewer."""

DEFAULT_FOLDS = 5


def assign_folds(clips: pl.DataFrame, splits: Splits) -> pl.DataFrame:
    """Return clips with the test fold of their group in a column `fold`; unchanged without cross-fitting.

    `clips` have the splits that the corpus states, or null. Groups are dealt in the order of their strata
    (`group_strata`), so that folds hold about equal shares of each. With fewer groups, each is a fold. Raises
    `SplitError` for `dictionaries: per_fold` without cross-fitting.

    >>> frame = pl.DataFrame({"group": list("abcdef"), "label_sex": list("ffffmm"), "split": None})
    >>> assign_folds(frame, Splits(cross=3)).sort("label_sex", "fold")["fold"].to_list()
    [0, 0, 1, 2, 1, 2]
    """
    stated = splits.valid_groups or splits.test_groups or clips["split"].is_not_null().any()
    few = clips["group"].n_unique() < FEW_GROUPS and not stated
    if not (cross := (DEFAULT_FOLDS if few else 0) if splits.cross is None else splits.cross):
        if splits.per_fold:
            reason = "its splits are stated" if stated else f"it has {FEW_GROUPS} groups or more"
            raise SplitError(
                f"splits.dictionaries: per_fold, but the corpus is not cross-fitted because {reason}; "
                "set splits.cross to 3 or more folds, or dictionaries to shared"
            )
        return clips
    strata = group_strata(clips)
    ranked = sorted(rank_by_hash(strata, seed=splits.seed), key=lambda group: strata[group])
    fold_of = {group: place % min(cross, len(ranked)) for place, group in enumerate(ranked)}
    return clips.with_columns(fold=pl.col("group").replace_strict(fold_of, return_dtype=pl.Int64()))


def one_split_reason(clips: pl.DataFrame, splits: Splits, *, stated: bool) -> str:
    """Return why readers of a corpus of few groups are not cross-fitted; empty if they are, or if groups are many.

    `stated`: the corpus states splits.

    >>> one_split_reason(pl.DataFrame({"group": list("abcdef")}), Splits(cross=0), stated=False)
    'splits.cross is 0'
    """
    if "fold" in clips.columns or clips["group"].n_unique() >= FEW_GROUPS:
        return ""
    if splits.cross == 0:
        return "splits.cross is 0"
    named = [key for key in ("valid_groups", "test_groups") if getattr(splits, key)]
    return f"splits.{named[0]} names groups" if named else "the corpus states splits" if stated else ""


def group_strata(clips: pl.DataFrame) -> dict[str, tuple[str, ...]]:
    """Return the classes of each group of the labels that are constant within groups and have several groups per class.

    >>> frame = pl.DataFrame({"group": list("abcd"), "label_sex": list("ffmm"), "label_song": ["x", "y", "x", "z"]})
    >>> group_strata(frame)
    {'a': ('f',), 'b': ('f',), 'c': ('m',), 'd': ('m',)}
    """
    strata: dict[str, tuple[str, ...]] = dict.fromkeys(sorted(clips["group"].unique().to_list()), ())
    for name in (name for name in clips.columns if name.startswith("label_")):
        if not is_constant_within_groups(clips, name.removeprefix("label_")):
            continue
        by_group = clips.group_by("group").agg(pl.col(name).drop_nulls().unique())
        classes: dict[str, list[str]] = dict(by_group.iter_rows())
        finer = {group: (*known, *classes[group]) for group, known in strata.items()}
        # with fewer than two groups per class there is nothing to spread
        if 2 * len(set(finer.values())) <= len(finer):
            strata = finer
    return strata


def assign_groups(
    stated: Mapping[str, str | None], splits: Splits, *, strata: Mapping[str, tuple[str, ...]] | None = None
) -> dict[str, str]:
    """Assign every group to a split: named groups first, then stated ones, the others by hash.

    Groups of each stratum are spread over the ranking, so that each split gets its share of them. `stated` maps each
    group to the split that the corpus states, or None. Groups are ranked by the SHA-256 of seed and name, so order and
    number of clips do not matter. `test` and `valid` take their share of all groups (rounded, at least one) from the
    ranking unless they are stated; the rest is train. If train and test are stated but valid is not, valid is taken
    from the train groups in the same ranking.

    >>> assign_groups({"ann": None, "bob": "test", "cy": None, "di": None}, Splits())
    {'ann': 'valid', 'bob': 'test', 'cy': 'train', 'di': 'train'}
    """
    _check_names(stated, splits)
    sides = _apply_names(stated, splits)
    by_side = ([group for group, side in sides.items() if side == wanted] for wanted in (None, "train"))
    free, train = (spread_strata(rank_by_hash(groups, seed=splits.seed), strata or {}) for groups in by_side)
    fixed = set(sides.values())
    if "test" not in fixed:
        # keep a free group for train and one for valid; valid is taken from a stated train only if none is free
        from_train = len(free) == 1 and len(train) > 1
        keep = (not train) + ("valid" not in fixed and not from_train)
        test = _take(free, splits.test, total=len(stated), keep=keep, split="test")
        sides |= dict.fromkeys(test, "test")
        free = free[len(test) :]
    if "valid" not in fixed:
        pool, keep = (free, not train) if free else (train, 1)
        sides |= dict.fromkeys(_take(pool, splits.valid, total=len(stated), keep=keep, split="valid"), "valid")
    assigned = {group: side or "train" for group, side in sides.items()}
    if "train" not in assigned.values():
        raise SplitError("no group is left for train; name fewer valid_groups and test_groups, or give some to train")
    return assigned


def rank_by_hash(groups: Iterable[str], *, seed: int) -> list[str]:
    """Return groups in the order of the SHA-256 of seed and name: pseudo-random and reproducible."""
    return sorted(groups, key=lambda group: hashlib.sha256(f"{seed}\0{group}".encode()).hexdigest())


def spread_strata(ranked: Sequence[str], strata: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return ranked groups in an order in which any consecutive part holds about the same share of every stratum.

    >>> spread_strata(["a", "b", "d", "c"], {"a": ("f",), "b": ("f",), "c": ("m",), "d": ("m",)})
    ['a', 'd', 'b', 'c']
    """
    of = [strata.get(group, ()) for group in ranked]
    place = [(of[:i].count(stratum) + 0.5) / of.count(stratum) for i, stratum in enumerate(of)]
    # strata of one size alternate in the same order throughout, or two of one stratum could follow each other
    return [ranked[i] for i in sorted(range(len(ranked)), key=lambda i: (place[i], of.index(of[i])))]


def _check_names(stated: Mapping[str, str | None], splits: Splits) -> None:
    if len(stated) < len(SPLITS):
        raise SplitError(
            f"train, valid and test need a group each; the corpus has {len(stated)} ({', '.join(sorted(stated))})."
            " Add other groups, or choose finer groups (folder: `group` in `pattern`, group_pattern or group_from;"
            " manifest: group)"
        )
    for group in (*splits.valid_groups, *splits.test_groups):
        if group not in stated:
            raise SplitError(f"no usable clip belongs to the group {quote(group)}; {suggest(group, stated)}")


def _apply_names(stated: Mapping[str, str | None], splits: Splits) -> dict[str, str | None]:
    """Return stated splits overridden by named groups; naming the groups of a split releases its stated groups."""
    renamed = {side for side, named in (("valid", splits.valid_groups), ("test", splits.test_groups)) if named}
    remaining = {group: None if side in renamed else side for group, side in stated.items()}
    return remaining | dict.fromkeys(splits.valid_groups, "valid") | dict.fromkeys(splits.test_groups, "test")


def _take(pool: Sequence[str], share: float, *, total: int, keep: int, split: str) -> Sequence[str]:
    """Return the first groups of a ranked pool: the rounded share of all groups, at least one, leaving `keep`."""
    count = min(max(1, math.floor(share * total + 0.5)), len(pool) - keep)
    if count < 1:
        raise SplitError(
            f"no group is left for {split}: {len(pool)} of {total} groups are unassigned, and the other"
            f" splits need {keep}. Name {split}_groups, or state {split} in the corpus's own split column"
        )
    return pool[:count]


def _stated_splits(clips: pl.DataFrame) -> dict[str, str | None]:
    """Return the stated split of each group, ordered by name; None if there is none."""
    pairs = clips.select("group", "split").unique().sort("group", "split", nulls_last=True)
    stated: dict[str, str | None] = {}
    for group, split in pairs.iter_rows():
        if split is not None and split not in SPLITS:
            raise SplitError(f"group {quote(group)} has the split {quote(split)}; {suggest(split, SPLITS)}")
        if split is not None and stated.get(group) is not None:
            raise SplitError(
                f"group {quote(group)} is in {stated[group]} and in {split};"
                " a group must stay in one split, otherwise test groups are not unseen"
            )
        stated[group] = stated.get(group) or split
    return stated
