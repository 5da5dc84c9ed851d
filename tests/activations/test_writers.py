"""What several writers, or half of one, may leave behind."""

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otoscope.activations.format import Sharding, is_store_file
from otoscope.activations.plan import PlannedClip, plan_extraction
from otoscope.activations.storage import LocalStorage
from otoscope.activations.store import ActivationStore
from otoscope.activations.worker import ShardTask, WorkerFactory
from otoscope.errors import AudioError, ExecutorError
from otoscope.executors.base import Done, LocalExecutor, TaskProgress, WorkerLost
from tests.activations.test_append import Counting
from tests.activations.test_extract import LENGTHS_S, SMALL, steps, store_of
from tests.support.activations import Toy, contents, corpus_of, write_corpus


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    write_corpus(tmp_path / "sound", LENGTHS_S)
    return tmp_path / "sound"


def test_two_writers_of_one_shard_leave_one_whole_shard(sound: Path, tmp_path: Path):
    """As when a node that was thought dead comes back while its shard is written again."""
    steps(corpus_of(sound), tmp_path / "unbroken")
    steps(corpus_of(sound), tmp_path / "twice")
    corpus, home = corpus_of(sound), LocalStorage(tmp_path / "twice")
    card = ActivationStore.open(tmp_path / "twice").manifest
    recipe = {key: card[key] for key in ("format", "encoder", "layers", "dtype", "pooled", "frames", "segments")}
    recipe |= {key: card[key] for key in ("batch_s", "sharding", "versions")}
    plan = plan_extraction(home, corpus, recipe, SMALL, segments=None, bytes_per_s=0.0, verify=False)
    about = WorkerFactory(corpus.root, corpus.clips, Toy, home, plan.card, None, strict=False, threads=1)
    task = ShardTask(0, plan.shard_key(0), plan.shards[0], plan.keys, {})
    late, again = about()([task]), about()([task])
    next(late), next(again)
    for _ in again:
        pass
    for _ in late:
        pass
    assert contents(tmp_path / "twice") == contents(tmp_path / "unbroken")


def test_every_temporary_file_of_an_extraction_is_known_as_one_of_the_store(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A run that is killed before a rename leaves the file behind; only known names are removed later."""
    store, renamed = tmp_path / "store", []
    replace = Path.replace

    def record(path: Path, target: Path) -> Path:
        renamed.append(path)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", record)
    steps(corpus_of(sound), store)
    names = [path.relative_to(store).as_posix() for path in renamed if path.is_relative_to(store)]
    assert any(name.endswith(".part") and "parquet" in name for name in names)
    assert [name for name in names if not is_store_file(name)] == []


def test_a_shard_without_its_card_does_not_count(sound: Path, tmp_path: Path):
    steps(corpus_of(sound), tmp_path / "store")
    before = contents(tmp_path / "store")
    (tmp_path / "store" / "shards" / "00000.json").unlink()
    (tmp_path / "store" / "manifest.json").unlink()
    encoder = Counting()
    steps(corpus_of(sound), tmp_path / "store", encoder)
    assert len(encoder.given) >= 4
    assert contents(tmp_path / "store") == before


def test_no_decision_rests_on_the_clock(sound: Path, tmp_path: Path):
    """Files that seem to come from the future, or from long ago, are taken for what they hold."""
    steps(corpus_of(sound), tmp_path / "store")
    before = contents(tmp_path / "store")
    for i, path in enumerate(sorted((tmp_path / "store").rglob("*"))):
        os.utime(path, (0, 0) if i % 2 else (time.time() + 1e6, time.time() + 1e6))
    encoder = Counting()
    steps(corpus_of(sound), tmp_path / "store", encoder)
    assert encoder.given == []
    assert contents(tmp_path / "store") == before


class Dying:
    """An executor whose workers die as a script says: which task, how often."""

    in_process = False

    def __init__(self, clip_id: str = "", deaths: int = 10**6, shard: int = -1, *, hung: bool = False) -> None:
        self.clip_id, self.deaths, self.shard, self.hung = clip_id, deaths, shard, hung
        self.probed: list[str] = []

    def run(self, start: Any, tasks: Any, *, heartbeat: bool) -> Any:
        assert heartbeat
        yield from LocalExecutor().run(start, [])
        for place, task in enumerate(tasks):
            if self._dies(task):
                self.deaths -= 1
                yield (
                    TaskProgress(place, next(iter(start()(task))))
                    if not isinstance(task, PlannedClip)
                    else WorkerLost(place, "gone", self.hung)
                )
                if not isinstance(task, PlannedClip):
                    yield WorkerLost(place, "the process was killed")
                continue
            for said in start()(task):
                yield TaskProgress(place, said)
            yield Done(place)

    def _dies(self, task: Any) -> bool:
        if self.deaths <= 0:
            return False
        if isinstance(task, PlannedClip):
            self.probed.append(task.clip_id)
            return task.clip_id == self.clip_id
        (shard,) = task
        if shard.shard == self.shard:
            return True
        return any(clip.clip_id == self.clip_id for clip in shard.clips) and self.clip_id not in shard.excluded


def test_a_shard_that_was_lost_once_is_written_again_and_counted_once(sound: Path, tmp_path: Path):
    steps(corpus_of(sound), tmp_path / "unbroken")
    executor = Dying("clip002.wav", deaths=1)
    last = steps(corpus_of(sound), tmp_path / "store", executor=executor)[-1]
    assert (last.clips, last.sound_s) == (6, pytest.approx(sum(LENGTHS_S)))
    assert executor.probed == []
    assert contents(tmp_path / "store") == contents(tmp_path / "unbroken")


def test_a_clip_that_kills_every_worker_is_set_aside_and_no_other(sound: Path, tmp_path: Path):
    executor = Dying("clip002.wav")
    store = store_of(corpus_of(sound), tmp_path / "store", executor=executor)
    assert store.set_aside["clip_id"].to_list() == ["clip002.wav"]
    assert store.set_aside["reason"][0].startswith("its worker died 4 times")
    assert len(store.clip_ids) == 5
    with pytest.raises(AudioError, match=r"clip002\.wav: its worker died 4 times"):
        steps(corpus_of(sound), tmp_path / "strict", executor=Dying("clip002.wav"), strict=True)


def test_a_clip_that_hangs_every_worker_is_set_aside_as_such(sound: Path, tmp_path: Path):
    store = store_of(corpus_of(sound), tmp_path / "store", executor=Dying("clip002.wav", hung=True))
    assert store.set_aside.rows() == [
        ("clip002.wav", "clip002.wav", "its worker hung 4 times, 2 of them while encoding this clip alone")
    ]


def test_every_window_of_a_long_clip_is_heard_of(tmp_path: Path):
    corpus = write_corpus(tmp_path / "sound", [5.0])
    heard = steps(corpus, tmp_path / "store", sharding=Sharding(window_s=0.5))
    assert len(heard) > 5.0 / 0.5
    assert [progress.clips_new for progress in heard] == [*[0] * (len(heard) - 1), 1]


def test_workers_that_die_of_no_clip_in_particular_end_the_run_with_a_reason(sound: Path, tmp_path: Path):
    with pytest.raises(ExecutorError, match=r"6 workers died on shard 1, but on none of its clips alone \(the process"):
        steps(corpus_of(sound), tmp_path / "store", executor=Dying(shard=1))
    store = store_of(corpus_of(sound), tmp_path / "store")
    np.testing.assert_allclose(store.pooled(0).shape, (6, Toy().width))


def test_a_worker_on_another_machine_is_sent_what_it_needs(sound: Path, tmp_path: Path):
    import pickle

    class Sent:
        in_process = False

        def run(self, start: Any, tasks: Any, **options: Any) -> Any:
            sent = pickle.loads(pickle.dumps((start, list(tasks))))
            yield from LocalExecutor().run(*sent, **options)

    steps(corpus_of(sound), tmp_path / "here")
    steps(corpus_of(sound), tmp_path / "there", executor=Sent())
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
