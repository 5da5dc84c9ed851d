"""Columns of a user's table: numbers with points and commas, ambiguous numbers, and codes."""

from pathlib import Path

import pytest

from otoscope.errors import CorpusError
from otoscope.tables import read_text_table
from otoscope.text_table import TextTable


def of(folder: Path, content: str, name: str = "clips.csv") -> TextTable:
    (folder / name).write_text(content, encoding="utf-8")
    return read_text_table(folder / name)


@pytest.mark.parametrize(
    ("cells", "name", "values"),
    [
        (["1,5", "2"], "x.csv;", [1.5, 2.0]),
        (["1,500", "2,250"], "x.csv;", [1.5, 2.25]),
        (["\u22121.5", "+2e3"], "x.csv,", [-1.5, 2000.0]),
        (["1,5", "12,25"], "x.csv,", [1.5, 12.25]),
        (["10", "None"], "x.csv,", [10.0, None]),
        (["1.100", "0.950"], "x.csv;", [1.1, 0.95]),
        (["1.100", "1.220"], "x.csv,", [1.1, 1.22]),
    ],
)
def test_numbers_with_points_or_commas(tmp_path: Path, cells: list[str], name: str, values: list[float]) -> None:
    separator = name[-1]
    rows = "".join(f'a{separator}"{cell}"\n' for cell in cells)
    table = of(tmp_path, f"path{separator}f0\n{rows}", name[:-1])
    assert table.is_numeric("f0")
    assert table.numbers("f0").to_list() == values
    assert table.decimal_commas() == (["f0"] if "," in cells[0] else [])


def test_numbers_that_are_ambiguous_or_infinite_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"'1,500' in the column 'f0' is ambiguous \(a decimal comma, or thousands\)"):
        of(tmp_path, 'path,f0\na,"1,500"\nb,"2,000"\n').numbers("f0")
    with pytest.raises(CorpusError, match="'f0' must be finite; leave missing values empty; got '1e999' in line 3"):
        of(tmp_path, "path,f0\na,1\nb,1e999\n").numbers("f0")
    assert not of(tmp_path, "path,f0\na,1.5\nb,2;5\n").is_numeric("f0")


@pytest.mark.parametrize("cells", [("1.100;x", "950;x"), ("1.100;0,5", "1.220;x"), ("\u22121.100;x", "-2.200;x")])
def test_numbers_with_a_point_of_thousands_are_refused_in_tables_of_that_kind(
    tmp_path: Path, cells: tuple[str, str]
) -> None:
    table = of(tmp_path, "path;f0;other\n" + "".join(f"a;{cell}\n" for cell in cells))
    for read in (table.numbers, table.is_numeric):
        with pytest.raises(
            CorpusError, match=r"1\.100' in the column 'f0' is ambiguous \(a decimal point, or thousands"
        ):
            read("f0")
    plain = of(tmp_path, "path;f0;other\n" + "".join(f"a;{cell.split(';')[0]};0.5\n" for cell in cells))
    assert plain.numbers("f0").abs().max() < 951  # a column with decimal points shows their meaning
    assert of(tmp_path, "path;code\na;1.1.1\nb;1.1.2\n").is_numeric("code") is False


@pytest.mark.parametrize("cells", [("1.100", "880,5"), ("1.000,5", "2"), ("1,5", "2.5")])
def test_numbers_with_commas_and_points_are_refused(tmp_path: Path, cells: tuple[str, str]) -> None:
    table = of(tmp_path, f"path;f0\na;{cells[0]}\nb;{cells[1]}\n")
    with pytest.raises(CorpusError, match="'f0' has both commas and points"):
        table.is_numeric("f0")


def test_is_numeric_is_false_for_codes_that_begin_with_0(tmp_path: Path) -> None:
    table = of(tmp_path, "path,lab,f0\na,001,0\nb,010,0.5\nc,100,00.5\n")
    assert (table.is_numeric("lab"), table.is_numeric("f0")) == (False, True)
    assert table.codes("lab") == "2 of its 3 values begin with 0 ('001' in line 2, '010' in line 3), as codes do"
    assert (table.codes("f0"), table.numbers("lab").to_list()) == ("", [1.0, 10.0, 100.0])
