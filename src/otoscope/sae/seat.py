"""One member of a bank, and its way through its steps."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

from otoscope.errors import OtoscopeError
from otoscope.sae.presets import TrainConfig
from otoscope.sae.progress import conclude, save_progress
from otoscope.sae.rows import Order
from otoscope.sae.train import Batch, Step, Training, advance, finish
from otoscope.sae.trained import Trained

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
