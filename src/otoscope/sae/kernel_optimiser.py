"""Compiled training step for TopK, and the choice of the fastest stepper."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from otoscope.errors import ConfigError
from otoscope.sae._kernels.buffers import StepSettings, Weights
from otoscope.sae._kernels.llvm import has_bfloat_products
from otoscope.sae._kernels.step import TopKStep
from otoscope.sae.config import TrainConfig
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.optimiser import Losses, Stepper, TorchStepper, require_counters
from otoscope.sae.sparsifiers.topk import TopK


def pick_stepper(
    sae: SparseAutoencoder, config: TrainConfig, *, dead_window_rows: int, threads: int | None = None
) -> Stepper:
    """Return the fastest stepper for a model on this machine; `threads` is for kernels and does not change results.

    Kernels round products to bfloat16 and sum in float32; after the same steps the held-out
    fraction of variance unexplained is within 1 % of `TorchStepper`'s (a test checks this). On a GPU it is
    `TorchStepper`, compiled.
    """
    if sae.device.type != "cpu":
        return TorchStepper(sae, config, dead_window_rows=dead_window_rows, backend="inductor")
    if has_bfloat_products() and is_supported(sae, config):
        return KernelStepper(sae, config, dead_window_rows=dead_window_rows, threads=threads)
    return TorchStepper(sae, config, dead_window_rows=dead_window_rows)


def is_supported(sae: SparseAutoencoder, config: TrainConfig) -> bool:
    """Return whether the kernels support a model and its configuration: plain TopK in float32 on the CPU."""
    on_cpu = sae.device.type == "cpu" and sae.encoder.dtype == torch.float32
    plain = config.prefixes == (1.0,) and not (config.temporal or config.frozen_decoder) and sae.archetypes is None
    return type(sae.sparsifier) is TopK and plain and on_cpu


class KernelStepper:
    """Stepper for TopK with compiled kernels that update the model's parameters in place."""

    def __init__(
        self, sae: SparseAutoencoder, config: TrainConfig, *, dead_window_rows: int, threads: int | None = None
    ) -> None:
        if not is_supported(sae, config):
            raise ConfigError(
                "KernelStepper supports only TopK in float32 on the CPU, without prefixes, temporal contrast, frozen "
                f"decoder and archetypes, got {sae!r}; use TorchStepper"
            )
        self.dead_window_rows = dead_window_rows
        self.silent_rows = torch.zeros(sae.latents, dtype=torch.int64)
        settings = StepSettings(
            k=sae.sparsifier.k,
            unit_norm=sae.unit_norm,
            beta2=config.beta2,
            encoder_decay=config.weight_decay,
            aux_coefficient=config.aux_coefficient,
            aux_k=max(sae.width // 2, 1),
        )
        self.kernel = TopKStep(_weights(sae), settings, threads=threads)

    def step(self, inner: Float[Tensor, "rows width"], *, learning_rate: float) -> Losses:
        """Update the weights from one batch of normalised rows."""
        dead = self.silent_rows >= self.dead_window_rows
        result = self.kernel(inner.numpy(), learning_rate=learning_rate, dead=dead.numpy())
        fired = torch.from_numpy(result.fired > 0)
        self.silent_rows = torch.where(fired, 0, self.silent_rows + len(inner))
        return Losses(result.loss, result.aux, result.l0, dead.float().mean().item())

    def state(self) -> dict[str, Tensor]:
        """Return copies of Adam's moments and of the silent-row counters."""
        moments = {name: torch.from_numpy(np.array(value)) for name, value in self.kernel.state().items()}
        return {"silent_rows": self.silent_rows.clone(), **moments}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Resume from a result of `state`; raise `DamagedArtifact` if it belongs to another model."""
        require_counters(state, self.silent_rows)
        self.silent_rows = state["silent_rows"].clone()
        self.kernel.restore({name: value.numpy() for name, value in state.items() if name != "silent_rows"})


def _weights(sae: SparseAutoencoder) -> Weights:
    """Return the model's parameters as arrays that share their memory."""

    def shared(value: Tensor | None) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]] | None:
        return None if value is None else value.detach().numpy()

    encoder, decoder = sae.encoder.detach().numpy(), sae.decoder.detach().numpy()
    return Weights(
        encoder=encoder,
        decoder=decoder,
        encoder_bias=shared(sae.encoder_bias),
        decoder_bias=shared(sae.decoder_bias),
    )
