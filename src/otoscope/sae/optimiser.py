"""One optimisation step: gradients, constraints, Adam, and the count of dead latents."""

from inspect import signature
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from otoscope.errors import DamagedArtifact
from otoscope.sae.archetypal import Archetypes
from otoscope.sae.config import TrainConfig
from otoscope.sae.losses import Contrast, aux_k, forward
from otoscope.sae.model import SparseAutoencoder

ISOLATED: dict[str, Any] = {key: True for key in ("isolate_recompiles",) if key in signature(torch.compile).parameters}
"""Members of a bank differ in shape and budget: each counts its own compilations, where PyTorch can."""


class Losses(NamedTuple):
    """What one step saw, before it changed the weights."""

    reconstruction: float
    aux: float
    l0: float
    dead_fraction: float


@runtime_checkable
class Engine(Protocol):
    """Takes steps on one model in place; everything it remembers between steps is in `state`."""

    def step(self, inner: Float[Tensor, "rows width"], *, learning_rate: float) -> Losses:
        """Update the weights from one batch of normalised rows."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return copies of the moments and counters."""
        ...

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned."""
        ...


@runtime_checkable
class EngineFactory(Protocol):
    """Makes the engine of a run; raises `ConfigError` for a model or recipe that it cannot step."""

    def __call__(self, sae: SparseAutoencoder, config: TrainConfig, *, dead_window_rows: int) -> Engine:
        """Return an engine that updates `sae` in place."""
        ...


class TorchEngine:
    """The plain engine: autograd and fused Adam, any sparsifier, any device.

    `backend` compiles the forward and backward passes (`torch.compile`; "inductor" fuses what is not a product).
    """

    def __init__(
        self, sae: SparseAutoencoder, config: TrainConfig, *, dead_window_rows: int, backend: str | None = None
    ) -> None:
        self.sae, self.config, self.dead_window_rows = sae, config, dead_window_rows
        self.forward = torch.compile(forward, backend=backend, **ISOLATED) if backend else forward
        self.silent_rows = torch.zeros(sae.latents, dtype=torch.int64, device=sae.device)
        self.named = {name: p for name, p in sae.named_parameters() if p.requires_grad}
        if sae.archetypes is not None:
            del self.named["decoder"]  # it follows the archetypes
        if config.frozen_decoder:
            sae.decoder.requires_grad_(False)
            del self.named["decoder"]
        self.contrasted = Contrast(config.temporal, config.temporal_share) if config.temporal else None
        special = {"encoder": (config.weight_decay, 1.0), "archetypes.logits": (0.0, config.mixing_rate)}
        self.optimiser = torch.optim.AdamW(
            [
                {"params": [p], "weight_decay": decay, "times": times}
                for name, p in self.named.items()
                for decay, times in [special.get(name, (0.0, 1.0))]
            ],
            betas=(0.9, config.beta2),
            fused=True,
        )

    def step(self, inner: Float[Tensor, "rows width"], *, learning_rate: float) -> Losses:
        """Update the weights from one batch of normalised rows."""
        sae = self.sae
        seen = self.forward(sae, inner, prefixes=self.config.prefixes, contrasted=self.contrasted)
        loss = seen.error if seen.penalty is None else seen.error + seen.penalty
        dead = self.silent_rows >= self.dead_window_rows
        aux = None
        if self.config.aux_coefficient and dead.any():
            aux = aux_k(sae, inner, seen.rebuilt, dead)
            loss = loss + self.config.aux_coefficient * aux
        sae.zero_grad(set_to_none=True)
        loss.backward()
        if sae.archetypes is not None:
            pull(sae, sae.archetypes)
        if sae.unit_norm:
            project_gradient(sae)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate * group["times"]
        self.optimiser.step()
        if sae.archetypes is not None:
            follow(sae, sae.archetypes)
        if sae.unit_norm and not self.config.frozen_decoder:
            renormalise(sae)
        self.silent_rows = torch.where(seen.fired > 0, 0, self.silent_rows + len(inner))
        return Losses(
            seen.error.item(),
            0.0 if aux is None else aux.item(),
            seen.fired.sum().item() / len(inner),
            dead.float().mean().item(),
        )

    def state(self) -> dict[str, Tensor]:
        """Return copies of Adam's moments and the dead counters."""
        found = {"silent_rows": self.silent_rows.clone()}
        for name, parameter in self.named.items():
            for key, value in self.optimiser.state[parameter].items():
                found[f"{name}.{key}"] = value.clone()
        return found

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from what `state` returned; raise `DamagedArtifact` if it is another model's."""
        if "silent_rows" not in state or state["silent_rows"].shape != self.silent_rows.shape:
            raise DamagedArtifact("the saved progress is not of this model; delete it and train again")
        self.silent_rows = state["silent_rows"].clone().to(self.sae.device)
        for name, parameter in self.named.items():
            prefix = f"{name}."
            moments = {
                key.removeprefix(prefix): value.clone().to(self.sae.device)
                for key, value in state.items()
                if key.startswith(prefix)
            }
            self.optimiser.state[parameter] = moments


def pull(sae: SparseAutoencoder, archetypes: Archetypes) -> None:
    """Hand the gradient of the atoms on to what makes them."""
    torch.autograd.backward(archetypes.atoms(), sae.decoder.grad)


@torch.no_grad()
def follow(sae: SparseAutoencoder, archetypes: Archetypes) -> None:
    """Bound the relaxation, and make the atoms anew."""
    archetypes.clip()
    sae.decoder.copy_(archetypes.atoms())


@torch.no_grad()
def project_gradient(sae: SparseAutoencoder) -> None:
    """Remove from each atom's gradient the part along the atom, which renormalising would undo anyway."""
    gradient = sae.decoder.grad
    if gradient is not None:
        along = torch.linalg.vecdot(gradient, sae.decoder, dim=1)
        gradient.addcmul_(sae.decoder, along[:, None], value=-1)


@torch.no_grad()
def renormalise(sae: SparseAutoencoder) -> None:
    """Put every atom back to length 1."""
    sae.decoder.div_(torch.linalg.vector_norm(sae.decoder, dim=1, keepdim=True).clamp_min(1e-12))
