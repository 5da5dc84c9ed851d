"""Sparse autoencoder: scaling, encoder, sparsifier, decoder; loading and saving."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, overload

import numpy as np
import torch
from jaxtyping import Float, Real
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from otoscope.errors import ConfigError, DamagedArtifact, InputError
from otoscope.paths import user_path
from otoscope.sae.archetypal import Archetypes
from otoscope.sae.checkpoint import (
    CARD,
    WEIGHTS,
    WRITTEN_KEYS,
    load_strictly,
    read_checkpoint,
    require_settings,
    write_checkpoint,
)
from otoscope.sae.sparsifiers import describe_sparsifier, sparsifier_card, sparsifier_from_card
from otoscope.sae.sparsifiers.base import ActiveLatents, SelectsLatents, Sparsifier

Init: TypeAlias = Literal["tied", "linear", "points", "principal"]
Dictionary: TypeAlias = Literal["free", "archetypal"]

RowArray: TypeAlias = Real[np.ndarray, "*rows width"]
RowTensor: TypeAlias = Real[Tensor, "*rows width"]
CodeArray: TypeAlias = Real[np.ndarray, "*rows latents"]
CodeTensor: TypeAlias = Real[Tensor, "*rows latents"]


def as_float_tensor(values: object, like: Tensor, *, name: str, shape: str) -> Tensor:
    """Validate and cast an array or a tensor to the dtype of `like`; arrays are also moved to its device.

    Raises `InputError` for other types, single numbers, and values that are not real numbers.

    >>> as_float_tensor(torch.tensor([1, 2]), torch.zeros(1), name="rows", shape="[rows, width]")
    tensor([1., 2.])
    """
    if not isinstance(values, Tensor | np.ndarray):
        raise InputError(f"{name}: expected an array or a tensor {shape}, got {type(values).__name__}")
    if not values.ndim:
        raise InputError(f"{name}: expected {shape}, got a single number")
    if isinstance(values, Tensor):
        if values.is_complex() or values.dtype == torch.bool:
            raise InputError(f"{name}: expected real numbers, got {_dtype_name(values)}")
        return values.to(like.dtype)
    if values.dtype.kind not in "fiu":
        raise InputError(f"{name}: expected real numbers, got an array of {values.dtype}")
    dtype = np.float32 if values.dtype.itemsize <= 4 else np.float64
    return torch.from_numpy(np.require(values, dtype, ["C", "W"])).to(like)


def require_finite_rows(inner: Float[Tensor, "*rows width"], rows: object) -> None:
    """Raise `InputError` naming the first of `rows` that holds NaN or Inf once it is normalised to `inner`."""
    if torch.isfinite(inner.detach().sum()):  # a sum is cheaper than a mask; an overflowing sum is checked below
        return
    bad = ~torch.isfinite(inner.detach()).reshape(-1, inner.shape[-1]).all(dim=1)
    if not bad.any():
        return
    place = [int(at) for at in np.unravel_index(int(bad.int().argmax()), inner.shape[:-1])]
    row = f"row {place[0] if len(place) == 1 else place}" if place else "the row"
    finite = torch.isfinite(rows).all() if isinstance(rows, Tensor) else np.isfinite(rows).all()  # pyright: ignore
    problem = f"a number too large for {_dtype_name(inner)}" if finite else "NaN or Inf"
    raise InputError(f"{row} holds {problem} ({int(bad.sum())} such row(s) of {len(bad)}); remove or correct it")


def _dtype_name(values: Tensor) -> str:
    return str(values.dtype).removeprefix("torch.")


class TensorOutput(NamedTuple):
    """Codes and reconstruction of rows, both in the encoder's units."""

    codes: Float[Tensor, "*rows latents"]
    reconstruction: Float[Tensor, "*rows width"]


class ArrayOutput(NamedTuple):
    """Codes and reconstruction of rows, both in the encoder's units, as arrays."""

    codes: Float[np.ndarray, "*rows latents"]
    reconstruction: Float[np.ndarray, "*rows width"]


class SparseAutoencoder(nn.Module):
    """Sparse autoencoder of rows of activations.

    `x' = (x - centre) / scale; codes' = sparsifier(encoder x' + encoder_bias);
    rebuilt' = codes' decoder + decoder_bias; rebuilt = rebuilt' * scale + centre`.

    Encoder and decoder are both stored `[latents, width]`, contiguous: row i belongs to latent i.
    `centre` `[width]` and `scale` (`[]`, or `[width]` for one per dimension) are part of the
    checkpoint, so callers pass and receive the encoder's own units. Codes have the unit
    `unit = rms(scale)`, which makes `codes @ decoder` a displacement in those units when the scale
    is one number. Rows may be `[rows, width]` or have any leading axes, as arrays or tensors; the result is of
    the same kind. With `archetypes`, the decoder holds the atoms computed from them (see `Archetypes`).
    `card` holds the metadata of a loaded model.

    >>> from otoscope.sae import TopK
    >>> SparseAutoencoder(width=16, latents=64, sparsifier=TopK(4))
    SparseAutoencoder(width=16, latents=64, TopK(k=4))
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
        self.card: dict[str, Any] = {}
        generator = torch.Generator().manual_seed(seed)
        encoder, bias, decoder = _INITS[init](width, latents, generator)
        if unit_norm and init == "linear":  # tied atoms already have length 1
            decoder = F.normalize(decoder, dim=1)
        self.encoder = nn.Parameter(encoder)
        self.decoder = nn.Parameter(decoder)
        self.encoder_bias = nn.Parameter(bias) if encoder_bias else None
        self.decoder_bias = nn.Parameter(torch.zeros(width)) if decoder_bias else None
        self.archetypes = None if archetypes is None else Archetypes(archetypes, width, latents)
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))

    @classmethod
    def from_pretrained(cls, source: str | Path, *, sparsifier: Sparsifier | None = None) -> "SparseAutoencoder":
        """Load a model from a folder, frozen and in eval mode, with its `card`.

        Args:
            source: folder that `save_pretrained` or `otoscope train` wrote.
            sparsifier: instance for an SAE whose sparsifier is not part of otoscope; its arguments must equal the
                saved ones. Code is never imported from a file.

        Raises `IncompleteArtifact` for a missing folder or file, `DamagedArtifact` if weights and card do not match,
        `StaleArtifact` for another format or version, `ConfigError` for a missing or different sparsifier.
        """
        folder = user_path(source)
        tensors, card = read_checkpoint(folder)
        _require_shape(card["model"], tensors, folder)
        model = _empty(card["model"], folder, sparsifier)
        load_strictly(model, tensors, folder / WEIGHTS)
        if bad := [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]:
            names = ", ".join(bad)
            raise DamagedArtifact(f"{folder / WEIGHTS} holds NaN or infinite values in {names}; train it again")
        require_settings(card, folder / CARD)
        model.card = card
        return model.eval().requires_grad_(False)

    def save_pretrained(
        self, folder: str | Path, card: Mapping[str, Any] | None = None, *, overwrite: bool = False
    ) -> None:
        """Write weights and card into a folder; without `card`, the model's own.

        A card holds metadata (preset, seed, layer, encoder, fingerprints, summary) as JSON values and NumPy numbers;
        shape, sparsifier, format, versions and the weights' SHA-256 are added. Raises `ConfigError` naming the key of
        a value that a card cannot hold, `StorageFull` and `ArtifactError` for a folder that cannot be written, and
        `ArtifactError` for a folder that holds an SAE or another card, unless `overwrite`.
        """
        own = {key: value for key, value in self.card.items() if key not in WRITTEN_KEYS}
        kept = own if card is None else card
        write_checkpoint(user_path(folder), self.state_dict(), self.settings(), kept, overwrite=overwrite)

    @property
    def device(self) -> torch.device:
        """Device of the weights; tensors must be on it."""
        return self.encoder.device

    @property
    def unit(self) -> Float[Tensor, ""]:
        """Size of one unit of an inner code in the encoder's units."""
        return self.scale.square().mean().sqrt()

    def set_scaling(self, centre: Float[Tensor, " width"], scale: Float[Tensor, "*width"]) -> None:
        """Set centre and scale; raise `InputError` unless finite, positive and of the model's width."""
        if centre.shape != (self.width,) or scale.shape not in ((), (self.width,)):
            raise InputError(f"centre {list(centre.shape)} and scale {list(scale.shape)} do not fit {self.width}")
        if not (torch.isfinite(centre).all() and torch.isfinite(scale).all() and (scale > 0).all()):
            raise InputError("centre must be finite and scale finite and above 0")
        self.centre = centre.to(self.centre).clone()
        self.scale = scale.to(self.scale).clone()

    def normalise(self, rows: RowArray | RowTensor) -> Float[Tensor, "*rows width"]:
        """Return rows centred and scaled; NaN and Inf pass through (`encode` refuses them)."""
        values = as_float_tensor(rows, self.encoder, name="rows", shape="[rows, width]")
        if values.shape[-1] != self.width:
            raise InputError(f"rows have width {values.shape[-1]}, this SAE has width {self.width}")
        return (values - self.centre) / self.scale

    def preactivate(self, inner: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows latents"]:
        """Return the encoder's output for normalised rows, before the sparsifier."""
        return F.linear(inner, self.encoder, self.encoder_bias)

    def rebuild(self, inner_codes: Float[Tensor, "*rows latents"]) -> Float[Tensor, "*rows width"]:
        """Return normalised rows decoded from inner codes."""
        rebuilt = inner_codes @ self.decoder
        return rebuilt if self.decoder_bias is None else rebuilt + self.decoder_bias

    @torch.no_grad()
    def fit_gain(self, inner: Float[Tensor, "rows width"]) -> None:
        """Scale the encoder so that the reconstruction of these normalised rows has the right size.

        Random atoms reconstruct `gain * x` plus noise, with a gain that grows with the number of active latents.
        Dividing by the least-squares gain `<rebuilt, x> / <rebuilt, rebuilt>` gives large budgets as good a start as
        small ones.
        """
        rebuilt = self.rebuild(self.sparsifier(self.preactivate(inner)))
        gain = (rebuilt * inner).sum() / rebuilt.square().sum()
        if torch.isfinite(gain) and gain > 0:
            self.encoder.mul_(gain)

    @torch.no_grad()
    def initialise_at_points(self, archetypes: Archetypes) -> None:
        """Set the decoder to the atoms of the archetypes, and the encoder to their directions."""
        self.decoder.copy_(archetypes.atoms())
        self.encoder.copy_(F.normalize(self.decoder, dim=1))

    @torch.no_grad()
    def initialise_at_axes(self, axes: Float[Tensor, "axes width"], *, gain: float) -> None:
        """Initialise the first atoms with +/- the orthonormal axes (tied encoder); scale other encoder rows by `gain`.

        TopK then keeps the k largest coordinates of each row in these axes, as long as the other latents are quiet.
        No other k coordinates in the same axes reconstruct it better, PCA's first k included.
        """
        both = torch.stack([axes, -axes], dim=1).flatten(0, 1)[: self.latents - self.latents % 2]
        self.decoder[: len(both)].copy_(both)
        self.encoder.copy_(F.normalize(self.decoder, dim=1))
        self.encoder[len(both) :] *= gain

    @overload
    def encode(self, rows: RowTensor) -> Float[Tensor, "*rows latents"]: ...
    @overload
    def encode(self, rows: RowArray) -> Float[np.ndarray, "*rows latents"]: ...
    def encode(self, rows: RowTensor | RowArray) -> Float[Tensor, "*rows latents"] | Float[np.ndarray, "*rows latents"]:
        """Return the codes of rows, both in the encoder's units, as an array for an array.

        Floating-point and integer rows are cast to the model's dtype, float32. Raises `InputError` for another type or
        width, and naming the row for NaN, Inf and values that float32 cannot hold.

        >>> from otoscope.sae import TopK
        >>> sae = SparseAutoencoder(3, 8, TopK(2))
        >>> sae.encode(np.ones((5, 3))).shape, sae.encode(torch.ones(5, 3)).shape
        ((5, 8), torch.Size([5, 8]))
        """
        inner = self.normalise(rows)
        require_finite_rows(inner, rows)
        codes = self.sparsifier(self.preactivate(inner.reshape(-1, self.width))) * self.unit
        return _like(codes.reshape(*rows.shape[:-1], self.latents), rows)

    def encode_active(self, rows: Float[Tensor, "rows width"]) -> ActiveLatents:
        """Return the codes of rows without their zeros, in any order; raise `InputError` as `encode` does.

        Only for a sparsifier that selects latents, such as TopK; raises `InputError` for others.

        >>> from otoscope.sae import TopK
        >>> SparseAutoencoder(3, 8, TopK(2)).encode_active(torch.ones(5, 3)).indices.shape
        torch.Size([5, 2])
        """
        if not isinstance(self.sparsifier, SelectsLatents):
            raise InputError(f"{self.sparsifier!r} selects no latents; use encode")
        inner = self.normalise(rows)
        require_finite_rows(inner, rows)
        active = self.sparsifier.select(self.preactivate(inner))
        return ActiveLatents(active.values * self.unit, active.indices)

    @overload
    def decode(self, codes: CodeTensor) -> Float[Tensor, "*rows width"]: ...
    @overload
    def decode(self, codes: CodeArray) -> Float[np.ndarray, "*rows width"]: ...
    def decode(self, codes: CodeTensor | CodeArray) -> Float[Tensor, "*rows width"] | Float[np.ndarray, "*rows width"]:
        """Return the reconstruction from codes in the encoder's units; raise `InputError` as `encode` does."""
        values = as_float_tensor(codes, self.encoder, name="codes", shape="[rows, latents]")
        if values.shape[-1] != self.latents:
            raise InputError(f"codes have {values.shape[-1]} latents, this SAE has {self.latents}")
        return _like(self.rebuild(values / self.unit) * self.scale + self.centre, codes)

    @overload
    def forward(self, rows: RowTensor) -> TensorOutput: ...
    @overload
    def forward(self, rows: RowArray) -> ArrayOutput: ...
    def forward(self, rows: RowTensor | RowArray) -> TensorOutput | ArrayOutput:
        """Return the codes and the reconstruction of rows; raise `InputError` as `encode` does."""
        if isinstance(rows, Tensor):
            codes = self.encode(rows)
            return TensorOutput(codes, self.decode(codes))
        array_codes = self.encode(rows)
        return ArrayOutput(array_codes, self.decode(array_codes))

    def settings(self) -> dict[str, object]:
        """Return the settings of an empty model of the same shape, as JSON-able values."""
        return {
            "width": self.width,
            "latents": self.latents,
            "encoder_bias": self.encoder_bias is not None,
            "decoder_bias": self.decoder_bias is not None,
            "unit_norm": self.unit_norm,
            "scale_per_dimension": self.scale.ndim == 1,
            "archetypes": None if self.archetypes is None else len(self.archetypes.points),
            "sparsifier": sparsifier_card(self.sparsifier),
        }

    def __repr__(self) -> str:
        points = "" if self.archetypes is None else f", archetypes={len(self.archetypes.points)}"
        sparsifier = describe_sparsifier(self.sparsifier)
        return f"SparseAutoencoder(width={self.width}, latents={self.latents}, {sparsifier}{points})"


@overload
def _like(values: Tensor, given: Tensor) -> Tensor: ...
@overload
def _like(values: Tensor, given: Tensor | np.ndarray) -> Any: ...
def _like(values: Tensor, given: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """Return a tensor, or an array if the caller gave one."""
    return values if isinstance(given, Tensor) else values.detach().cpu().numpy()


class LoadedSAE(NamedTuple):
    """A model and its card."""

    sae: SparseAutoencoder
    card: dict[str, Any]


def load_sae(source: str | Path, *, sparsifier: Sparsifier | None = None) -> LoadedSAE:
    """Load a model and its card: `SparseAutoencoder.from_pretrained` as a function."""
    sae = SparseAutoencoder.from_pretrained(source, sparsifier=sparsifier)
    return LoadedSAE(sae, sae.card)


def save_sae(folder: str | Path, sae: SparseAutoencoder, card: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Write a model and its card: `SparseAutoencoder.save_pretrained` as a function."""
    sae.save_pretrained(folder, card, overwrite=overwrite)


def _require_shape(settings: object, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Raise `DamagedArtifact` unless a card has the weights' shape, before a model of the card's shape is allocated."""
    if not isinstance(settings, Mapping) or not {"latents", "width", "archetypes"} <= settings.keys():
        raise DamagedArtifact(f"{folder / CARD} does not describe an SAE; train it again")
    card: Mapping[str, Any] = settings
    rows = {"encoder": [card.get("latents"), card.get("width")], "archetypes.points": [card.get("archetypes")]}
    for name, expected in rows.items():
        shape = list(tensors[name].shape)[: len(expected)] if name in tensors else [None]
        if shape != expected:
            got = f"shape {list(tensors[name].shape)}" if name in tensors else "nothing"
            raise DamagedArtifact(f"{folder / WEIGHTS}: {name} has {got}, {CARD} says {expected}; train the SAE again")


def _empty(settings: Mapping[str, Any], folder: Path, sparsifier: Sparsifier | None) -> SparseAutoencoder:
    """Build a model from `SparseAutoencoder.settings`, before its weights are loaded."""
    arguments = dict(settings)
    try:
        per_dimension = arguments.pop("scale_per_dimension")
        built = sparsifier_from_card(arguments.pop("sparsifier"), latents=arguments["latents"], given=sparsifier)
        sae = SparseAutoencoder(sparsifier=built, **arguments)
    except (KeyError, TypeError) as error:
        raise DamagedArtifact(f"{folder / CARD} does not describe an SAE ({error}); train it again") from error
    if per_dimension:
        sae.scale = torch.ones(sae.width)
    return sae


def _tied(width: int, latents: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw unit atoms uniformly on the sphere; the encoder starts equal to the decoder (arXiv 2406.04093)."""
    atoms = F.normalize(torch.randn(latents, width, generator=generator), dim=1)
    return atoms.clone(), torch.zeros(latents), atoms


def _linear(width: int, latents: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw as PyTorch's `nn.Linear` by default: uniform in ± 1 / sqrt(inputs), weights and bias alike."""

    def uniform(*shape: int, inputs: int) -> Tensor:
        bound = 1.0 / math.sqrt(inputs)
        return torch.empty(*shape).uniform_(-bound, bound, generator=generator)

    encoder, bias = uniform(latents, width, inputs=width), uniform(latents, inputs=width)
    return encoder, bias, uniform(latents, width, inputs=latents)


_INITS = {"tied": _tied, "linear": _linear, "points": _tied, "principal": _tied}
