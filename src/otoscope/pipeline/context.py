"""What every stage is given."""

from dataclasses import dataclass, field
from typing import Any

from otoscope.config import RunConfig
from otoscope.executors.base import Engine
from otoscope.executors.local import Local
from otoscope.pipeline.folder import RunFolder
from otoscope.pipeline.model import Model
from otoscope.pipeline.watch import Silent, Watch


@dataclass(frozen=True)
class Context:
    """A run: what is asked, where it goes, who watches, its model, if one bad clip stops it, and who does the work.

    In another process it is the same run without its watcher, and the work is done there.
    """

    config: RunConfig
    folder: RunFolder
    watch: Watch
    model: Model
    strict: bool = False
    engine: Engine = field(default_factory=Local)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel without what belongs to this process."""
        return Context, (self.config, self.folder, Silent(), Model(self.config), self.strict)
