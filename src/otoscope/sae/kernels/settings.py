"""What a step of a TopK dictionary works on: master weights, and what stays the same from step to step."""

from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float

from otoscope.errors import ConfigError
from otoscope.sae.kernels.gather import Array


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """What stays the same from step to step; AuxK is off while its coefficient is 0."""

    k: int
    unit_norm: bool = True
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    encoder_decay: float = 0.0
    aux_coefficient: float = 0.0
    aux_k: int = 0


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Master weights, C-contiguous, all float32 or all float64; a bias that is None stays zero.

    Row i of encoder and decoder belongs to latent i. The arrays may share memory with tensors.
    """

    encoder: Float[np.ndarray, "latents width"]
    decoder: Float[np.ndarray, "latents width"]
    encoder_bias: Float[np.ndarray, " latents"] | None = None
    decoder_bias: Float[np.ndarray, " width"] | None = None

    def named(self) -> dict[str, Array]:
        """Return the arrays that are trained, by name."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: array for name, array in found.items() if array is not None}


def check_fit(weights: Weights, settings: StepSettings, *, packed: bool) -> None:
    """Raise `ConfigError` unless weights and settings fit each other and, if packed, the kernels' number type."""
    latents, width = weights.encoder.shape
    shapes = {
        "encoder": (latents, width),
        "decoder": (latents, width),
        "encoder_bias": (latents,),
        "decoder_bias": (width,),
    }
    for name, array in weights.named().items():
        if array.shape != shapes[name] or array.dtype != weights.encoder.dtype or not array.flags.c_contiguous:
            raise ConfigError(
                f"{name} must be contiguous, {weights.encoder.dtype}, of shape {list(shapes[name])}; "
                f"got {array.dtype} of shape {list(array.shape)}"
            )
    if weights.encoder.dtype not in ((np.float32,) if packed else (np.float32, np.float64)):
        allowed = "float32" if packed else "float32 or float64"
        raise ConfigError(f"weights must be {allowed}, got {weights.encoder.dtype}")
    if not 1 <= settings.k <= latents:
        raise ConfigError(f"k must lie between 1 and latents={latents}, got {settings.k}")
