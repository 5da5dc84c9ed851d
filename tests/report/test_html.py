import json

from hypothesis import given
from hypothesis import strategies as st

from otoscope.report.html import element, script_json
from tests.support.page_reader import read_page


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])), st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_text_and_attributes_come_back_as_they_were(text: str, title: str) -> None:
    reading = read_page(element("p", text, title=title))
    assert reading.mistakes == []
    (tag,) = reading.tags
    assert tag.text == text
    assert tag.attributes["title"] == title


@given(st.dictionaries(st.text(), st.text()))
def test_json_in_a_script_comes_back_and_cannot_end_it(value: dict[str, str]) -> None:
    text = script_json(json.dumps(value))
    assert "<" not in text
    assert json.loads(text) == value
