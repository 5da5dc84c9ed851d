"""Key numbers of the first section."""

from pathlib import Path

import pytest

from otoscope.report import read_run
from otoscope.report.sections.findings import variance_findings
from otoscope.report.sections.key_numbers import number_tiles
from otoscope.report.sections.overview import overview
from tests.support.finished_run import make_run


def test_tiles_of_a_cross_fit_name_the_mean_of_its_folds_and_of_one_dictionary_no_choice(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path, layers=(2, 3), sae_layers=(3,), sizes={"pitch": 5}))
    (dense, codes, *_) = number_tiles(run)
    assert "layer chosen on validation groups" in dense.lines
    assert "shown because no other has SAEs" in codes.lines
    assert all(tile.lines[0].startswith("95\xa0% interval") for tile in (dense, codes))  # that of the value above it
    assert "layer chosen on validation groups, in the mean of 5 folds" in number_tiles(run, folds=5)[0].lines


@pytest.mark.parametrize(("width", "dense"), [(384, {204: "53", 102: "27"}), (512, {204: "40"}), (2048, {})])
def test_explained_variance_of_dense_codes_carries_a_caution(tmp_path: Path, width: int, dense: dict[int, str]) -> None:
    run = read_run(make_run(tmp_path, layers=(3,), sae_layers=(3,), sizes={"pitch": 5}))
    for card in run.cards.values():
        card["model"]["width"] = width
    cautions = [f"Caution: k={k} is {share} % of the {width} dimensions" for k, share in dense.items()]
    (tile,) = (tile for tile in number_tiles(run) if tile.name.startswith("explained variance"))
    (finding,) = variance_findings(run)
    (sentence,) = (one for one in overview(run, "").sentences if one.startswith("The codes reconstruct"))
    for text, number in (("\n".join(tile.lines), 1), (sentence, 1), (finding.text, 2)):
        assert all(caution in text.replace("\u00a0", " ") for caution in cautions[:number])
        assert text.count("Caution") == len(cautions[:number])
