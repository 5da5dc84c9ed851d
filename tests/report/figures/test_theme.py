"""Colours of the page: one a name, the same wherever the name stands."""

import polars as pl
import pytest

from otoscope.report.figures.marks import series_colour, series_names
from otoscope.report.figures.theme import OTHER, SERIES, series_colours


@pytest.mark.parametrize("name", SERIES)
def test_a_name_keeps_its_colour_whatever_stands_beside_it(name: str) -> None:
    assert series_colours([name])[name] == series_colours(["mine", "yours", name])[name] == SERIES[name]


@pytest.mark.parametrize("own", [["SAE", "dense"], ["untrained encoder", "SAE, the study's preset"], []])
def test_names_without_a_colour_get_one_that_no_name_beside_them_has(own: list[str]) -> None:
    colours = series_colours([*own, "mine", "yours"])
    assert len(set(colours.values())) == len(colours)


def test_where_all_colours_are_taken_further_names_share_one() -> None:
    every = series_colours([*SERIES, "mine", "yours"])
    assert every["mine"] == every["yours"] == OTHER


def test_a_chart_colours_its_series_as_the_legend_does() -> None:
    rows = pl.DataFrame({"series": ["mine", "SAE", "dense", "mine"]})
    scale = series_colour(series_names(rows)).to_dict()["scale"]
    assert scale["domain"] == series_names(rows) == ["dense", "SAE", "mine"]
    assert scale["range"] == [colour.light for colour in series_colours(series_names(rows)).values()]
