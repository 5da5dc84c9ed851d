"""What the stages of one model of the study share."""

from dataclasses import dataclass

from otoscope.metrics.record import Record
from otoscope.pipeline.folder import RunFolder
from otoscope.pipeline.watch import Watch
from otoscope.protocols.mariotte2025 import NAME
from otoscope.protocols.mariotte2025.grid import Model
from otoscope.protocols.mariotte2025.switches import Settings

FORMAT = 1
"""Raised when the same inputs would give other numbers."""


@dataclass(frozen=True)
class Job:
    """A model, the folder that its artifacts go to, how the study is done, and who watches."""

    model: Model
    folder: RunFolder
    settings: Settings
    watch: Watch

    def about(self, layer: int, representation: str) -> Record:
        """Return what all records of one representation share."""
        return Record(
            metric="l0",
            value=0.0,
            split="test",
            protocol=NAME,
            encoder=self.model.checkpoint,
            layer=layer,
            representation=representation,
            pooling="mean" if representation == "dense" else "pool_then_encode",
        )
