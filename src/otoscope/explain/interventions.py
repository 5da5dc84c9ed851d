"""Interventions on a layer: changes of latents, rival directions of equal norm, and their effects on readouts."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from otoscope.encoders.base import Encoder
from otoscope.encoders.batched import BatchedEncoder
from otoscope.errors import EvaluationError, suggest
from otoscope.explain.latent_choice import correlations
from otoscope.explain.readouts import Readouts
from otoscope.explain.splice import Splice, Substitute, splice, splice_with
from otoscope.resampling.groups import group_sums
from otoscope.resampling.intervals import jackknife_sums
from otoscope.sae.model import SparseAutoencoder

Operation = Literal["ablate", "clamp", "scale", "add"]
"""Code 0, code `amount`, `amount` times the code, or code plus `amount`."""

DOSES = (0.125, 0.25, 0.5, 1.0, 2.0)
"""Norms of the shifts of a dose-response curve, relative to the mean norm of the layer's centred frames."""

Shift = Callable[[Float[Tensor, "frames width"]], Float[Tensor, "frames width"]]
"""Function of the frames of a clip; the result is added to them."""

CodeEdit = Callable[[Float[Tensor, "frames latents"]], Float[Tensor, "frames latents"]]


def intervene(
    encoder: Encoder,
    sae: SparseAutoencoder,
    layer: int,
    latents: Sequence[int],
    *,
    operation: Operation = "ablate",
    amount: float | None = None,
    span_s: tuple[float, float] | None = None,
) -> Splice:
    """Change the codes of some latents at a layer and leave the rest of each frame as it is.

    With codes $c$, changed codes $c'$ and decoder $D$ the layer becomes $x + D(c') - D(c)$.

    Args:
        encoder: a loaded model.
        sae: the SAE of this layer's frames.
        layer: 0 changes the input of the first block, i the output of block i.
        latents: the latents to change.
        operation: "ablate" sets the codes to 0, "clamp" to `amount`, "scale" multiplies them by `amount`, "add" adds
            `amount` to them.
        amount: in units of the codes, or a factor for "scale".
        span_s: start and end in seconds of the frames that change; all frames by default.

    Raises what `splice` raises, and `EvaluationError` for a latent or operation that does not exist.

    Example::

        encoder = otoscope.load_encoder("starter")
        sae = otoscope.SparseAutoencoder.from_pretrained("runs/demo/saes/ID")
        changed = intervene(encoder, sae, 3, [17], operation="add", amount=2.0, span_s=(0.5, 1.0))
        states = changed.encode([wave], layers=[4])
    """
    edit = code_edit(latents, operation, amount, n_latents=sae.latents)
    return splice(encoder, sae, layer, error_term=True, edit=edit, span_s=span_s)


def code_edit(latents: Sequence[int], operation: Operation, amount: float | None = None, *, n_latents: int) -> CodeEdit:
    """Return the change of the codes of some latents; raise `EvaluationError` as `intervene` does.

    >>> code_edit([1], "scale", 3.0, n_latents=2)(torch.ones(1, 2))
    tensor([[1., 3.]])
    """
    if operation not in get_args(Operation):
        raise EvaluationError(f"no operation {operation!r}; {suggest(operation, get_args(Operation))}")
    if not len(latents):
        raise EvaluationError("no latent to change; name at least one")
    if missing := [latent for latent in latents if not 0 <= latent < n_latents]:
        raise EvaluationError(f"latent {missing[0]} does not exist; the SAE has latents 0 to {n_latents - 1}")
    if (amount is None) != (operation == "ablate"):
        needs = "takes no amount" if operation == "ablate" else "needs an amount"
        raise EvaluationError(f"the operation {operation} {needs}; got amount={amount}")
    if amount is not None and not math.isfinite(amount):
        raise EvaluationError(f"amount must be a finite number, got {amount}")
    columns, size = list(latents), 0.0 if amount is None else amount

    def edit(codes: Float[Tensor, "frames latents"]) -> Float[Tensor, "frames latents"]:
        changed = codes.clone()
        own = changed[:, columns]
        changed[:, columns] = {
            "ablate": lambda: torch.zeros_like(own),
            "clamp": lambda: torch.full_like(own, size),
            "scale": lambda: own * size,
            "add": lambda: own + size,
        }[operation]()
        return changed

    return edit


def latent_shift(sae: SparseAutoencoder, edit: CodeEdit) -> Shift:
    """Return the change of each frame by an edit of the codes."""

    def shift(rows: Float[Tensor, "frames width"]) -> Float[Tensor, "frames width"]:
        codes = sae.encode(rows)
        return sae.decode(edit(codes)) - sae.decode(codes)

    return shift


def atom(sae: SparseAutoencoder, latent: int) -> Float[np.ndarray, " width"]:
    """Return the direction in which a latent moves the layer, in the encoder's units."""
    codes = torch.zeros(2, sae.latents, device=sae.device)
    codes[1, latent] = 1.0
    none, one = sae.decode(codes)
    return (one - none).cpu().numpy().astype(np.float64)


def constant_shift(direction: Float[np.ndarray, " width"]) -> Shift:
    """Return a shift by the same direction in every frame."""
    step = torch.from_numpy(np.asarray(direction, dtype=np.float32))
    return lambda rows: step.to(rows).expand_as(rows)


def with_norm(shift: Shift, norm: float | Shift) -> Shift:
    """Return a shift scaled to a given mean norm over the frames of a clip, or to that of another shift.

    A shift that is zero in the whole clip stays zero.
    """

    def scaled(rows: Float[Tensor, "frames width"]) -> Float[Tensor, "frames width"]:
        moved = shift(rows)
        size = moved.norm(dim=1).mean()
        wanted = norm(rows).norm(dim=1).mean() if callable(norm) else norm
        return moved * (wanted / size) if size > 0 else moved

    return scaled


def shifted_by(shift: Shift) -> Substitute:
    """Return the substitute that adds a shift."""
    return lambda rows: rows + shift(rows)


@dataclass(frozen=True)
class ReadoutExperiment:
    """Readouts of a later layer's pooled frames, for clips whose earlier layer is changed."""

    encoder: BatchedEncoder
    layer: int
    later: int
    readouts: Readouts
    waves: Sequence[Float[np.ndarray, " samples"]]
    on_pass: Callable[[], object] = lambda: None

    def outputs(self, substitute_of: Callable[[int], Substitute] | None = None) -> Float[np.ndarray, "clips concepts"]:
        """Return the outputs for each clip; `substitute_of` gives the substitute of a clip by its position."""
        pooled: list[Float[np.ndarray, " width"]] = []
        for i in range(len(self.waves)):
            spliced = self.encoder if substitute_of is None else self._spliced(substitute_of(i))
            encoded = spliced.encode([self.waves[i]], [self.later])
            pooled.append(encoded.layers[self.later][0].numpy().mean(axis=0))
            self.on_pass()
        return self.readouts(np.stack(pooled))

    def _spliced(self, substitute: Substitute) -> Splice:
        return splice_with(self.encoder, self.layer, substitute)


def relation_direction(
    pooled: Float[np.ndarray, "clips width"], values: Float[np.ndarray, " clips"]
) -> Float[np.ndarray, " width"]:
    """Return the covariance of each dimension with a concept; for a class, the difference of means times a constant.

    >>> relation_direction(np.array([[1.0, 0.0], [3.0, 0.0]]), np.array([0.0, 1.0])).tolist()
    [0.5, 0.0]
    """
    known = np.isfinite(values)
    rows, z = pooled[known].astype(np.float64), values[known]
    return (rows - rows.mean(axis=0)).T @ (z - z.mean()) / len(z)


COMPONENTS = 10
"""Principal components of which one is a rival."""


def component_direction(
    rows: Float[np.ndarray, "rows width"],
    pooled: Float[np.ndarray, "clips width"],
    values: Float[np.ndarray, " clips"],
) -> Float[np.ndarray, " width"]:
    """Return the principal component of `rows`, of the first `COMPONENTS`, that follows a concept best, signed."""
    centred = rows - rows.mean(axis=0, dtype=np.float64)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1][:, :COMPONENTS]
    known = np.isfinite(values)
    scores = (pooled[known].astype(np.float64) - pooled[known].mean(axis=0)) @ axes
    z = values[known] - values[known].mean()
    r = scores.T @ z / np.maximum(np.linalg.norm(scores, axis=0) * np.linalg.norm(z), 1e-12)
    best = int(np.abs(r).argmax())
    return axes[:, best] * np.sign(r[best])


def matched_in_rate(
    rates: Float[np.ndarray, " latents"], latent: int, draws: int, *, exclude: Sequence[int] = (), seed: int = 0
) -> Int[np.ndarray, " draws"]:
    """Draw latents among the 20 (or a tenth) whose firing rate is nearest to that of a latent.

    Raises `EvaluationError` if the latent never fires, or no other latent does.
    """
    if not rates[latent] > 0:
        raise EvaluationError(f"latent {latent} never fires in this corpus; choose one with a rate above 0")
    others = np.flatnonzero((rates > 0) & ~np.isin(np.arange(len(rates)), [latent, *exclude]))
    if not len(others):
        raise EvaluationError(f"no latent but {latent} fires in this corpus; no random latent can be drawn")
    distance = np.abs(np.log(rates[others] / rates[latent]))
    pool = others[np.argsort(distance, kind="stable")[: max(20, len(others) // 10)]]
    return np.random.default_rng(seed).choice(pool, size=draws, replace=draws > len(pool))


class Effect(NamedTuple):
    """Mean change of a readout over clips, in standard deviations of its concept, with its interval over groups."""

    effect: float
    low: float
    high: float


def mean_effects(
    before: Float[np.ndarray, "clips concepts"],
    after: Float[np.ndarray, "clips concepts"],
    groups: Shaped[np.ndarray, " clips"],
) -> list[Effect]:
    """Return the mean change of each readout.

    >>> mean_effects(np.zeros((2, 1)), np.ones((2, 1)), np.array(["a", "b"]))
    [Effect(effect=1.0, low=1.0, high=1.0)]
    """
    sums = group_sums(np.concatenate([after - before, np.ones((len(before), 1))], axis=1), groups)
    value, low, high = jackknife_sums(sums, lambda drawn: drawn[:, :-1] / drawn[:, -1:])
    return [Effect(*map(float, ends)) for ends in zip(value, low, high, strict=True)]


def side_effect(
    effects: Float[np.ndarray, " concepts"], own: int, entangled: Bool[np.ndarray, "concepts concepts"]
) -> float:
    """Return the root mean square effect on the concepts that are not entangled with the own one; NaN without any.

    >>> round(side_effect(np.array([2.0, 0.3, -0.4]), 0, np.eye(3, dtype=bool)), 3)
    0.354
    """
    others = effects[~entangled[own]]
    return float(np.sqrt((others**2).mean())) if len(others) else float("nan")


def strongest_latents(
    clip_means: Float[np.ndarray, "clips latents"], values: Float[np.ndarray, " clips"], *, top: int
) -> Int[np.ndarray, " top"]:
    """Return the latents whose mean code per clip correlates most, and positively, with a concept, strongest first."""
    known = np.isfinite(values)
    r = correlations(clip_means[known].astype(np.float64), values[known, None])[:, 0]
    order = np.argsort(-r, kind="stable")[:top]  # NaN last
    return order[r[order] > 0]


def output_scores(
    experiment: ReadoutExperiment,
    before: Float[np.ndarray, "clips concepts"],
    atoms: Mapping[int, Float[np.ndarray, " width"]],
    *,
    norm: float,
) -> dict[int, Float[np.ndarray, " concepts"]]:
    """Return the mean change of each readout when a latent's atom is added to every frame with this norm."""
    return {
        latent: (
            experiment.outputs(lambda _, d=direction: shifted_by(with_norm(constant_shift(d), norm))) - before
        ).mean(axis=0)
        for latent, direction in atoms.items()
    }
