"""Bank: many SAEs trained in parallel on the same rows, each to the same bytes as when trained alone.

Everything that changes during a run is saved in one file, from which a killed run resumes.
"""

import hashlib
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otoscope.artifacts import fingerprint, read_tensors, require_fingerprint, write_tensors
from otoscope.errors import ConfigError, DamagedArtifact, OtoscopeError, StaleArtifact
from otoscope.hardware import available_threads, find_device, one_thread
from otoscope.paths import user_path
from otoscope.sae.checkpoint import load_strictly, to_array
from otoscope.sae.config import TrainConfig
from otoscope.sae.data import RowSource, Shuffle, cache_rows
from otoscope.sae.kernel_step import pick_stepper
from otoscope.sae.optimiser import StepperFactory
from otoscope.sae.plan import ResolvedConfig, member_bytes, memory_budget, require_fits, resolve, rows_bytes
from otoscope.sae.sparsifiers.base import Sparsifier
from otoscope.sae.statistics import RowStatistics, compute_statistics, require_all_finite
from otoscope.sae.train import (
    UNRANKED,
    TrainBatch,
    TrainingRun,
    TrainResult,
    TrainStep,
    advance,
    finish,
    read_batch,
    start_run,
)
from otoscope.sae.validation import data_warnings

PROGRESS = "progress.safetensors"


def save_result(folder: Path, run: TrainingRun, card: Mapping[str, Any]) -> TrainResult:
    """Save the SAE of a completed run and delete its progress.

    The card gets `training` (the summary) and `history` in addition to `card`.
    """
    result = finish(run)
    result.sae.save_pretrained(folder, {**card, "training": result.summary, "history": result.history}, overwrite=True)
    clear_progress(folder)
    return result


def save_progress(folder: Path, run: TrainingRun) -> None:
    """Write the mutable state of a run into one file: weights, moments, counters, best state, position."""
    groups = {"sae": run.sae.state_dict(), "stepper": run.stepper.state(), "best": run.best}
    tensors = {f"{group}/{name}": to_array(value) for group, part in groups.items() for name, value in part.items()}
    position = {
        "fingerprint": run_fingerprint(run),
        "step": run.step,
        "best_rank": run.best_rank if run.best else None,
        "best_step": run.best_step,
        "restart_steps": run.restart_steps,
        "budgets": run.budgets,
        "history": run.history,
    }
    # the position is stored as bytes in the same file, so weights and step number cannot disagree
    tensors["position"] = np.frombuffer(json.dumps(position).encode(), dtype=np.uint8)
    write_tensors(folder / PROGRESS, tensors)


def load_progress(folder: Path, run: TrainingRun) -> bool:
    """Load saved progress into a run at step 0; return whether there was any.

    Raises `StaleArtifact` if the saved run had other settings or rows, `DamagedArtifact` for an incomplete file.
    """
    path = folder / PROGRESS
    if not path.is_file():
        return False
    tensors = read_tensors(path)
    try:
        position = json.loads(tensors.pop("position").tobytes())
    except (KeyError, ValueError) as error:
        raise DamagedArtifact(f"{path} holds no position ({error}); delete it and train again") from error
    require_fingerprint(path, position["fingerprint"], run_fingerprint(run))
    load_strictly(run.sae, _group(tensors, "sae"), path)
    run.stepper.restore(_group(tensors, "stepper"))
    run.best = _group(tensors, "best")
    run.best_rank = tuple(position["best_rank"]) if position["best_rank"] else UNRANKED
    run.step, run.best_step, run.history = position["step"], position["best_step"], position["history"]
    run.restart_steps, run.budgets = position["restart_steps"], position["budgets"]
    if run.budgets:
        run.stepper.use_budgets(run.budgets)
    return True


def clear_progress(folder: Path) -> None:
    """Delete the file that `save_progress` wrote."""
    (folder / PROGRESS).unlink(missing_ok=True)


def run_fingerprint(run: TrainingRun) -> str:
    """Return a fingerprint of everything that determines the result of a run."""
    statistics = hashlib.sha256(run.statistics.mean.tobytes() + run.statistics.variance.tobytes()).hexdigest()
    heights = [run.rows.height, run.valid_rows.height]
    return fingerprint(run.config.model_dump(), run.sae.settings(), run.seed, heights, statistics)


def _group(tensors: Mapping[str, NDArray[Any]], group: str) -> dict[str, Tensor]:
    prefix = f"{group}/"
    arrays = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return {name: torch.from_numpy(value.copy()) for name, value in arrays.items()}


SLICE_BYTES = 16 << 20
"""Size of the batches of one shuffle that are read together, ahead of their steps."""
SLICE_STEPS = 16
CACHE_SHARE = 0.25
"""Rows smaller than this share of the memory budget are read once and cached."""


@dataclass(frozen=True, kw_only=True)
class BankMember:
    """Settings of one SAE of a bank; its folder stores progress, and finally the SAE with `card`."""

    name: str
    latents: int
    k: int | None = None
    seed: int = 0
    preset: TrainConfig | str = "default"
    sparsifier: Sparsifier | None = None
    folder: Path | None = None
    card: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if self.folder is not None:
            object.__setattr__(self, "folder", user_path(self.folder))


class MemberStep(NamedTuple):
    """One step of one member; the last one has the result.

    `step` is None if a resumed run had already taken all steps.
    """

    name: str
    step: TrainStep | None
    result: TrainResult | None


class BatchKey(NamedTuple):
    """Identity of a batch: shuffle, step, and whether neighbours are included."""

    shuffle: Shuffle
    step: int
    paired: bool


@dataclass
class MemberRun:
    """Training run of a member, executed in slices of several steps."""

    member: BankMember
    run: TrainingRun
    saved_at: float

    def batch_keys(self, *, skip: int = 0) -> list[BatchKey]:
        """Return the batches of the next slice, after skipping `skip` slices."""
        shuffle, size = self.run.plan.shuffle, slice_steps(self.run)
        start = self.run.step + skip * size
        paired = bool(self.run.config.temporal)
        return [BatchKey(shuffle, step, paired) for step in range(start, min(start + size, self.run.plan.steps))]

    def run_slice(
        self, keys: Sequence[BatchKey], batches: Mapping[BatchKey, TrainBatch], save_every_s: float
    ) -> list[MemberStep]:
        """Take the steps of a slice, then save progress, or the SAE if all steps are done."""
        member, run = self.member, self.run
        with prefix_errors(member.name):
            steps = [MemberStep(member.name, advance(run, batches[key]), None) for key in keys if not run.done]
            if run.done:
                result = finish(run) if member.folder is None else save_result(member.folder, run, member.card)
                last = steps.pop().step if steps else None
                return [*steps, MemberStep(member.name, last, result)]
            if member.folder is not None and monotonic() - self.saved_at >= save_every_s:
                save_progress(member.folder, run)
                self.saved_at = monotonic()
            return steps


def slice_steps(run: TrainingRun) -> int:
    """Return the number of steps per slice."""
    batch_bytes = 4 * run.plan.shuffle.batch * run.rows.width
    return max(1, min(SLICE_STEPS, SLICE_BYTES // (2 * batch_bytes)))


@contextmanager
def prefix_errors(name: str) -> Generator[None]:
    """Prefix error messages with a member's name."""
    try:
        yield
    except OtoscopeError as error:
        raise type(error)(f"{name}: {error}") from error


class MemoryBudget(NamedTuple):
    """Resolved settings and memory of each member, memory for all members, and memory for cached rows."""

    resolved: dict[str, ResolvedConfig]
    required_bytes: dict[str, int]
    members_bytes: int
    cache_bytes: int


def fit_in_memory(
    rows: RowSource, valid_rows: RowSource, members: Sequence[BankMember], *, memory_bytes: int | None = None
) -> MemoryBudget:
    """Check settings and memory of a bank before reading data.

    Raises `ConfigError` for settings, `TrainingError` for a member that does not fit alone, and for unusable rows as
    far as their number, width and kind show.
    """
    names = [member.name for member in members]
    if len(set(names)) < len(names):
        raise ConfigError(f"member names must be unique, got {names}")
    allowed = memory_budget(memory_bytes)
    resolved: dict[str, ResolvedConfig] = {}
    for member in members:
        with prefix_errors(member.name):
            resolved[member.name] = resolve(
                rows, valid_rows, member.preset,
                latents=member.latents, k=member.k, sparsifier=member.sparsifier, seed=member.seed,
            )  # fmt: skip
    cache_bytes = int(CACHE_SHARE * allowed)
    cached = [source for source in (rows, valid_rows) if rows_bytes(source) <= cache_bytes]
    members_bytes = allowed - sum(map(rows_bytes, cached)) - SLICE_BYTES
    required_bytes: dict[str, int] = {}
    for member in members:
        settings = resolved[member.name]
        # two slices of batches: in the worst case no other member shares them
        required_bytes[member.name] = member_bytes(rows.width, member.latents, settings) + SLICE_BYTES
        require_fits(
            required_bytes[member.name],
            members_bytes,
            fixed=member_bytes(rows.width, 0, settings) + SLICE_BYTES,
            width=rows.width,
            latents=member.latents,
            name=member.name,
        )
    return MemoryBudget(resolved, required_bytes, members_bytes, cache_bytes)


class Bank:
    """Trainer of SAEs of any sparsities, widths, seeds and presets on the same rows.

    Row statistics are computed once, and rows are cached if they fit. Members with the same shuffle (equal
    seed and batch) share every batch. `workers` members step at a time, each on one PyTorch thread.
    A member ends in the same bytes for any other members and any number of workers: those
    of a run alone on one thread (`torch.set_num_threads(1)`). On a GPU (`device`) members take turns.

    As many members as fit in `memory_bytes` are trained at once, the others after them. The constructor
    raises `ConfigError` for settings and `TrainingError` for rows, or for a member that does
    not fit alone, before any training.
    """

    def __init__(
        self,
        rows: RowSource,
        valid_rows: RowSource,
        members: Sequence[BankMember],
        *,
        statistics: RowStatistics | None = None,
        workers: int | None = None,
        memory_bytes: int | None = None,
        stepper: StepperFactory | None = None,
        device: str = "cpu",
    ) -> None:
        self.members, self.stepper, self.device = list(members), stepper, device
        self.workers = workers or (available_threads() if find_device(device).type == "cpu" else 1)
        budget = fit_in_memory(rows, valid_rows, members, memory_bytes=memory_bytes)
        self.resolved, self.required_bytes = budget.resolved, budget.required_bytes
        self.members_bytes = budget.members_bytes
        self.rows, self.valid_rows = (cache_rows(source, budget.cache_bytes) for source in (rows, valid_rows))
        require_all_finite(self.valid_rows, name="validation")
        self.statistics = statistics or compute_statistics(self.rows)

    def __repr__(self) -> str:
        return f"Bank({len(self.members)} members, {self.rows.height:,} x {self.rows.width} rows, {self.device})"

    def warnings(self) -> list[str]:
        """Return warnings about the rows, without duplicates.

        The warning about too few rows is given for the member with the most latents only.
        """
        lines = [line for one in self.resolved.values() for line in self.statistics.warnings(one.config.scaling)]
        most = max((member.latents for member in self.members), default=0)
        return list(dict.fromkeys(lines)) + data_warnings(self.rows.height, self.valid_rows.height, latents=most)

    def waves(self) -> list[list[BankMember]]:
        """Return the groups of members that are trained at once, with equal shuffles next to each other."""
        waves: list[list[BankMember]] = []
        free = 0
        for member in sorted(self.members, key=lambda m: (m.seed, self.resolved[m.name].plan.shuffle.batch)):
            required = self.required_bytes[member.name]
            if not waves or required > free:
                waves.append([])
                free = self.members_bytes
            waves[-1].append(member)
            free -= required
        return waves

    def train(self, *, save_every_s: float = 60.0, discard_stale: bool = False) -> Iterator[MemberStep]:
        """Train all members, yielding each step of each.

        Members with a folder resume a killed run, and save their progress about
        every `save_every_s` seconds. Progress of other settings or rows, or a damaged file, raises
        `StaleArtifact` or `DamagedArtifact`; with `discard_stale` it is deleted instead.
        """
        with one_thread(), _thread_pool(self.workers) as pool:
            for wave in self.waves():
                start = partial(self._start_member, threads=self.threads(wave), discard=discard_stale)
                yield from self._run_wave(pool, list(pool.map(start, wave)), save_every_s)

    def threads(self, wave: Sequence[BankMember]) -> int:
        """Return the number of threads for each member's kernels."""
        return max(1, self.workers // len(wave))

    def _start_member(self, member: BankMember, *, threads: int, discard: bool) -> MemberRun:
        stepper = self.stepper or partial(pick_stepper, threads=threads)
        fresh = partial(
            start_run, self.rows, self.valid_rows, self.resolved[member.name],
            statistics=self.statistics, stepper=stepper, device=self.device,
        )  # fmt: skip
        with prefix_errors(member.name):
            run = fresh()
            if member.folder is not None:
                try:
                    load_progress(member.folder, run)
                except (StaleArtifact, DamagedArtifact):
                    if not discard:
                        raise
                    clear_progress(member.folder)
                    run = fresh()
            return MemberRun(member, run, monotonic())

    def _run_wave(self, pool: ThreadPoolExecutor, runs: list[MemberRun], save_every_s: float) -> Iterator[MemberStep]:
        """Run slices of all members in turn; the batches of the next slices are read during the current ones."""
        reading = pool.submit(self._read_batches, {key for run in runs for key in run.batch_keys()})
        while runs:
            batches = reading.result()
            next_keys = {key for run in runs for key in run.batch_keys(skip=1)}
            slices: dict[str, Future[list[MemberStep]]] = {}
            # longest first, so that no worker ends with a long slice
            for run in sorted(runs, key=lambda r: -r.run.sae.latents * r.run.sae.sparsifier.k):
                slices[run.member.name] = pool.submit(run.run_slice, run.batch_keys(), batches, save_every_s)
            reading = pool.submit(self._read_batches, next_keys)
            for run in runs:
                yield from slices[run.member.name].result()
            runs = [run for run in runs if not run.run.done]

    def _read_batches(self, keys: set[BatchKey]) -> dict[BatchKey, TrainBatch]:
        ordered = sorted(keys, key=lambda key: (key.shuffle.seed, key.shuffle.batch, key.step))
        return {key: read_batch(self.rows, key.shuffle, key.step, paired=key.paired) for key in ordered}


@contextmanager
def _thread_pool(number: int) -> Generator[ThreadPoolExecutor]:
    """Open a thread pool that cancels pending tasks on exit."""
    pool = ThreadPoolExecutor(number, "bank")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
