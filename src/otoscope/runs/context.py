"""Shared context of all stages: configuration, run folder, progress, encoder, executor."""

from dataclasses import dataclass, field
from typing import Any

from otoscope.config import RunConfig
from otoscope.encoders.base import Encoder, check_layers
from otoscope.encoders.catalog import load_encoder
from otoscope.executors.base import Executor, LocalExecutor
from otoscope.hardware import find_device
from otoscope.runs.folder import RunFolder
from otoscope.runs.progress import ProgressReporter, SilentReporter


class LazyEncoder:
    """Encoder of a configuration, loaded once and released after its use."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self._loaded: Encoder | None = None

    def load(self) -> Encoder:
        """Return the encoder.

        Raises `EncoderError` when it cannot be loaded, `UnknownLayer` when it lacks a configured layer.
        """
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
        """Return the encoder and drop the reference, so that later stages can use its memory."""
        encoder = self.load()
        self._loaded = None
        return encoder


def layers_to_extract(config: RunConfig, encoder: Encoder) -> list[int]:
    """Return the layers to extract, in order."""
    layers = config.extract.layers
    return [layer.index for layer in encoder.layers] if layers == "all" else sorted(set(layers))


@dataclass(frozen=True)
class Context:
    """Shared context of the stages of one run.

    A pickled context has no reporter, no loaded encoder and a local executor: it runs where it is opened.
    """

    config: RunConfig
    folder: RunFolder
    progress: ProgressReporter
    encoder: LazyEncoder
    fail_fast: bool = False
    executor: Executor = field(default_factory=LocalExecutor)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the progress reporter, the loaded encoder and the executor."""
        return Context, (self.config, self.folder, SilentReporter(), LazyEncoder(self.config), self.fail_fast)
