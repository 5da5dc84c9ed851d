"""Annotations in time: every format gives the same intervals, and files that do not fit are refused in one line."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otoscope.errors import CorpusError, OtoscopeError
from otoscope.factors.annotations import READERS, AnnotatedInterval, count_overlaps, read_annotations, within_clip

LONG_TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 1.5
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "{tier}"
        xmin = 0
        xmax = 1.5
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.25
            text = ""
        intervals [2]:
            xmin = 0.25
            xmax = 0.75
            text = "{first}"
        intervals [3]:
            xmin = 0.75
            xmax = 1.5
            text = "say ""ah"" ! 3"
    item [2]:
        class = "TextTier"
        name = "clicks"
        xmin = 0
        xmax = 1.5
        points: size = 1
        points [1]:
            number = 0.5
            mark = "click"
"""

SHORT_TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

0
1.5
<exists>
1
"IntervalTier"
"words"
0
1.5
2
0
.25
""
0.25
7.5e-1
"one"
"""

ELAN = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT><TIME_ORDER>
<TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="250"/><TIME_SLOT TIME_SLOT_ID="ts2" TIME_VALUE="750"/>
<TIME_SLOT TIME_SLOT_ID="ts3"/></TIME_ORDER>
<TIER TIER_ID="words"><ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
<ANNOTATION_VALUE>one</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a2" TIME_SLOT_REF1="ts2" TIME_SLOT_REF2="ts3">
<ANNOTATION_VALUE>open</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION></TIER>
<TIER TIER_ID="gloss" PARENT_REF="words"><ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a3" ANNOTATION_REF="a1">
<ANNOTATION_VALUE>uno</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION></TIER>
</ANNOTATION_DOCUMENT>
"""

RAVEN = (
    "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tSpecies\n"
    "1\tWaveform 1\t1\t0.250\t0.750\t0\t8000\tone\n"
    "1\tSpectrogram 1\t1\t0.250\t0.750\t200\t4000\tone\n"
    "2\tSpectrogram 1\t1\t1.0\t1.2\t200\t4000\t\n"
)

JAMS = {
    "annotations": [
        {"namespace": "words", "data": [{"time": 0.25, "duration": 0.5, "value": "one", "confidence": None}]},
        {"namespace": "pitch", "data": {"time": [0.0], "duration": [0.1], "value": [440.0], "confidence": [1]}},
    ]
}


def one(tier: str, label: str = "one") -> AnnotatedInterval:
    return AnnotatedInterval(tier, 0.25, 0.75, label)


CASES = {
    "a.TextGrid": (LONG_TEXTGRID.format(tier="words", first="one"), "words", 3),
    "b.textgrid": (SHORT_TEXTGRID, "words", 1),
    "c.txt": ("0.25\t0.75\tone\n\\\t200\t4000\n0,9\t1,0\ttwo words\n", "labels", 2),
    "d.Table.1.selections.txt": (RAVEN, "Species", 1),
    "e.jams": (json.dumps(JAMS), "words", 2),
    "f.eaf": (ELAN, "words", 2),
    "g.ctm": (";; comment\nREC 1 0.25 0.5 one 0.98\nother 1 0 1 two\n", "words", 1),
    "h.PHN": ("4000 12000 one\n", "phones", 1),
    "i.WRD": ("4000 12000 one\n\n12000 12800 two\n", "words", 2),
}


@pytest.mark.parametrize("name", CASES)
def test_read_annotations_gives_the_same_interval_from_every_format(tmp_path: Path, name: str):
    text, tier, count = CASES[name]
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    found = read_annotations(path, recording="REC", rate_hz=16000)
    assert one(tier) in found
    assert len(found) == count
    assert set(READERS) == {Path(case).suffix.lower() for case in CASES}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
def test_read_annotations_knows_the_encodings_of_praat(tmp_path: Path, encoding: str):
    path = tmp_path / "a.TextGrid"
    path.write_text(LONG_TEXTGRID.format(tier="Wörter", first="één"), encoding=encoding)
    found = read_annotations(path, recording="a", rate_hz=8000)
    assert [(i.tier, i.label) for i in found] == [("Wörter", "één"), ("Wörter", 'say "ah" ! 3'), ("clicks", "click")]
    assert found[-1].start_s == found[-1].end_s == 0.5


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.TextGrid", '"ooTextFile" "TextGrid" 0 1 tiers?', "it ends early"),
        ("a.TextGrid", '"ooTextFile" "TextGrid" 0 1 "words"', "in the place of <exists> or <absent>"),
        ("a.csv", "", r"has no known annotation format; .*\.textgrid"),
        ("a.TextGrid", "", "is not a TextGrid of Praat"),
        ("a.TextGrid", SHORT_TEXTGRID[:-10], "is not a TextGrid of Praat"),
        ("a.TextGrid", SHORT_TEXTGRID.replace("IntervalTier", "Tier"), "'Tier' is no kind of tier"),
        ("a.TextGrid", SHORT_TEXTGRID.replace("7.5e-1", "0.1"), r"'one' of tier 'words' lasts from 0.25 to 0.1 s"),
        ("a.txt", "0.1 0.2 no tabs\n", "line 1 has no tab"),
        ("a.txt", "-1\t0.2\tx\n", "lasts from -1 to 0.2 s; expected 0 <= start <= end"),
        ("a.txt", "nan\t0.2\tx\n", "expected 0 <= start <= end"),
        ("a.txt", "0\tinf\tx\n", "expected 0 <= start <= end"),
        ("a.txt", "0\t1\tbad \x07\n", "has a control character"),
        ("a.jams", "[]", "is not a JAMS file"),
        ("a.jams", "[" * 100_000, "is not a JAMS file"),
        ("a.jams", '{"annotations": [{"namespace": "x", "data": [{"time": "a"}]}]}', "is not a JAMS file"),
        ("a.eaf", "<a><b></a>", "is not a file of ELAN"),
        ("a.eaf", '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "declares a document type"),
        ("a.ctm", "REC 1 0.2\n", "line 1 has 3 fields"),
        ("a.PHN", "10 20\n", "line 1 has 2 fields"),
        ("a.WRD", "a b c\n", "is not a word file of TIMIT"),
        ("a.TextGrid", "ooBinaryFile\x08TextGrid", "is a binary file of Praat; save it as a text file"),
        ("a.txt", "start\tend\tlabel\n", r"\(no number: 'start'\)"),
        ("a.jams", '{"annotations": [{"namespace": "x", "data": [{"time": 0, "duration": null}]}]}', "'value' is miss"),
        ("a.jams", '{"annotations": [{"namespace": "x", "data": [1]}]}', "a value is missing, or of another kind"),
    ],
)
def test_read_annotations_refuses_what_does_not_fit_in_one_line(tmp_path: Path, name: str, text: str, message: str):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CorpusError, match=message) as caught:
        read_annotations(path, recording="REC", rate_hz=16000)
    assert len(str(caught.value)) < 500


def test_read_annotations_refuses_a_loop_of_references(tmp_path: Path):
    path = tmp_path / "a.eaf"
    path.write_text(ELAN.replace('ANNOTATION_REF="a1"', 'ANNOTATION_REF="a3"'))
    with pytest.raises(CorpusError, match="refers to itself"):
        read_annotations(path, recording="a", rate_hz=16000)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_read_annotations_of_a_mutated_file_gives_intervals_or_one_error(tmp_path_factory, data):
    name = data.draw(st.sampled_from(sorted(CASES)))
    content = bytearray(CASES[name][0].encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=6))
        if not content:
            break
    path = tmp_path_factory.mktemp("mutated") / name
    path.write_bytes(bytes(content))
    try:
        found = read_annotations(path, recording="REC", rate_hz=16000)
    except OtoscopeError:
        return
    assert all(0 <= i.start_s <= i.end_s < float("inf") and i.label for i in found)


def test_read_annotations_of_raven_over_several_files_gives_the_selections_of_the_recording(tmp_path: Path):
    header = "Selection\tView\tBegin Time (s)\tEnd Time (s)\tBegin File\tFile Offset (s)\tSpecies"
    rows = ["1\tWaveform 1\t0.25\t0.75\ta.wav\t0.25\towl", "2\tWaveform 1\t60.25\t60.75\tB.WAV\t0.25\tone"]
    path = tmp_path / "b.txt"
    path.write_text("\n".join([header, *rows]))
    assert read_annotations(path, recording="b", rate_hz=8000) == [one("Species")]
    assert read_annotations(path, recording="c", rate_hz=8000) == []
    path.write_text("\n".join([header, rows[1]]))  # of one file, which may have had another name
    assert read_annotations(path, recording="c", rate_hz=8000) == [one("Species")]


def test_within_clip_cuts_at_both_ends_and_counts_what_lies_beyond():
    intervals = [one("a"), AnnotatedInterval("a", 0.9, 1.02, "end"), AnnotatedInterval("a", 1.4, 1.5, "late")]
    inside, beyond = within_clip(intervals, start_s=0.5, duration_s=0.5)
    assert inside == [AnnotatedInterval("a", 0.0, 0.25, "one"), AnnotatedInterval("a", 0.4, 0.5, "end")]
    assert beyond == 1, "20 ms are rounding"


def test_count_overlaps_counts_intervals_of_one_tier_that_start_early_and_no_points():
    spans = [(0.0, 0.5), (0.4, 0.6), (0.45, 0.45), (0.55, 0.8), (0.8, 0.9), (0.1, 0.2)]
    intervals = [AnnotatedInterval("words", start, end, "x") for start, end in spans]
    assert count_overlaps(intervals) == 3
    assert count_overlaps([intervals[0], intervals[1]._replace(tier="phones")]) == 0
    assert count_overlaps([]) == 0


TEXTGRID_WITH = (
    'File type = "ooTextFile"\nObject class = "TextGrid"\n\nxmin = 0\nxmax = 1\ntiers? <exists>\nsize = {}\n'
)
ELAN_WITH = (
    '<?xml version="1.0" encoding="{encoding}"?><ANNOTATION_DOCUMENT><TIME_ORDER>'
    '<TIME_SLOT TIME_SLOT_ID="a" TIME_VALUE="0"/><TIME_SLOT TIME_SLOT_ID="b" TIME_VALUE="{end}"/></TIME_ORDER>'
    '<TIER TIER_ID="t"><ALIGNABLE_ANNOTATION ANNOTATION_ID="x0" TIME_SLOT_REF1="a" TIME_SLOT_REF2="b">'
    "<ANNOTATION_VALUE>ü</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION>{more}</TIER></ANNOTATION_DOCUMENT>"
)
REFERENCE = (
    '<REF_ANNOTATION ANNOTATION_ID="x{}" ANNOTATION_REF="x{}"><ANNOTATION_VALUE>q</ANNOTATION_VALUE></REF_ANNOTATION>'
)
COLUMNS = "Selection\tBegin Time (s)\tEnd Time (s)\t"
HOSTILE = {
    "endless count.TextGrid": TEXTGRID_WITH.format("1e999"),
    "huge count.TextGrid": TEXTGRID_WITH.format("1e308"),
    "digits.TextGrid": TEXTGRID_WITH.format("1" * 200_000 + "x"),
    "open quote.TextGrid": TEXTGRID_WITH.format("1") + '"' + "a" * 1_000_000,
    "sample.phn": f"0 {'9' * 400} aa\n",
    "time.eaf": ELAN_WITH.format(encoding="UTF-8", end="9" * 400, more=""),
    "deep.eaf": "<a>" * 300_000 + "</a>" * 300_000,
    "entity.eaf": '<!DOCTYPE x [<!ENTITY a "bb"><!ENTITY c "&a;&a;">]><x>&c;</x>',
    "deep.jams": '{"annotations": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "time.jams": '{"annotations": [{"namespace": "n", "data": [{"time": %s, "duration": 1, "value": "x"}]}]}'
    % ("9" * 400),
    "wide.txt": COLUMNS + "\t".join(map(str, range(200_000))) + "\n" + "1\t0\t1\n" * 200,
    "label.txt": "0\t1\t" + "x" * 1_000_000,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", HOSTILE)
def test_read_annotations_refuses_hostile_files_at_once(tmp_path: Path, name: str):
    (tmp_path / name).write_text(HOSTILE[name], encoding="utf-8")
    with pytest.raises(CorpusError) as caught:
        read_annotations(tmp_path / name, recording="rec", rate_hz=16_000)
    assert len(str(caught.value)) < 700


@pytest.mark.timeout(20)
def test_read_annotations_follows_a_long_chain_of_references(tmp_path: Path):
    chain = "".join(REFERENCE.format(number, number - 1) for number in range(30_000, 0, -1))
    (tmp_path / "x.eaf").write_text(ELAN_WITH.format(encoding="UTF-8", end="500", more=chain), encoding="utf-8")
    found = read_annotations(tmp_path / "x.eaf", recording="x", rate_hz=16_000)
    assert {(one.start_s, one.end_s) for one in found} == {(0.0, 0.5)}
    assert len(found) == 30_001


@pytest.mark.parametrize(("encoding", "codec"), [("UTF-16", "utf-16"), ("ISO-8859-1", "latin-1"), ("UTF-8", "utf-8")])
def test_read_annotations_reads_elan_in_its_declared_encoding(tmp_path: Path, encoding: str, codec: str):
    (tmp_path / "x.eaf").write_text(ELAN_WITH.format(encoding=encoding, end="500", more=""), encoding=codec)
    assert [one.label for one in read_annotations(tmp_path / "x.eaf", recording="x", rate_hz=16_000)] == ["ü"]
