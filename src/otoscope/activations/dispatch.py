"""Handing shards to workers, and taking them back from workers that died or hung.

A worker that dies takes nothing with it but its shard, which another one writes again from the start. When a second
worker dies on the same shard, every clip of the shard is encoded alone and to no end: the one that its worker does not
survive, and another does not either, is set aside by name.
"""

from collections import Counter
from collections.abc import Generator, Iterator, Sequence

from otoscope.activations.plan import ExtractionPlan
from otoscope.activations.progress import ExtractionProgress, ProgressCounter
from otoscope.activations.sharding import PlannedClip
from otoscope.activations.worker import ProbeWorker, ShardTask, Step, WorkerFactory
from otoscope.errors import AudioError, ExecutorError
from otoscope.executors.base import MAX_WORKER_DEATHS, Done, Executor, TaskProgress, WorkerLost

SUSPECT = 2
"""Workers that may die on a shard before its clips are tried one by one, and on a clip alone before it is set aside."""


def write_shards(
    executor: Executor, about: WorkerFactory, settled: ExtractionPlan, missing: Sequence[int], tally: ProgressCounter
) -> Generator[ExtractionProgress]:
    """Have shards written; yield after every batch that is heard of.

    Raises `ExecutorError` when workers die on a shard again and again and on none of its clips.
    """
    deaths: Counter[int] = Counter()
    doomed: dict[str, str] = {}
    left = list(missing)
    while left:
        tasks = [_task(settled, shard, doomed) for shard in left]
        groups = [tasks] if executor.in_process else [[task] for task in tasks]
        lost: list[int] = []
        steps: dict[int, list[Step]] = {}
        for event in executor.run(about, groups, heartbeat=True):
            if isinstance(event, TaskProgress):
                steps.setdefault(event.task, []).append(event.value)
                yield _count(tally, event.value)
            elif isinstance(event, Done):
                steps.pop(event.task, None)
            else:
                yield from _take_back(tally, steps.pop(event.task, []))
                shards = [task.shard for task in groups[event.task]]
                lost += shards
                deaths.update(shards)
                _give_up(deaths, shards, event)
        for shard in lost:
            if deaths[shard] == SUSPECT:
                doomed |= _guilty(executor, about, settled.plan[shard])
        left = lost


def _task(settled: ExtractionPlan, shard: int, doomed: dict[str, str]) -> ShardTask:
    clips = settled.plan[shard]
    ids = [clip.clip_id for clip in clips]
    return ShardTask(
        shard,
        settled.key_of(shard),
        clips,
        {clip_id: settled.keys[clip_id] for clip_id in ids},
        {clip_id: doomed[clip_id] for clip_id in ids if clip_id in doomed},
    )


def _count(tally: ProgressCounter, step: Step) -> ExtractionProgress:
    tally.spent_s["encode"] += step.encode_s
    tally.spent_s["wait"] += step.wait_s
    tally.spent_s["write"] += step.write_s
    tally.add(step.clips, step.sound_s, len(step.set_aside))
    if step.set_aside:
        tally.check(step.set_aside[-1])
    return tally.progress(shard=step.shard, clips_new=step.clips)


def _take_back(tally: ProgressCounter, steps: Sequence[Step]) -> Iterator[ExtractionProgress]:
    """Count no longer what a lost shard held: all of it is done again."""
    for step in steps:
        tally.add(-step.clips, -step.sound_s, -len(step.set_aside))
        yield tally.progress(shard=step.shard, clips_new=-step.clips)


def _give_up(deaths: Counter[int], shards: Sequence[int], event: WorkerLost) -> None:
    worst = max(shards, key=lambda shard: deaths[shard])
    if deaths[worst] >= SUSPECT + MAX_WORKER_DEATHS:
        raise ExecutorError(
            f"{deaths[worst]} workers died on shard {worst}, and on none of its clips alone ({event.reason}); "
            "give workers more memory, or write smaller shards"
        )


def _guilty(executor: Executor, about: WorkerFactory, clips: Sequence[PlannedClip]) -> dict[str, str]:
    """Return the clips that workers die of, with the reason that is kept; with `strict`, raise `AudioError`."""
    suspects = [(clip, "") for clip in clips]
    for _ in range(SUSPECT):
        tried = executor.run(ProbeWorker(about), [clip for clip, _ in suspects], heartbeat=True)
        suspects = [(suspects[e.task][0], "hung" if e.hung else "died") for e in tried if isinstance(e, WorkerLost)]
    reasons = {
        clip.clip_id: f"its worker {what} {2 * SUSPECT} times, {SUSPECT} of them while it was encoded alone"
        for clip, what in suspects
    }
    if suspects and about.strict:
        clip = suspects[0][0]
        raise AudioError(f"{clip.path}: {reasons[clip.clip_id]}")
    return reasons
