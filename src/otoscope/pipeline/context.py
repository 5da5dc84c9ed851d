"""What every stage is given."""

from dataclasses import dataclass

from otoscope.config import RunConfig
from otoscope.pipeline.folder import RunFolder
from otoscope.pipeline.model import Model
from otoscope.pipeline.watch import Watch


@dataclass(frozen=True)
class Context:
    """A run: what is asked, where it goes, who watches, its model, and whether one bad clip stops it."""

    config: RunConfig
    folder: RunFolder
    watch: Watch
    model: Model
    strict: bool = False
