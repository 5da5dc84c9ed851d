"""Optimiser step with autograd, for any model: gradients, constraints, Adam, the count of silent rows per latent."""

from collections.abc import Sequence
from inspect import signature
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from otoscope.errors import DamagedArtifact
from otoscope.sae.archetypal import Archetypes
from otoscope.sae.config import TrainConfig
from otoscope.sae.losses import ContrastSettings, aux_k_loss, forward, level_budgets
from otoscope.sae.model import SparseAutoencoder

COMPILE_OPTIONS: dict[str, Any] = {
    key: True for key in ("isolate_recompiles",) if key in signature(torch.compile).parameters
}
"""Members of a bank differ in shape and k: each has its own limit of recompilations, if PyTorch supports it."""


class Losses(NamedTuple):
    """Losses of one step, before the update; `l0` counts the active latents per row in the largest budget."""

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

    def use_budgets(self, budgets: Sequence[int]) -> None:
        """Let these numbers of largest latents, rising, each reconstruct alone from the next step on."""
        ...

    def restart(self) -> None:
        """Forget the moments, after the weights were changed from outside."""
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
    `precision` is that of products (`torch.autocast`); weights, moments and errors keep the model's.
    """

    def __init__(
        self,
        sae: SparseAutoencoder,
        config: TrainConfig,
        *,
        dead_window_rows: int,
        backend: str | None = None,
        precision: torch.dtype | None = None,
    ) -> None:
        self.sae, self.config, self.dead_window_rows = sae, config, dead_window_rows
        self.forward = torch.compile(forward, backend=backend, **COMPILE_OPTIONS) if backend else forward
        self.autocast = torch.autocast(sae.device.type, precision, enabled=precision is not None)
        self.silent_rows = torch.zeros(sae.latents, dtype=torch.int64, device=sae.device)
        self.budgets = level_budgets(sae, config.prefixes, config.k_shares)
        self.parameters = {name: p for name, p in sae.named_parameters() if p.requires_grad}
        if sae.archetypes is not None:
            del self.parameters["decoder"]  # computed from the archetypes
        if config.frozen_decoder:
            sae.decoder.requires_grad_(False)
            del self.parameters["decoder"]
        self.start = sae.decoder.detach().clone() if config.min_atom_cosine is not None else None
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
        dead, aux = self.silent_rows >= self.dead_window_rows, None
        with self.autocast:
            batch = self.forward(
                sae, inner, prefixes=self.config.prefixes, budgets=self.budgets, contrast=self.contrast
            )
            loss = batch.error if batch.penalty is None else batch.error + batch.penalty
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
        if self.start is not None and self.config.min_atom_cosine is not None:
            bound_rotation(sae, self.start, self.config.min_atom_cosine)
        self.silent_rows = torch.where(batch.fired > 0, 0, self.silent_rows + len(inner))
        return Losses(
            batch.error.item(),
            0.0 if aux is None else aux.item(),
            batch.fired.sum().item() / len(inner),
            dead.float().mean().item(),
        )

    def use_budgets(self, budgets: Sequence[int]) -> None:
        """Let these numbers of largest latents, rising, each reconstruct alone from the next step on."""
        self.budgets = list(budgets)

    def restart(self) -> None:
        """Forget Adam's moments, after the weights were changed from outside."""
        self.optimiser.state.clear()

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


def fastest_torch_stepper(sae: SparseAutoencoder, config: TrainConfig, *, dead_window_rows: int) -> TorchStepper:
    """Return the fastest stepper with autograd: on a GPU compiled, and on NVIDIA's with products in bfloat16."""
    device = sae.device.type
    fast = device == "cuda" and sae.encoder.dtype == torch.float32 and torch.cuda.is_bf16_supported()
    precision, backend = torch.bfloat16 if fast else None, None if device == "cpu" else "inductor"
    return TorchStepper(sae, config, dead_window_rows=dead_window_rows, backend=backend, precision=precision)


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


@torch.no_grad()
def bound_rotation(sae: SparseAutoencoder, start: Float[Tensor, "latents width"], cosine: float) -> None:
    """Turn atoms of length 1 back until their cosine with their start is at least `cosine`, in the same plane."""
    along = torch.linalg.vecdot(sae.decoder, start, dim=1)[:, None]
    away = sae.decoder - along * start
    away.div_(torch.linalg.vector_norm(away, dim=1, keepdim=True).clamp_min(1e-12))
    bounded = cosine * start + (1 - cosine**2) ** 0.5 * away
    sae.decoder.copy_(torch.where(along < cosine, bounded, sae.decoder))
