"""Blind scores of cards of planted latents, and scores without a card."""

import numpy as np
import pytest

from otoscope.errors import EvaluationError
from otoscope.explain.card_scores import card, embedding_auroc, intruder_score, score_cards
from otoscope.explain.cards import LatentDescription, Range, describe_latents
from otoscope.explain.frame_descriptors import FrameTable
from tests.support.planted_frames import halves, high_pitch, planted_frames


@pytest.fixture(scope="module")
def frames() -> FrameTable:
    return planted_frames()


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


def test_a_planted_condition_is_found_among_unrelated_latents(frames: FrameTable) -> None:
    fit, unseen = halves(frames)
    activations = {4: high_pitch(frames)}
    for seed in range(5):
        activations[10 + seed] = (np.random.default_rng(seed).random(len(frames.groups)) < 0.2).astype(float)
    cards = describe_latents({latent: a[fit] for latent, a in activations.items()}, frames.take(fit))
    assert [one.descriptor for one in cards[4].ranges] == ["f0_semitones"]
    scores = score_cards(list(cards.values()), [a[unseen] for a in activations.values()], frames.take(unseen))
    assert [score.beats_controls for score in scores] == [True] + [False] * 5


def told_in(shares: list[float], fires: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return 1 or 0 per frame, right in a share of the frames of each group: the AUROC of the group is the share."""
    values = fires.copy()
    for number, share in enumerate(shares):
        for side in (True, False):
            rows = np.flatnonzero((groups == f"g{number}") & (fires == side))
            wrong = np.random.default_rng(number).permutation(rows)[round(share * len(rows)) :]
            values[wrong] = not side
    return values.astype(float)


@pytest.mark.parametrize(
    ("card_in", "level_in", "beats"),
    [
        # always .05 above the level, with an interval of the card alone that contains it
        ([0.9, 0.8, 0.7, 0.8], [0.85, 0.75, 0.65, 0.75], True),
        # an interval of the card alone above the mean of the level, which is better in one group
        ([0.8, 0.8, 0.8, 0.8], [0.95, 0.6, 0.6, 0.6], False),
        ([0.9, 0.9], [0.6, 0.6], False),
    ],
)
def test_score_cards_compares_card_and_control_in_the_same_groups(
    card_in: list[float], level_in: list[float], beats: bool
) -> None:
    rows, clips = 100, 8
    clip = np.repeat(np.arange(len(card_in) * clips), rows)
    groups = np.array([f"g{i}" for i in clip // clips])
    fires = np.random.default_rng(5).permutation(len(clip)) % 2 == 0
    frames = FrameTable(
        descriptors={"f1_hz": told_in(card_in, fires, groups), "level_db": told_in(level_in, fires, groups)},
        spectra=np.zeros((len(clip), 2)),
        labels={},
        groups=groups,
        clips=clip,
    )
    written = LatentDescription(latent=0, rate=0.5, ranges=(Range("f1_hz", 0.5, np.inf, 1.0),))
    (score,) = score_cards([written], [fires.astype(float)], frames)
    assert score.auroc == pytest.approx(np.mean(card_in), abs=0.01)
    assert score.lead == pytest.approx(np.mean(card_in) - np.mean(level_in), abs=0.01)
    assert score.lead_low <= score.lead <= score.lead_high
    assert score.beats_controls == beats
