"""Part of a collection, spread evenly and the same each time."""

from collections import Counter
from pathlib import Path

import pytest

from otoscope.corpus.catalog import corpus_from_dict, list_clips
from otoscope.corpus.listing import Listing, listing_table
from otoscope.corpus.selection import choose_clips
from otoscope.errors import CorpusError

PATTERN = r"(?P<group>[a-z]+)_(?P<label_vowel>[aeiou])_\d+"


def listing(counts: dict[tuple[str, str], int]) -> Listing:
    rows = [
        {"path": f"{group}_{vowel}_{i}.wav", "group": group, "label_vowel": vowel}
        for (group, vowel), n in counts.items()
        for i in range(n)
    ]
    return Listing("test", Path("r"), "unknown", "", listing_table(rows))


COUNTS = {("ann", "a"): 20, ("ann", "e"): 3, ("bob", "a"): 9, ("cy", "i"): 1}


def test_choose_clips_takes_some_of_each_group_and_label() -> None:
    chosen = choose_clips(listing(COUNTS), take=2, max_clips=None)
    assert Counter(chosen.clips.select("group", "label_vowel").rows()) == {
        ("ann", "a"): 2,
        ("ann", "e"): 2,
        ("bob", "a"): 2,
        ("cy", "i"): 1,
    }
    assert chosen.notes == ("7 clips of 33 chosen (take, max_clips)",)
    assert choose_clips(listing(COUNTS), take=20, max_clips=99).notes == ()


def test_choose_clips_spreads_a_total_over_groups_and_labels() -> None:
    clips = choose_clips(listing(COUNTS), take=None, max_clips=9).clips
    assert Counter(clips["group"]) == {"ann": 4, "bob": 4, "cy": 1}
    assert Counter(clips.filter(group="ann")["label_vowel"]) == {"a": 2, "e": 2}


def test_choose_clips_is_stable_when_files_are_added() -> None:
    fewer = set(choose_clips(listing({("ann", "a"): 20}), take=5, max_clips=None).clips["path"])
    more = set(choose_clips(listing({("ann", "a"): 24}), take=5, max_clips=None).clips["path"])
    assert len(fewer & more) >= 3


@pytest.mark.parametrize("kind", ["folder", "manifest"])
def test_include_and_exclude_choose_paths(record, tmp_path: Path, kind: str) -> None:
    names = ["song/ann_a_1.wav", "song/ann_a_2.wav", "speech/bob_a_1.wav", "song/cy_i_1.wav"]
    for name in names:
        record(name)
    (tmp_path / "clips.csv").write_text("path\n" + "\n".join(names) + "\n")
    source = {"pattern": PATTERN} if kind == "folder" else {"table": tmp_path / "clips.csv"}

    def paths(**options: object) -> list[str]:
        spec = corpus_from_dict({"kind": kind, "root": tmp_path, **source, **options})
        return sorted(list_clips(spec, tmp_path).clips["path"])

    assert paths(include=["song/*"], exclude=["*_2.wav"]) == ["song/ann_a_1.wav", "song/cy_i_1.wav"]
    assert len(paths(max_clips=2)) == 2
    with pytest.raises(CorpusError, match=r"leave none of 4 paths, such as .*; paths are relative to the root"):
        paths(include=["songs/*"])
