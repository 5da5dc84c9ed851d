"""Blind scores of cards on unseen groups beside controls, and of the frames themselves without any card.

The score of a card is the area under the ROC curve (AUROC) of predicting, from the card alone, in which frames of other
groups the latent fires. An intruder among frames in which it fires, and their mean, test whether they are alike at all.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.stats import rankdata

from otoscope.errors import EvaluationError
from otoscope.explain.cards import LatentDescription, describe_latents
from otoscope.explain.frame_descriptors import FrameTable
from otoscope.explain.response_curves import group_members, move_within_groups
from otoscope.formatting import LARGEST_SCORE
from otoscope.resampling.groups import number_groups
from otoscope.resampling.intervals import MIN_GROUPS, Interval, bounded, jackknife_sums
from otoscope.resampling.nulls import compare_with_maximum

CARD_PERMUTATIONS = 50
"""Permutations of firing over clips, for the null of blind scores."""

TRIALS = 300
"""Trials of the search for an intruder."""


class CardScore(NamedTuple):
    """AUROC of a card on unseen groups, with its 95 % interval, and the same for its controls.

    `permuted_high` is exceeded by any card of the family in 5 % of cases with firing moved to other clips, `others` is
    the mean AUROC of the cards of other latents, `level` the AUROC of the level alone, in the direction
    that predicts better ("fires when loud" or "when soft"). `lead` is the mean over groups of the difference between
    the card and one of these two in the same group, with its interval: of the one with the lower `lead_low`.
    """

    auroc: float
    low: float
    high: float
    permuted_high: float
    others: float
    level: float
    lead: float
    lead_low: float
    lead_high: float
    groups: int
    rows: int

    @property
    def beats_controls(self) -> bool:
        """True if the interval of the AUROC is above chance, and that of `lead` above 0, in `MIN_GROUPS` or more."""
        chance = max([0.5, *(high for high in [self.permuted_high] if math.isfinite(high))])
        return self.groups >= MIN_GROUPS and self.low > chance and self.lead_low > 0


def score_cards(
    cards: Sequence[LatentDescription], activations: Sequence[Float[np.ndarray, " rows"]], frames: FrameTable
) -> list[CardScore]:
    """Return the blind scores of cards on frames of groups that were not used to write them.

    AUROCs are computed within each group and averaged. A group in which the latent always or never fires has none. The
    scores are one family: `permuted_high` is that of the largest score of all cards.
    """
    moves = _moves(frames)
    return _tested_scores(
        [
            _score(card, own, frames, [other for other in cards if other is not card], moves)
            for card, own in zip(cards, activations, strict=True)
        ]
    )


class ScoredDescription(NamedTuple):
    """Description of when a latent fires, in words and numbers, and its blind score on unseen groups."""

    description: LatentDescription
    score: CardScore


def card(
    activations: Float[np.ndarray, " rows"],
    frames: FrameTable,
    *,
    test: Bool[np.ndarray, " rows"],
    latent: int = 0,
    others: Sequence[LatentDescription] = (),
) -> ScoredDescription:
    """Return the card of a single latent: written from the frames of some groups, scored on those of `test` groups.

    Args:
        activations: activation of the latent in each frame.
        frames: descriptors, spectra, labels, groups and clips of these frames; see `frame_table`.
        test: frames of the groups on which the card is scored.
        latent: number of the latent.
        others: cards of other latents, as a control.

    Several latents are one family in every test: `describe_latents` and `score_cards` take them together. Raises
    `EvaluationError` if the numbers of rows differ, or if a group has frames on both sides.
    """
    for one in (activations, test):
        if len(one) != len(frames.groups):
            raise EvaluationError(f"{len(one)} activations for {len(frames.groups)} frames; give one per frame")
    if shared := set(frames.groups[test].tolist()) & set(frames.groups[~test].tolist()):
        raise EvaluationError(f"group {sorted(shared)[0]!r} is on both sides of the test; keep groups whole")
    written = describe_latents({latent: activations[~test]}, frames.take(~test))[latent]
    tested = frames.take(test)
    score = _score(written, activations[test], tested, others, _moves(tested))
    return ScoredDescription(written, _tested_scores([score])[0])


class _Scored(NamedTuple):
    """Score of a card without the family's null, and the score after each permutation."""

    score: CardScore
    null: Float[np.ndarray, " permutations"]


def _tested_scores(scored: Sequence[_Scored]) -> list[CardScore]:
    """Return the scores with the threshold of the largest of all scores after the same permutation."""
    if not scored:
        return []
    null = np.stack([one.null for one in scored], axis=1)
    found = compare_with_maximum(np.array([one.score.auroc for one in scored]), null)
    return [
        one.score._replace(permuted_high=math.nan if math.isnan(one.score.auroc) else float(min(high, LARGEST_SCORE)))
        for one, high in zip(scored, found.high, strict=True)
    ]


def _moves(frames: FrameTable) -> list[Int[np.ndarray, " rows"]]:
    """Return the permutations of frames for the nulls of all cards: the frame whose firing each frame takes."""
    rows, members = np.arange(len(frames.groups), dtype=np.int32), group_members(*number_groups(frames.groups))
    return [
        move_within_groups(rows, frames.clips, members, np.random.default_rng([0, turn]))
        for turn in range(CARD_PERMUTATIONS)
    ]


def _score(
    card: LatentDescription,
    activations: Float[np.ndarray, " rows"],
    frames: FrameTable,
    others: Sequence[LatentDescription],
    moves: Sequence[Int[np.ndarray, " rows"]],
) -> _Scored:
    fires, predicted = activations > 0, card.predict(frames)
    ranks = group_ranks(predicted, frames.groups)
    per_group = ranks.aurocs(fires)
    if not per_group:
        score = CardScore(*[math.nan] * 9, groups=0, rows=len(fires))
        return _Scored(score, np.full(CARD_PERMUTATIONS, math.nan))
    own = np.array(list(per_group.values()))
    null = [_mean(ranks.aurocs(fires[rows])) for rows in moves]

    def of_control(score: Float[np.ndarray, " rows"]) -> Float[np.ndarray, " groups"]:
        return np.array(list(group_ranks(score, frames.groups).aurocs(fires).values()))

    level = of_control(frames.descriptors["level_db"])
    controls = [level if level.mean() >= 0.5 else 1.0 - level]
    if others:
        controls.append(np.mean([of_control(other.predict(frames)) for other in others], axis=0))
    lead = min(
        (_mean_of_groups(own - control, 1.0) for control in controls), key=lambda found: (found.low, found.value)
    )
    score = CardScore(
        *_mean_of_groups(own, 0.0),
        permuted_high=math.nan,
        others=float(controls[1].mean()) if others else math.nan,
        level=float(controls[0].mean()),
        lead=lead.value,
        lead_low=lead.low,
        lead_high=lead.high,
        groups=len(own),
        rows=len(fires),
    )
    return _Scored(score, np.asarray(null, dtype=np.float64))


def _mean_of_groups(values: Float[np.ndarray, " groups"], below: float) -> Interval:
    """Return the mean over groups with its interval, which lies between -`below` and 1."""
    sums = np.stack([values, np.ones(len(values))], axis=1)
    found = jackknife_sums(sums, lambda s: s[..., 0] / s[..., 1], scale=bounded(-below, 1.0))
    return Interval(*map(float, found))


class GroupRanks(NamedTuple):
    """Ranks of a score within each group, from which AUROCs of any firing follow."""

    rows: dict[str, Int[np.ndarray, " rows"]]
    ranks: dict[str, Float[np.ndarray, " rows"]]

    def aurocs(self, positive: Bool[np.ndarray, " rows"]) -> dict[str, float]:
        """Return the area under the ROC curve within each group that has rows of both kinds, ties counted half.

        >>> score = np.array([0.1, 0.4, 0.35, 0.8])
        >>> group_ranks(score, np.array(["a"] * 4)).aurocs(np.array([False, False, True, True]))
        {'a': 0.75}
        """
        found: dict[str, float] = {}
        for group, rows in self.rows.items():
            here = positive[rows]
            number = int(here.sum())
            if 0 < number < len(here):
                excess = float(self.ranks[group][here].sum()) - number * (number + 1) / 2
                found[group] = excess / (number * (len(here) - number))
        return found


def group_ranks(score: Float[np.ndarray, " rows"], groups: Shaped[np.ndarray, " rows"]) -> GroupRanks:
    """Return the ranks of a score within each group."""
    rows = {str(group): np.flatnonzero(groups == group) for group in np.unique(groups)}
    return GroupRanks(rows, {group: rankdata(score[here]) for group, here in rows.items()})


def intruder_score(
    activations: Float[np.ndarray, " rows"],
    embedding: Float[np.ndarray, "rows dimensions"],
    clips: Int[np.ndarray, " rows"],
) -> float:
    """Return the rate of finding the odd frame out among four in which a latent fires strongly; chance is 0.2.

    Each trial takes four frames from the strongest tenth of the firing frames, of different clips where possible, and
    one in which the latent is silent, and picks the frame farthest from the mean of the other four. `embedding` is
    standardised first. NaN with fewer than five frames of either kind.
    """
    known = np.isfinite(embedding).all(axis=1)
    fires, silent = np.flatnonzero(known & (activations > 0)), np.flatnonzero(known & (activations <= 0))
    if len(fires) < 5 or len(silent) < 5:
        return math.nan
    strong = fires[np.argsort(-activations[fires], kind="stable")[: max(len(fires) // 10, 5)]]
    spread = embedding[known].std(axis=0)
    z = (embedding - embedding[known].mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(TRIALS):
        chosen = _from_different_clips(strong, clips, 4, rng)
        five = z[[*chosen, int(rng.choice(silent))]]
        distance = np.linalg.norm(five - (five.sum(axis=0) - five) / 4, axis=1)
        hits += int(distance.argmax() == 4)
    return hits / TRIALS


def embedding_auroc(
    fit: tuple[Float[np.ndarray, " rows"], Float[np.ndarray, "rows dimensions"]],
    unseen: tuple[Float[np.ndarray, " unseen"], Float[np.ndarray, "unseen dimensions"]],
    groups: Shaped[np.ndarray, " unseen"],
) -> float:
    """Return the AUROC on unseen groups of the distance to the mean of the frames in which a latent fires.

    Both arguments hold activations and embedding; the embedding is standardised on the first.
    """
    activations, embedding = fit
    known = np.isfinite(embedding).all(axis=1)
    fires = known & (activations > 0)
    if not fires.any():
        return math.nan
    centre, spread = embedding[known].mean(axis=0), embedding[known].std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    prototype = ((embedding[fires] - centre) / spread).mean(axis=0)
    there = np.isfinite(unseen[1]).all(axis=1)
    distance = np.linalg.norm((unseen[1][there] - centre) / spread - prototype, axis=1)
    return _mean(group_ranks(-distance, groups[there]).aurocs(unseen[0][there] > 0))


def _from_different_clips(
    rows: Int[np.ndarray, " rows"], clips: Int[np.ndarray, " rows"], number: int, rng: np.random.Generator
) -> list[int]:
    order = rng.permutation(rows).tolist()
    first: dict[int, int] = {}
    for row in order:
        first.setdefault(int(clips[row]), row)
    chosen = list(first.values())[:number]
    return [*chosen, *(row for row in order if row not in chosen)][:number]


def _mean(by_group: Mapping[str, float]) -> float:
    return float(np.mean(list(by_group.values()))) if by_group else math.nan
