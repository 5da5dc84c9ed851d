"""Sentences on a latent and on the values of its clips."""

import numpy as np
import polars as pl
import pytest

from otoscope.explain import LatentOutcome
from otoscope.report.sections.latent_sentences import OUTCOMES, FactorRanks, class_note, outcome_text


@pytest.mark.parametrize(
    ("outcome", "row", "said"),
    [
        ("confirmed", {"train_r": 0.6}, "Clips with a higher value contain more of it"),
        ("confirmed", {"train_r": -0.6}, "Clips with a lower value contain more of it"),
        ("confirmed", {"label": "technique"}, "Clips of this class contain more of it than others"),
        (
            "confirmed",
            {"label": "technique", "other_classes": ["belt"]},
            "Clips of this class contain more of it than others",
        ),
        ("too few groups", {}, "In the clips of 2 test groups, too few for a claim, clips with a higher value contain"),
        (
            "too few groups",
            {"agreeing_groups": 1},
            "In the clips of 1 of 2 test groups, too few for a claim, clips with a higher value contain more",
        ),
        (
            "confirmed",
            {"compared_groups": 4, "agreeing_groups": 3},
            "In the clips of 3 of 4 test groups, clips with a higher value contain more of it",
        ),
        (
            "too few groups",
            {"compared_groups": 12, "agreeing_groups": 3},
            "In the clips of 3 of 12 test groups, too few for a claim, clips with a higher value contain more",
        ),
        ("too few clips", {}, "Not tested, on fewer than 8 test clips; of training and validation clips, clips with a"),
        ("not testable", {}, "Too few test clips or groups to test"),
        ("between groups only", {}, "Between groups only"),
        ("not beyond chance", {"label": "technique"}, "Not beyond chance on test clips"),
        ("opposite sign", {}, "Opposite sign on test clips"),
    ],
)
def test_outcome_text_states_the_decision_in_words(outcome: str, row: dict[str, object], said: str) -> None:
    plain = {"label": "", "other_classes": [], "train_r": 0.6, "compared_groups": 2, "agreeing_groups": 2}
    assert outcome_text({**plain, "outcome": outcome, **row}).startswith(said)


def test_outcome_text_has_words_for_every_decision() -> None:
    assert OUTCOMES.keys() == set(LatentOutcome)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (
            [],
            "Counted in frames, it does not fire for this class alone: over all clips, in 20 % of them for digit 5",
        ),
        (["digit=5", "digit=1"], "in 20 % of them for digit 5 and 33 % of them for digit 1."),
        (["digit=2"], "in 20 % of them for digit 5 and 7 % of them for digit 2."),
    ],
)
def test_class_note_names_the_class_for_which_a_latent_fires_more_often(named: list[str], said: str) -> None:
    rows = [(3, "5", 0.2, "digit"), (3, "1", 0.33, "digit"), (3, "2", 0.07, "digit"), (3, "1", 0.9, "group")]
    firing = pl.DataFrame(rows, schema=["latent", "class", "rate", "by"], orient="row")
    card = {"latent": 3, "label": "digit", "factor": "5", "other_classes": []}
    assert said in class_note(firing, card, named).replace("\u00a0", " ")
    assert class_note(firing, {**card, "factor": "1"}, ["digit=1"]) == ""
    # classes found on test clips are not in the title
    assert "33 % of them for digit 1" in class_note(firing, {**card, "other_classes": ["1"]}, []).replace("\u00a0", " ")
    assert class_note(None, card, []) == ""
    assert class_note(None, card, ["digit=1"]) == "Counted in frames, it does not fire for this class alone."


def test_a_rank_is_told_from_the_nearer_end() -> None:
    places = FactorRanks({"f0": np.arange(10.0)}, np.repeat(["a", "b"], 5))
    assert places.rank("f0", 7.0, group="b", sign=1.0) == "higher than in 40\u00a0% of the group's clips"
    assert places.rank("f0", 7.0, group="c") is None
    assert places.rank("f0", 0.5) == "lower than in 90\u00a0% of all clips"
    assert places.rank("f0", 9.0) == "higher than in 90\u00a0% of all clips"
    assert places.rank("other", 9.0) is None
