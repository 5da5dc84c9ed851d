"""Many dictionaries trained side by side on the same rows, each as if it were alone."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from time import monotonic

from otoscope.errors import DamagedArtifact, StaleArtifact
from otoscope.sae.caveats import of_rows
from otoscope.sae.devices import find_device
from otoscope.sae.engine import EngineFactory
from otoscope.sae.fast import pick_engine
from otoscope.sae.kernels.team import available_threads
from otoscope.sae.moments import Moments, measure, require_all_finite
from otoscope.sae.progress import clear_progress, load_progress
from otoscope.sae.room import find_room
from otoscope.sae.rows import Rows, held
from otoscope.sae.seat import Due, Member, MemberStep, Seat, named
from otoscope.sae.train import Batch, Training, begin, read_batch
from otoscope.sae.workers import one_thread, workers


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
