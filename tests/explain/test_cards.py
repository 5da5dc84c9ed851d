"""Cards of planted latents."""

from dataclasses import replace

import numpy as np
import pytest

from otoscope.explain.card_scores import score_cards
from otoscope.explain.card_tables import choose_clips, silent_frames
from otoscope.explain.cards import LatentDescription, Range, describe_latents
from otoscope.explain.frame_descriptors import DESCRIPTORS, FrameTable
from tests.support.planted_frames import CLIPS, GROUPS, ROWS, contour, halves, planted_frames


@pytest.fixture(scope="module")
def frames() -> FrameTable:
    return planted_frames()


def test_choose_clips_of_a_corpus_in_the_order_of_its_labels_has_all_classes() -> None:
    labels = np.tile(np.repeat(["a", "b", "c", "d"], 25), 4)
    groups, splits = np.repeat(list("wxyz"), 100), np.repeat(["train", "valid", "test", "test"], 100)
    chosen = choose_clips(splits.tolist(), groups.tolist(), clips=80)
    _, counts = np.unique(labels[chosen], return_counts=True)
    assert len(counts) == 4
    assert counts.min() >= 10


def test_card_names_classes_that_hold_in_several_groups(frames: FrameTable) -> None:
    rng = np.random.default_rng(2)
    activations = ((frames.labels["vowel"] == "i") & (rng.random(len(frames.groups)) < 0.5)).astype(float)
    found = describe_latents({0: activations}, frames)[0]
    (vowel,) = found.classes
    assert vowel.names == ("i",)
    assert "more often for vowel i" in found.sentence
    one_group = np.where(frames.groups == "g0", activations, 0.0)
    assert describe_latents({0: one_group}, frames)[0].classes == ()


def test_descriptors_that_do_not_follow_the_truth_are_on_no_card(frames: FrameTable) -> None:
    formant = np.nan_to_num(frames.descriptors["f3_hz"], nan=-9.0)
    activations = {0: np.where(formant > 1, 1.0, 0.0)}
    found = describe_latents(activations, frames)[0]
    assert [one.descriptor for one in found.ranges] == ["f3_hz"]
    assert "openSMILE's F3 above" in found.sentence
    unreliable = replace(frames, unreliable=frozenset({"f3_hz"}))
    assert describe_latents(activations, unreliable)[0].ranges == ()
    assert set(unreliable.take(frames.voiced).reliable) == {*DESCRIPTORS} - {"f3_hz"}
    left = np.delete(frames.embedding, list(DESCRIPTORS).index("f3_hz"), axis=1)
    np.testing.assert_array_equal(unreliable.embedding, left)


def test_predict_falls_with_the_distance_from_a_range(frames: FrameTable) -> None:
    values = np.array([30.0, 35.0, 40.0, 45.0, 50.0, 60.0, np.nan])
    seven = replace(
        frames.take(np.arange(len(frames.groups)) < 7),
        descriptors={**dict.fromkeys(DESCRIPTORS, values), "f0_semitones": values},
    )
    card = LatentDescription(latent=0, rate=0.1, ranges=(Range("level_db", 30.0, 40.0, 1.0),))
    assert card.predict(seven).tolist() == [1.0, 1.0, 1.0, 0.5, 0.0, 0.0, 0.0]


def unrelated(seed: int, *, latents: int = 6, clips: int = 4) -> tuple[dict[int, np.ndarray], FrameTable]:
    """Return latents with effects of group and clip, and frames whose descriptors and classes have no part in them."""
    rng = np.random.default_rng(seed)
    clip = np.repeat(np.arange(GROUPS * clips), ROWS)
    group = clip // clips
    tracks = np.stack(
        [np.concatenate([contour(rng, -1, 1) for _ in range(GROUPS * clips)]) for _ in range(latents + 3)]
    )
    own = rng.normal(size=(latents, GROUPS))[:, group] + rng.normal(size=(latents, GROUPS * clips))[:, clip]
    names = ("f0_semitones", "level_db", next(name for name in DESCRIPTORS if name not in ("f0_semitones", "level_db")))
    descriptors = dict(zip(names, tracks[latents:] + 0.5 * rng.normal(size=(3, GROUPS))[:, group], strict=True))
    vowel = np.array(["a", "i", "u", "o"])[rng.integers(4, size=GROUPS * clips)][clip]
    frames = FrameTable(
        descriptors=descriptors,
        spectra=rng.normal(size=(len(clip), 2)),
        labels={"vowel": vowel},
        groups=np.array([f"g{i}" for i in group]),
        clips=clip,
    )
    return dict(enumerate(np.maximum(tracks[:latents] + own - 1, 0))), frames


@pytest.mark.parametrize("data_sets", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_cards_of_a_family_without_relation_rarely_state_any_condition(data_sets: int) -> None:
    ranges, classes, beyond = np.zeros((3, data_sets))
    for seed in range(data_sets):
        activations, frames = unrelated(seed)
        fit, unseen = halves(frames)
        cards = describe_latents({latent: a[fit] for latent, a in activations.items()}, frames.take(fit))
        ranges[seed] = any(card.ranges for card in cards.values())
        classes[seed] = any(card.classes for card in cards.values())
        scores = score_cards(list(cards.values()), [a[unseen] for a in activations.values()], frames.take(unseen))
        beyond[seed] = any(score.beats_controls for score in scores)
    # 5 % of 40 are 2; more than 6 have a probability of 0.3 %
    most = 1 if data_sets == 4 else 6
    assert ranges.sum() <= most
    assert classes.sum() <= most
    assert beyond.sum() <= most


def test_card_of_a_latent_that_fires_in_the_silence_before_loud_voices_does_not_say_loud(frames: FrameTable) -> None:
    """Over clips its mean code follows the level with r > 0.8; over frames it fires where the level is low."""
    rng = np.random.default_rng(4)
    clips = frames.clips
    silent = np.arange(len(clips)) % ROWS < 20
    loudness_db = rng.uniform(-40, -10, GROUPS * CLIPS)[clips]
    level_db = np.where(silent, -70.0, loudness_db) + rng.normal(size=len(clips))
    activations = np.where(silent, (loudness_db + 45) / 10, 0.0)
    by_clip = [np.bincount(clips, values) for values in (activations, level_db)]
    assert np.corrcoef(by_clip[0], by_clip[1])[0, 1] > 0.8
    pitch = np.where(silent, np.nan, 30 + rng.normal(size=len(clips)))
    known = {"level_db": level_db, "f0_semitones": pitch}
    voiced = {
        name: np.where(silent, np.nan, rng.normal(size=len(clips))) for name, d in DESCRIPTORS.items() if d.voiced
    }
    table = replace(frames, descriptors={**frames.descriptors, **voiced, **known})
    found = describe_latents({0: activations}, table)[0]
    assert found.voicing == "unvoiced"
    assert not [one for one in found.ranges if one.descriptor == "level_db" and one.low > -60]


def test_silent_frames_are_those_far_below_the_loudest_of_their_clip() -> None:
    level = np.array([-20.0, -59.0, -60.0, -90.0, -70.0, -109.0, -111.0])
    frames = FrameTable(
        descriptors={"level_db": level},
        spectra=np.zeros((7, 1)),
        labels={},
        groups=np.repeat("a", 7),
        clips=np.array([4, 4, 4, 4, 9, 9, 9]),
    )
    assert silent_frames(frames).tolist() == [False, False, True, True, False, False, True]
