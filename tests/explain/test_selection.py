"""Which latent stands for a factor."""

import numpy as np
import pytest

from otoscope.errors import EvaluationError
from otoscope.explain import LatentChoice, LatentOutcome, choose_class_latents, choose_latents
from otoscope.explain.latent_choice import WithinClasses

CLIPS, LATENTS = 300, 50
GROUPS = [f"singer{i % 10}" for i in range(CLIPS)]
TEST = np.array([i % 10 >= 7 for i in range(CLIPS)])


def planted(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sparse codes in which latent 7 follows factor 0, latent 9 follows minus factor 1, nothing follows factor 2."""
    rng = np.random.default_rng(seed)
    codes = np.maximum(rng.normal(size=(CLIPS, LATENTS)) - 0.5, 0)
    factors = rng.normal(size=(CLIPS, 3))
    codes[:, 7] = np.maximum(factors[:, 0] + 0.3 * rng.normal(size=CLIPS), 0)
    codes[:, 9] = np.maximum(-factors[:, 1] + 0.3 * rng.normal(size=CLIPS), 0)
    return codes, factors


def choose(codes: np.ndarray, factors: np.ndarray, scores: list[float], **more: object) -> list:
    names = [f"factor{i}" for i in range(factors.shape[1])]
    settings = {"train_mask": ~TEST, "test_mask": TEST, "groups": GROUPS, **more}
    return choose_latents(codes, factors, names, scores=scores, **settings)  # type: ignore[arg-type]


def test_planted_latents_are_found_with_their_sign() -> None:
    codes, factors = planted()
    first, second = choose(codes, factors, [0.9, 0.8, 0.0])
    assert (first.factor, first.latent) == ("factor0", 7)
    assert (second.factor, second.latent) == ("factor1", 9)
    assert first.test_r > 0.7 > first.null_high
    assert second.test_r < -0.7
    assert (first.test_clips, first.test_groups) == (90, 3)


def test_the_reported_correlation_is_pearsons_over_the_test_clips_alone() -> None:
    codes, factors = planted()
    (choice,) = choose(codes, factors, [0.9, np.nan, np.nan])
    assert choice.overall_r == pytest.approx(np.corrcoef(codes[TEST, 7], factors[TEST, 0])[0, 1])
    numbers = np.arange(CLIPS)[TEST] % 10
    within = [x[TEST] - [x[TEST][numbers == n].mean() for n in numbers] for x in (codes[:, 7], factors[:, 0])]
    assert choice.test_r == pytest.approx(np.corrcoef(*within)[0, 1])
    by_group = [np.corrcoef(codes[TEST, 7][numbers == n], factors[TEST, 0][numbers == n])[0, 1] for n in (7, 8, 9)]
    assert choice.group_r == pytest.approx(by_group)
    assert choice.agreeing_groups == 3
    spoiled = factors.copy()
    spoiled[TEST] = np.random.default_rng(1).normal(size=spoiled[TEST].shape)
    (same,) = choose(codes, spoiled, [0.9, np.nan, np.nan])
    assert same.latent == choice.latent
    assert same.train_r == choice.train_r
    assert abs(same.test_r) < 0.3


def test_a_group_in_which_a_latent_is_silent_disagrees_and_one_in_which_the_factor_is_constant_says_nothing() -> None:
    codes, factors = planted()
    group = np.arange(CLIPS) % 10
    codes[group == 7, 7] = 0.0
    factors[group == 8, 0] = 0.3
    (choice,) = choose(codes, factors, [0.9, np.nan, np.nan])
    silent, constant, other = choice.group_r
    assert (silent, np.isnan(constant), other > 0.7) == (0.0, True, True)
    assert (choice.agreeing_groups, choice.compared_groups) == (1, 2)
    assert choice.outcome is LatentOutcome.TOO_FEW_GROUPS


def test_a_factor_that_nothing_follows_stays_within_its_null() -> None:
    inside = 0
    for seed in range(20):
        codes, factors = planted(seed)
        (choice,) = choose(codes, factors, [np.nan, np.nan, 0.5])
        inside += abs(choice.test_r) <= choice.null_high
    assert inside >= 16


def test_latents_of_independent_factors_with_shared_group_effects_are_borne_out_in_a_fortieth_of_cases() -> None:
    borne_out = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        singer = np.array([i % 10 for i in range(CLIPS)])
        codes = np.maximum(rng.normal(size=(10, 20))[singer] + rng.normal(size=(CLIPS, 20)), 0)
        factors = rng.normal(size=(10, 1))[singer] + rng.normal(size=(CLIPS, 1))
        (choice,) = choose(codes, factors, [0.5], seed=seed)
        borne_out += choice.outcome is LatentOutcome.CONFIRMED
    # 2.5 % of 200 with a standard error of 1.1 %
    assert borne_out <= 10


def test_a_latent_of_the_singer_is_not_named_after_a_factor_of_the_clip() -> None:
    rng = np.random.default_rng(0)
    singer = np.array([i % 10 for i in range(CLIPS)])
    sex = (singer % 2).astype(float)
    pitch = 3 * sex + rng.normal(size=CLIPS)
    codes = np.maximum(rng.normal(size=(CLIPS, LATENTS)), 0)
    codes[:, 5] = 5 * sex + 0.1 * rng.random(CLIPS)
    (alone,) = choose(codes, pitch[:, None], [0.9])
    assert alone.latent != 5
    assert abs(alone.test_r) < 0.35
    codes[:, 8] = np.maximum(pitch - 3 * sex + 2 + 0.3 * rng.normal(size=CLIPS), 0)
    (choice,) = choose(codes, pitch[:, None], [0.9])
    assert choice.latent == 8
    assert choice.test_r > choice.null_high
    assert choice.within


def test_a_factor_that_is_constant_within_groups_compares_groups() -> None:
    rng = np.random.default_rng(0)
    groups = [f"singer{i % 24}" for i in range(480)]
    test = np.array([i % 24 >= 14 for i in range(480)])
    age = rng.normal(size=24)[np.arange(480) % 24]
    codes = np.maximum(rng.normal(size=(480, 10)), 0)
    codes[:, 3] = np.maximum(age + 2 + 0.2 * rng.normal(size=480), 0)
    names, masks = ["age"], {"train_mask": ~test, "test_mask": test}
    (choice,) = choose_latents(codes, age[:, None], names, scores=[0.9], groups=groups, **masks)
    assert choice.latent == 3
    assert not choice.within
    assert choice.test_r > choice.null_high
    few = test & (np.arange(480) % 24 < 16)
    (untested,) = choose_latents(
        codes, age[:, None], names, scores=[0.9], groups=groups, train_mask=~test, test_mask=few
    )
    assert untested.null_high == 1


def test_a_latent_is_listed_once_with_all_its_factors() -> None:
    codes, factors = planted()
    doubled = np.column_stack([factors, 2 * factors[:, 0] + 1])
    choices = choose(codes, doubled, [0.9, 0.8, 0.0, 0.7])
    assert [(c.latent, c.also) for c in choices] == [(7, ("factor3",)), (9, ())]
    assert [c.latent for c in choose(codes, doubled, [0.9, 0.8, 0.0, 0.7], top=1)] == [7]


def test_unknown_values_dead_latents_and_unpredicted_factors_are_passed_over() -> None:
    codes, factors = planted()
    codes[:, 3] = 0.0
    codes[:, 4] = 1.0
    factors[::5, 0] = np.nan
    factors[:, 1] = np.nan
    choices = choose(codes, factors, [0.9, 0.9, 0.05])
    assert [(c.factor, c.latent) for c in choices] == [("factor0", 7)]
    assert choices[0].test_clips == int((TEST & np.isfinite(factors[:, 0])).sum())


def test_the_choice_is_the_same_each_time() -> None:
    codes, factors = planted()
    one, again = (choose(codes, factors, [0.9, 0.8, 0.7]) for _ in range(2))
    assert repr(one) == repr(again)  # NaN is not equal to itself


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test_mask": np.ones(CLIPS, bool)}, "share clips"),
        ({"groups": ["a"]}, "groups has 1 rows"),
        ({"train_mask": np.zeros(3, bool)}, "train_mask has 3 rows"),
    ],
)
def test_clips_that_do_not_match_are_refused(change: dict[str, object], message: str) -> None:
    codes, factors = planted()
    with pytest.raises(EvaluationError, match=message):
        choose(codes, factors, [0.9, 0.8, 0.7], **change)


def test_scores_must_match_factors() -> None:
    codes, factors = planted()
    with pytest.raises(EvaluationError, match="2 scores for 3 factors"):
        choose(codes, factors, [0.9, 0.8])


def classes(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Codes in which latent 4 fires for "trill" and latent 5 for all but "belt"; nothing fires for "breathy"."""
    rng = np.random.default_rng(seed)
    technique = np.array(["trill", "belt", "breathy"])[rng.integers(3, size=CLIPS)]
    codes = np.maximum(rng.normal(size=(CLIPS, LATENTS)) - 0.5, 0)
    codes[:, 4] += 2 * (technique == "trill")
    codes[:, 5] += 2 * (technique != "belt")
    return codes, technique


def test_choose_class_latents_finds_the_latent_that_is_stronger_for_a_class() -> None:
    codes, technique = classes()
    found = choose_class_latents(codes, {"technique": technique}, train_mask=~TEST, test_mask=TEST, groups=GROUPS)
    by_class = {choice.factor: choice for choice in found}
    assert by_class["trill"].latent == 4
    assert by_class["trill"].label == "technique"
    assert by_class["trill"].test_r > by_class["trill"].null_high
    assert all(choice.train_r > 0 for choice in found)
    # no latent fires for belt alone: the one that is silent for it does not stand for it
    assert by_class["belt"].latent != 5 if "belt" in by_class else True
    assert all(choice.test_r <= choice.null_high for name, choice in by_class.items() if name == "belt")


def test_choose_class_latents_names_every_class_that_test_clips_confirm_and_the_next() -> None:
    rng = np.random.default_rng(0)
    emotion = np.array(["angry", "calm", "fearful", "happy", "sad"])[rng.integers(5, size=CLIPS)]
    codes = np.maximum(rng.normal(size=(CLIPS, LATENTS)) - 0.5, 0)
    codes[:, 4] += np.select([emotion == "fearful", emotion == "angry", emotion == "sad"], [2.1, 2.0, 0.9])
    codes[:, 6] += 2 * (emotion == "happy")
    found = choose_class_latents(codes, {"emotion": emotion}, train_mask=~TEST, test_mask=TEST, groups=GROUPS)
    both, alone = (next(one for one in found if one.latent == latent) for latent in (4, 6))
    assert {both.factor, *both.other_classes} == {"fearful", "angry"}
    assert not set(both.also) & {"fearful", "angry"}
    assert both.next_class == "sad"
    assert both.next_r < both.null_high
    assert (alone.factor, alone.other_classes) == ("happy", ())
    sides = [(codes[TEST, 4], emotion[TEST] == "sad")]
    singer = np.arange(CLIPS)[TEST] % 10
    within = [[x - [x[singer == n].mean() for n in singer] for x in pair] for pair in sides]
    assert both.next_r == pytest.approx(np.corrcoef(*within[0])[0, 1])


def test_choose_class_latents_names_a_class_that_only_test_clips_contain_more_of() -> None:
    rng = np.random.default_rng(0)
    emotion = np.array(["angry", "calm", "fearful"])[rng.integers(3, size=CLIPS)]
    codes = np.maximum(rng.normal(size=(CLIPS, LATENTS)) - 0.5, 0)
    codes[:, 4] += np.where((emotion == "fearful") | (TEST & (emotion == "angry")), 2.0, 0.0)
    found = choose_class_latents(codes, {"emotion": emotion}, train_mask=~TEST, test_mask=TEST, groups=GROUPS)
    one = next(choice for choice in found if choice.latent == 4)
    assert (one.factor, one.other_classes) == ("fearful", ("angry",))
    assert one.other_test_r[0] > one.null_high
    inside = [(codes[~TEST, 4], emotion[~TEST] == "angry")]
    singer = np.arange(CLIPS)[~TEST] % 10
    within = [[x - [x[singer == n].mean() for n in singer] for x in pair] for pair in inside]
    assert one.other_train_r == pytest.approx((np.corrcoef(*within[0])[0, 1],))


def test_choose_class_latents_names_no_other_class_of_a_latent_that_test_clips_refute() -> None:
    rng = np.random.default_rng(0)
    emotion = np.array(["angry", "calm", "fearful"])[rng.integers(3, size=CLIPS)]
    codes = np.maximum(rng.normal(size=(CLIPS, LATENTS)) - 0.5, 0)
    codes[:, 4] += np.where(np.where(TEST, emotion == "angry", emotion == "fearful"), 2.0, 0.0)
    found = choose_class_latents(codes, {"emotion": emotion}, train_mask=~TEST, test_mask=TEST, groups=GROUPS)
    one = next(choice for choice in found if choice.latent == 4)
    assert (one.factor, one.outcome, one.other_classes) == ("fearful", LatentOutcome.OPPOSITE, ())
    assert one.next_class == "angry"
    assert one.next_r > one.null_high


def test_choose_class_latents_shows_every_label_before_a_second_class_of_one() -> None:
    codes, technique = classes()
    vowel = np.array(["a", "e", "i"])[np.random.default_rng(5).integers(3, size=CLIPS)]
    sex = np.where(np.array([i % 2 for i in range(CLIPS)]) == 1, "woman", "man")  # constant within the ten singers
    for i, name in enumerate("aei"):
        codes[:, 10 + i] += 2 * (vowel == name)
    codes[:, 14] += 3 * (sex == "man")
    labels = {"technique": technique, "sex": sex, "vowel": vowel}
    masks = {"train_mask": ~TEST, "test_mask": TEST, "groups": GROUPS}
    assert [one.label for one in choose_class_latents(codes, labels, **masks, top=2)] == ["technique", "vowel"]
    found = choose_class_latents(codes, labels, **masks, top=4)
    assert [one.label for one in found] == ["technique", "technique", "vowel", "vowel"]
    everything = choose_class_latents(codes, labels, **masks, top=20)
    assert "sex" in {one.label for one in everything}
    assert [one.label for one in everything] == sorted((one.label for one in everything), key=list(labels).index)


def test_choose_class_latents_leaves_out_rare_classes_and_missing_labels() -> None:
    codes, technique = classes()
    technique = technique.astype(object)
    technique[:5] = "whistle"
    technique[5:20] = None
    found = choose_class_latents(codes, {"technique": technique}, train_mask=~TEST, test_mask=TEST, groups=GROUPS)
    assert {choice.factor for choice in found} <= {"trill", "belt", "breathy"}
    assert {choice.test_clips for choice in found} == {int((TEST & (np.arange(CLIPS) >= 20)).sum())}
    masks = {"train_mask": ~TEST, "test_mask": TEST}
    assert len(choose_class_latents(codes, {"technique": technique}, **masks, groups=GROUPS, top=1)) == 1


def test_choose_latents_rarely_confirms_a_latent_that_follows_the_factor_in_one_test_group_only() -> None:
    def outcome(seed: int, *, by_group: list[float]) -> LatentOutcome:
        rng = np.random.default_rng(seed)
        group = np.repeat(np.arange(4 + len(by_group)), 30)
        factor, codes = rng.normal(size=len(group)), np.maximum(rng.normal(size=(len(group), 20)) - 0.5, 0)
        r = np.array([0.7] * 4 + by_group)[group]
        codes[:, 3] = np.maximum(r * factor + np.sqrt(1 - r**2) * rng.normal(size=len(group)) - 0.5, 0)
        masks = {"train_mask": group < 4, "test_mask": group >= 4, "groups": group.astype(str).tolist()}
        (choice,) = choose_latents(codes, factor[:, None], ["f"], scores=[0.9], seed=seed, **masks)
        return choice.outcome

    one, every = ([outcome(i, by_group=r) for i in range(40)] for r in ([0.95, 0.0, 0.0], [0.6, 0.6, 0.6]))
    assert one.count(LatentOutcome.TOO_FEW_GROUPS) >= 12
    assert one.count(LatentOutcome.CONFIRMED) <= 8
    assert every.count(LatentOutcome.CONFIRMED) >= 36


def of_class_or_value(seed: int, *, follows_class: bool, groups: int = 10) -> LatentChoice:
    """Return the latent of a factor that differs by technique; it fires for the highest technique, or with the factor.

    Each group has two clips of each of ten techniques.
    """
    rng = np.random.default_rng(seed)
    group, technique = np.divmod(np.arange(groups * 20), 20)
    technique %= 10
    level = 2 * rng.normal(size=10)
    factor = level[technique] + rng.normal(size=len(group)) + rng.normal(size=groups)[group]
    codes = np.maximum(rng.normal(size=(len(group), 30)) - 0.5, 0)
    noise = rng.normal(size=len(group))
    in_class = (technique == level.argmax()) * np.maximum(2 + 0.3 * noise, 0)
    codes[:, 3] = (
        in_class if follows_class else np.maximum(1 + (factor - factor.mean()) / factor.std() + 0.3 * noise, 0)
    )
    labels = {"technique": technique.astype(str), "other": rng.integers(0, 4, len(group)).astype(str)}
    masks = {"train_mask": group < groups - 3, "test_mask": group >= groups - 3}
    (choice,) = choose_latents(
        codes, factor[:, None], ["f"], scores=[0.9], groups=group.astype(str).tolist(), labels=labels, **masks
    )
    assert (choice.latent, choice.class_labels) == (3, ("technique",))
    assert choice.of_class == f"technique {level.argmax()}" or not follows_class
    return choice


def test_choose_latents_tells_a_detector_of_a_class_from_a_latent_of_the_factor() -> None:
    found = {
        follows: [of_class_or_value(seed, follows_class=follows).within_classes for seed in range(20)]
        for follows in (True, False)
    }
    assert found[True].count(WithinClasses.BETWEEN_CLASSES) >= 16
    assert found[False] == [WithinClasses.HOLDS] * 20


def test_choose_latents_leaves_open_what_too_few_permutations_can_tell() -> None:
    """One test clip differs in the factor, so that its values have ten arrangements."""
    rng = np.random.default_rng(0)
    group, technique = np.divmod(np.arange(200), 20)
    technique %= 4
    factor = 3.0 * technique + rng.normal(size=200)
    test = group >= 7
    factor[test] = 1.0
    factor[np.flatnonzero(test)[0]] = 2.0
    names, labels = (
        group.astype(str).tolist(),
        {"technique": np.where(test & (np.arange(200) % 2 == 0), "9", technique)},
    )
    codes = np.maximum(factor[:, None] + rng.normal(size=(200, 1)), 0)
    masks = {"train_mask": ~test, "test_mask": test, "groups": names}
    (choice,) = choose_latents(codes, factor[:, None], ["f"], scores=[0.9], labels=labels, **masks)
    assert choice.outcome is LatentOutcome.NOT_TESTABLE
    assert (choice.class_labels, choice.within_classes) == (("technique",), WithinClasses.OPEN)


def test_choose_latents_leaves_open_what_too_few_clips_per_class_can_tell() -> None:
    rng = np.random.default_rng(0)
    group, technique = np.divmod(np.arange(40), 4)
    factor = 3.0 * technique + rng.normal(size=40)
    codes = np.maximum(factor[:, None] - 2.0 + rng.normal(size=(40, 1)), 0)
    names, test = group.astype(str).tolist(), group >= 7
    (choice,) = choose_latents(
        codes,
        factor[:, None],
        ["f"],
        scores=[0.9],
        groups=names,
        labels={"technique": technique.astype(str)},
        train_mask=~test,
        test_mask=test,
    )
    assert choice.within_classes is WithinClasses.OPEN
    assert np.isnan(choice.class_r)
