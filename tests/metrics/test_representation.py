"""Tests of the registry of representations."""

from otoscope.metrics.baselines import FITTED, FROM_CODES
from otoscope.metrics.representation import BASELINES, CODES, DENSE, REPRESENTATIONS, UNINFORMATIVE


def names_of(kind: str) -> set[str]:
    return {name for name, entry in REPRESENTATIONS.items() if entry.kind == kind}


def test_representations_are_dense_codes_and_baselines() -> None:
    assert {*REPRESENTATIONS} == {DENSE, CODES, *BASELINES, *names_of("descriptors")}
    assert len({entry.label for entry in REPRESENTATIONS.values()}) == len(REPRESENTATIONS)
    assert not any(entry.description.endswith(".") for entry in REPRESENTATIONS.values())


def test_representations_are_implemented() -> None:
    assert names_of("fitted") == set(FITTED)
    assert names_of("from_codes") == set(FROM_CODES) == set(UNINFORMATIVE)


def test_representation_colours_differ() -> None:
    colours = [entry.colour for entry in REPRESENTATIONS.values() if entry.colour is not None]
    assert len({colour.light for colour in colours}) == len({colour.dark for colour in colours}) == len(colours)
