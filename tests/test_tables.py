"""Tables as people write them: separators, encodings, missing values, numbers, and rows that do not fit."""

import random
import re
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from otoscope.artifacts import read_table, write_table
from otoscope.errors import CorpusError, DamagedArtifact
from otoscope.tables import MAX_COLUMNS, format_csv, read_text_table, scan_parquet
from otoscope.text_table import TextTable

PLAIN = "path,group,f0\na.wav,Zoë,1.5\nb.wav,bob,\n"
ROWS = [("a.wav", "Zoë", "1.5"), ("b.wav", "bob", None)]


def written(folder: Path, content: str | bytes, name: str = "clips.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def of(folder: Path, content: str | bytes, name: str = "clips.csv") -> TextTable:
    return read_text_table(written(folder, content, name))


def test_read_text_table_counts_blanks_around_some_values_of_a_column(tmp_path: Path) -> None:
    table = of(tmp_path, "path,site,f0\na.wav,north ,1\nb.wav,north,2\nc.wav,\tsouth, 3\nd.wav, ,4\n")
    assert table.cells["site"].to_list() == ["north", "north", "south", None]
    assert table.notes == ("clips.csv: blanks around 3 values removed (in site, f0)",)
    write_table(tmp_path / "clips.parquet", pl.DataFrame({"path": ["a.wav", "b.wav"], "site": ["north ", "north"]}))
    table = read_text_table(tmp_path / "clips.parquet")
    assert table.cells["site"].to_list() == ["north", "north"]
    assert table.notes == ("clips.parquet: blanks around 1 value removed (in site)",)


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (PLAIN, None),
        (PLAIN.encode("utf-8-sig"), None),
        (PLAIN.encode("utf-16"), "is read as UTF-16-LE"),
        (PLAIN.encode("utf-16-be"), "is read as UTF-16-BE"),
        (PLAIN.encode("utf-32"), "is read as UTF-32-LE"),
        (PLAIN.encode("cp1252"), r"is not UTF-8 \(line 2\): read as Windows-1252"),
        (PLAIN.replace("\n", "\r\n"), None),
        (PLAIN.replace(",", ";").replace(".5", ",5"), "separator ;, not ,"),
        (PLAIN.replace(",", "\t"), "separator tab, not ,"),
        (PLAIN.replace(",", "|"), r"separator \|, not ,"),
        ("sep=;\n" + PLAIN.replace(",", ";"), "separator ;"),
        (PLAIN.replace(",", " , "), None),
        (PLAIN.replace("\n", ",,\n"), None),
        ("\n\n" + PLAIN.replace("\n", "\n,,\n\n"), None),
        ('path,group,f0\n"a.wav","Zoë","1.5"\n"b.wav","bob",NA\n', None),
        (",path,group,f0\n0,a.wav,Zoë,1.5\n7,b.wav,bob,nan\n", r"column 1, which has no name, holds row numbers"),
        ("Unnamed: 0,path,group,f0\n0,a.wav,Zoë,1.5\n1,b.wav,bob,#N/A\n", r"column 1 \(Unnamed: 0\) holds row numbers"),
    ],
)
def test_read_text_table_reads_every_usual_spelling(tmp_path: Path, content: str | bytes, note: str | None) -> None:
    table = of(tmp_path, content)
    assert table.cells.columns == ["path", "group", "f0"]
    assert [row[:2] for row in table.cells.rows()] == [row[:2] for row in ROWS]
    assert table.numbers("f0").to_list() == [1.5, None]
    if note is None:
        assert table.notes == ()
    else:
        assert re.search(note, " ".join(table.notes))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,f0\na.wav,1\nb.wav,2,3\n", r"line 3 has 3 fields, the header has 2 \(separator ','\); quote a value"),
        ("path,f0\na.wav,1,5\n", "line 2 has 3 fields"),
        ("path,group,f0\na.wav,1\n", "line 2 has 2 fields, the header has 3 .* leave missing values empty"),
        ('path,f0\n"a.wav,1\n', r"line 2 is not valid CSV \(unexpected end of data\)"),
        ("path,f0,f0\na.wav,1,2\n", "the column 'f0' occurs 2 times"),
        ("path,a\x1bb\na.wav,1\n", r"the column's name 'a\\x1bb' contains a control character"),
        (f"path,{'a' * 300}\na.wav,1\n", "a column's name has 300 characters; at most 200"),
        ("path," + ",".join(f"f{i}" for i in range(200_000)), f"200,001 columns; at most {MAX_COLUMNS:,} are read"),
        (f"path,note\na.wav,{'x' * 200_000}\n", "line 2 is not valid CSV .field larger than field limit"),
        (b"path,f0\na\x00.wav,1\nb.wav,2\n", "line 2 contains a NUL|cannot be read|not valid UTF-16"),
        (b"path,f0\n\x81\x8d.wav,1\n", "line 2 is neither UTF-8 nor Windows-1252"),
        (b"PK\x03\x04\x14\x00", "is an Excel workbook"),
        (b"\x1f\x8b\x08\x00", "is compressed with gzip"),
        (b"PAR1 but not really", "cannot be read"),
        ("", "it holds no text"),
    ],
)
def test_read_text_table_names_the_line_of_a_fault(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        of(tmp_path, content)


def test_read_parquet_has_the_same_rules_as_csv(tmp_path: Path) -> None:
    frame = pl.DataFrame({"__index_level_0__": [3, 1], "path": ["a.wav ", "b.wav"], "f0": [1.5, float("nan")]})
    frame.write_parquet(tmp_path / "clips.parquet")
    table = read_text_table(tmp_path / "clips.parquet")
    assert table.cells.rows() == [("a.wav", "1.5"), ("b.wav", None)]
    assert table.place(1) == "in row 2"
    for value in (["a.wav"], b"a.wav", timedelta(seconds=1)):
        pl.DataFrame({"path": [value]}).write_parquet(tmp_path / "other.parquet")
        with pytest.raises(CorpusError, match="'path' is no plain column"):
            read_text_table(tmp_path / "other.parquet")


@pytest.mark.parametrize("name", ["exp[2]", "exp*", "exp?", "a=1", "{x}"])
def test_tables_are_read_from_literal_paths(tmp_path: Path, name: str) -> None:
    for folder, value in ((name, 1), ("exp2", 2), ("expA", 3)):
        (tmp_path / folder).mkdir()
        pl.DataFrame({"v": [value]}).write_parquet(tmp_path / folder / "x.parquet")
        written(tmp_path / folder, f"v\n{value}\n")
    assert read_table(tmp_path / name / "x.parquet").to_dicts() == [{"v": 1}]
    assert scan_parquet(tmp_path / name / "x.parquet").collect().to_dicts() == [{"v": 1}]
    assert read_text_table(tmp_path / name / "clips.csv").numbers("v").to_list() == [1.0]


def test_no_module_reads_tables_in_another_way() -> None:
    root = Path(__file__).parents[1] / "src" / "otoscope"
    call = re.compile(r"^(?!\s*(#|>>>)).*\bpl\.(read|scan)_(csv|parquet|ipc|ndjson|json)\(", re.MULTILINE)
    literal = {Path("tables.py"), Path("protocols/mariotte2025/published.py")}  # the latter reads bytes
    others = {p.relative_to(root) for p in root.rglob("*.py") if p.name != "__init__.py" and call.search(p.read_text())}
    assert others <= literal, f"use otoscope.tables in {sorted(others - literal)}"


def test_format_csv_neutralises_formulas_in_cells_and_headers() -> None:
    cells = ["=1+1", "+x", "-x", "@SUM(A1)", "\uff1d1", "a=b", "-0.5", "+2e3", "", None]
    rows = format_csv(pl.DataFrame({"=label": cells, "value": range(10)})).splitlines()
    assert rows[0] == "'=label,value"
    assert [row.split(",")[0] for row in rows[1:]] == [
        "'=1+1", "'+x", "'-x", "'@SUM(A1)", "'\uff1d1", "a=b", "-0.5", "+2e3", '""', "",
    ]  # fmt: skip


def test_read_table_turns_every_damage_into_an_error_of_ours(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    table = pl.DataFrame({"name": ["ä", "b"] * 50, "x": [0.5] * 100, "parts": [[1.0, 2.0]] * 100})
    write_table(tmp_path / "t.parquet", table)
    assert read_table(tmp_path / "t.parquet").equals(table)
    data, rng = (tmp_path / "t.parquet").read_bytes(), random.Random(1)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (tmp_path / "t.parquet").write_bytes(damaged[: rng.choice([len(data), rng.randrange(len(data))])])
        with suppress(DamagedArtifact):
            read_table(tmp_path / "t.parquet")
    assert capfd.readouterr().err == ""
