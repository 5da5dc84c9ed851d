"""Cards of planted latents, and their blind scores."""

from dataclasses import replace

import numpy as np
import pytest

from otoscope.errors import EvaluationError
from otoscope.explain.card_tables import choose_clips, silent_frames
from otoscope.explain.cards import (
    FrameTable,
    LatentDescription,
    Range,
    card,
    describe_latents,
    embedding_auroc,
    intruder_score,
    score_cards,
)
from otoscope.explain.frame_descriptors import DESCRIPTORS

GROUPS, CLIPS, ROWS = 6, 8, 60


def contour(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    walk = np.cumsum(rng.normal(size=ROWS))
    return low + (high - low) * (walk - walk.min()) / np.ptp(walk)


@pytest.fixture(scope="module")
def frames() -> FrameTable:
    rng = np.random.default_rng(0)
    clips = np.repeat(np.arange(GROUPS * CLIPS), ROWS)
    pitch = np.concatenate([contour(rng, 20, 50) for _ in range(GROUPS * CLIPS)])
    level = np.concatenate([contour(rng, -60, -20) for _ in range(GROUPS * CLIPS)])
    pitch[np.concatenate([contour(rng, 0, 1) for _ in range(GROUPS * CLIPS)]) < 0.3] = np.nan
    descriptors = {name: rng.normal(size=len(clips)) for name in DESCRIPTORS}
    descriptors |= {"f0_semitones": pitch, "level_db": level}
    for name, descriptor in DESCRIPTORS.items():
        if descriptor.voiced:
            descriptors[name] = np.where(np.isnan(pitch), np.nan, descriptors[name])
    vowel = np.array(["a", "i", "u", "o"])[clips % 4]
    spectra = rng.normal(size=(len(clips), 6)) + 3 * (vowel == "i")[:, None]
    return FrameTable(
        descriptors=descriptors,
        spectra=spectra,
        labels={"vowel": vowel},
        groups=np.array([f"g{i}" for i in clips // CLIPS]),
        clips=clips,
    )


def halves(frames: FrameTable) -> tuple[np.ndarray, np.ndarray]:
    fit = np.isin(frames.groups, ["g0", "g1", "g2"])
    return fit, ~fit


def high_pitch(frames: FrameTable) -> np.ndarray:
    pitch = np.nan_to_num(frames.descriptors["f0_semitones"], nan=0.0)
    return np.where((pitch > 30) & (pitch < 40), 1.0, 0.0) * np.random.default_rng(1).uniform(0.5, 1, len(pitch))


def test_choose_clips_of_a_corpus_in_the_order_of_its_labels_has_all_classes() -> None:
    labels = np.tile(np.repeat(["a", "b", "c", "d"], 25), 4)
    groups, splits = np.repeat(list("wxyz"), 100), np.repeat(["train", "valid", "test", "test"], 100)
    chosen = choose_clips(splits.tolist(), groups.tolist(), clips=80)
    _, counts = np.unique(labels[chosen], return_counts=True)
    assert len(counts) == 4
    assert counts.min() >= 10


def test_card_names_the_planted_condition_and_predicts_unseen_groups(frames: FrameTable) -> None:
    fit, unseen = halves(frames)
    activations = high_pitch(frames)
    rival = describe_latents({5: (frames.labels["vowel"][fit] == "u").astype(float)}, frames.take(fit))[5]
    found, score = card(activations, frames, test=unseen, latent=4, others=[rival])
    (pitch,) = found.ranges
    assert pitch.descriptor == "f0_semitones"
    assert (pitch.low, pitch.high) == (pytest.approx(30, abs=2.5), pytest.approx(40, abs=2.5))
    assert (found.latent, found.voicing) == (4, "voiced")
    low_hz, high_hz = (27.5 * 2 ** (value / 12) for value in (pitch.low, pitch.high))
    assert f"voiced frames; pitch {low_hz:.0f} to {high_hz:.0f} Hz" in found.sentence
    assert score.auroc > 0.9
    assert score.beats_controls
    assert max(score.permuted_high, score.others, score.level) < 0.7
    assert (score.groups, score.rows) == (3, int(unseen.sum()))


def test_card_names_classes_that_hold_in_several_groups(frames: FrameTable) -> None:
    rng = np.random.default_rng(2)
    activations = ((frames.labels["vowel"] == "i") & (rng.random(len(frames.groups)) < 0.5)).astype(float)
    found = describe_latents({0: activations}, frames)[0]
    (vowel,) = found.classes
    assert vowel.names == ("i",)
    assert "more often for vowel i" in found.sentence
    one_group = np.where(frames.groups == "g0", activations, 0.0)
    assert describe_latents({0: one_group}, frames)[0].classes == ()


def test_a_latent_of_noise_has_an_empty_card_that_beats_nothing(frames: FrameTable) -> None:
    _, unseen = halves(frames)
    beyond = 0
    for seed in range(4):
        noise = (np.random.default_rng(seed).random(len(frames.groups)) < 0.2).astype(float)
        beyond += card(noise, frames, test=unseen).score.beats_controls
    assert beyond == 0
    assert "no condition" in LatentDescription(latent=0, rate=0.2).sentence


@pytest.mark.parametrize("sign", [1, -1])
def test_card_is_not_above_the_control_of_a_latent_that_follows_the_level(frames: FrameTable, sign: int) -> None:
    _, unseen = halves(frames)
    fires = np.maximum(sign * (frames.descriptors["level_db"] + 35), 0)
    found, score = card(fires, frames, test=unseen)
    assert found.ranges[0].descriptor == "level_db"
    assert score.auroc > 0.9
    assert score.level > 0.99
    assert not score.beats_controls


def test_a_latent_that_never_fires_has_no_score(frames: FrameTable) -> None:
    silent = np.zeros(len(frames.groups))
    _, unseen = halves(frames)
    found, score = card(silent, frames, test=unseen)
    assert found.rate == 0
    assert np.isnan(score.auroc)
    assert not score.beats_controls
    with pytest.raises(EvaluationError, match="give one per frame"):
        describe_latents({0: silent[1:]}, frames)


def test_card_refuses_other_numbers_of_rows_and_a_group_on_both_sides(frames: FrameTable) -> None:
    values = np.ones(len(frames.groups))
    with pytest.raises(EvaluationError, match="give one per frame"):
        card(values[1:], frames, test=values > 0)
    half = np.arange(len(values)) % 2 == 0
    with pytest.raises(EvaluationError, match="group 'g0' is on both sides of the test; keep groups whole"):
        card(values, frames, test=half)


def test_predict_falls_with_the_distance_from_a_range(frames: FrameTable) -> None:
    values = np.array([30.0, 35.0, 40.0, 45.0, 50.0, 60.0, np.nan])
    seven = replace(
        frames.take(np.arange(len(frames.groups)) < 7),
        descriptors={**dict.fromkeys(DESCRIPTORS, values), "f0_semitones": values},
    )
    card = LatentDescription(latent=0, rate=0.1, ranges=(Range("level_db", 30.0, 40.0, 1.0),))
    assert card.predict(seven).tolist() == [1.0, 1.0, 1.0, 0.5, 0.0, 0.0, 0.0]


def test_intruder_and_embedding_scores_need_an_embedding_that_tells_firing(frames: FrameTable) -> None:
    activations = (frames.labels["vowel"] == "i").astype(float)
    noise = np.random.default_rng(3).normal(size=frames.spectra.shape)
    assert intruder_score(activations, frames.spectra, frames.clips) > 0.9
    assert intruder_score(activations, noise, frames.clips) == pytest.approx(0.2, abs=0.1)
    fit, unseen = halves(frames)
    told, blind = (
        embedding_auroc((activations[fit], e[fit]), (activations[unseen], e[unseen]), frames.groups[unseen])
        for e in (frames.spectra, noise)
    )
    assert told > 0.95
    assert blind == pytest.approx(0.5, abs=0.08)
    assert np.isnan(intruder_score(np.zeros(len(noise)), noise, frames.clips))


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


def test_a_planted_condition_is_found_among_unrelated_latents(frames: FrameTable) -> None:
    fit, unseen = halves(frames)
    activations = {4: high_pitch(frames)}
    for seed in range(5):
        activations[10 + seed] = (np.random.default_rng(seed).random(len(frames.groups)) < 0.2).astype(float)
    cards = describe_latents({latent: a[fit] for latent, a in activations.items()}, frames.take(fit))
    assert [one.descriptor for one in cards[4].ranges] == ["f0_semitones"]
    scores = score_cards(list(cards.values()), [a[unseen] for a in activations.values()], frames.take(unseen))
    assert [score.beats_controls for score in scores] == [True] + [False] * 5


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
