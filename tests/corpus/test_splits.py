"""Groups are shared out, never torn: properties over every way of giving splits."""

import hashlib

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from otoscope.corpus.splits import Splits, assign_groups, assign_splits, group_strata, spread_strata
from otoscope.errors import SplitError

NAMES = st.lists(st.text(min_size=1, max_size=6), min_size=3, max_size=30, unique=True)
DEALS = st.builds(Splits, seed=st.integers(0, 99), valid=st.floats(0.01, 0.45), test=st.floats(0.01, 0.5))


def clips_of(groups: list[str], *, given_splits: dict[str, str] | None = None) -> pl.DataFrame:
    rows = [{"path": f"{i}.wav", "group": g, "split": (given_splits or {}).get(g)} for i, g in enumerate(groups)]
    return pl.DataFrame(rows, schema={"path": pl.String, "group": pl.String, "split": pl.String})


def sides(clips: pl.DataFrame) -> dict[str, str]:
    return dict(clips.select("group", "split").unique().iter_rows())


@given(names=NAMES, splits=DEALS, seed=st.integers(0, 9))
def test_no_group_leaks_and_no_split_is_empty(names, splits, seed):
    clips = clips_of(names * 3).sample(fraction=1.0, shuffle=True, seed=seed)
    dealt = assign_splits(clips, splits)
    assert dealt.group_by("group").agg(pl.col("split").n_unique())["split"].max() == 1
    assert set(dealt["split"]) == {"train", "valid", "test"}
    assert dealt.drop("split").equals(clips.drop("split"))


@given(names=NAMES, splits=DEALS)
def test_neither_order_nor_number_of_clips_matters(names, splits):
    once = sides(assign_splits(clips_of(names), splits))
    assert sides(assign_splits(clips_of(names[::-1]), splits)) == once
    assert sides(assign_splits(clips_of(names + names[:2] * 5), splits)) == once


@given(names=NAMES, splits=DEALS, data=st.data())
def test_given_splits_are_kept_and_the_rest_is_filled(names, splits, data):
    free = len(names) - 3
    kept = dict(
        zip(names, data.draw(st.lists(st.sampled_from(["train", "test", "valid"]), max_size=free)), strict=False)
    )
    dealt = sides(assign_splits(clips_of(names * 2, given_splits=kept), splits))
    assert {g: dealt[g] for g in kept} == kept
    assert set(dealt.values()) == {"train", "valid", "test"}


@given(groups=st.integers(10, 60))
@settings(max_examples=20)
def test_shares_are_of_the_groups(groups):
    dealt = list(assign_groups({f"g{i}": None for i in range(groups)}, Splits(valid=0.2, test=0.3)).values())
    assert dealt.count("test") == int(0.3 * groups + 0.5)
    assert dealt.count("valid") == int(0.2 * groups + 0.5)


def test_a_new_group_moves_only_groups_at_the_borders():
    before = assign_groups({f"g{i}": None for i in range(40)}, Splits())
    after = assign_groups({f"g{i}": None for i in range(41)}, Splits())
    assert sum(before[g] != after[g] for g in before) <= 2


def test_seeds_deal_differently():
    names = {f"singer{i}": None for i in range(40)}
    assert len({tuple(assign_groups(names, Splits(seed=seed)).items()) for seed in range(20)}) == 20


def test_the_deal_of_today_is_the_deal_of_tomorrow():
    names = [f"singer{i}" for i in range(6)]
    ranked = sorted(names, key=lambda name: hashlib.sha256(b"0\0" + name.encode()).hexdigest())
    dealt = assign_groups(dict.fromkeys(names), Splits())
    assert [dealt[name] for name in ranked] == ["test", "test", "valid", "train", "train", "train"]
    # written down once: another ranking would change the results of everybody's corpora
    assert list(dealt.values()) == ["valid", "train", "test", "train", "test", "train"]


def test_named_groups_win_over_hash_and_column():
    splits = Splits(test_groups=("a", "b"), valid_groups=("c",))
    assert assign_groups(dict.fromkeys("abcde"), splits) == {
        "a": "test",
        "b": "test",
        "c": "valid",
        "d": "train",
        "e": "train",
    }
    published = {"a": "train", "b": "train", "c": "train", "d": "test", "e": "train"}
    assert assign_groups(published, splits)["d"] == "train"


@given(names=NAMES, splits=DEALS, data=st.data())
def test_named_groups_are_exactly_their_split(names, splits, data):
    named = data.draw(st.lists(st.sampled_from(names), unique=True, min_size=1, max_size=len(names) - 2))
    side = data.draw(st.sampled_from(["valid", "test"]))
    dealt = assign_groups(dict.fromkeys(names), splits.model_copy(update={f"{side}_groups": tuple(named)}))
    assert {group for group, split in dealt.items() if split == side} == set(named)
    assert set(dealt.values()) == {"train", "valid", "test"}


def test_numbers_name_groups_too():
    assert Splits.model_validate({"test_groups": [1, 2]}).test_groups == ("1", "2")


def test_valid_comes_out_of_the_given_train_groups():
    published = {f"singer{i}": "test" if i < 5 else "train" for i in range(20)}
    dealt = assign_groups(published, Splits())
    assert [g for g, side in dealt.items() if side == "test"] == [f"singer{i}" for i in range(5)]
    assert list(dealt.values()).count("valid") == 4  # a fifth of twenty
    assert list(dealt.values()).count("train") == 11


@given(names=NAMES, side=st.sampled_from(["train", "valid", "test"]))
def test_clips_without_a_split_join_their_group(names, side):
    known = clips_of(names[:1], given_splits={names[0]: side})
    dealt = assign_splits(pl.concat([clips_of(names), known, clips_of(names)]), Splits())
    assert set(dealt.filter(pl.col("group") == names[0])["split"]) == {side}


@pytest.mark.parametrize(
    ("given_splits", "splits", "reason"),
    [
        (dict.fromkeys("ab"), Splits(), r"the corpus has 2 \(a, b\).*choose finer groups"),
        (dict.fromkeys("abc", "train"), Splits(), "no group is left for test: 0 of 3 groups"),
        (dict.fromkeys("abc", "test"), Splits(), "no group is left for valid"),
        (
            dict(zip("abc", ["train", "test", "test"], strict=True)),
            Splits(),
            "no group is left for valid: 1 of 3",
        ),
        (dict(zip("abc", ["valid", "valid", "test"], strict=True)), Splits(), "no group is left for train"),
        (dict.fromkeys("abc"), Splits(test_groups=tuple("abc")), "no group is left for valid"),
        (dict.fromkeys(["ann", "bob", "cy"]), Splits(test_groups=("anne",)), "group 'anne'; did you mean ann"),
    ],
)
def test_what_cannot_be_dealt_says_why(given_splits, splits, reason):
    with pytest.raises(SplitError, match=reason):
        assign_groups(given_splits, splits)


def test_a_group_given_on_two_sides_is_refused():
    clips = pl.DataFrame({"group": ["a", "a", "b", "c"], "split": ["test", "train", "train", "valid"]})
    with pytest.raises(SplitError, match="group 'a' is in test and in train"):
        assign_splits(clips, Splits())


def test_a_word_that_is_no_split_is_refused():
    clips = pl.DataFrame({"group": ["a", "b", "c"], "split": ["tset", None, None]})
    with pytest.raises(SplitError, match="group 'a' has the split 'tset'; did you mean test"):
        assign_splits(clips, Splits())


@pytest.mark.parametrize(
    ("settings_", "reason"),
    [
        ({"valid": 0.5, "test": 0.5}, "leave nothing for train"),
        ({"valid_groups": ["a", "b"], "test_groups": ["b"]}, "groups named for both valid and test: b"),
        ({"test": 0.0}, "greater than 0"),
        ({"vaild": 0.1}, "Extra inputs are not permitted"),
    ],
)
def test_settings_out_of_range_are_refused(settings_, reason):
    with pytest.raises(ValidationError, match=reason):
        Splits.model_validate(settings_)


def test_named_groups_are_spelled_as_in_the_corpus():
    assert Splits(test_groups=[" ann ", "Zoe\u0308"]).test_groups == ("ann", "Zo\u00eb")


def test_splits_are_stratified_by_labels_that_are_constant_within_groups() -> None:
    names = [f"singer{i:02d}" for i in range(20)]
    sex = {name: "f" if i < 10 else "m" for i, name in enumerate(names)}
    clips = clips_of(names * 3).with_columns(
        label_sex=pl.col("group").replace_strict(sex), label_song=pl.int_range(pl.len()).mod(3).cast(pl.String)
    )
    for seed in range(20):
        dealt = assign_splits(clips, Splits(seed=seed), stratify=True)
        counts = dealt.unique("group").group_by("split", "label_sex").len()
        for split, expected in (("test", 3), ("valid", 2), ("train", 5)):
            assert counts.filter(pl.col("split") == split)["len"].to_list() == [expected, expected]


@given(st.permutations(range(12)), st.integers(2, 4))
def test_spread_strata_balances_every_consecutive_part(order: list[int], classes: int) -> None:
    ranked = [f"{group % classes}-{group}" for group in order]
    strata = {group: (group[0],) for group in ranked}
    spread = spread_strata(ranked, strata)
    assert sorted(spread) == sorted(ranked)
    for start in range(12):
        for end in range(start + 1, 13):
            counts = [sum(group[0] == str(one) for group in spread[start:end]) for one in range(classes)]
            assert max(counts) - min(counts) <= 1


def test_strata_need_labels_that_are_constant_within_groups_with_several_groups_per_class() -> None:
    clips = clips_of(["a", "b", "c", "d"] * 2).with_columns(
        label_name=pl.col("group"), label_take=pl.int_range(pl.len()).cast(pl.String)
    )
    assert set(group_strata(clips).values()) == {()}
