"""Key numbers of the first section."""

from pathlib import Path

from otoscope.report import read_run
from otoscope.report.sections.key_numbers import number_tiles
from tests.support.finished_run import make_run


def test_tiles_of_a_cross_fit_name_the_mean_of_its_folds_and_of_one_dictionary_no_choice(tmp_path: Path) -> None:
    results = read_run(make_run(tmp_path, layers=(2, 3), sae_layers=(3,), sizes={"pitch": 5})).results
    (dense, codes, *_) = number_tiles(results)
    assert dense.lines[0] == "layer chosen on validation groups"
    assert codes.lines[0] == "shown because no other has SAEs"
    assert number_tiles(results, folds=5)[0].lines[0] == "layer chosen on the mean of 5 folds"
