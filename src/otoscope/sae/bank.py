"""Many dictionaries trained side by side on the same rows, each as if it were alone.

One member of a bank, and its way through its steps.

Whether a bank can be trained and fits, worked out before anything is read.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

from otoscope.errors import ConfigError, DamagedArtifact, OtoscopeError, StaleArtifact
from otoscope.sae._kernels.buffers import available_threads
from otoscope.sae.config import TrainConfig
from otoscope.sae.data import Order, Rows, held
from otoscope.sae.kernel_optimiser import pick_engine
from otoscope.sae.optimiser import EngineFactory
from otoscope.sae.plan import Draft, budget, draft, member_bytes, require_fit, rows_bytes
from otoscope.sae.resources import find_device, one_thread, workers
from otoscope.sae.statistics import Moments, measure, require_all_finite
from otoscope.sae.train import Batch, Step, Trained, Training, advance, begin, finish, read_batch
from otoscope.sae.training_state import clear_progress, conclude, load_progress, save_progress
from otoscope.sae.validation import of_rows

SLICE_BYTES = 16 << 20
"""Batches of one order that are read together, ahead of the steps that use them."""

SLICE_STEPS = 16


class Due(NamedTuple):
    """A batch that will be wanted: of which order, at which step, with or without neighbours."""

    order: Order
    step: int
    paired: bool


@dataclass(frozen=True, kw_only=True)
class Member:
    """One dictionary of a bank; a folder keeps its progress, and in the end the dictionary with `card`."""

    name: str
    latents: int
    k: int
    seed: int = 0
    preset: TrainConfig | str = "default"
    folder: Path | None = None
    card: Mapping[str, Any] = field(default_factory=dict[str, Any])


class MemberStep(NamedTuple):
    """A step of one member; the finished dictionary comes with the last.

    There is no step where a killed run had done them all.
    """

    name: str
    step: Step | None
    trained: Trained | None


@dataclass
class Seat:
    """A member at work."""

    member: Member
    run: Training
    saved_at: float

    def due(self, *, later: int = 0) -> list[Due]:
        """Return the batches of the next slice, or of one `later`."""
        order, size = self.run.plan.order, slice_steps(self.run)
        start = self.run.step + later * size
        paired = bool(self.run.config.temporal)
        return [Due(order, step, paired) for step in range(start, min(start + size, self.run.plan.steps))]

    def walk(self, due: Sequence[Due], batches: Mapping[Due, Batch], save_every_s: float) -> list[MemberStep]:
        """Take the steps of a slice; then save progress, or the dictionary if all steps are done."""
        member, run = self.member, self.run
        with named(member.name):
            steps = [MemberStep(member.name, advance(run, batches[batch]), None) for batch in due if not run.done]
            if run.done:
                trained = finish(run) if member.folder is None else conclude(member.folder, run, member.card)
                last = steps.pop().step if steps else None
                return [*steps, MemberStep(member.name, last, trained)]
            if member.folder is not None and monotonic() - self.saved_at >= save_every_s:
                save_progress(member.folder, run)
                self.saved_at = monotonic()
            return steps


def slice_steps(run: Training) -> int:
    """Return how many steps make a slice."""
    batch_bytes = 4 * run.plan.order.batch * run.rows.width
    return max(1, min(SLICE_STEPS, SLICE_BYTES // (2 * batch_bytes)))


@contextmanager
def named(name: str) -> Generator[None]:
    """Put the member's name before what went wrong."""
    try:
        yield
    except OtoscopeError as error:
        raise type(error)(f"{name}: {error}") from error


HELD_SHARE = 0.25
"""Rows that take up less than this share of the memory allowed are read once and kept."""


class Room(NamedTuple):
    """What each member will be and needs, what all may take together, and what rows may take to be kept."""

    drafts: dict[str, Draft]
    needs: dict[str, int]
    members_bytes: int
    held_bytes: int


def find_room(rows: Rows, valid_rows: Rows, members: Sequence[Member], *, memory_bytes: int | None = None) -> Room:
    """Return the room of a bank.

    Raises `ConfigError` for settings, `TrainingError` for a member that does not fit by itself, and for rows as far as
    their number, width and kind tell.
    """
    if len({member.name for member in members}) < len(members):
        raise ConfigError(f"each member needs a name of its own, got {[member.name for member in members]}")
    allowed = budget(memory_bytes)
    drafts = {member.name: _draft(member, rows, valid_rows) for member in members}
    held_bytes = int(HELD_SHARE * allowed)
    kept = [part for part in (rows, valid_rows) if rows_bytes(part) <= held_bytes]
    members_bytes = allowed - sum(map(rows_bytes, kept)) - SLICE_BYTES
    needs: dict[str, int] = {}
    for member in members:
        made = drafts[member.name]
        # two slices of batches: at worst no other member shares its order
        needs[member.name] = member_bytes(rows.width, member.latents, made) + SLICE_BYTES
        require_fit(
            needs[member.name],
            members_bytes,
            fixed=member_bytes(rows.width, 0, made) + SLICE_BYTES,
            width=rows.width,
            latents=member.latents,
            name=member.name,
        )
    return Room(drafts, needs, members_bytes, held_bytes)


def _draft(member: Member, rows: Rows, valid_rows: Rows) -> Draft:
    with named(member.name):
        return draft(rows, valid_rows, member.preset, latents=member.latents, k=member.k, seed=member.seed)


class Bank:
    """Trains dictionaries of any sparsities, widths, seeds and presets on the same rows.

    Rows are measured once, and kept where they fit; members whose order of rows is the same (equal
    seed and batch) share every batch. `workers` members step at a time, each on one thread of
    PyTorch's. A member ends in the same bytes whatever its company and the number of workers: those
    of a run by itself on one thread (`torch.set_num_threads(1)`). On a GPU (`device`) members take turns.

    As many members as fit in `memory_bytes` are trained at once, the others after them. Making a
    bank raises `ConfigError` for settings and `TrainingError` for rows, or for a member that does
    not fit by itself, before anything is trained.
    """

    def __init__(
        self,
        rows: Rows,
        valid_rows: Rows,
        members: Sequence[Member],
        *,
        moments: Moments | None = None,
        workers: int | None = None,
        memory_bytes: int | None = None,
        engine: EngineFactory | None = None,
        device: str = "cpu",
    ) -> None:
        self.members, self.engine, self.device = list(members), engine, device
        self.workers = workers or (available_threads() if find_device(device).type == "cpu" else 1)
        room = find_room(rows, valid_rows, members, memory_bytes=memory_bytes)
        self.drafts, self.needs, self.members_bytes = room.drafts, room.needs, room.members_bytes
        self.rows, self.valid_rows = (held(part, room.held_bytes) for part in (rows, valid_rows))
        require_all_finite(self.valid_rows, name="validation")
        self.moments = moments or measure(self.rows)

    def warnings(self) -> list[str]:
        """Return what a reader of the results should know about the rows, each line once.

        Too few of them are told for the member with the most latents alone.
        """
        made = self.drafts.values()
        found = [line for one in made for line in self.moments.warnings(one.config.scaling)]
        most = max((member.latents for member in self.members), default=0)
        return list(dict.fromkeys(found)) + of_rows(self.rows.height, self.valid_rows.height, latents=most)

    def waves(self) -> list[list[Member]]:
        """Return the members that are trained at once, wave after wave, equal orders of rows side by side."""
        waves: list[list[Member]] = []
        free = 0
        for member in sorted(self.members, key=lambda m: (m.seed, self.drafts[m.name].plan.order.batch)):
            need = self.needs[member.name]
            if not waves or need > free:
                waves.append([])
                free = self.members_bytes
            waves[-1].append(member)
            free -= need
        return waves

    def train(self, *, save_every_s: float = 60.0, discard_stale: bool = False) -> Iterator[MemberStep]:
        """Train every member to its end, yielding each step of each.

        Members with a folder continue where a killed run left off, and save their progress about
        every `save_every_s` seconds. Progress of other settings or rows, or a damaged file, raises
        `StaleArtifact` or `DamagedArtifact`; with `discard_stale` it is deleted instead.
        """
        with one_thread(), workers(self.workers) as pool:
            for wave in self.waves():
                seats = list(pool.map(partial(self._seat, threads=self.threads(wave), discard=discard_stale), wave))
                yield from self._walk(pool, seats, save_every_s)

    def threads(self, wave: Sequence[Member]) -> int:
        """Return how many threads each member's kernels may use."""
        return max(1, self.workers // len(wave))

    def _seat(self, member: Member, *, threads: int, discard: bool) -> Seat:
        engine = self.engine or partial(pick_engine, threads=threads)

        def fresh() -> Training:
            return begin(
                self.rows, self.valid_rows, member.preset,
                latents=member.latents, k=member.k, seed=member.seed, moments=self.moments, engine=engine,
                device=self.device,
            )  # fmt: skip

        with named(member.name):
            run = fresh()
            if member.folder is not None:
                try:
                    load_progress(member.folder, run)
                except (StaleArtifact, DamagedArtifact):
                    if not discard:
                        raise
                    clear_progress(member.folder)
                    run = fresh()
            return Seat(member, run, monotonic())

    def _walk(self, pool: ThreadPoolExecutor, seats: list[Seat], save_every_s: float) -> Iterator[MemberStep]:
        """Take slices of all members in turn; the batches of the next one are read while this one is at work."""
        reading = pool.submit(self._read, {due for seat in seats for due in seat.due()})
        while seats:
            batches = reading.result()
            later = {due for seat in seats for due in seat.due(later=1)}
            walks: dict[str, Future[list[MemberStep]]] = {}
            # the longest first, so that no worker is left with a long one at the end
            for seat in sorted(seats, key=lambda s: -s.run.sae.latents * s.run.sae.sparsifier.k):
                walks[seat.member.name] = pool.submit(seat.walk, seat.due(), batches, save_every_s)
            reading = pool.submit(self._read, later)
            for seat in seats:
                yield from walks[seat.member.name].result()
            seats = [seat for seat in seats if not seat.run.done]

    def _read(self, due: set[Due]) -> dict[Due, Batch]:
        found: dict[Due, Batch] = {}
        for batch in sorted(due, key=lambda d: (d.order.seed, d.order.batch, d.step)):
            found[batch] = read_batch(self.rows, batch.order, batch.step, paired=batch.paired)
        return found
