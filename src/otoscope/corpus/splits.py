"""Share groups out between train, valid and test, so that no group is ever on two sides."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from otoscope.corpus.table import SPLITS
from otoscope.errors import SplitError, suggest


class Splits(BaseModel):
    """How groups are shared out: by a stable hash, unless they are named or the corpus says so itself.

    `valid` and `test` are shares of the groups, not of the clips; each split gets at least one group.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)

    seed: int = Field(default=0, description="another seed deals the groups differently")
    valid: float = Field(default=0.2, gt=0.0, lt=1.0, description="share of all groups on which choices are made")
    test: float = Field(default=0.3, gt=0.0, lt=1.0, description="share of all groups on which results are reported")
    valid_groups: tuple[str, ...] = Field(default=(), description="exactly these groups are valid")
    test_groups: tuple[str, ...] = Field(default=(), description="exactly these groups are test")

    @model_validator(mode="after")
    def _leaves_some_for_train(self) -> "Splits":
        if self.valid + self.test >= 1.0:
            raise ValueError(
                f"valid={self.valid:g} and test={self.test:g} leave nothing for train; their sum must be < 1"
            )
        if both := set(self.valid_groups) & set(self.test_groups):
            raise ValueError(f"groups named for both valid and test: {', '.join(sorted(both))}")
        return self


def assign_splits(clips: pl.DataFrame, splits: Splits) -> pl.DataFrame:
    """Return clips with every `split` filled from their `group`; given values of `split` are kept.

    A clip without a split joins the one given for its group. Raises `SplitError` as `assign_groups` does,
    and when a given split is no split or puts one group on two sides.
    """
    given = _given(clips)
    sides = assign_groups(given, splits)
    return clips.with_columns(split=pl.col("group").replace_strict(sides, return_dtype=pl.String()))


def assign_groups(given: Mapping[str, str | None], splits: Splits) -> dict[str, str]:
    """Give every group a split: named groups first, then given ones, the rest by rank of their hash.

    Groups are ranked by SHA-256 of seed and name, so neither order nor number of clips matters.
    `test` and `valid` each take their share of all groups (rounded, at least one) from the ranks,
    unless they were given; what remains is train. Given train and test without valid, valid comes
    out of the train groups by the same ranks.

    >>> assign_groups({"ann": None, "bob": "test", "cy": None, "di": None}, Splits())
    {'ann': 'valid', 'bob': 'test', 'cy': 'train', 'di': 'train'}
    """
    _check_names(given, splits)
    sides = _stated(given, splits)
    free = rank_by_hash((group for group, side in sides.items() if side is None), seed=splits.seed)
    train = rank_by_hash((group for group, side in sides.items() if side == "train"), seed=splits.seed)
    stated = set(sides.values())
    if "test" not in stated:
        # leave a free group for train, and one for valid: it comes out of a given train only where none is free
        from_train = len(free) == 1 and len(train) > 1
        keep = (not train) + ("valid" not in stated and not from_train)
        test = _take(free, splits.test, of=len(given), keep=keep, split="test")
        sides |= dict.fromkeys(test, "test")
        free = free[len(test) :]
    if "valid" not in stated:
        pool, keep = (free, not train) if free else (train, 1)
        sides |= dict.fromkeys(_take(pool, splits.valid, of=len(given), keep=keep, split="valid"), "valid")
    dealt = {group: side or "train" for group, side in sides.items()}
    if "train" not in dealt.values():
        raise SplitError("no group is left for train; name fewer valid_groups and test_groups, or give some to train")
    return dealt


def rank_by_hash(groups: Iterable[str], *, seed: int) -> list[str]:
    """Return groups in the order of the SHA-256 of seed and name: as good as random, and always the same."""
    return sorted(groups, key=lambda group: hashlib.sha256(f"{seed}\0{group}".encode()).hexdigest())


def _check_names(given: Mapping[str, str | None], splits: Splits) -> None:
    if len(given) < len(SPLITS):
        raise SplitError(
            f"train, valid and test need a group each; the corpus has {len(given)} ({', '.join(sorted(given))})."
            " Add recordings of others, or choose a finer group (folder: group_pattern or group_from; manifest: group)"
        )
    for group in (*splits.valid_groups, *splits.test_groups):
        if group not in given:
            raise SplitError(f"no usable clip is of the group {group!r}; {suggest(group, given)}")


def _stated(given: Mapping[str, str | None], splits: Splits) -> dict[str, str | None]:
    """Return the given splits after the named ones: naming the groups of a split frees whatever else was in it."""
    renamed = {side for side, named in (("valid", splits.valid_groups), ("test", splits.test_groups)) if named}
    kept = {group: None if side in renamed else side for group, side in given.items()}
    return kept | dict.fromkeys(splits.valid_groups, "valid") | dict.fromkeys(splits.test_groups, "test")


def _take(pool: Sequence[str], share: float, *, of: int, keep: int, split: str) -> Sequence[str]:
    """Return the first groups of a ranked pool: the rounded share of all groups, at least one, leaving `keep`."""
    count = min(max(1, math.floor(share * of + 0.5)), len(pool) - keep)
    if count < 1:
        raise SplitError(
            f"no group can be spared for {split}: {len(pool)} of {of} groups may still be dealt and {keep} must be kept"
            f" for the other splits. Name {split}_groups, or give {split} in the corpus's own split column"
        )
    return pool[:count]


def _given(clips: pl.DataFrame) -> dict[str, str | None]:
    """Return the split given for each group, in the order of names; null where none is given."""
    pairs = clips.select("group", "split").unique().sort("group", "split", nulls_last=True)
    given: dict[str, str | None] = {}
    for group, split in pairs.iter_rows():
        if split is not None and split not in SPLITS:
            raise SplitError(f"group {group!r} has the split {split!r}; {suggest(split, SPLITS)}")
        if split is not None and given.get(group) is not None:
            raise SplitError(
                f"group {group!r} is given in {given[group]} and in {split};"
                " one group must stay in one split, or results on unseen groups mean nothing"
            )
        given[group] = given.get(group) or split
    return given
