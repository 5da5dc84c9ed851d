"""What every stage is given.

The encoder of a run: checked before any work, held until it has been used.
"""

from dataclasses import dataclass, field
from typing import Any

from otoscope.config import RunConfig
from otoscope.encoders.base import Encoder, check_layers
from otoscope.encoders.catalog import load_encoder
from otoscope.executors.base import Executor
from otoscope.executors.local import LocalExecutor
from otoscope.runs.folder import RunFolder
from otoscope.runs.progress import ProgressReporter, SilentReporter
from otoscope.sae.resources import find_device


class LazyEncoder:
    """Loads the configuration's encoder once, and lets go of it when it is taken."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._loaded: Encoder | None = None

    def load(self) -> Encoder:
        """Load the model; raise `EncoderError` when it cannot be used, `UnknownLayer` when it lacks a wanted layer."""
        if self._loaded is None:
            config = self._config
            settings = config.extract
            self._loaded = load_encoder(
                config.model,
                revision=config.revision,
                device=str(find_device(config.device)),
                context=settings.context,
                precision=settings.precision,
            )
            check_layers(layers_to_extract(config, self._loaded), self._loaded.layers, self._loaded.name)
        return self._loaded

    def release(self) -> Encoder:
        """Return the model and keep no hold of it: later stages need its memory."""
        encoder = self.load()
        self._loaded = None
        return encoder


def layers_to_extract(config: RunConfig, encoder: Encoder) -> list[int]:
    """Return the layers to extract, in order."""
    wanted = config.extract.layers
    return [layer.index for layer in encoder.layers] if wanted == "all" else sorted(set(wanted))


@dataclass(frozen=True)
class Context:
    """A run: what is asked, where it goes, who watches, its model, if one bad clip stops it, and who does the work.

    In another process it is the same run without its watcher, and the work is done there.
    """

    config: RunConfig
    folder: RunFolder
    progress: ProgressReporter
    encoder: LazyEncoder
    fail_fast: bool = False
    executor: Executor = field(default_factory=LocalExecutor)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel without what belongs to this process."""
        return Context, (self.config, self.folder, SilentReporter(), LazyEncoder(self.config), self.fail_fast)
