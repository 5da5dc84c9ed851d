"""Mutated activation stores: other numbers are found by `verify_store`, everything else is one of our errors."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from otoscope.activations.maintain import collect_garbage, merge_stores, store_info, verify_store
from otoscope.activations.store import ActivationStore
from otoscope.errors import OtoscopeError
from tests.support.activations import contents, run, write_corpus
from tests.support.damaged_files import SECRET, change_for, remove
from tests.support.fuzzing import limits, mutations


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with recordings, their store, and a file that belongs to nobody."""
    root = tmp_path_factory.mktemp("stores")
    write_corpus(root / "sound", [0.3, 1.5, 0.4, 0.5, 0.6, 0.7, 0.35])
    run(root / "sound", root / "store")
    (root / "secret.txt").write_text(SECRET)
    return root


def read_all(folder: Path) -> list[np.ndarray]:
    store = ActivationStore.open(folder)
    return [
        rows
        for layer in store.layers
        for clip in store.clip_ids
        for rows in (store.frames_of(layer, clip), store.pooled(layer, [clip]))
    ]


def attempt(work: Callable[[], object]) -> object:
    """Return the result of work, or None after one of our errors."""
    try:
        with limits():
            return work()
    except OtoscopeError:
        return None


@pytest.mark.parametrize("seed", mutations(12))
def test_a_mutated_store_is_refused_found_damaged_or_read_as_it_was(whole: Path, tmp_path: Path, seed: int) -> None:
    shutil.copytree(whole, tmp_path / "here")
    here, rng = tmp_path / "here", random.Random(seed)
    store = here / "store"
    expected = read_all(store)
    done: list[str] = []
    for _ in range(rng.choice([1, 1, 2])):
        path = rng.choice(
            [p for p in sorted(store.rglob("*")) if p.is_file() and not p.is_symlink() and p.name != ".lock"]
        )
        change = change_for(path, rng)
        try:
            change(path, rng)
        except (ValueError, pl.exceptions.PolarsError):  # damaged already
            remove(path, rng)
        done.append(f"{change.__name__} {path.relative_to(store)}")
    outside = {name: data for name, data in contents(here).items() if not name.startswith("store/")}

    attempt(lambda: store_info(store))
    found = attempt(lambda: read_all(store))
    damaged = attempt(lambda: verify_store(store))
    same = found is not None and len(found) == len(expected) and all(map(np.array_equal, found, expected))
    assert same or found is None or damaged is None or damaged, done
    attempt(lambda: merge_stores(tmp_path / "merged", [store]))
    attempt(lambda: collect_garbage(store))
    if attempt(lambda: run(here / "sound", store) or True) and not verify_store(store):
        assert all(map(np.array_equal, read_all(store), expected)), done
    assert not list(store.rglob("*.part")), done
    assert {name: data for name, data in contents(here).items() if not name.startswith("store/")} == outside, done
