"""Templates: what goes in comes out as text, whatever it contains."""

import base64
import csv
import gzip
import io
import json

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from otoscope.report.layout import PageSection, breakable, render_page, templates, with_code
from otoscope.report.tables import csv_download, folded
from otoscope.tables import format_csv
from tests.support.page_reader import read_page

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]))


@given(texts, texts)
def test_templates_text_and_attributes_come_back_unchanged(text: str, title: str) -> None:
    template = templates().from_string('<p title="{{ title }}">{{ text }}</p>')
    reading = read_page(template.render(text=text, title=title))
    assert reading.mistakes == []
    (tag,) = reading.tags
    assert tag.text == text
    assert tag.attributes["title"] == title


@given(texts)
def test_filters_escape_everything_but_their_own_tags(text: str) -> None:
    for marked, allowed in ((with_code(text), {"code"}), (breakable(text), {"wbr"})):
        reading = read_page(f"<p>{marked}</p>")
        assert reading.mistakes == []
        assert {tag.name for tag in reading.tags} <= {"p", *allowed}
    assert read_page(f"<p>{breakable(text)}</p>").tags[0].text == text


@given(st.dictionaries(st.text(), st.text()))
def test_json_in_a_script_comes_back_and_cannot_end_it(value: dict[str, str]) -> None:
    text = templates().from_string("{{ value|tojson }}").render(value=value)
    assert "<" not in text
    assert json.loads(text) == value


def test_render_page_escapes_titles_and_paragraphs() -> None:
    hostile = "<script>alert(1)</script> & </style>"
    page = render_page(title=hostile, subtitle=hostile, sections=[PageSection("one", hostile, "text.html", [hostile])])
    reading = read_page(page)
    assert reading.mistakes == []
    assert len(reading.all("script")) == 4
    assert reading.section("one").count(hostile) == 2
    assert hostile in reading.all("h1")[0].text


def test_csv_download_packs_large_tables() -> None:
    rows = pl.DataFrame({"value": [i / 7 for i in range(10_000)]})
    packed = csv_download(rows, "rows")
    kind, data = packed.href.split(",", 1)
    assert (kind, packed.name) == ("data:application/gzip;base64", "rows.csv.gz")
    assert gzip.decompress(base64.b64decode(data)).decode() == format_csv(rows)
    assert csv_download(rows.head(1000), "rows").name == "rows.csv"


def test_csv_download_keeps_quotes_and_commas_of_headers() -> None:
    rows = pl.DataFrame({'a "quoted", name': [1], "plain": ['say "x"']})
    data = base64.b64decode(csv_download(rows, "rows").href.split(",", 1)[1]).decode()
    assert list(csv.reader(io.StringIO(data))) == [rows.columns, ["1", 'say "x"']]


def test_folded_leaves_out_intervals_over_two_groups_which_the_download_holds():
    ends = {"value": [0.5, 0.5, 0.5], "low": [-1.3, 0.4, 0.3], "high": [2.6, 0.6, 0.7]}
    made = folded("scores", pl.DataFrame({**ends, "groups": [2, 3, None]}), "scores")
    assert made is not None
    shown = [[cell.text for cell in row] for row in made.table.rows]
    assert [row[1:3] for row in shown] == [["–", "–"], ["0.400", "0.600"], ["0.300", "0.700"]]
    assert any("fewer than 3 groups are not shown" in note for note in made.notes)
    assert b"-1.3" in base64.b64decode(made.download.href.rpartition(",")[2])
