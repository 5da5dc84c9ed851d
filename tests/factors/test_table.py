from pathlib import Path

import numpy as np
import polars as pl
import pytest

from otoscope.corpus.table import Corpus
from otoscope.errors import ArtifactError, ConfigError, DamagedArtifact, MissingExtra
from otoscope.factors import table as table_module
from otoscope.factors.egemaps import Egemaps
from otoscope.factors.table import FactorTable, build_factors


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    clips = pl.DataFrame(
        {
            "clip_id": ["x/a.wav", "x/b.wav#0.5-1", "y/a.wav"],
            "path": ["x/a.wav", "x/b.wav", "y/a.wav"],
            "start_s": [0.0, 0.5, 0.0],
            "duration_s": [1.0, 0.5, 1.0],
            "rate_hz": [16000] * 3,
            "group": ["x", "x", "y"],
            "split": ["train", "train", "test"],
            "digest": ["1", "2", "3"],
            "factor_f0_mean_hz": [100.0, None, 300.0],
        }
    )
    return Corpus("toy", tmp_path, clips, pl.DataFrame(schema={"path": pl.String, "reason": pl.String}))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_factor_table_joins_truth_and_user_factors(corpus: Corpus, tmp_path: Path) -> None:
    own = write(
        tmp_path / "own.csv", "path,valence,loud,note\ny/a.wav,3,true,hm\n./x\\b.wav,1.5,false,\nz.wav,9,true,\n"
    )
    found = build_factors(corpus, egemaps=False, table=own)
    assert [tuple(card) for card in found.cards] == [
        ("f0_mean_hz", "truth", "pitch"),
        ("valence", "table", "other"),
        ("loud", "table", "other"),
    ]
    values = found.values(["y/a.wav", "x/a.wav", "x/b.wav#0.5-1"])
    np.testing.assert_array_equal(values, [[300, 3, 1], [100, np.nan, np.nan], [np.nan, 1.5, 0]])


def test_factor_table_joins_parquet_by_clip_id(corpus: Corpus, tmp_path: Path) -> None:
    pl.DataFrame({"clip_id": ["x/a.wav"], "factor_age": [7]}).write_parquet(tmp_path / "own.parquet")
    found = build_factors(corpus, egemaps=False, truth=False, table=tmp_path / "own.parquet")
    assert found.names == ["age"]
    assert found.values(["x/a.wav"])[0, 0] == 7


def test_factor_table_round_trip_is_equal(corpus: Corpus, tmp_path: Path) -> None:
    found = build_factors(corpus, egemaps=False)
    found.save(tmp_path / "factors.parquet")
    again = FactorTable.load(tmp_path / "factors.parquet")
    assert again.cards == found.cards
    assert again.table.equals(found.table)
    assert again.failed.equals(found.failed)
    assert again.fingerprint == found.fingerprint


def test_factor_table_without_factors_is_empty(corpus: Corpus, tmp_path: Path) -> None:
    found = build_factors(corpus, egemaps=False, truth=False)
    assert found.values(["x/a.wav"]).shape == (1, 0)
    found.save(tmp_path / "factors.parquet")
    assert FactorTable.load(tmp_path / "factors.parquet").names == []


def test_factor_table_of_another_card_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    build_factors(corpus, egemaps=False).save(tmp_path / "factors.parquet")
    pl.DataFrame({"clip_id": ["x/a.wav"], "other": [1.0]}).write_parquet(tmp_path / "factors.parquet")
    with pytest.raises(ArtifactError, match="list different factors"):
        FactorTable.load(tmp_path / "factors.parquet")


def test_factor_name_in_two_sources_is_refused(corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = write(tmp_path / "own.csv", "path,f0_mean_hz\nx/a.wav,1\n")
    with pytest.raises(ConfigError, match="'f0_mean_hz' comes from truth and from table; rename"):
        build_factors(corpus, egemaps=False, table=own)

    def measured(clips: pl.DataFrame, *_: object, **__: object) -> Egemaps:
        values = clips.select("clip_id", pl.lit(1.0).alias("loudness_sma3_amean"))
        return Egemaps(values, pl.DataFrame(schema=table_module.FAILED))

    monkeypatch.setattr(table_module, "measure_egemaps", measured)
    clash = write(tmp_path / "clash.csv", "path,loudness_sma3_amean\nx/a.wav,1\n")
    with pytest.raises(ConfigError, match="comes from table and from eGeMAPSv02"):
        build_factors(corpus, table=clash)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,age\nx/a.wav,1\n", "no key column; name one clip_id or path. Its columns: file, age"),
        (
            "path,age\nq/1.wav,1\nq/2.wav,2\nq/3.wav,2\n",
            "The table has 'q/1.wav' and 'q/2.wav'; the corpus has 'x/a.wav'",
        ),
        ("path,age\nx/a.wav,1\nx/a.wav,2\n", "several rows for 'x/a.wav'"),
        ("path,note\nx/a.wav,hm\n", "no numeric column except path"),
        (
            "path,f0\nx/a.wav,1\nx/b.wav,~2\nx/c.wav,3\n",
            r"no numeric column .*; f0: 1 of its 3 values is not a number \('~2' in line 3\)",
        ),
        ("path,age\nx/a.wav,inf\n", "the column 'age' must be finite; leave missing values empty; got 'inf' in line 2"),
    ],
)
def test_factor_table_mismatch_is_explained(corpus: Corpus, tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_factors(corpus, egemaps=False, table=write(tmp_path / "own.csv", text))


def test_factor_table_missing_or_broken_raises(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        build_factors(corpus, egemaps=False, table=tmp_path / "absent.csv")
    with pytest.raises(ConfigError, match=r"the factor table .*own\.parquet cannot be read"):
        build_factors(corpus, egemaps=False, table=write(tmp_path / "own.parquet", "not parquet"))


def test_factor_table_names_unknown_clips_and_factors(corpus: Corpus) -> None:
    found = build_factors(corpus, egemaps=False)
    with pytest.raises(ConfigError, match=r"including 'nowhere\.wav'"):
        found.values(["nowhere.wav"])


def test_factor_table_is_read_before_measurement(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> Egemaps:
        raise MissingExtra("measured too early")

    monkeypatch.setattr(table_module, "measure_egemaps", never)
    with pytest.raises(ConfigError, match="does not exist"):
        build_factors(corpus, table=tmp_path / "absent.csv")


def test_factor_table_names_the_value_that_keeps_a_column_from_being_a_factor(corpus: Corpus, tmp_path: Path) -> None:
    own = write(tmp_path / "own.csv", "path,age,f0\nx/a.wav,1,2\nx/b.wav,-999,~3\nx/c.wav,3,4\n")
    notes = build_factors(corpus, egemaps=False, truth=False, table=own).notes
    reason = "f0 is not a factor: 1 of its 3 values is not a number ('~3' in line 3); correct them, or leave them empty"
    assert f"warning: own.csv: {reason}" in notes
    missing = "age: 1 of its 3 values is -999 (in line 3), read as a number; correct them, or leave them empty"
    assert f"warning: own.csv: {missing}" in notes
    assert not any("columns without numbers" in note for note in notes)


def test_factor_table_notes_clips_without_rows_and_columns_without_numbers(corpus: Corpus, tmp_path: Path) -> None:
    own = write(tmp_path / "own.csv", ";path;age;note\n0;x\\a.wav;1,5;hm\n1;q.wav;2;\n")
    found = build_factors(corpus, egemaps=False, truth=False, table=own)
    assert found.names == ["age"]
    assert found.values(["x/a.wav"])[0, 0] == 1.5
    assert "warning: own.csv: rows for 1 of 3 clips; its factors are unknown for the others" in found.notes
    assert "own.csv: columns of text or codes are not factors (note)" in found.notes
    assert "own.csv: 1 factor (age)" in found.notes
    found.save(tmp_path / "factors.parquet")
    assert FactorTable.load(tmp_path / "factors.parquet").notes == found.notes
    with pytest.raises(ConfigError, match="factor_age and age are the same factor"):
        build_factors(corpus, egemaps=False, table=write(tmp_path / "two.csv", "path,age,factor_age\nx/a.wav,1,2\n"))


def test_factor_table_warns_of_columns_that_look_like_identifiers(corpus: Corpus, tmp_path: Path) -> None:
    rows = "".join(f"{path},{20_240_101 + at},{at}\n" for at, path in enumerate(corpus.clips["path"].to_list()))
    found = build_factors(corpus, egemaps=False, table=write(tmp_path / "own.csv", f"path,day,age\n{rows}"))
    assert any("factors that look like identifiers or dates: day; remove" in note for note in found.notes)


@pytest.mark.parametrize("damage", ["[]", "null", '{"factors": 1}', '{"factors": [[]], "failed": [], "notes": []}'])
def test_factor_table_load_refuses_a_card_of_another_shape(corpus: Corpus, tmp_path: Path, damage: str) -> None:
    build_factors(corpus, egemaps=False).save(tmp_path / "factors.parquet")
    (tmp_path / "factors.json").write_text(damage)
    with pytest.raises(DamagedArtifact, match=r"factors\.json is damaged"):
        FactorTable.load(tmp_path / "factors.parquet")
