"""The folder loader: classes by sub-folder, groups as the user says."""

import pytest
from pydantic import ValidationError

from otoscope.corpus.datasets.folder import FolderCorpus
from otoscope.errors import CorpusError

TREE = ["belt/ann/ann_1.wav", "belt/bob/bob_1.wav", "breathy/ann/ann_2.wav"]


@pytest.fixture
def root(record, tmp_path):
    for path in TREE:
        record(path)
    return tmp_path


def test_the_class_is_the_first_folder_and_each_file_its_own_group(root):
    listing = FolderCorpus(root=root).listing(root)
    assert listing.clips.select("path", "group", "label_class").rows() == [
        (path, path, path.split("/")[0]) for path in TREE
    ]
    assert listing.clips["split"].null_count() == len(TREE)
    assert listing.name == root.name


@pytest.mark.parametrize(
    ("options", "classes", "groups"),
    [
        ({"class_from": "parent"}, ["ann", "bob", "ann"], TREE),
        ({"group_from": "parent"}, ["belt", "belt", "breathy"], ["belt/ann", "belt/bob", "breathy/ann"]),
        ({"group_from": "top"}, ["belt", "belt", "breathy"], ["belt", "belt", "breathy"]),
        ({"group_pattern": r"(?P<group>[a-z]+)_\d"}, ["belt", "belt", "breathy"], ["ann", "bob", "ann"]),
    ],
)
def test_class_and_group_come_from_where_the_user_says(root, options, classes, groups):
    clips = FolderCorpus(root=root, **options).listing(root).clips
    assert clips["label_class"].to_list() == classes
    assert clips["group"].to_list() == groups


def test_a_flat_folder_has_no_label(record, tmp_path):
    record("a.wav")
    record("b.wav")
    clips = FolderCorpus(root=tmp_path, group_from="top").listing(tmp_path).clips
    assert clips.columns == ["path", "start_s", "duration_s", "group", "split"]
    assert clips["group"].to_list() == ["a.wav", "b.wav"]


def test_no_label_when_none_is_wanted(root):
    assert "label_class" not in FolderCorpus(root=root, class_from="none").listing(root).clips.columns


def test_a_file_beside_the_class_folders_has_no_class(root, record):
    record("loose.wav")
    clips = FolderCorpus(root=root).listing(root).clips
    assert clips["label_class"].to_list() == ["belt", "belt", "breathy", None]


def test_files_that_the_pattern_misses_are_set_aside(root, record):
    record("belt/nobody.wav")
    listing = FolderCorpus(root=root, group_pattern=r"(?P<group>[a-z]+)_\d").listing(root)
    assert listing.clips.height == len(TREE)
    assert listing.set_aside.rows() == [("belt/nobody.wav", "group_pattern finds no group in its path")]


def test_a_pattern_that_misses_all_is_an_error(root):
    with pytest.raises(CorpusError, match=r"matches none of 3 paths under .*, such as belt/ann/ann_1\.wav"):
        FolderCorpus(root=root, group_pattern="(?P<group>nobody)").listing(root)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"group_pattern": "(ann|bob)"}, "needs a named group"),
        ({"group_pattern": "(?P<group>"}, "not a regular expression"),
        ({"group_pattern": "(?P<group>a)", "group_from": "top"}, "group_pattern or group_from, not both"),
        ({"group_from": "folder"}, "'file', 'parent' or 'top'"),
        ({"gruop_from": "top"}, "Extra inputs are not permitted"),
    ],
)
def test_options_that_mean_nothing_are_refused(tmp_path, options, reason):
    with pytest.raises(ValidationError, match=reason):
        FolderCorpus.model_validate({"root": tmp_path, **options})


def test_pattern_gives_labels_factors_groups_and_words(record, tmp_path):
    for name in ("Actor_01/03-01-01-17.wav", "Actor_01/03-02-02-17.wav", "Actor_02/03-07-02-18.wav", "notes/x.wav"):
        record(name)
    spec = FolderCorpus(
        root=tmp_path,
        pattern=r"03-(?P<label_emotion>\d\d)-(?P<factor_intensity>\d\d)-(?P<group>\d\d)",
        names={"emotion": {"01": "neutral", "02": "calm"}},
    )
    listing = spec.listing(tmp_path)
    assert listing.clips.select("group", "label_emotion", "factor_intensity").rows() == [
        ("17", "neutral", 1.0),
        ("17", "calm", 2.0),
        ("18", "07", 2.0),
    ]
    assert "label_class" not in listing.clips.columns
    assert listing.group_source == "pattern"
    assert listing.notes == ("names.emotion has no word for 07: kept as they are",)
    assert listing.set_aside.rows() == [("notes/x.wav", "pattern finds no group in its path")]
    with_class = FolderCorpus(root=tmp_path, pattern=spec.pattern, class_from="parent").listing(tmp_path).clips
    assert with_class["label_class"].to_list() == ["Actor_01", "Actor_01", "Actor_02"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_pattern": "(?P<group>a)(?P<take>b)"}, "the named group 'take' has no meaning"),
        ({"group_pattern": "(?P<group>a)(?P<label_take>b)"}, "has other named groups than `group`; use `pattern`"),
        (
            {"pattern": "(?P<group>a)", "group_from": "top"},
            "`pattern` has a group; remove group_pattern and group_from",
        ),
        ({"pattern": "(?P<label_x>a)", "names": {"y": {"1": "b"}}}, "names.y: `pattern` has no group label_y"),
        ({"pattern": "(?P<label_class>a)", "class_from": "top"}, "`pattern` has label_class; remove class_from"),
        ({"names": {"y": {"1": "b"}}}, "names.y: `pattern` has no group label_y"),
    ],
)
def test_rules_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        FolderCorpus.model_validate({"root": "x", **options})


def test_folders_named_like_splits_are_no_classes_without_a_warning(record, tmp_path):
    for name in ("Train/owl/a.wav", "Train/wren/b.wav", "test/owl/c.wav", "test/wren/d.wav"):
        record(f"rec/{name}")
    warning = "warning: the classes are test and train, which are splits; set class_from: parent, or take labels from"
    notes = FolderCorpus(root=tmp_path / "rec").listing(tmp_path).notes
    assert any(note.startswith(warning) for note in notes)
    assert FolderCorpus(root=tmp_path / "rec", class_from="parent").listing(tmp_path).notes == ()


def test_folders_without_sound_are_named(record, tmp_path):
    for name in ("owl/a.wav", "wren/b.wav"):
        record(f"rec/{name}")
    (tmp_path / "rec" / "robin" / "empty").mkdir(parents=True)
    (tmp_path / "rec" / ".cache").mkdir()
    notes = FolderCorpus(root=tmp_path / "rec").listing(tmp_path).notes
    assert set(notes) == {"no sound in 1 folder: robin", "not read: 1 hidden folder: .cache"}


def test_patterns_and_names_that_match_nothing_are_named(root):
    spec = FolderCorpus(root=root, include=("b*", "x*"), exclude=("*.WAV",))
    warnings = [note for note in spec.listing(root).notes if note.startswith("warning: ")]
    assert warnings == [
        "warning: include: 'x*' matches no path, such as belt/ann/ann_1.wav",
        "warning: exclude: '*.WAV' matches no path, such as belt/ann/ann_1.wav",
    ]
    pattern = r"(?P<group>[a-z]+)_(?P<label_take>\d)"
    spec = FolderCorpus(root=root, pattern=pattern, names={"take": {"1": "one", "2": "two", "3": "three"}})
    assert "names.take has words for codes that are in no path: 3" in spec.listing(root).notes
    with pytest.raises(CorpusError, match=r"leave none of 3 paths, such as belt.*upper and lower case differ"):
        FolderCorpus(root=root, include=("*.WAV",)).listing(root)


def test_recordings_in_several_formats_are_named_until_one_is_left_out(tmp_path):
    for name in ("a.WAV", "a.WAV.wav", "b.wav", "c/a.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (note,) = FolderCorpus(root=tmp_path).listing(tmp_path).notes
    assert note.startswith("warning: 1 recording has several files that differ in their extension only (a.WAV, a.WAV.w")
    assert note.endswith("leave out one kind, such as exclude: ['*.WAV.wav']")
    assert not FolderCorpus(root=tmp_path, exclude=("*.WAV.wav",)).listing(tmp_path).notes
