"""Optimiser step: gradients, constraints, Adam, and the count of silent rows per latent.

`TorchStepper` supports every model, `KernelStepper` TopK on the CPU; `pick_stepper` chooses the faster.
"""

from inspect import signature
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from otoscope.errors import ConfigError, DamagedArtifact
from otoscope.sae._kernels.buffers import StepSettings, Weights
from otoscope.sae._kernels.llvm import has_bfloat_products
from otoscope.sae._kernels.step import TopKStep
from otoscope.sae.archetypal import Archetypes
from otoscope.sae.config import TrainConfig
from otoscope.sae.losses import ContrastSettings, aux_k_loss, forward
from otoscope.sae.model import SparseAutoencoder
from otoscope.sae.sparsifiers.topk import TopK

COMPILE_OPTIONS: dict[str, Any] = {
    key: True for key in ("isolate_recompiles",) if key in signature(torch.compile).parameters
}
"""Members of a bank differ in shape and k: each has its own limit of recompilations, if PyTorch supports it."""


class Losses(NamedTuple):
    """Losses of one step, before the update."""

    reconstruction: float
    aux: float
    l0: float
    dead_fraction: float


@runtime_checkable
class Stepper(Protocol):
    """Optimiser of one model in place; `state` is everything it keeps between steps."""

    def step(self, inner: Float[Tensor, "rows width"], *, learning_rate: float) -> Losses:
        """Update the weights from one batch of normalised rows."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return copies of the moments and counters."""
        ...

    def restore(self, state: dict[str, Tensor]) -> None:
        """Resume from a result of `state`."""
        ...


@runtime_checkable
class StepperFactory(Protocol):
    """Constructor of the stepper of a run; raises `ConfigError` for an unsupported model or configuration."""

    def __call__(self, sae: SparseAutoencoder, config: TrainConfig, *, dead_window_rows: int) -> Stepper:
        """Return a stepper that updates `sae` in place."""
        ...


class TorchStepper:
    """Stepper with autograd and fused Adam, for any sparsifier on any device.

    `backend` compiles the forward and backward passes (`torch.compile`; "inductor" fuses all but matrix products).
    """

    def __init__(
        self, sae: SparseAutoencoder, config: TrainConfig, *, dead_window_rows: int, backend: str | None = None
    ) -> None:
        self.sae, self.config, self.dead_window_rows = sae, config, dead_window_rows
        self.forward = torch.compile(forward, backend=backend, **COMPILE_OPTIONS) if backend else forward
        self.silent_rows = torch.zeros(sae.latents, dtype=torch.int64, device=sae.device)
        self.parameters = {name: p for name, p in sae.named_parameters() if p.requires_grad}
        if sae.archetypes is not None:
            del self.parameters["decoder"]  # computed from the archetypes
        if config.frozen_decoder:
            sae.decoder.requires_grad_(False)
            del self.parameters["decoder"]
        self.contrast = ContrastSettings(config.temporal, config.temporal_share) if config.temporal else None
        special = {"encoder": (config.weight_decay, 1.0), "archetypes.logits": (0.0, config.mixing_rate)}
        self.optimiser = torch.optim.AdamW(
            [
                {"params": [p], "weight_decay": decay, "rate_factor": factor}
                for name, p in self.parameters.items()
                for decay, factor in [special.get(name, (0.0, 1.0))]
            ],
            betas=(0.9, config.beta2),
            fused=True,
        )

    def step(self, inner: Float[Tensor, "rows width"], *, learning_rate: float) -> Losses:
        """Update the weights from one batch of normalised rows."""
        sae = self.sae
        batch = self.forward(sae, inner, prefixes=self.config.prefixes, contrast=self.contrast)
        loss = batch.error if batch.penalty is None else batch.error + batch.penalty
        dead = self.silent_rows >= self.dead_window_rows
        aux = None
        if self.config.aux_coefficient and dead.any():
            aux = aux_k_loss(sae, inner, batch.rebuilt, dead)
            loss = loss + self.config.aux_coefficient * aux
        sae.zero_grad(set_to_none=True)
        loss.backward()
        if sae.archetypes is not None:
            backward_to_archetypes(sae, sae.archetypes)
        if sae.unit_norm:
            project_gradient(sae)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate * group["rate_factor"]
        self.optimiser.step()
        if sae.archetypes is not None:
            update_atoms(sae, sae.archetypes)
        if sae.unit_norm and not self.config.frozen_decoder:
            renormalise(sae)
        self.silent_rows = torch.where(batch.fired > 0, 0, self.silent_rows + len(inner))
        return Losses(
            batch.error.item(),
            0.0 if aux is None else aux.item(),
            batch.fired.sum().item() / len(inner),
            dead.float().mean().item(),
        )

    def state(self) -> dict[str, Tensor]:
        """Return copies of Adam's moments and of the silent-row counters."""
        state = {"silent_rows": self.silent_rows.clone()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimiser.state[parameter].items():
                state[f"{name}.{key}"] = value.clone()
        return state

    def restore(self, state: dict[str, Tensor]) -> None:
        """Resume from a result of `state`; raise `DamagedArtifact` if it belongs to another model."""
        require_counters(state, self.silent_rows)
        self.silent_rows = state["silent_rows"].clone().to(self.sae.device)
        for name, parameter in self.parameters.items():
            prefix = f"{name}."
            self.optimiser.state[parameter] = {
                key.removeprefix(prefix): value.clone().to(self.sae.device)
                for key, value in state.items()
                if key.startswith(prefix)
            }


def require_counters(state: dict[str, Tensor], silent_rows: Tensor) -> None:
    """Raise `DamagedArtifact` unless a saved state has counters of the same shape."""
    if "silent_rows" not in state or state["silent_rows"].shape != silent_rows.shape:
        raise DamagedArtifact("the saved progress belongs to another model; delete it and train again")


def backward_to_archetypes(sae: SparseAutoencoder, archetypes: Archetypes) -> None:
    """Propagate the gradient of the atoms to the archetypes' parameters."""
    torch.autograd.backward(archetypes.atoms(), sae.decoder.grad)


@torch.no_grad()
def update_atoms(sae: SparseAutoencoder, archetypes: Archetypes) -> None:
    """Bound the relaxation and recompute the atoms."""
    archetypes.clip()
    sae.decoder.copy_(archetypes.atoms())


@torch.no_grad()
def project_gradient(sae: SparseAutoencoder) -> None:
    """Remove from each atom's gradient the component along the atom, which renormalising would undo."""
    gradient = sae.decoder.grad
    if gradient is not None:
        along = torch.linalg.vecdot(gradient, sae.decoder, dim=1)
        gradient.addcmul_(sae.decoder, along[:, None], value=-1)


@torch.no_grad()
def renormalise(sae: SparseAutoencoder) -> None:
    """Scale every atom to length 1."""
    sae.decoder.div_(torch.linalg.vector_norm(sae.decoder, dim=1, keepdim=True).clamp_min(1e-12))


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
