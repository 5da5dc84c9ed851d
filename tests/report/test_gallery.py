"""What a card of the gallery says of a latent's direction."""

import math

import pytest

from otoscope.report.gallery import _direction


@pytest.mark.parametrize(
    ("train_r", "test_r", "null_high", "said"),
    [
        (0.6, 0.5, 0.2, "Fires when it is high"),
        (-0.6, -0.5, 0.2, "Fires when it is low"),
        # the reviewer's case: 0.09 where shuffled factors reach 0.43
        (0.6, 0.09, 0.43, "Not beyond chance on test clips"),
        (0.6, -0.09, 0.43, "Not beyond chance on test clips"),
        (0.6, 0.43, 0.43, "Not beyond chance on test clips"),
        (0.6, math.nan, 0.43, "Not beyond chance on test clips"),
        (0.6, -0.5, 0.2, "Turned round on test clips"),
        (0.6, 0.5, math.nan, "Fires when it is high"),
    ],
)
def test_a_direction_is_named_only_beyond_the_null(train_r: float, test_r: float, null_high: float, said: str) -> None:
    assert _direction(train_r, test_r, null_high) == said
