"""One sparse autoencoder: scaling, encoder, sparsifier, decoder.

What callers hand to a dictionary: real numbers as tensors, taken over in the dictionary's own precision.
"""

import math
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from otoscope.errors import ConfigError, TrainingError
from otoscope.sae.archetypal import Archetypes
from otoscope.sae.sparsifiers.base import Sparsifier


def as_reals(given: object, like: Tensor, *, name: str, shape: str) -> Tensor:
    """Return a tensor of real numbers in the precision of `like`: itself where it has that already.

    Raises `TrainingError` for no tensor, a single number, and what is neither floating point nor whole numbers.

    >>> as_reals(torch.tensor([1, 2]), torch.zeros(1), name="rows", shape="[rows, width]")
    tensor([1., 2.])
    """
    if not isinstance(given, Tensor):
        raise TrainingError(f"{name} are a {type(given).__name__}; give a tensor {shape}: torch.as_tensor(array)")
    if not given.ndim:
        raise TrainingError(f"{name} are a single number; give a tensor {shape}")
    if given.is_complex() or given.dtype == torch.bool:
        kind = str(given.dtype).removeprefix("torch.")
        raise TrainingError(f"{name} are {kind}; give real numbers, floating point or whole")
    return given.to(like.dtype)


def require_finite_rows(rows: Float[Tensor, "*rows width"], given: Real[Tensor, "*rows width"]) -> None:
    """Raise `TrainingError` naming the first of the `given` rows that, taken over as `rows`, holds NaN or Inf."""
    if torch.isfinite(rows.detach().sum()):  # tells nearly always, at the cost of a sum; what overflows is looked at
        return
    bad = ~torch.isfinite(rows.detach()).reshape(-1, rows.shape[-1]).all(dim=1)
    if not bad.any():
        return
    place = [int(at) for at in np.unravel_index(int(bad.int().argmax()), rows.shape[:-1])]
    row = f"row {place[0] if len(place) == 1 else place}" if place else "the row"
    kind = str(rows.dtype).removeprefix("torch.")
    what = "NaN or Inf" if not torch.isfinite(given).all() else f"a number too large for {kind}"
    raise TrainingError(
        f"{row} holds {what} ({int(bad.sum())} such row(s) of {len(bad)}); remove it or mend its source"
    )


Init: TypeAlias = Literal["tied", "linear", "points", "principal"]
Dictionary: TypeAlias = Literal["free", "archetypal"]


class Pass(NamedTuple):
    """Codes and reconstruction of some rows, both in the encoder's own units."""

    codes: Float[Tensor, "*rows latents"]
    rebuilt: Float[Tensor, "*rows width"]


class SparseAutoencoder(nn.Module):
    """Rows become non-negative sparse codes and are rebuilt from few rows of a dictionary.

    `x' = (x - centre) / scale; codes' = sparsifier(encoder x' + encoder_bias);
    rebuilt' = codes' decoder + decoder_bias; rebuilt = rebuilt' * scale + centre`.

    Encoder and decoder are both stored `[latents, width]`, contiguous: row i belongs to latent i.
    `centre` `[width]` and `scale` (`[]`, or `[width]` for one a dimension) are part of the
    checkpoint, so callers pass and receive the encoder's own units; codes carry the unit
    `unit = rms(scale)`, which makes `codes @ decoder` a displacement in those units when the scale
    is one number. Rows may come as `[rows, width]` or with any leading axes. With `archetypes`, the
    decoder holds the atoms that these make (see `Archetypes`), and training moves them alone.
    """

    centre: Float[Tensor, " width"]
    scale: Float[Tensor, "*width"]

    def __init__(
        self,
        width: int,
        latents: int,
        sparsifier: Sparsifier,
        *,
        encoder_bias: bool = True,
        decoder_bias: bool = True,
        unit_norm: bool = True,
        init: Init = "tied",
        archetypes: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if width < 1 or latents < 1:
            raise ConfigError(f"width and latents must be at least 1, got width={width}, latents={latents}")
        self.width, self.latents, self.unit_norm = width, latents, unit_norm
        self.sparsifier = sparsifier
        generator = torch.Generator().manual_seed(seed)
        encoder, bias, decoder = _INITS[init](width, latents, generator)
        if unit_norm and init == "linear":  # tied atoms are drawn at length 1
            decoder = F.normalize(decoder, dim=1)
        self.encoder = nn.Parameter(encoder)
        self.decoder = nn.Parameter(decoder)
        self.encoder_bias = nn.Parameter(bias) if encoder_bias else None
        self.decoder_bias = nn.Parameter(torch.zeros(width)) if decoder_bias else None
        self.archetypes = None if archetypes is None else Archetypes(archetypes, width, latents)
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))

    @property
    def device(self) -> torch.device:
        """Where the weights are, and rows must be."""
        return self.encoder.device

    @property
    def unit(self) -> Float[Tensor, ""]:
        """What one unit of an inner code is worth in the encoder's own units."""
        return self.scale.square().mean().sqrt()

    def set_scaling(self, centre: Float[Tensor, " width"], scale: Float[Tensor, "*width"]) -> None:
        """Fix centre and scale; raise `TrainingError` unless finite, positive and of the model's width."""
        if centre.shape != (self.width,) or scale.shape not in ((), (self.width,)):
            raise TrainingError(f"centre {list(centre.shape)} and scale {list(scale.shape)} do not fit {self.width}")
        if not (torch.isfinite(centre).all() and torch.isfinite(scale).all() and (scale > 0).all()):
            raise TrainingError("centre must be finite and scale finite and above 0")
        self.centre = centre.to(self.centre).clone()
        self.scale = scale.to(self.scale).clone()

    def normalise(self, rows: Real[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """Return rows centred and scaled; NaN and Inf are let pass (see `encode`)."""
        rows = as_reals(rows, self.encoder, name="rows", shape="[rows, width]")
        if rows.shape[-1] != self.width:
            raise TrainingError(f"rows are {rows.shape[-1]} wide, this dictionary was made for {self.width}")
        return (rows - self.centre) / self.scale

    def preactivate(self, inner: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows latents"]:
        """Return the encoder's output for normalised rows, before the sparsifier."""
        return F.linear(inner, self.encoder, self.encoder_bias)

    def rebuild(self, inner_codes: Float[Tensor, "*rows latents"]) -> Float[Tensor, "*rows width"]:
        """Return normalised rows rebuilt from inner codes."""
        rebuilt = inner_codes @ self.decoder
        return rebuilt if self.decoder_bias is None else rebuilt + self.decoder_bias

    @torch.no_grad()
    def fit_gain(self, inner: Float[Tensor, "rows width"]) -> None:
        """Stretch the encoder so that these normalised rows are rebuilt at their own size.

        Atoms drawn at random rebuild `gain * x` and something else, with a gain that grows with the
        number of active latents; dividing by the least-squares gain `<rebuilt, x> / <rebuilt, rebuilt>`
        lets large budgets start as well as small ones.
        """
        rebuilt = self.rebuild(self.sparsifier(self.preactivate(inner)))
        gain = (rebuilt * inner).sum() / rebuilt.square().sum()
        if torch.isfinite(gain) and gain > 0:
            self.encoder.mul_(gain)

    @torch.no_grad()
    def start_at_points(self, archetypes: Archetypes) -> None:
        """Make the dictionary anew from archetypes; the encoder looks along each atom."""
        self.decoder.copy_(archetypes.atoms())
        self.encoder.copy_(F.normalize(self.decoder, dim=1))

    @torch.no_grad()
    def start_at_axes(self, axes: Float[Tensor, "axes width"], *, gain: float) -> None:
        """Make orthonormal axes, both ways, the first atoms and their own encoder; `gain` times the others' is theirs.

        TopK keeps of any row its k largest coordinates in these axes, as long as the others are quiet: no k
        coordinates of the same axes come closer, PCA's first k included.
        """
        both = torch.stack([axes, -axes], dim=1).flatten(0, 1)[: self.latents - self.latents % 2]
        self.decoder[: len(both)].copy_(both)
        self.encoder.copy_(F.normalize(self.decoder, dim=1))
        self.encoder[len(both) :] *= gain

    def encode(self, rows: Real[Tensor, "*rows width"]) -> Float[Tensor, "*rows latents"]:
        """Return the codes of rows, both in the encoder's own units.

        Rows of any floating point or whole numbers are taken over in the dictionary's precision, float32. Raises
        `TrainingError` for no such tensor of that width, and naming the row for NaN, Inf and what float32 cannot hold.

        >>> from otoscope.sae.sparsifiers.base import TopK
        >>> sae = SparseAutoencoder(3, 8, TopK(2))
        >>> sae.encode(torch.ones(5, 3)).shape
        torch.Size([5, 8])
        """
        inner = self.normalise(rows)
        require_finite_rows(inner, rows)
        codes = self.sparsifier(self.preactivate(inner.reshape(-1, self.width))) * self.unit
        return codes.reshape(*rows.shape[:-1], self.latents)

    def decode(self, codes: Real[Tensor, "*rows latents"]) -> Float[Tensor, "*rows width"]:
        """Return rows rebuilt from codes, in the encoder's own units; raise `TrainingError` for no such tensor."""
        codes = as_reals(codes, self.encoder, name="codes", shape="[rows, latents]")
        if codes.shape[-1] != self.latents:
            raise TrainingError(f"codes have {codes.shape[-1]} latents, this dictionary has {self.latents}")
        return self.rebuild(codes / self.unit) * self.scale + self.centre

    def forward(self, rows: Real[Tensor, "*rows width"]) -> Pass:
        """Return the codes of rows and what they rebuild; raise `TrainingError` as `encode` does."""
        codes = self.encode(rows)
        return Pass(codes, self.decode(codes))

    def settings(self) -> dict[str, object]:
        """Return what makes an empty model of the same shape, as JSON-able values."""
        return {
            "width": self.width,
            "latents": self.latents,
            "encoder_bias": self.encoder_bias is not None,
            "decoder_bias": self.decoder_bias is not None,
            "unit_norm": self.unit_norm,
            "scale_per_dimension": self.scale.ndim == 1,
            "archetypes": None if self.archetypes is None else len(self.archetypes.points),
            "sparsifier": self.sparsifier.card(),
        }


def _tied(width: int, latents: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw unit atoms uniformly on the sphere; the encoder starts as the decoder (arXiv 2406.04093)."""
    atoms = F.normalize(torch.randn(latents, width, generator=generator), dim=1)
    return atoms.clone(), torch.zeros(latents), atoms


def _linear(width: int, latents: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw as PyTorch's `nn.Linear` does by default: uniform in ± 1 / sqrt(inputs), weights and bias alike."""

    def uniform(*shape: int, inputs: int) -> Tensor:
        bound = 1.0 / math.sqrt(inputs)
        return torch.empty(*shape).uniform_(-bound, bound, generator=generator)

    encoder, bias = uniform(latents, width, inputs=width), uniform(latents, inputs=width)
    return encoder, bias, uniform(latents, width, inputs=latents)


_INITS = {"tied": _tied, "linear": _linear, "points": _tied, "principal": _tied}
